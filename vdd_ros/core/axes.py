"""One commanded component whose acceleration is limited; `vdd_ros.core.jerk_axis` adds jerk.

Everything is counted in control ticks: positions are commands, a velocity is the difference of
two of them, an acceleration that of two velocities, a jerk that of two accelerations.

A command is only sent if a stop that obeys every limit can follow it. The stop of the tick before
is therefore always there to fall back on, whatever is wanted next: no input leads to a state from
which a limit must be broken.
"""

from __future__ import annotations

import copy
import math
from typing import Protocol

SLACK = 1e-9
"""Share of a limit by which rounding may exceed it."""
FASTEST = 1e100
"""A target that moves faster is a number, not a motion."""


class Axis(Protocol):
    """One component: remembers its last commands and knows what may follow them."""

    at: float
    """The last command; NaN before the first."""
    cause: str
    """What kept the last command from the target; empty where nothing did."""

    def start(self, at: float) -> None:
        """Stand still at ``at``; NaN where nothing is known."""
        ...

    def fork(self) -> Axis:
        """Return an axis that goes on from here and leaves this one as it is."""
        ...

    def next(self, target: float, share: float, *, follow: bool) -> float:
        """Return the command that comes nearest to a target between the bounds.

        Args:
            target: where to go.
            share: of the allowed step, that may be asked for.
            follow: the target may move, and is then followed without lag.
        """
        ...


def fastest_stop(distance: float, rate: float) -> float:
    """Return the largest first step of a stop within ``distance``, slowing by ``rate`` per step.

    Steps v, v - rate, v - 2 rate, ... as long as they are positive add up to (n + 1) v -
    rate n (n + 1) / 2 with n = floor(v / rate); this is the inverse.
    """
    if distance <= 0.0:
        return 0.0
    if distance == math.inf or rate == math.inf:
        return distance
    n = int((math.sqrt(1.0 + 8.0 * distance / rate) - 1.0) / 2.0)
    return (distance + rate * n * (n + 1) / 2.0) / (n + 1)


class Target:
    """How a target moves from tick to tick."""

    __slots__ = ("drift", "last", "limit")

    def __init__(self, limit: float) -> None:
        self.limit = min(limit, FASTEST)
        self.reset()

    def reset(self) -> None:
        """Forget where it was."""
        self.last, self.drift = math.nan, 0.0

    def see(self, target: float, *, follow: bool) -> float:
        """Return the target's velocity; a jump that nothing could follow is no motion."""
        moved = target - self.last
        self.last = target
        if not follow:
            self.drift = 0.0
        elif -self.limit <= moved <= self.limit:
            self.drift = moved
        return self.drift


def cap_of(reach: float, step: float, share: float) -> float:
    """Return the largest step that may be asked for."""
    if share >= 1.0:
        return step * (1.0 + SLACK)
    return share * (step if step < math.inf else abs(reach))


class AccelerationAxis:
    """A component with limits on position, step and acceleration, all in closed form.

    The next step lies in one interval: within the acceleration of the last one, within the rate,
    and slow enough to stop before either bound. That interval is never empty: the step slower by
    the whole acceleration belongs to the stop that was possible one tick ago.
    """

    __slots__ = ("_high", "_locked", "_low", "_rate", "_speed", "_step", "_target", "at", "cause")

    def __init__(self, low: float, high: float, *, step: float, acceleration: float) -> None:
        """Take the limits, per tick; infinite ones bind nothing."""
        self._low, self._high = low, high
        self._step, self._rate = step, acceleration
        self._target = Target(step)
        self.start(math.nan)

    def start(self, at: float) -> None:
        """Stand still at ``at``."""
        self.at, self._speed, self.cause = at, 0.0, ""
        self._locked = False
        self._target.reset()

    def fork(self) -> AccelerationAxis:
        """Return an axis that goes on from here."""
        other = copy.copy(self)
        other._target = copy.copy(self._target)
        return other

    def next(self, target: float, share: float, *, follow: bool) -> float:
        """Return the command that comes nearest to ``target``; see `Axis`."""
        at, speed, rate = self.at, self._speed, self._rate
        drift = self._target.see(target, follow=follow)
        self.cause = ""
        if at != at:
            self.at = target
            return target
        up = min(speed + rate, self._step, fastest_stop(self._high - at, rate))
        down = max(speed - rate, -self._step, -fastest_stop(at - self._low, rate))
        reach = target - at
        cap = cap_of(reach, self._step, share)
        away = reach - drift
        # What is met must be kept, too; what was met in the last tick may go on as it can.
        keeps = (self._locked and follow) or -rate <= away <= rate
        slack = SLACK * rate
        if keeps and down - slack <= reach <= up + slack and -cap <= reach <= cap:
            self._speed, self.at, self._locked = reach, target, True
            return target
        self.cause = self._why(reach, cap)
        self._locked = False
        step = drift + math.copysign(fastest_stop(abs(away), rate), away)
        step = min(max(step, -cap), cap)
        step = min(max(step, down), up)
        command = min(max(at + step, min(self._low, at)), max(self._high, at))
        self._speed, self.at = command - at, command
        return command

    def _why(self, reach: float, cap: float) -> str:
        if abs(reach) > cap:
            return "ramp" if cap < self._step else "rate limit"
        if abs(reach - self._speed) > self._rate or not self._locked:
            return "acceleration limit"
        return "stopping distance"
