"""Demonstrations written as ROS bags: the way back of `rosbag`.

To see a recording in the tools of ROS, to play it to a node, and to prove that reading a bag gives
back what was written.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vdd_ros.codecs.topics import topic_writers
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.data.bag_files import BagWriter, Storage, empty_messages
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.recording import EMPTY

_BEGIN_NS = 1_600_000_000_000_000_000
"""Stamp of the first row: bags of recordings without dates are all from the same day."""
_PAUSE_S = 10.0
"""Between two episodes."""
_RESET = bytes([0, 1, 0, 0, 0])
"""A serialized message without content."""
_TRANSPORT_NS = 1_000_000
"""From the stamp of an observation to its record, and from there to that of its command."""


def write_bag(
    demos: Demonstrations,
    contract: PolicyContract,
    path: str | Path,
    *,
    storage: Storage = "mcap",
    namespace: str = "",
) -> Path:
    """Write demonstrations as one bag, an observation and its command per row.

    Commands bear the stamp of their observation; a message on the contract's ``reset_topic``
    begins each episode. Values are taken back through the contract's operators.

    Args:
        demos: in the units of the policy.
        contract: topics, types and selections.
        path: folder of the bag, which must not exist.
        storage: how it is kept.
        namespace: before every topic.

    Raises:
        VddError: demonstrations of other vectors than the contract's, operators without an
            inverse, or a folder that cannot be written.
    """
    wanted = (contract.dim_obs, contract.dim_act)
    if (demos.dim_obs, demos.dim_act) != wanted:
        raise VddError(
            f"{demos.source}: {demos.dim_obs} observed and {demos.dim_act} commanded values; the "
            f"contract '{contract.name}' has {wanted[0]} and {wanted[1]}"
        )
    messages = empty_messages()
    observed = topic_writers(contract.observations, empty=messages.empty)
    commanded = topic_writers(contract.actions, empty=messages.empty, step_s=contract.step_s)
    prefix = f"/{namespace.strip('/')}" if namespace.strip("/") else ""
    command = demos.action.astype(np.float64)
    for entry in contract.actions:
        if entry.relative_to:
            command[:, contract.action_slice(entry.key)] += demos.observation[
                :, contract.observation_slice(entry.relative_to)
            ]
    begin_ns = _BEGIN_NS
    with BagWriter(path, storage=storage) as bag:
        for episode in demos.episodes():
            if contract.reset_topic:
                name = f"{prefix}/{contract.reset_topic}"
                bag.write(name, EMPTY, begin_ns - _TRANSPORT_NS, _RESET)
            for i in range(episode.start, episode.stop):
                stamp_ns = begin_ns + round((i - episode.start) * 1e9 / contract.rate_hz)
                for writers, values, delay in (
                    (observed, demos.observation, 1),
                    (commanded, command, 2),
                ):
                    row = np.asarray(values[i], np.float64)[None]
                    for writer in writers:
                        message = writer.write(row, stamp_ns)
                        log_ns = stamp_ns + delay * _TRANSPORT_NS
                        bag.write(f"{prefix}/{writer.topic}", writer.type, log_ns, message)
            begin_ns = stamp_ns + round(_PAUSE_S * 1e9)
    return Path(path)
