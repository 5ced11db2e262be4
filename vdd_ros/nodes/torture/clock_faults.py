"""Faults of the clock that a simulation publishes: it jumps both ways, and stands still."""

from __future__ import annotations

import time
from dataclasses import dataclass

from vdd_ros.nodes.torture.faults import DETECT_S, Fault, Outcome, diagnosed
from vdd_ros.nodes.torture.rig import Rig

_NS = 1_000_000_000
_LOOKS_S = 8.0
"""Longest wait for a look at the clock, once a second, and for a summary."""


@dataclass(frozen=True)
class Jump(Fault):
    """The clock, and all stamps with it, are set forward or back at once."""

    forward: bool = True
    """Which way."""

    def inject(self, rig: Rig) -> Outcome:
        """Set it; the first command for an observation of the new time ends the wait."""
        rig.ticks(3)
        rig.settle_commands()
        far_ns = round(float(rig.rng.uniform(1.0, 3600.0)) * _NS)
        rig.judge.excuse()
        rig.judge.reborn(time.monotonic())
        rig.clock_shift_ns += far_ns if self.forward else -far_ns
        rig.forget_stamps()
        begun = time.monotonic()
        back = rig.pace(lambda: rig.judge.acted_since(begun), timeout_s=DETECT_S, due=False)
        took_s = time.monotonic() - begun
        new = back and abs(rig.judge.rows[-1][1] - rig.now_ns()) < _NS
        return Outcome(took_s if new else None, self.recovered(rig))


@dataclass(frozen=True)
class Standstill(Fault):
    """The clock stands still while states come, all with the same time."""

    def inject(self, rig: Rig) -> Outcome:
        """Stop it until that is told, then let it go on from where it was."""
        rig.ticks(3)
        rig.settle_commands()
        rig.judge.excuse()
        begun = time.monotonic()
        rig.clock_stands_ns = rig.now_ns()
        try:
            detected_s = diagnosed(rig, begun, "stands still", timeout_s=_LOOKS_S, due=False)
        finally:
            rig.clock_shift_ns = rig.clock_stands_ns - time.time_ns()
            rig.clock_stands_ns = 0
        rig.judge.excuse()
        rig.judge.reborn(time.monotonic())
        begun = time.monotonic()
        back = rig.pace(lambda: rig.judge.acted_since(begun), timeout_s=DETECT_S, due=False)
        return Outcome(detected_s, back and self.recovered(rig))


CLOCK_FAULTS: tuple[Fault, ...] = (
    *(
        Jump(
            f"clock-{way}",
            f"the simulation's clock is set {way} by 1 s to an hour",
            "an observation of the new time is answered freely",
            forward=way == "forward",
            bench="simulated",
            count=15,
            cost_s=0.3,
        )
        for way in ("forward", "back")
    ),
    Standstill(
        "clock-stands",
        "the simulation's clock stands still while states come",
        "/diagnostics says so",
        bench="simulated",
        count=4,
        cost_s=3.5,
    ),
)
"""Kinds made of the clock."""
