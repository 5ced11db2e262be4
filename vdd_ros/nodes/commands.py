"""The command vector, written to its topics: one message per topic, made once."""

from __future__ import annotations

from vdd_ros.codecs.topics import TopicWriter, topic_writers
from vdd_ros.core.contract import PolicyContract
from vdd_ros.nodes.codecs import empty

Sink = TopicWriter
"""One commanded topic and the part of the command vector it carries."""


def make_sinks(contract: PolicyContract, *, step_s: float, frame_id: str = "") -> list[Sink]:
    """Build the writers of a contract's action topics.

    Args:
        contract: names topics, types and selections.
        step_s: seconds between two commands, the spacing of a plan's points.
        frame_id: put into the header of stamped commands.

    Raises:
        VddError: a field without topic or type, one topic with two types, or a selection the type
            does not have.
    """
    return topic_writers(
        contract.actions, empty=empty, horizon=contract.horizon, step_s=step_s, frame_id=frame_id
    )
