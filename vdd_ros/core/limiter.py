"""The limiter: commands that obey position, step, acceleration and jerk, whatever is wanted.

Limits are given per second and become limits per command by the NOMINAL period. A tick that comes
late may not move further for it: what a robot does with a command after a pause is not known.

Where limits cannot all be kept, position wins over step, step over acceleration, acceleration over
jerk. No command of the limiter leads there: only a start outside the bounds does, and that is led
back inside with the allowed step. Components that limit neither acceleration nor jerk are clipped
to their bounds and then to one step, and nothing else happens to them.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.acceleration_axis import AccelerationAxis
from vdd_ros.core.axes import MOTION, Axis
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.jerk_axis import JerkAxis

Array = NDArray[np.float64]


class Limiter:
    """Limits a command vector [D_act] tick by tick."""

    def __init__(self, contract: PolicyContract, rate_hz: float) -> None:
        """Lay the contract's limits out per tick."""
        self.low = _vector(contract, "min", -np.inf)
        self.high = _vector(contract, "max", np.inf)
        self.step = _vector(contract, "max_rate", np.inf) / rate_hz
        acceleration = _vector(contract, "max_acceleration", np.inf) / rate_hz**2
        jerk = _vector(contract, "max_jerk", np.inf) / rate_hz**3
        self.names = [f"{a.key}[{i}]" for a in contract.actions for i in range(a.dim)]
        """Name of every component, for reasons."""
        self.last: Array | None = None
        """The command sent last; None before the first."""
        self._partly = False
        self._axes: list[tuple[int, Axis]] = []
        for i in np.flatnonzero(np.isfinite(acceleration) | np.isfinite(jerk)).tolist():
            self._axes.append((i, self._axis(i, float(acceleration[i]), float(jerk[i]))))
        self._by_place = self._placed()

    def start(self, at: Array | None) -> None:
        """Stand still at ``at`` [D_act], NaN where nothing is known; None: nothing is known.

        What has no limit on its step may jump anyhow, and starts inside its bounds.
        """
        if at is not None:
            at = np.where(np.isfinite(self.step), at, np.clip(at, self.low, self.high))
        self.last = at
        self._partly = at is not None and bool(np.isnan(at).any())
        for i, axis in self._axes:
            axis.start(float("nan") if at is None else float(at[i]))

    @property
    def motion(self) -> Array:
        """How the limited components move [n, `MOTION`]: what `resume` needs besides `last`."""
        return np.array([axis.motion for _, axis in self._axes]).reshape(-1, MOTION)

    def resume(self, motion: Array) -> None:
        """Go on, after `start`, with the ``motion`` [n, `MOTION`] of another limiter like this.

        Raises:
            ValueError: that limiter has other components, or these are no numbers.
        """
        if motion.shape != (len(self._axes), MOTION) or not np.isfinite(motion).all():
            raise ValueError(f"no motion of {len(self._axes)} components: {motion}")
        for (_, axis), numbers in zip(self._axes, motion.tolist(), strict=True):
            axis.resume(numbers)

    def halt(self) -> None:
        """Take note that nothing is sent: a command that stays has no velocity."""
        if self.last is not None:
            self.start(self.last)

    def fork(self) -> Limiter:
        """Return a limiter that goes on from here and leaves this one as it is."""
        other = copy.copy(self)
        other._axes = [(i, axis.fork()) for i, axis in self._axes]
        other._by_place = other._placed()
        return other

    def next(self, wanted: Array, share: float = 1.0, *, follow: bool = True) -> tuple[Array, str]:
        """Return the command nearest to ``wanted`` [D_act], finite, and why it differs from it.

        Args:
            wanted: what to command.
            share: of the allowed step, that may be asked for; below 1 while ramping up.
            follow: what is wanted may move; False where the robot shall come to rest.
        """
        # The two ufuncs are what np.clip calls, without what it does around them.
        target = np.minimum(np.maximum(wanted, self.low), self.high)
        wishes = target.tolist() if self._axes else []
        if len(self._axes) == len(target):
            command = np.array([a.next(wishes[i], share, follow=follow) for i, a in self._axes])
        else:
            command = self._stepped(target, share)
            for i, axis in self._axes:
                command[i] = axis.next(wishes[i], share, follow=follow)
        self.last, self._partly = command, False
        reason = "" if (command == wanted).all() else self._reason(wanted, target, command, share)
        return command, reason

    def _placed(self) -> list[Axis | None]:
        """Return the axis of every component, None where it is only clipped."""
        axes = dict(self._axes)
        return [axes.get(i) for i in range(len(self.names))]

    def _stepped(self, target: Array, share: float) -> Array:
        """Return ``target`` within one step of the last command, in a new array."""
        last, step = self.last, self.step
        if last is None:
            return target.copy()
        if share < 1.0:
            step = share * np.where(np.isfinite(step), step, np.abs(target - last))
        down, up = last - step, last + step
        if self._partly:
            unknown = np.isnan(last)
            down[unknown], up[unknown] = -np.inf, np.inf
        return np.minimum(np.maximum(target, down), up)

    def _axis(self, i: int, acceleration: float, jerk: float) -> Axis:
        low, high, step = float(self.low[i]), float(self.high[i]), float(self.step[i])
        if np.isfinite(jerk):
            return JerkAxis(low, high, step=step, acceleration=acceleration, jerk=jerk)
        return AccelerationAxis(low, high, step=step, acceleration=acceleration)

    def _reason(self, wanted: Array, target: Array, command: Array, share: float) -> str:
        # Lists: a number out of an array costs more than all that is done with it here.
        wishes, targets, sent = wanted.tolist(), target.tolist(), command.tolist()
        rate = "rate limit" if share >= 1.0 else "ramp"
        causes: dict[str, list[str]] = {}
        if wishes != targets:
            causes["position limit"] = self._changes(wishes, targets)
        for i, name in enumerate(self.names):
            if targets[i] != sent[i]:
                axis = self._by_place[i]
                change = f"{name} {targets[i]:.6g} -> {sent[i]:.6g}"
                causes.setdefault(rate if axis is None else axis.cause, []).append(change)
        return "; ".join([f"{cause} {', '.join(parts)}" for cause, parts in causes.items()])

    def _changes(self, before: list[float], after: list[float]) -> list[str]:
        changed = zip(self.names, before, after, strict=True)
        return [f"{name} {old:.6g} -> {new:.6g}" for name, old, new in changed if old != new]


def _vector(contract: PolicyContract, name: str, default: float) -> Array:
    parts = [getattr(a.limits, name) or (default,) * a.dim for a in contract.actions]
    return np.array([v for part in parts for v in part], dtype=np.float64)
