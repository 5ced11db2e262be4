"""The commands of a recording, and which of them answers which observation."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vdd_ros.codecs.topics import stamp_of, topic_readers
from vdd_ros.core.contract import PolicyContract

Pair = Literal["auto", "stamp", "next", "latest"]

_LATE = 1.5
"""Periods within which a command counts as the answer to an observation, or is fresh enough."""
_MIN_SHARE = 0.5
"""Share of rows whose stamp a command must bear for ``auto`` to pair by stamp."""


class CommandLog:
    """The commands of a recording, put together from the topics they are sent on."""

    def __init__(self, contract: PolicyContract) -> None:
        """Build the readers.

        Raises:
            VddError: the actions do not fit their message types.
        """
        self.values: list[NDArray[np.float64]] = []
        """[D_act] of every command."""
        self.stamp_ns: list[int] = []
        """Stamp of every command; 0 where it has none."""
        self.time_ns: list[int] = []
        """When it was recorded."""
        self._readers = {reader.topic: reader for reader in topic_readers(contract.actions)}
        self._row = np.zeros(contract.dim_act)
        self._stamps: dict[str, int] = {}

    def hear(self, topic: str, message: Any, log_ns: int) -> None:  # noqa: ANN401
        """Take a message of a commanded topic; a command is complete with its last topic.

        Raises:
            VddError: the message lacks a value the contract selects.
        """
        reader = self._readers[topic]
        self._row[reader.columns] = reader.read(message)
        self._stamps[topic] = stamp_of(message) if reader.stamped else 0
        if len(self._stamps) < len(self._readers):
            return
        # A command of several topics bears a stamp if all of them bear the same.
        stamps = set(self._stamps.values())
        self.values.append(self._row.copy())
        self.stamp_ns.append(stamps.pop() if len(stamps) == 1 else 0)
        self.time_ns.append(log_ns)
        self._stamps.clear()

    def pair(
        self, stamp_ns: Sequence[int], time_ns: Sequence[int], *, rule: Pair, period_ns: int
    ) -> tuple[NDArray[np.int64], str]:
        """Find the command of every row.

        Args:
            stamp_ns: stamps of the rows.
            time_ns: when they were complete.
            rule: see `Alignment.pair`.
            period_ns: of the control loop.

        Returns:
            [N] index of the command, -1 where there is none; and the rule that was used.
        """
        by_stamp = {stamp: i for i, stamp in enumerate(self.stamp_ns) if stamp}
        found = np.array([by_stamp.get(stamp, -1) for stamp in stamp_ns], np.int64)
        enough = len(found) > 0 and float((found >= 0).mean()) >= _MIN_SHARE
        if rule == "stamp" or (rule == "auto" and enough):
            return found, "stamp"
        late_ns = round(_LATE * period_ns)
        order = np.argsort(np.array(self.time_ns, np.int64), kind="stable")
        times = [self.time_ns[i] for i in order]
        for i, now_ns in enumerate(time_ns):
            if rule == "latest":
                at = bisect.bisect_right(times, now_ns) - 1
            else:
                at = bisect.bisect_left(times, now_ns)
            near = 0 <= at < len(times) and abs(times[at] - now_ns) <= late_ns
            found[i] = order[at] if near else -1
        return found, "latest" if rule == "latest" else "next"
