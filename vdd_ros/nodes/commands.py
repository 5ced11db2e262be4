"""The command vector, written to its topics: one message per topic, made once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.contract import ActionField, PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.nodes.codec_families import Encoder, Rows
from vdd_ros.nodes.codecs import has_header, make_encoder
from vdd_ros.nodes.observations import columns_of, group_by_topic, joint_selection


@dataclass(frozen=True, eq=False)
class Sink:
    """One commanded topic and the part of the command vector it carries."""

    topic: str
    """Relative topic name."""
    type: str
    """Message type."""
    columns: slice | NDArray[np.intp]
    """Where its values stand in the command vector."""
    encoder: Encoder
    """Owns the message and writes it."""
    stamped: bool
    """The message carries a header."""
    planned: bool
    """The message has a time axis and takes the whole plan."""

    def write(self, rows: Rows, stamp_ns: int) -> Any:  # noqa: ANN401
        """Fill the message from commands [T, D_act] and return it."""
        self.encoder.write(rows[:, self.columns])
        message = self.encoder.message
        if self.stamped:
            stamp = message.header.stamp
            stamp.sec, stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        return message


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
    sinks = []
    for fields in group_by_topic(contract.actions):
        sinks.append(_sink(contract, fields, step_s))
        if sinks[-1].stamped:
            sinks[-1].encoder.message.header.frame_id = frame_id
    return sinks


def _sink(contract: PolicyContract, fields: list[ActionField], step_s: float) -> Sink:
    first = fields[0]
    try:
        encoder = make_encoder(
            first.type,
            joint_selection(fields),
            sum(f.dim for f in fields),
            horizon=contract.horizon,
            step_s=step_s,
        )
    except VddError as error:
        raise VddError(f"action topic '{first.topic}': {error}") from None
    return Sink(
        topic=first.topic,
        type=first.type,
        columns=columns_of([contract.action_slice(f.key) for f in fields]),
        encoder=encoder,
        stamped=has_header(first.type),
        planned=first.type == "trajectory_msgs/msg/JointTrajectory",
    )
