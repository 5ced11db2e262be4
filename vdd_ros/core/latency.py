"""LatencyWindow: what the last ticks cost, kept always, cheap enough to never be switched off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LatencySummary:
    """Percentiles in microseconds."""

    n: int
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float


def summarize(samples_ns: NDArray[np.integer]) -> LatencySummary:
    """Summarise durations in nanoseconds; an empty array gives NaN, never a false zero."""
    if len(samples_ns) == 0:
        return LatencySummary(0, *(float("nan"),) * 4)
    us = samples_ns.astype(np.float64) / 1000.0
    p50, p99, p999 = np.percentile(us, [50, 99, 99.9])
    return LatencySummary(len(us), float(p50), float(p99), float(p999), float(us.max()))


class LatencyWindow:
    """The last ``size`` durations and counters over the whole life."""

    def __init__(self, size: int = 1024) -> None:
        """Preallocate the window."""
        self._ring = np.zeros(size, dtype=np.int64)
        self.count = 0
        self.missed = 0
        """Ticks that were due but did not run in time; counted by the control loop."""

    def add(self, duration_ns: int) -> None:
        """Record one duration in nanoseconds."""
        self._ring[self.count % len(self._ring)] = duration_ns
        self.count += 1

    def samples_ns(self) -> NDArray[np.int64]:
        """Return a copy of the durations in the window, in no particular order."""
        return self._ring[: min(self.count, len(self._ring))].copy()

    def summary(self) -> LatencySummary:
        """Return the percentiles of the window."""
        return summarize(self.samples_ns())
