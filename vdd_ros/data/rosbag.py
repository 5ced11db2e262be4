"""Demonstrations out of ROS bags, row for row what a node would have seen.

`bag_rows` collects the rows; here each gets its command, which is what was sent in answer to it
(see `Alignment.pair`), and episodes are cut.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vdd_ros.codecs.topics import topic_readers
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.data.bag_audit import Audit, Reasons, TopicTally, median_rate
from vdd_ros.data.bag_files import Bag
from vdd_ros.data.bag_rows import Alignment, Rows, read_rows
from vdd_ros.data.demonstrations import Demonstrations

_LARGEST = float(np.finfo(np.float32).max) / 4
"""Commands beyond it are not finite in single precision, or their differences are not."""
_GAP_PERIODS = 5.0
"""Periods without a row that end an episode, unless told otherwise."""


def load_bags(
    paths: Sequence[str | Path], contract: PolicyContract, alignment: Alignment | None = None
) -> tuple[Demonstrations, Audit]:
    """Read bags through a contract.

    An episode ends with its bag, at a message on the contract's ``reset_topic``, where the clock
    was set back, and where no row came for `Alignment.gap_s`.

    Args:
        paths: rosbag2 folders, .mcap or .db3 files.
        contract: which topics make the observation and the action, and how.
        alignment: how messages become rows.

    Returns:
        The demonstrations, actions as the policy gives them (increments where the contract says
        ``relative_to``), and what became of every message.

    Raises:
        VddError: a bag cannot be read or does not fit the contract, or no row is left.
    """
    alignment = alignment or Alignment()
    tallies = _tallies(contract)
    dropped = Reasons()
    observation: list[NDArray[np.float32]] = []
    action: list[NDArray[np.float64]] = []
    stamps: list[int] = []
    ends: list[int] = []
    rules: list[str] = []
    for path in paths:
        rows = read_rows(Bag(path), contract, alignment, tallies=tallies, dropped=dropped)
        period_ns = round(1e9 / (alignment.rate_hz or contract.rate_hz))
        log = rows.commands
        commands, rule = log.pair(
            rows.stamp_ns, rows.time_ns, rule=alignment.pair, period_ns=period_ns
        )
        rules.append(rule)
        kept = _with_commands(rows, commands, tallies, dropped)
        for episode in _episodes(rows, kept, contract, alignment):
            if len(episode) < alignment.min_rows:
                dropped.counts["an episode that is too short"] += len(episode)
                continue
            observation += [rows.observation[i] for i in episode]
            action += [log.values[commands[i]] for i in episode]
            stamps += [rows.stamp_ns[i] for i in episode]
            ends.append(len(observation))
    audit = Audit(
        bags=tuple(str(path) for path in paths),
        fields=tuple(tally.summary() for tally in tallies.values()),
        rows=len(observation),
        episodes=len(ends),
        dropped=dict(dropped.counts),
        paired_by=", ".join(dict.fromkeys(rules)),
        rate_hz=median_rate(stamps, ends[:-1]),
        contract_rate_hz=contract.rate_hz,
    )
    if not observation:
        raise VddError(f"{', '.join(audit.bags)}: {_nothing(audit)}")
    try:
        demos = Demonstrations(
            observation=np.stack(observation),
            action=_increments(np.stack(action), np.stack(observation), contract),
            episode_ends=np.array(ends),
            mode=None,
            source=f"bags {', '.join(Path(p).name for p in paths)} through '{contract.name}'",
        )
    except VddError as error:
        # What the demonstrations say of themselves holds no folders; who reads this needs them.
        raise VddError(f"{', '.join(audit.bags)}: {error}") from None
    return demos, audit


def _increments(
    command: NDArray[np.float64], observation: NDArray[np.float32], contract: PolicyContract
) -> NDArray[np.float32]:
    """Turn commands [N, D_act] into actions: what the policy adds to its observation."""
    action = command.copy()
    for entry in contract.actions:
        if entry.relative_to:
            action[:, contract.action_slice(entry.key)] -= observation[
                :, contract.observation_slice(entry.relative_to)
            ]
    return action.astype(np.float32)


def _tallies(contract: PolicyContract) -> dict[tuple[str, str], TopicTally]:
    found = {}
    for role, fields in (("observation", contract.observations), ("action", contract.actions)):
        for reader in topic_readers(fields):
            found[role, reader.topic] = TopicTally(reader.keys, reader.topic, reader.type, role)
    return found


def _with_commands(
    rows: Rows,
    commands: NDArray[np.int64],
    tallies: dict[tuple[str, str], TopicTally],
    dropped: Reasons,
) -> list[int]:
    """Rows that have a command of finite numbers."""
    kept = []
    for i, at in enumerate(commands.tolist()):
        if at < 0:
            dropped.add("no command for it")
        elif len(bad := np.flatnonzero(~(np.abs(rows.commands.values[at]) <= _LARGEST))):
            dropped.add(f"non-finite command at component {', '.join(map(str, bad))}")
        else:
            kept.append(i)
            for (role, _), tally in tallies.items():
                if role == "action":
                    tally.ages_ns.append(rows.time_ns[i] - rows.commands.time_ns[at])
    return kept


def _episodes(
    rows: Rows, kept: list[int], contract: PolicyContract, alignment: Alignment
) -> list[list[int]]:
    """Cut rows where a cut is between them, or a pause."""
    gap_s = alignment.gap_s
    if gap_s is None:
        gap_s = _GAP_PERIODS / min(contract.rate_hz, alignment.rate_hz or contract.rate_hz)
    found: list[list[int]] = []
    for i in kept:
        before = found[-1][-1] if found else None
        if (
            before is None
            or rows.stamp_ns[i] - rows.stamp_ns[before] > gap_s * 1e9
            or bisect.bisect_right(rows.cuts, before) != bisect.bisect_right(rows.cuts, i)
        ):
            found.append([])
        found[-1].append(i)
    return found


def _nothing(audit: Audit) -> str:
    reasons = [f"{n} x {text}" for text, n in audit.dropped.items()]
    reasons += audit.warnings
    silent = [entry.topic for entry in audit.fields if not entry.messages]
    if silent:
        reasons.append(f"no messages on {', '.join(silent)}")
    return (
        "not one row could be made: "
        + ("; ".join(dict.fromkeys(reasons)) or "the bag holds no messages")
        + ". Compare the contract with what was recorded"
    )
