"""The rows of a recording: what a node would have observed, and what was commanded meanwhile.

The very collector of the nodes reads the messages: the newest sample of every topic, gated by age
and skew, one row whenever every topic has delivered, or at a fixed rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vdd_ros.control.observations import NEVER, ObservationCollector
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.data.bag_audit import Reasons, TopicTally
from vdd_ros.data.bag_files import Bag
from vdd_ros.data.command_log import CommandLog, Pair
from vdd_ros.data.recording import Heard, Names, Recording

_CATCH_UP = 1000
"""Ticks of a fixed rate without a message before the rest of a pause is skipped."""


@dataclass(frozen=True)
class Alignment:
    """How messages become rows."""

    rate_hz: float | None = None
    """Rows at a fixed rate; None: whenever every observed topic has delivered, as a node ticks."""
    pair: Pair = "auto"
    """Which command belongs to a row: the one that bears its stamp, the next one sent within one
    and a half periods, or the latest one sent before it. auto: stamp where at least half of the
    rows have one, else next."""
    gap_s: float | None = None
    """Seconds without a row that end an episode; None: five periods of the contract."""
    min_rows: int = 2
    """Shorter episodes are left out."""
    names: Names = field(default_factory=Names)
    """Where the topics are found in the bag."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            VddError: one that makes no sense.
        """
        for name in ("rate_hz", "gap_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise VddError(f"{name}: got {value}, expected a positive number")
        if self.min_rows < 1:
            raise VddError(f"min_rows: got {self.min_rows}, expected at least 1")


@dataclass(eq=False)
class Rows:
    """What was collected from one bag, before commands are found for it."""

    commands: CommandLog
    """What was sent meanwhile."""
    observation: list[NDArray[np.float32]] = field(default_factory=list)
    """[D_obs] of every row."""
    stamp_ns: list[int] = field(default_factory=list)
    """Stamp of every row: the oldest of its samples."""
    time_ns: list[int] = field(default_factory=list)
    """When every row was complete."""
    cuts: list[int] = field(default_factory=list)
    """Rows at which a new episode begins for another reason than a pause."""


class _Collecting:
    """Reads one recording: rows and commands, with everything counted."""

    def __init__(
        self,
        contract: PolicyContract,
        alignment: Alignment,
        tallies: dict[tuple[str, str], TopicTally],
        dropped: Reasons,
    ) -> None:
        self.rows = Rows(CommandLog(contract))
        self._collector = ObservationCollector(contract)
        self._sources = {source.topic: source for source in self._collector.sources}
        self._tallies = tallies
        self._dropped = dropped
        self._step_ns = round(1e9 / alignment.rate_hz) if alignment.rate_hz else 0
        self._next_ns = NEVER
        self._last_stamp_ns = NEVER
        self._last_log_ns = NEVER

    def hear(self, heard: Heard) -> None:
        """Take one message."""
        log_ns = heard.entry.log_ns
        self._tick_until(log_ns)
        self._last_log_ns = log_ns
        if heard.role == "reset":
            self._new_episode()
            self._collector.reset(log_ns)
            return
        tally = self._tallies[heard.role, heard.topic]
        tally.times_ns.append(log_ns)
        if heard.entry.message is None:
            tally.malformed += 1
            return
        try:
            if heard.role == "action":
                self.rows.commands.hear(heard.topic, heard.entry.message, log_ns)
            else:
                self._hear_observation(heard)
        except VddError as error:
            tally.faults.add(str(error))

    def finish(self) -> None:
        """Make the row that is due with the last message."""
        if self._last_log_ns != NEVER:
            self._tick_until(self._last_log_ns + 1)

    def _hear_observation(self, heard: Heard) -> None:
        log_ns = heard.entry.log_ns
        source = self._sources[heard.topic]
        complete = self._collector.accept(source, heard.entry.message, log_ns)
        if self._step_ns:
            if self._next_ns == NEVER and not self._collector.problem(log_ns):
                self._next_ns = log_ns
        elif complete:
            problem = self._collector.problem(log_ns) or self._collector.non_finite()
            stamp_ns = self._collector.take()
            if self._follows(stamp_ns):
                self._row(stamp_ns, log_ns, problem)

    def _tick_until(self, log_ns: int) -> None:
        """Make the rows of a fixed rate that were due before now."""
        if self._next_ns == NEVER:
            return
        if log_ns < self._next_ns - self._step_ns:  # the clock was set back
            self._next_ns = log_ns
            self._new_episode()
        for _ in range(_CATCH_UP):
            if self._next_ns >= log_ns:
                return
            now_ns = self._next_ns
            problem = self._collector.problem(now_ns) or self._collector.non_finite()
            self._row(now_ns, now_ns, problem)
            self._next_ns += self._step_ns
        # Nothing came for that long: the observations are stale until something does.
        self._dropped.add("a pause of the recording")
        self._next_ns = log_ns

    def _follows(self, stamp_ns: int) -> bool:
        """Tell whether a row is newer than the last one, as the control loop does."""
        back_ns = self._last_stamp_ns - stamp_ns
        if self._last_stamp_ns != NEVER and back_ns >= 0:
            if back_ns < self._collector.max_age_ns:
                self._dropped.add("the same stamp again, or an older one")
                return False
            self._new_episode()  # the clock was set back
        self._last_stamp_ns = stamp_ns
        return True

    def _row(self, stamp_ns: int, now_ns: int, problem: str) -> None:
        if problem:
            self._dropped.add(problem)
            return
        self.rows.observation.append(self._collector.row.copy())
        self.rows.stamp_ns.append(stamp_ns)
        self.rows.time_ns.append(now_ns)
        for source in self._collector.sources:
            ages = self._tallies["observation", source.topic].ages_ns
            ages.append(now_ns - source.stamp_ns)

    def _new_episode(self) -> None:
        self._last_stamp_ns = NEVER
        self.rows.cuts.append(len(self.rows.stamp_ns))


def read_rows(
    bag: Bag,
    contract: PolicyContract,
    alignment: Alignment,
    *,
    tallies: dict[tuple[str, str], TopicTally],
    dropped: Reasons,
) -> Rows:
    """Collect rows and commands of one bag.

    Raises:
        VddError: a topic is missing or has another type, or the bag is damaged.
    """
    recording = Recording(bag, contract, alignment.names)
    collecting = _Collecting(contract, alignment, tallies, dropped)
    for tally in tallies.values():
        tally.breaks.append(len(tally.times_ns))
    for heard in recording.messages():
        collecting.hear(heard)
    collecting.finish()
    return collecting.rows
