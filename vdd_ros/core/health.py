"""Is a node well? Durations of its ticks by stage, delays in a row, and what to call them.

The rule for delays is the one robots are watched by elsewhere (Autoware's processing-time
diagnostics): a single late tick is nothing, a few in a row are a warning, many are an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError

STAGES = ("decode", "infer", "safety", "publish", "tick")
"""Stages of a tick in the order they are timed; the last is the whole."""
MISSED_WARN = 0.01
"""Share of missed ticks that is worth a look: at 100 Hz one a second."""
MISSED_ERROR = 0.1
"""Share of missed ticks at which the robot no longer runs at the rate its limits are made for."""


class Health(IntEnum):
    """Levels in the order and with the numbers of ``diagnostic_msgs``."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class HealthSettings:
    """When a tick is late, and how many late ones in a row are too many."""

    max_tick_ms: float = 0.0
    """Longest duration of a tick; 0 for the control period, after which the next one is due."""
    delays_warn: int = 3
    """Late ticks in a row for WARN: one or two are what a busy machine does now and then."""
    delays_error: int = 10
    """Late ticks in a row for ERROR: the node does not keep up at all."""

    def __post_init__(self) -> None:
        """Check that an error takes more than a warning."""
        if self.max_tick_ms < 0 or not 1 <= self.delays_warn <= self.delays_error:
            raise VddError(
                f"diagnostics: max_tick_ms {self.max_tick_ms}, delays_warn {self.delays_warn}, "
                f"delays_error {self.delays_error}; expected 0 or more milliseconds and "
                "1 <= delays_warn <= delays_error"
            )


class TickHealth:
    """The last ticks of a node; `add` is on the hot path, `verdict` is not."""

    def __init__(self, settings: HealthSettings, *, period_s: float, size: int = 1024) -> None:
        """Preallocate."""
        self.settings = settings
        self.limit_ns = round((settings.max_tick_ms / 1000.0 or period_s) * 1e9)
        """A tick that takes longer is late."""
        self.late_in_a_row = 0
        """Late ticks up to now without one in time between them."""
        self.worst = 0
        """The longest such row since the last verdict."""
        self._ring = np.zeros((size, len(STAGES)), np.int64)
        self._count = 0
        self._seen = (0, 0)

    def add(
        self, decode_ns: int, infer_ns: int, safety_ns: int, publish_ns: int, tick_ns: int
    ) -> None:
        """Record one tick."""
        self._ring[self._count % len(self._ring)] = (
            decode_ns,
            infer_ns,
            safety_ns,
            publish_ns,
            tick_ns,
        )
        self._count += 1
        if tick_ns <= self.limit_ns:
            self.late_in_a_row = 0
            return
        self.late_in_a_row += 1
        if self.late_in_a_row > self.worst:
            self.worst = self.late_in_a_row

    def percentiles_us(self) -> dict[str, float]:
        """Return ``STAGE_p50_us`` and ``STAGE_p99_us`` of every stage; NaN before the first tick.

        A stage that a tick did not come to (a hold asks no policy) does not count.
        """
        rows = self._ring[: min(self._count, len(self._ring))] / 1000.0
        found = {}
        for index, stage in enumerate(STAGES):
            column: NDArray[np.float64] = rows[:, index]
            column = column[column > 0]
            p50, p99 = np.percentile(column, [50, 99]) if len(column) else (np.nan, np.nan)
            found[f"{stage}_p50_us"], found[f"{stage}_p99_us"] = float(p50), float(p99)
        return found

    def verdict(self, *, ticks: int, missed: int) -> tuple[Health, str]:
        """Judge what happened since the last verdict.

        Args:
            ticks: counter of ticks.
            missed: counter of missed ticks; both may have been set back to 0.
        """
        before_ticks, before_missed = self._seen
        if ticks < before_ticks:
            before_ticks, before_missed = 0, 0
        self._seen = (ticks, missed)
        done, lost = ticks - before_ticks, max(missed - before_missed, 0)
        share = lost / (done + lost) if lost else 0.0
        worst, self.worst = max(self.worst, self.late_in_a_row), 0
        levels = [
            (
                self._of_delays(worst),
                f"{worst} ticks in a row took over {self.limit_ns / 1e6:g} ms",
            ),
            (_of_share(share), f"{lost} of {done + lost} ticks missed"),
        ]
        level = max(found for found, _ in levels)
        return level, "; ".join(text for found, text in levels if found > Health.OK)

    def _of_delays(self, n: int) -> Health:
        if n >= self.settings.delays_error:
            return Health.ERROR
        return Health.WARN if n >= self.settings.delays_warn else Health.OK


def _of_share(share: float) -> Health:
    if share > MISSED_ERROR:
        return Health.ERROR
    return Health.WARN if share > MISSED_WARN else Health.OK
