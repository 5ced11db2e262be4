"""Do ticks come faster than limits are counted for?

Limits per second become limits per command by the nominal rate. Where observations come faster
than that, commands do as well, and the robot may move faster than its limits say.
"""

from __future__ import annotations

_TOO_FAST = 1.2
"""Share of the nominal rate from which ticks are too fast; one more in a second is not."""
_LOOK_NS = 500_000_000
"""Shorter spans say little about a rate."""


class PaceWatch:
    """Counts ticks between two looks; two looks in a row must agree, or a stall made up for it."""

    def __init__(self, rate_hz: float) -> None:
        """Take the nominal rate."""
        self._rate_hz = rate_hz
        self._last: tuple[int, int] | None = None
        self._before_hz = 0.0

    def look(self, count: int, now_ns: int) -> str:
        """Return what is wrong with the pace; empty while nothing is.

        Args:
            count: ticks up to now; fewer than before where the count began anew.
            now_ns: the clock that ticks follow.
        """
        last, self._last = self._last, (count, now_ns)
        if last is None or count < last[0] or now_ns - last[1] < _LOOK_NS:
            self._before_hz = 0.0
            return ""
        now_hz = (count - last[0]) * 1e9 / (now_ns - last[1])
        before_hz, self._before_hz = self._before_hz, now_hz
        if min(now_hz, before_hz) <= _TOO_FAST * self._rate_hz:
            return ""
        # Rounded to halves of the nominal rate: a text that changes is said anew.
        times = round(2.0 * min(now_hz, before_hz) / self._rate_hz) / 2.0
        return (
            f"ticks come about {times:g} times as fast as rate_hz ({self._rate_hz:g}), for which "
            "limits are counted: the robot may move that much faster than they say; set rate_hz "
            "to the rate of the observations, or trigger to 'timer'"
        )
