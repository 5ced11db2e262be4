"""One commanded component whose jerk is limited, beside position, step and acceleration.

What is counted in ticks, and why a command is only sent if a stop can follow it, is said in
`vdd_ros.core.axes`.

This runs once per component and tick. What depends on the limits alone is worked out beforehand,
and where a cheap look settles a question, the exact one is not asked; the results are those of the
plain rule, bit for bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

from vdd_ros.core.axes import FASTEST, SLACK, cap_of, fastest_stop

_BISECTIONS = 10
"""Halvings between the planned stop and what is wanted: a thousandth of the way is near enough."""
_RESERVE, _CALM = 0.7, 0.3
"""Shares of acceleration and jerk that the approach to a target is planned with: the rest is
needed to follow that plan. With more of the jerk the approach swings; with less it crawls."""
_GAIN = 0.5
"""Largest share of the remaining distance that one tick covers, where a target is approached."""
_NO_STOP = (0, 0, 0.0)
"""No stop is being followed: its stage, its ticks, its share of the fullest stop."""


class JerkAxis:
    """A component with limits on position, step, acceleration and jerk.

    The stop that must be able to follow every command has two parts, both of which add up in
    closed form: the acceleration is led to zero, then the velocity w that is left is taken away by
    n accelerations of the shape min(i, n + 1 - i, A / J), which is symmetric, so that they cover
    (n - 1) w / 2. Where what is wanted has no such stop, the command is the one nearest to it, on
    the way from the stop that is being followed, that has.
    """

    __slots__ = (
        "_at_once_step",
        "_calm",
        "_drift",
        "_drift_limit",
        "_fastest",
        "_full",
        "_half",
        "_high",
        "_inner_high",
        "_inner_low",
        "_jerk",
        "_knee",
        "_locked",
        "_low",
        "_plenty",
        "_push",
        "_rate",
        "_ruled",
        "_seen",
        "_slack",
        "_speed",
        "_steady",
        "_step",
        "_stop",
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
        self._fastest = step * (1.0 + SLACK)
        self._drift_limit = min(step, FASTEST)
        self._at_once_step = min(acceleration, jerk)
        self._slack = SLACK * self._at_once_step
        self._half = 0.5 / jerk
        self._steady, self._calm = _RESERVE * acceleration, _CALM * jerk
        self._knee = self._steady * self._steady / self._calm
        # To make up for this much velocity takes all the acceleration there is, and twice more.
        self._plenty = 2.0 * acceleration * (ratio + 2.0)
        # No stop covers more than all its ticks at full speed: inside of that the bounds are far.
        ticks = ratio + 4.0 + self._duration(step) if step < math.inf else math.inf
        self._inner_low, self._inner_high = low + ticks * step, high - ticks * step
        self.start(math.nan)

    def start(self, at: float) -> None:
        """Stand still at ``at``."""
        self.at, self._speed, self._push, self.cause = at, 0.0, 0.0, ""
        self._stop = _NO_STOP
        self._locked = False
        self._seen, self._drift = math.nan, 0.0

    @property
    def motion(self) -> tuple[float, ...]:
        """How it moves; see `Axis`."""
        return self._speed, self._push, *self._stop

    def resume(self, motion: Sequence[float]) -> None:
        """Go on with another axis' ``motion``: the target is taken to move like the commands."""
        self._speed, self._push, stage, ticks, scale = motion
        self._stop = int(stage), int(ticks), scale
        self._drift = self._speed

    def fork(self) -> JerkAxis:
        """Return an axis that goes on from here."""
        return copy.copy(self)

    def next(self, target: float, share: float, *, follow: bool) -> float:
        """Return the command that comes nearest to ``target``; see `Axis`."""
        at, speed, push, jerk = self.at, self._speed, self._push, self._jerk
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
        # Outside the bounds there is only the way back.
        low = self._low if self._low < at else at
        high = self._high if self._high > at else at
        bottom, top, rate = push - jerk, push + jerk, self._rate
        if bottom < -rate:
            bottom = -rate
        if top > rate:
            top = rate
        reach = target - at
        cap = self._fastest if share >= 1.0 else cap_of(reach, self._step, share)
        wanted = reach - speed
        if (
            bottom - self._slack <= wanted <= top + self._slack
            and -cap <= reach <= cap
            and ((self._locked and follow) or self._at_once(reach - self._drift, wanted))
            and self._stops(reach, wanted, low, high)
        ):
            self.at, self._speed, self._push, self._stop = target, reach, wanted, _NO_STOP
            self._locked = True
            return target
        self.cause = self._why(reach, wanted, cap)
        self._locked = False
        chosen = self._chase(reach, cap)
        if chosen < bottom:
            chosen = bottom
        elif chosen > top:
            chosen = top
        return self._approach(chosen, low, high)

    def _approach(self, chosen: float, low: float, high: float) -> float:
        """Accelerate by what is nearest to ``chosen`` and leaves a stop; return the command."""
        at, speed, stage = self.at, self._speed, _NO_STOP
        if not self._stops(speed + chosen, chosen, low, high):
            stage, planned = self._planned()
            good, bad = planned, chosen
            for _ in range(_BISECTIONS):
                middle = 0.5 * (good + bad)
                if self._stops(speed + middle, middle, low, high):
                    good = middle
                else:
                    bad = middle
            chosen = good
            if chosen != planned:
                stage = _NO_STOP
        elif self._stop[0] or self._push == 0.0:
            # Elsewhere a stop has no stage to remember.
            planned_stage, planned = self._planned()
            if chosen == planned:
                stage = planned_stage
        command = at + speed + chosen
        command = low if command < low else high if command > high else command
        self.at, self._speed, self._push, self._stop = command, speed + chosen, chosen, stage
        return command

    def _stops(self, speed: float, push: float, low: float, high: float) -> bool:
        """Tell whether a stop within all limits follows the step ``speed`` from here."""
        at = self.at + speed
        size = push if push >= 0.0 else -push
        if (
            self._inner_low <= at <= self._inner_high
            # What the acceleration still adds to the velocity is no more than its square by 2 J.
            and -self._step <= speed - size * size * self._half
            and speed + size * size * self._half <= self._step
        ):
            return True
        fastest = self._fastest
        if not (low <= at <= high and -fastest <= speed <= fastest):
            return False
        if self._at_once(speed, push):
            return True
        left, end = speed, at
        if push != 0.0:
            jerk = self._jerk
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
        return abs(speed) <= self._at_once_step and abs(speed + push) <= self._jerk

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

    def _chase(self, reach: float, cap: float) -> float:
        """Return the acceleration that leads to the target, slow enough to end on it."""
        drift, steady = self._drift, self._steady
        away = reach - drift
        far = away if away >= 0.0 else -away
        speed = (far * far * self._calm) ** (1.0 / 3.0)
        if steady < math.inf and speed > self._knee:
            b = 0.5 * self._knee
            speed = math.sqrt(b * b + 2.0 * steady * far) - b
        if speed > _GAIN * far:
            speed = _GAIN * far
        speed = drift + speed if away >= 0.0 else drift - speed
        lack = (cap if speed > cap else -cap if speed < -cap else speed) - self._speed
        if -self._plenty <= lack <= self._plenty:
            return math.copysign(fastest_stop(abs(lack), self._jerk), lack)
        return math.copysign(math.inf, lack)

    def _why(self, reach: float, wanted: float, cap: float) -> str:
        if abs(reach) > cap:
            return "ramp" if cap < self._step else "rate limit"
        if abs(wanted) > self._rate:
            return "acceleration limit"
        if abs(wanted - self._push) > self._jerk or not self._locked:
            return "jerk limit"
        return "stopping distance"
