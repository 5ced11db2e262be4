"""Where faults are injected: which node runs, and what stands around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from vdd_ros.core.contract import PolicyContract
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.torture.process_faults import STANDBY
from vdd_ros.nodes.torture.rig import Rig
from vdd_ros.nodes.torture.settings import Companion, RigSettings

_PAIR_HZ = 50.0
Bench = Callable[[Driver, PolicyContract, float, np.random.Generator], AbstractContextManager[Rig]]


@contextmanager
def _student(
    driver: Driver, contract: PolicyContract, rate_hz: float, rng: np.random.Generator
) -> Iterator[Rig]:
    """The shipped student; always the likeliest expert, so that like states get like answers."""
    # It asks for reliable states, as a publisher of states must be able to offer too little.
    reliable = f"qos_overrides./{RigSettings().namespace}/robot_state.subscription.reliability"
    own = {"selection.rule": "argmax", reliable: "reliable"}
    rig = Rig(driver, contract, RigSettings(rate_hz=rate_hz, parameters=own), rng)
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


@contextmanager
def _simulated(
    driver: Driver, contract: PolicyContract, rate_hz: float, rng: np.random.Generator
) -> Iterator[Rig]:
    """The shipped student under a clock that the rig publishes."""
    own = {"selection.rule": "argmax"}
    rig = Rig(driver, contract, RigSettings(rate_hz=rate_hz, parameters=own, sim_time=True), rng)
    try:
        yield rig
    finally:
        rig.end()


@contextmanager
def _shadow(
    driver: Driver, contract: PolicyContract, rate_hz: float, rng: np.random.Generator
) -> Iterator[Rig]:
    """The shipped student in command and the shipped teacher as a shadow, at 50 Hz at most."""
    settings = RigSettings(
        rate_hz=min(rate_hz, _PAIR_HZ),
        parameters={"selection.rule": "argmax"},
        companions=(Companion("teacher_node", STANDBY, {"role": "shadow", "nfe": 4}),),
    )
    rig = Rig(driver, contract, settings, rng)
    try:
        yield rig
    finally:
        rig.end()


BENCHES: dict[str, Bench] = {
    "student": _student,
    "simulated": _simulated,
    "shadow": _shadow,
    "pair": _pair,
}
"""Every bench by name."""
