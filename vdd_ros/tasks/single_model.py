"""N robots in a MuJoCo environment that was written for one.

Building such an environment takes seconds, because its model is compiled from XML; its state is a
single `MjData`. A task here therefore builds one environment and keeps one `MjData` per robot:
the environment is handed each robot's data in turn. Derived quantities travel with it, so a robot
moves exactly as it would in an environment of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.tasks.protocol import Outcome, checked_action

Array = NDArray[np.float64]


class SingleModelTask(ABC):
    """The bookkeeping of N robots that are stepped one after the other.

    Args:
        level: one of `levels`.
        lag: observations are one control step old.

    Raises:
        VddError: unknown level.
    """

    name: str
    levels: tuple[str, ...] = ("ideal",)
    dim_obs: int
    dim_act: int
    dt_s: float
    max_steps: int
    n_modes: int

    def __init__(self, *, level: str = "ideal", lag: bool = False) -> None:
        """Note the level; nothing is simulated before `reset`."""
        if level not in self.levels:
            raise VddError(
                f"unknown level '{level}' of task '{self.name}'; "
                f"known levels: {', '.join(self.levels)}"
            )
        self.level, self.lag = level, lag
        self._now = self._before = np.zeros((0, self.dim_obs))
        self._steps = np.zeros(0, np.int64)
        self._finished = np.zeros(0, np.bool_)

    @abstractmethod
    def _begin(self, n: int, rng: np.random.Generator) -> Array:
        """Put n robots at the start; observations [N, D_obs]."""

    @abstractmethod
    def _advance(self, robot: int, action: Array) -> tuple[Array, bool]:
        """Step one robot; its observation [D_obs] and whether it has reached its goal."""

    @abstractmethod
    def outcome(self) -> Outcome:
        """Success and mode of every robot so far."""

    @property
    @abstractmethod
    def position(self) -> Array:
        """[N, 2] where the robots are in the plane that is drawn."""

    def reset(self, n: int, rng: np.random.Generator) -> Array:
        """Put n robots at the start; returns their observations [N, D_obs]."""
        self._now = self._begin(n, rng)
        self._before = self._now.copy()
        self._steps = np.zeros(n, np.int64)
        self._finished = np.zeros(n, np.bool_)
        return self.observe()

    def observe(self) -> Array:
        """The latest observations [N, D_obs], one step old if the task lags."""
        return (self._before if self.lag else self._now).copy()

    @property
    def done(self) -> NDArray[np.bool_]:
        """[N] which robots have reached the goal or used up their time."""
        return self._finished | (self._steps >= self.max_steps)

    def step(self, action: ArrayLike) -> Array:
        """Advance by one control step with `action` [N, D_act], clipped to -1..1.

        Raises:
            VddError: actions of another shape, or not finite: a physics engine given NaN would
                warn once and quietly simulate nonsense.
        """
        action = checked_action(action, len(self._now), self.dim_act)
        active = np.flatnonzero(~self.done)
        self._before[active] = self._now[active]
        for robot in active:
            observation, reached = self._advance(int(robot), np.clip(action[robot], -1.0, 1.0))
            self._now[robot] = observation
            self._finished[robot] = reached
            self._steps[robot] += 1
        return self.observe()
