"""What a fault is: what is injected, what counts as detected, what must be so afterwards."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.nodes.torture.judge import CLAMP, HOLD
from vdd_ros.nodes.torture.rig import Rig
from vdd_ros.nodes.torture.robot import stamp_of

DETECT_S = 3.0
"""Longest wait for a fault to be told of; diagnostics come once a second."""
RECOVER_S = 10.0
"""Longest wait for the node to act again."""
_CALM_TICKS = 4
_REST_TICKS = 400
"""Longest wait for commands to rest; across the whole workspace a limiter needs half of it."""


@dataclass(frozen=True)
class Outcome:
    """What became of one injection."""

    detected_s: float | None
    """Seconds from the injection until it was told of; None where it was not."""
    recovered: bool
    """The node acts again, with nothing done by hand but what the fault says."""
    unseen: bool = False
    """No node was handed the message the fault is made of: nothing was injected."""


@dataclass(frozen=True)
class Fault(ABC):
    """One kind of fault."""

    name: str
    """Unique, in lower case with hyphens."""
    injects: str
    """What is done to the node."""
    detection: str
    """What counts as detected."""
    recovery: str = "the next good observation is answered freely"
    """What counts as recovered."""
    may_stop: bool = False
    """No answer is due while the fault lasts."""
    count: int = 60
    """Injections in a default run."""
    cost_s: float = 0.1
    """About how long one injection takes; shares a bounded time among the benches."""
    bench: str = "student"
    """Which node it is done to; see `vdd_ros.nodes.torture.campaign`."""

    @abstractmethod
    def inject(self, rig: Rig) -> Outcome:
        """Do it once and watch what happens."""

    def recovered(self, rig: Rig) -> bool:
        """Tell whether the node acts again."""
        begun = time.monotonic()
        return rig.pace(lambda: rig.judge.acted_since(begun), timeout_s=RECOVER_S)


Spoil = Callable[[Any, Rig], None]
"""Makes a good message bad."""


@dataclass(frozen=True)
class BadMessage(Fault):
    """A message in place of a good one; the node must hold and say why."""

    spoil: Spoil = lambda message, rig: None
    """What is done to the message."""
    says: str = ""
    """Expression that the published reason must contain."""

    def inject(self, rig: Rig) -> Outcome:
        """Send the message, then go on with good ones."""
        rig.ticks(int(rig.rng.integers(1, _CALM_TICKS)))
        # Only the newest message is kept for a node: the good one must have been taken.
        rig.settle_commands()
        message = rig.message()
        self.spoil(message, rig)
        begun = time.monotonic()
        number = rig.send(message, due=False)
        skipped = Skipped(rig, number)
        detected_s = told(rig, begun, self.says, unless=skipped)
        return Outcome(detected_s, self.recovered(rig), unseen=skipped.so)


class Skipped:
    """Asks the judge whether a message was never handed to a node, until it was not."""

    def __init__(self, rig: Rig, number: int) -> None:
        """Ask about the message with this number."""
        self._rig, self._number = rig, number
        self.so = False
        """It was not."""

    def __call__(self) -> bool:
        """Ask."""
        self.so = self.so or self._rig.judge.skipped(self._number)
        return self.so


@dataclass(frozen=True)
class HarmlessMessage(Fault):
    """An odd message that must be understood: the answer is what it was for the same state."""

    spoil: Spoil = lambda message, rig: None
    """What is done to the message."""

    def inject(self, rig: Rig) -> Outcome:
        """Let the robot stand until the command does not change, then send the odd message."""
        rig.still = True
        try:
            before = _at_rest(rig)
            message = rig.message()
            self.spoil(message, rig)
            begun, stamp_ns = time.monotonic(), stamp_of(message)
            skipped = Skipped(rig, rig.send(message, due=False))
            rig.pace(lambda: rig.judge.answered(stamp_ns) or skipped(), timeout_s=DETECT_S)
            took_s = time.monotonic() - begun
            after = rig.judge.answer(stamp_ns)
            same = (
                before is not None
                and after is not None
                and bool((abs(after - before) < 1e-6).all())
            )
        finally:
            rig.still = False
        return Outcome(took_s if same else None, self.recovered(rig), unseen=skipped.so)


def _at_rest(rig: Rig) -> NDArray[np.float64] | None:
    """Let a robot that stands get commands until they do not change; return the last [D_act].

    After a fault that made it stop short the limiter takes its time to catch up: how long is a
    matter of limits and distance, so the commands themselves are asked. None: they never rest.
    """
    alike = 0
    last: NDArray[np.float64] | None = None
    for _ in range(_REST_TICKS):
        rig.ticks(1)
        rig.settle_commands()
        now = rig.judge.last_command
        rests = now is not None and last is not None and bool((abs(now - last) < 1e-9).all())
        alike = alike + 1 if rests else 0
        last = now
        if alike == _CALM_TICKS:
            return now
    return None


def told(
    rig: Rig,
    begun: float,
    says: str,
    *,
    timeout_s: float = DETECT_S,
    due: bool = True,
    sending: bool = True,
    unless: Callable[[], bool] = lambda: False,
) -> float | None:
    """Wait for a reason with ``says`` in it; return the seconds it took.

    Args:
        rig: where.
        begun: reasons from then on count.
        says: expression.
        timeout_s: longest wait.
        due: what is sent meanwhile must be answered.
        sending: whether anything is.
        unless: there is no use in waiting any longer.
    """
    pattern = re.compile(says)

    def heard() -> float | None:
        found = (at for at, text in rig.judge.reasons if at >= begun and pattern.search(text))
        first = next(found, None)
        if first is None and rig.judge.reasons and pattern.search(rig.judge.reasons[-1][1]):
            # In force already, as after a stall of this process: a reason is told once only, and
            # the node stands by it with a held tick.
            held = (at for at, _, level in rig.judge.rows if at >= begun and level >= HOLD)
            first = next(held, None)
        return first

    rig.pace(
        lambda: heard() is not None or unless(), timeout_s=timeout_s, due=due, sending=sending
    )
    first = heard()
    return None if first is None else first - begun


def diagnosed(
    rig: Rig, begun: float, says: str, *, timeout_s: float = DETECT_S, due: bool = True
) -> float | None:
    """Wait for a summary on ``/diagnostics`` with ``says`` in it; return the seconds it took."""
    pattern = re.compile(says)

    def heard() -> bool:
        return rig.diagnosed_s >= begun and bool(pattern.search(rig.diagnostics))

    return time.monotonic() - begun if rig.pace(heard, timeout_s=timeout_s, due=due) else None


def is_free(level: int) -> bool:
    """Tell whether the policy's own command went out, limited or not."""
    return 0 <= level <= CLAMP
