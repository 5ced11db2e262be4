"""One commanded component whose acceleration is limited, beside position and step.

What is counted in ticks, and why a command is only sent if a stop can follow it, is said in
`vdd_ros.core.axes`.

This runs once per component and tick. Where a cheap look settles a question, the exact one is not
asked; the results are those of the plain rule, bit for bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

from vdd_ros.core.axes import FASTEST, SLACK, cap_of, fastest_stop


class AccelerationAxis:
    """A component with limits on position, step and acceleration, all in closed form.

    The next step lies in one interval: within the acceleration of the last one, within the rate,
    and slow enough to stop before either bound. That interval is never empty: the step slower by
    the whole acceleration belongs to the stop that was possible one tick ago.
    """

    __slots__ = (
        "_drift",
        "_drift_limit",
        "_fastest",
        "_high",
        "_inner_high",
        "_inner_low",
        "_locked",
        "_low",
        "_plenty",
        "_rate",
        "_seen",
        "_slack",
        "_speed",
        "_step",
        "at",
        "cause",
    )

    def __init__(self, low: float, high: float, *, step: float, acceleration: float) -> None:
        """Take the limits, per tick; infinite ones bind nothing."""
        self._low, self._high = low, high
        self._step, self._rate = step, acceleration
        self._fastest = step * (1.0 + SLACK)
        self._drift_limit = min(step, FASTEST)
        self._slack = SLACK * acceleration
        # Farther from the bounds than any stop, and farther from the target than a stop from
        # three times the speed, neither slows the component down.
        way = _stop_from(step, acceleration)
        self._inner_low, self._inner_high = low + way, high - way
        self._plenty = _stop_from(3.0 * step, acceleration)
        self.start(math.nan)

    def start(self, at: float) -> None:
        """Stand still at ``at``."""
        self.at, self._speed, self.cause = at, 0.0, ""
        self._locked = False
        self._seen, self._drift = math.nan, 0.0

    @property
    def motion(self) -> tuple[float, ...]:
        """How it moves; see `Axis`."""
        return self._speed, 0.0, 0.0, 0.0, 0.0

    def resume(self, motion: Sequence[float]) -> None:
        """Go on with another axis' ``motion``: the target is taken to move like the commands."""
        self._speed = self._drift = motion[0]

    def fork(self) -> AccelerationAxis:
        """Return an axis that goes on from here."""
        return copy.copy(self)

    def next(self, target: float, share: float, *, follow: bool) -> float:
        """Return the command that comes nearest to ``target``; see `Axis`."""
        at, speed, rate = self.at, self._speed, self._rate
        moved = target - self._seen
        self._seen = target
        if not follow:
            self._drift = 0.0
        elif -self._drift_limit <= moved <= self._drift_limit:
            self._drift = moved
        self.cause = ""
        if at != at:
            self.at = target
            return target
        down, up = self._interval(at, speed - rate, speed + rate)
        reach = target - at
        cap = self._fastest if share >= 1.0 else cap_of(reach, self._step, share)
        away = reach - self._drift
        if (
            down - self._slack <= reach <= up + self._slack
            and -cap <= reach <= cap
            # What is met must be kept, too; what was met in the last tick may go on as it can.
            and ((self._locked and follow) or -rate <= away <= rate)
        ):
            self._speed, self.at, self._locked = reach, target, True
            return target
        self.cause = self._why(reach, cap)
        self._locked = False
        step = self._drift + self._chase(away)
        step = cap if step > cap else -cap if step < -cap else step
        # By rounding the two may have crossed: then the bounds count, not the acceleration.
        step = max(step, down)
        step = min(step, up)
        command = at + step
        # Outside the bounds there is only the way back.
        low = self._low if self._low < at else at
        high = self._high if self._high > at else at
        command = low if command < low else high if command > high else command
        self._speed, self.at = command - at, command
        return command

    def _interval(self, at: float, down: float, up: float) -> tuple[float, float]:
        """Return the least and the largest step from which a stop within all limits follows."""
        if up > self._step:
            up = self._step
        if down < -self._step:
            down = -self._step
        if not self._inner_low <= at <= self._inner_high:
            up = min(up, fastest_stop(self._high - at, self._rate))
            down = max(down, -fastest_stop(at - self._low, self._rate))
        return down, up

    def _chase(self, away: float) -> float:
        """Return how much faster than the target to go, slow enough to end on it."""
        far = away if away >= 0.0 else -away
        speed = fastest_stop(far, self._rate) if far <= self._plenty else math.inf
        return math.copysign(speed, away)

    def _why(self, reach: float, cap: float) -> str:
        if abs(reach) > cap:
            return "ramp" if cap < self._step else "rate limit"
        if abs(reach - self._speed) > self._rate or not self._locked:
            return "acceleration limit"
        return "stopping distance"


def _stop_from(step: float, rate: float) -> float:
    """Return a distance within which every stop from ``step`` ends; rounding never shortens it."""
    return step * (1.0 + 0.5 * step / rate) * (1.0 + 1e-6) if step < math.inf else math.inf
