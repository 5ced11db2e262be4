"""One commanded component under limits: what `acceleration_axis` and `jerk_axis` have in common.

Everything is counted in control ticks: positions are commands, a velocity is the difference of
two of them, an acceleration that of two velocities, a jerk that of two accelerations.

A command is only sent if a stop that obeys every limit can follow it. The stop of the tick before
is therefore always there to fall back on, whatever is wanted next: no input leads to a state from
which a limit must be broken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

MOTION = 5
"""Numbers that say how an axis moves: step, acceleration, and the stop that it follows."""
SLACK = 1e-9
"""Share of a limit by which rounding may exceed it."""
FASTEST = 1e100
"""A target that moves faster is a number, not a motion."""
_MANY = 1e32
"""Twice the square of as many steps of a stop as leave no digit for the difference of one more."""
_ROOT = math.sqrt(2.0)


class Axis(Protocol):
    """One component: remembers its last commands and knows what may follow them."""

    at: float
    """The last command; NaN before the first."""
    cause: str
    """What kept the last command from the target; empty where nothing did."""

    def start(self, at: float) -> None:
        """Stand still at ``at``; NaN where nothing is known."""
        ...

    @property
    def motion(self) -> tuple[float, ...]:
        """How it moves, `MOTION` numbers: another axis of the same limits can go on from that."""
        ...

    def resume(self, motion: Sequence[float]) -> None:
        """Go on, from where it stands after `start`, with another axis' ``motion``."""
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
    rate n (n + 1) / 2 with n = floor(v / rate); this is the inverse. It holds for all numbers
    there are: no product is formed that is larger than the answer.
    """
    if distance <= 0.0 or rate <= 0.0:
        return 0.0
    if distance == math.inf or rate == math.inf:
        return distance
    ratio = distance / rate
    if ratio > _MANY:
        return min(_ROOT * math.sqrt(distance) * math.sqrt(rate), distance)
    n = int((math.sqrt(1.0 + 8.0 * ratio) - 1.0) / 2.0)
    return distance / (n + 1) + rate * (0.5 * n)


def cap_of(reach: float, step: float, share: float) -> float:
    """Return the largest step that may be asked for."""
    if share >= 1.0:
        return step * (1.0 + SLACK)
    return share * (step if step < math.inf else abs(reach))
