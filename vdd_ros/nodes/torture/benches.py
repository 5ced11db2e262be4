"""Where faults are injected: which node runs, and what stands around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from vdd_ros.core.contract import PolicyContract
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.torture.rig import Rig, RigSettings

Bench = Callable[[Driver, PolicyContract, float, np.random.Generator], AbstractContextManager[Rig]]


@contextmanager
def _student(
    driver: Driver, contract: PolicyContract, rate_hz: float, rng: np.random.Generator
) -> Iterator[Rig]:
    """The shipped student; always the likeliest expert, so that like states get like answers."""
    settings = RigSettings(rate_hz=rate_hz, parameters={"selection.rule": "argmax"})
    rig = Rig(driver, contract, settings, rng)
    try:
        yield rig
    finally:
        rig.end()


BENCHES: dict[str, Bench] = {"student": _student}
"""Every bench by name."""
