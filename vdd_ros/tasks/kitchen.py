"""Franka Kitchen: bring four of seven things in a kitchen to their places, in any order.

The environment of Relay Policy Learning (Gupta et al., CoRL 2019) as FrankaKitchen-v1 of
gymnasium-robotics simulates it, 12.5 Hz. The columns and actions are those of the published
demonstrations (`vdd_ros.data.published.load_kitchen`); there are no scripted ones.

Observation [30] = positions of 9 robot joints (rad; fingers m) and of 21 joints of the kitchen,
both with the environment's own measurement noise. Action [9] = joint velocities over their range,
-1..1. The environment turns a velocity into a position from the last NOISY measurement, without a
memory of what it commanded: with zero actions the arm sags, .9 rad at the elbow in 8 s.

A sub-task is solved when its joints come within .3 of their goal, once and for all. Reward is the
number of solved sub-tasks over 4, at most 1; success is 4, and ends the rollout. (The published
return counts up to 7 and so can exceed 4.) Mode: the first two sub-tasks solved, in their order:
7 * 6 = 42 ways. Four have 840 orders, more than any affordable number of rollouts could count.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import copy
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd_ros.tasks.optional import simulator
from vdd_ros.tasks.protocol import Outcome
from vdd_ros.tasks.single_model import SingleModelTask

Array = NDArray[np.float64]

GOALS: Mapping[str, tuple[slice, tuple[float, ...]]] = MappingProxyType(
    {
        "bottom burner": (slice(11, 13), (-0.88, -0.01)),
        "top burner": (slice(15, 17), (-0.92, -0.01)),
        "light switch": (slice(17, 19), (-0.69, -0.05)),
        "slide cabinet": (slice(19, 20), (0.37,)),
        "hinge cabinet": (slice(20, 22), (0.0, 1.45)),
        "microwave": (slice(22, 23), (-0.75,)),
        "kettle": (slice(23, 30), (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)),
    }
)
"""Columns of an observation that a sub-task moves, and where they have to come."""
SUB_TASKS: tuple[str, ...] = tuple(GOALS)
"""The seven sub-tasks, in the order of their numbers."""
REACHED = 0.3
"""Distance to its goal below which a sub-task is solved, in the units of its joints."""
TO_SOLVE = 4
"""Sub-tasks a full episode solves."""
DT_S = 0.08
"""Seconds per control step: 12.5 Hz."""
MAX_STEPS = 280
"""Steps after which a rollout ends without success."""
N_MODES = 42
"""Ordered pairs of different sub-tasks."""

_ROBOT, _KITCHEN = slice(0, 9), slice(18, 39)  # in the environment's observation of 59 entries


def solved(observation: ArrayLike) -> NDArray[np.bool_]:
    """[..., 7] which sub-tasks stand at their goals in observations [..., 30]."""
    seen = np.asarray(observation, np.float64)
    distance = [np.linalg.norm(seen[..., where] - goal, axis=-1) for where, goal in GOALS.values()]
    return np.stack(distance, axis=-1) < REACHED


def order_mode(order: list[int]) -> int:
    """Mode of the numbers of sub-tasks in the order they were solved; -1 for fewer than two."""
    if len(order) < 2:
        return -1
    first, second = order[:2]
    return first * 6 + second - (second > first)


def path_mode(observation: ArrayLike) -> int:
    """Mode of one recorded episode [T, 30]."""
    reached = solved(observation)
    ever = np.flatnonzero(reached.any(axis=0))
    when = reached.argmax(axis=0)[ever]
    return order_mode(ever[np.argsort(when, kind="stable")].tolist())


def mode_name(mode: int) -> str:
    """For people: 'microwave, kettle'."""
    first, rest = divmod(mode, 6)
    return f"{SUB_TASKS[first]}, {SUB_TASKS[rest + (rest >= first)]}"


class KitchenTask(SingleModelTask):
    """N robots in N kitchens; see the module's docstring for the rules.

    Args:
        level: `ideal` is the only one.
        lag: observations are one control step old.

    Raises:
        VddError: unknown level, or gymnasium-robotics is not installed.
    """

    name = "kitchen"
    dim_obs = 30
    dim_act = 9
    dt_s = DT_S
    max_steps = MAX_STEPS
    n_modes = N_MODES

    def __init__(self, *, level: str = "ideal", lag: bool = False) -> None:
        """Build the environment, or share the one that was built before."""
        super().__init__(level=level, lag=lag)
        self._env, self._home = _environment()
        self._site = self._env.model.site("end_effector").id
        self._data: list[Any] = []
        self._noise: list[np.random.Generator] = []
        self._last: list[Array] = []
        self.order: list[list[int]] = []
        """Per robot, the sub-tasks solved so far in their order."""

    @property
    def position(self) -> Array:
        """[N, 2] x and y of the gripper (m)."""
        here = [data.site_xpos[self._site][:2] for data in self._data]
        return np.array(here, np.float64).reshape(-1, 2)

    def outcome(self) -> Outcome:
        """Success, mode and share of the four sub-tasks of every robot so far."""
        n_solved = np.array([len(order) for order in self.order])
        return Outcome(
            success=n_solved >= TO_SOLVE,
            mode=np.array([order_mode(order) for order in self.order], np.int64),
            reward=np.minimum(n_solved / TO_SOLVE, 1.0),
            extra={"solved": n_solved.astype(np.float64)},
        )

    def _begin(self, n: int, rng: np.random.Generator) -> Array:
        """All kitchens start alike, but for the noise of what is seen."""
        self._data, self._noise, self._last, self.order = [], [], [], []
        first = np.zeros((n, self.dim_obs))
        for robot in range(n):
            seed = int(rng.integers(2**31))
            # The environment resets through views of the data it was built with.
            self._hand(self._home)
            seen, _ = self._env.reset(seed=seed)
            self._noise.append(np.random.default_rng(seed))
            self._data.append(copy(self._home))
            self._last.append(self._env.robot_env._last_robot_qpos.copy())
            self.order.append([])
            first[robot] = _columns(seen["observation"])
        return first

    def _advance(self, robot: int, action: Array) -> tuple[Array, bool]:
        """Step the environment with this robot's data, noise and last measurement in it."""
        self._hand(self._data[robot])
        inner = self._env.robot_env
        inner.np_random = self._noise[robot]
        inner._last_robot_qpos = self._last[robot]
        seen = self._env.step(action)[0]["observation"]
        self._last[robot] = inner._last_robot_qpos.copy()
        # Judged by where things are, not by what is measured with noise.
        for sub_task in np.flatnonzero(solved(self._data[robot].qpos)):
            if int(sub_task) not in self.order[robot]:
                self.order[robot].append(int(sub_task))
        return _columns(seen), len(self.order[robot]) >= TO_SOLVE

    def _hand(self, data: Any) -> None:  # noqa: ANN401 - an MjData
        """Let the environment and its robot work on this data."""
        self._env.data = self._env.robot_env.data = data


def _columns(seen: Array) -> Array:
    """The 30 of the environment's 59 entries that the demonstrations have."""
    return np.concatenate([seen[_ROBOT], seen[_KITCHEN]])


@cache
def _environment() -> tuple[Any, Any]:
    """The environment and the data it was built with; its model takes seconds to compile."""
    install = "gymnasium-robotics>=1.4' 'mujoco==3.3.0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a missing display, which nothing here needs
        module = simulator(
            "gymnasium_robotics.envs.franka_kitchen", task=KitchenTask.name, install=install
        )
        env = module.KitchenEnv(
            terminate_on_tasks_completed=False, remove_task_when_completed=False
        )
    return env, env.data
