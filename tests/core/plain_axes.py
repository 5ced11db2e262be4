"""Components under limits as plain rules: the readable references of the fast ones."""

from __future__ import annotations

import copy
import math

from vdd_ros.core.axes import FASTEST, SLACK, cap_of, fastest_stop

_BISECTIONS = 10
"""Halvings between the planned stop and what is wanted: a thousandth of the way is near enough."""
_RESERVE, _CALM = 0.7, 0.3
"""Shares of acceleration and jerk that the approach to a target is planned with: the rest is
needed to follow that plan. With more of the jerk the approach swings; with less it crawls."""
_GAIN = 0.5
"""Largest share of the remaining distance that one tick covers, where a target is approached."""


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


class PlainAccelerationAxis:
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

    def fork(self) -> PlainAccelerationAxis:
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


class PlainJerkAxis:
    """A component with limits on position, step, acceleration and jerk.

    The stop that must be able to follow every command has two parts, both of which add up in
    closed form: the acceleration is led to zero, then the velocity w that is left is taken away by
    n accelerations of the shape min(i, n + 1 - i, A / J), which is symmetric, so that they cover
    (n - 1) w / 2. Where what is wanted has no such stop, the command is the one nearest to it, on
    the way from the stop that is being followed, that has.
    """

    __slots__ = (
        "_full",
        "_high",
        "_jerk",
        "_locked",
        "_low",
        "_push",
        "_rate",
        "_ruled",
        "_speed",
        "_step",
        "_stop",
        "_target",
        "at",
        "cause",
    )

    def __init__(
        self, low: float, high: float, *, step: float, acceleration: float, jerk: float
    ) -> None:
        """Take the limits, per tick; infinite ones bind nothing."""
        self._low, self._high = low, high
        self._step, self._rate, self._jerk = step, acceleration, jerk
        ratio = acceleration / jerk + SLACK
        # Ticks until the acceleration is at its limit; more than a run has where there is none.
        self._ruled = int(min(ratio, 1e9))
        self._full = jerk * self._ruled * (self._ruled + 1)
        self._target = Target(step)
        self.start(math.nan)

    def start(self, at: float) -> None:
        """Stand still at ``at``."""
        self.at, self._speed, self._push, self.cause = at, 0.0, 0.0, ""
        self._stop = (0, 0, 0.0)
        self._locked = False
        self._target.reset()

    def fork(self) -> PlainJerkAxis:
        """Return an axis that goes on from here."""
        other = copy.copy(self)
        other._target = copy.copy(self._target)
        return other

    def next(self, target: float, share: float, *, follow: bool) -> float:
        """Return the command that comes nearest to ``target``; see `Axis`."""
        at, speed, push, jerk = self.at, self._speed, self._push, self._jerk
        drift = self._target.see(target, follow=follow)
        self.cause = ""
        if at != at:
            self.at = target
            return target
        # Outside the bounds there is only the way back.
        low, high = min(self._low, at), max(self._high, at)
        bottom, top = max(push - jerk, -self._rate), min(push + jerk, self._rate)
        reach = target - at
        cap = cap_of(reach, self._step, share)
        wanted = reach - speed
        slack = SLACK * min(jerk, self._rate)
        if (
            bottom - slack <= wanted <= top + slack
            and -cap <= reach <= cap
            and ((self._locked and follow) or self._at_once(reach - drift, wanted))
            and self._stops(reach, wanted, low, high)
        ):
            self._go(target, reach, wanted)
            self._locked = True
            return target
        self.cause = self._why(reach, wanted, cap)
        self._locked = False
        stage, planned = self._planned()
        chosen = min(max(self._chase(reach, drift, cap), bottom), top)
        if not self._stops(speed + chosen, chosen, low, high):
            good, bad = planned, chosen
            for _ in range(_BISECTIONS):
                middle = 0.5 * (good + bad)
                if self._stops(speed + middle, middle, low, high):
                    good = middle
                else:
                    bad = middle
            chosen = good
        self._go(min(max(at + speed + chosen, low), high), speed + chosen, chosen)
        if chosen == planned:
            self._stop = stage
        return self.at

    def _go(self, command: float, speed: float, push: float) -> None:
        self.at, self._speed, self._push = command, speed, push
        self._stop = (0, 0, 0.0)

    def _stops(self, speed: float, push: float, low: float, high: float) -> bool:
        """Tell whether a stop within all limits follows the step ``speed`` from here."""
        fastest = self._step * (1.0 + SLACK)
        at = self.at + speed
        if not (low <= at <= high and -fastest <= speed <= fastest):
            return False
        if self._at_once(speed, push):
            return True
        left, end = speed, at
        if push != 0.0:
            jerk, size = self._jerk, abs(push)
            m = max(math.ceil(size / jerk - SLACK), 1)
            k = m - 1
            gain = k * size - jerk * k * m / 2.0
            way = size * k * m / 2.0 - jerk * k * m * (m + 1) / 6.0
            if push < 0.0:
                gain, way = -gain, -way
            left = speed + gain
            if not -fastest <= left <= fastest:
                return False
            if left * speed < 0.0 and not low <= at + k * speed <= high:
                return False  # it turns round on the way: how far it goes first is bounded by this
            end = at + k * speed + way + left
        end += 0.5 * (self._duration(abs(left)) - 1) * left if left != 0.0 else 0.0
        return low <= end <= high

    def _at_once(self, speed: float, push: float) -> bool:
        """Tell whether the next step may be none at all."""
        return abs(speed) <= min(self._rate, self._jerk) and abs(speed + push) <= self._jerk

    def _duration(self, speed: float) -> int:
        """Return the ticks in which ``speed`` can be taken away, starting and ending unpushed."""
        if speed <= self._full * (1.0 + 1e-12):
            q = max(math.ceil(math.sqrt(speed / self._jerk) - SLACK), 1)
            return 2 * q - 2 if (q - 1) * q * self._jerk >= speed * (1.0 - 1e-12) else 2 * q - 1
        beyond = (speed - self._full) / self._rate
        return 2 * self._ruled + max(math.ceil(beyond - SLACK), 1)

    def _capacity(self, n: int) -> float:
        """Return the largest velocity that n ticks can take away."""
        if n <= 2 * self._ruled:
            return self._jerk * ((n + 1) // 2) * ((n + 2) // 2)
        return self._full + self._rate * (n - 2 * self._ruled)

    def _planned(self) -> tuple[tuple[int, int, float], float]:
        """Return where the stop stands, and the acceleration it has for this tick."""
        i, n, scale = self._stop
        if i == 0:
            push = self._push
            if self._at_once(self._speed, push):
                return self._stop, -self._speed
            if push != 0.0:
                # A rest that is only rounding must not cost a tick that the stop does not have.
                settles = abs(push) <= self._jerk * (1.0 + 2.0 * SLACK)
                return self._stop, 0.0 if settles else push - math.copysign(self._jerk, push)
            n = self._duration(abs(self._speed))
            scale = -self._speed / self._capacity(n)
        i += 1
        if i >= n:
            return (0, 0, 0.0), -self._speed
        return (i, n, scale), scale * min(min(i, n + 1 - i) * self._jerk, self._rate)

    def _chase(self, reach: float, drift: float, cap: float) -> float:
        """Return the acceleration that leads to the target, slow enough to end on it."""
        away, rate, jerk = reach - drift, _RESERVE * self._rate, _CALM * self._jerk
        far = abs(away)
        speed = (far * far * jerk) ** (1.0 / 3.0)
        if rate < math.inf and speed > rate * rate / jerk:
            b = 0.5 * rate * rate / jerk
            speed = math.sqrt(b * b + 2.0 * rate * far) - b
        speed = min(max(drift + math.copysign(min(speed, _GAIN * far), away), -cap), cap)
        lack = speed - self._speed
        return math.copysign(fastest_stop(abs(lack), self._jerk), lack)

    def _why(self, reach: float, wanted: float, cap: float) -> str:
        if abs(reach) > cap:
            return "ramp" if cap < self._step else "rate limit"
        if abs(wanted) > self._rate:
            return "acceleration limit"
        if abs(wanted - self._push) > self._jerk or not self._locked:
            return "jerk limit"
        return "stopping distance"
