"""Where faults are injected: which node runs, and what stands around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from vdd_ros.core.contract import PolicyContract
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.torture.process_faults import STANDBY
from vdd_ros.nodes.torture.rig import Companion, Rig, RigSettings

_PAIR_HZ = 50.0
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


@contextmanager
def _pair(
    driver: Driver, contract: PolicyContract, rate_hz: float, rng: np.random.Generator
) -> Iterator[Rig]:
    """The shipped student in command and the shipped teacher as its standby, at 50 Hz at most."""
    own = {"partner": STANDBY, "selection.rule": "argmax"}
    other = {"role": "standby", "partner": "policy", "healthy_s": 0.5, "nfe": 4}
    settings = RigSettings(
        rate_hz=min(rate_hz, _PAIR_HZ),
        parameters=own,
        companions=(Companion("teacher_node", STANDBY, other),),
    )
    rig = Rig(driver, contract, settings, rng)
    try:
        yield rig
    finally:
        rig.end()


BENCHES: dict[str, Bench] = {"student": _student, "pair": _pair}
"""Every bench by name."""
