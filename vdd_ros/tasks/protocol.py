"""What a simulated robot must offer, and which there are.

A `Task` holds N robots at once, because the figures that matter (success, diversity) need
hundreds of rollouts and a loop over single robots would make them slow enough to be skipped.
Robots that have finished stay frozen where they are, so every array keeps its first axis N
until the last robot has finished.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd_ros.core.errors import VddError, did_you_mean

Array = NDArray[np.floating]
Policy = Callable[[Array, np.random.Generator], tuple[Array, NDArray[np.integer]]]
"""(windows [N, n_obs_steps, D_obs], generator) -> (chunk [N, horizon, D_act], expert [N]).

A policy without experts returns -1 for every robot.
"""


@dataclass(frozen=True)
class Outcome:
    """How the rollouts stand."""

    success: NDArray[np.bool_]
    """[N] the goal was reached."""
    mode: NDArray[np.int64]
    """[N] which of the task's ways was taken, 0..n_modes-1; -1 where it is not (yet) decided."""
    reward: NDArray[np.float64]
    """[N] how well it went so far, 0..1; a task that knows success only says 0 or 1."""
    counted: NDArray[np.bool_] | None = None
    """[N] whose modes count for the diversity; None: those that succeeded.

    A task where success is rare has to count others, or its diversity would rest on nothing.
    """
    extra: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """[N] each: further figures by name, whose means are reported."""


@runtime_checkable
class Task(Protocol):
    """N simulated robots of one kind."""

    name: str
    """Name in the registry of `make_task`."""
    level: str
    """Which of `levels` this one simulates."""
    levels: tuple[str, ...]
    """The degrees of realism on offer."""
    dim_obs: int
    """Entries of one observation."""
    dim_act: int
    """Entries of one action."""
    dt_s: float
    """Seconds per control step."""
    max_steps: int
    """Steps after which a rollout ends without success."""
    n_modes: int
    """How many different ways to succeed the task counts."""

    def reset(self, n: int, rng: np.random.Generator) -> Array:
        """Put n robots at the start; returns their observations [N, D_obs]."""
        ...

    def observe(self) -> Array:
        """The latest observations [N, D_obs]."""
        ...

    def step(self, action: Array) -> Array:
        """Advance by one control step with `action` [N, D_act]; returns observations."""
        ...

    @property
    def done(self) -> NDArray[np.bool_]:
        """[N] which robots have finished."""
        ...

    @property
    def position(self) -> Array:
        """[N, 2] where the robots are in the plane that is drawn."""
        ...

    def outcome(self) -> Outcome:
        """Success and mode of every robot so far."""
        ...


TASKS: Mapping[str, str] = MappingProxyType(
    {
        "avoiding": "vdd_ros.tasks.avoiding:AvoidingTask",
        "kitchen": "vdd_ros.tasks.kitchen:KitchenTask",
        "ogbench-cube": "vdd_ros.tasks.ogbench_cube:OgbenchCubeTask",
        "pusht": "vdd_ros.tasks.pusht:PushTTask",
    }
)
"""Where each task is defined, "module:factory" by name; imported only when that task is made.

A factory takes `level` and `lag` and says with `vdd_ros.tasks.optional.simulator` which library
it needs beside the package's own requirements.
"""

SCRIPTED: Mapping[str, str] = MappingProxyType(
    {
        "avoiding": "vdd_ros.tasks.avoiding_expert:scripted_demonstrations",
        "ogbench-cube": "vdd_ros.tasks.ogbench_cube:scripted_demonstrations",
    }
)
"""Which tasks have a scripted expert; "module:function", called with n, seed and level."""


def make_task(name: str, *, level: str = "ideal", lag: bool = False) -> Task:
    """Build the task `name` at one of its levels.

    Args:
        name: a key of the registry.
        level: degree of realism; each task says which it has.
        lag: observations are one control step old.

    Raises:
        VddError: unknown task or level; the message names the known ones. Or the task's simulator
            is not installed; the message says how to install it.
    """
    if name not in TASKS:
        raise VddError(f"unknown task '{name}'{did_you_mean(name, TASKS)}")
    # Imported here because the tasks import the words of this file, and simulators of others.
    module, factory = TASKS[name].split(":")
    task: Task = getattr(import_module(module), factory)(level=level, lag=lag)
    return task


def checked_action(action: ArrayLike, n: int, dim_act: int) -> NDArray[np.float64]:
    """Return the actions [n, dim_act] of all robots, which a task may then carry out.

    Raises:
        VddError: wrong shape, or a number that is not finite.
    """
    action = np.asarray(action, np.float64)
    if action.shape != (n, dim_act):
        raise VddError(f"action has shape {action.shape}, expected ({n}, {dim_act})")
    if not np.isfinite(action).all():
        row = int(np.flatnonzero(~np.isfinite(action).all(axis=1))[0])
        raise VddError(
            f"action of robot {row} is not finite: {action[row].tolist()}; "
            "a policy must not send such a command, hold the last one instead"
        )
    return action
