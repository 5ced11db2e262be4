"""Cube-double: put two cubes onto their two places; which one first is up to you.

Task 2 of the environment cube-double-v0 of OGBench (Park et al., ICLR 2025): a simulated UR5e
with a gripper, 20 Hz, two cubes at (.35, -.1) and (.50, -.1) m, each to be put 20 cm aside. A
rollout starts from a random pose of the arm, with the cubes turned at random and shifted by up to
1 cm. Both orders work equally well: the order in which the cubes reach their places is the mode.

Observation [37] = the environment's own: joint positions and velocities (12), gripper position
(10 x metres from the middle), cosine and sine of its yaw, opening, contact, and per cube position,
quaternion, cosine and sine of its yaw. Action [5] = shift of the gripper (x, y, z), turn and
change of opening, each -1..1 of .05 m, .3 rad and 1.

Success is the environment's: both cubes within 4 cm of their places. Reward is the share of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.tasks.optional import simulator
from vdd_ros.tasks.protocol import Outcome
from vdd_ros.tasks.single_model import SingleModelTask

Array = NDArray[np.float64]

INSTALL = "ogbench>=1.2,<1.3' 'mujoco==3.3.0"
"""What `pip install` takes."""
DT_S = 0.05
"""Seconds per control step: 20 Hz."""
MAX_STEPS = 300
"""Steps after which a rollout ends without success: three times what the scripted expert needs."""
TASK_ID = 2
"""OGBench's number of the task: both cubes have to be moved, and neither is in the other's way."""
N_CUBES = 2
"""Cubes, and with two of them also the number of orders."""

_AT_PLACE_M = 0.02  # the scripted expert's own measure of a cube that may be let go
_LET_GO, _ABOVE_M = 0.1, 0.16  # likewise: contact of the open gripper, height of one that is clear
_ATTEMPTS = 10


class OgbenchCubeTask(SingleModelTask):
    """N arms with two cubes each; see the module's docstring for the rules.

    Args:
        level: `ideal` is the only one.
        lag: observations are one control step old.

    Raises:
        VddError: unknown level, or ogbench is not installed.
    """

    name = "ogbench-cube"
    dim_obs = 37
    dim_act = 5
    dt_s = DT_S
    max_steps = MAX_STEPS
    n_modes = 2

    def __init__(self, *, level: str = "ideal", lag: bool = False) -> None:
        """Build the environment, or share the one that was built before."""
        super().__init__(level=level, lag=lag)
        self.env, self._home = _environment()
        self._data: list[Any] = []
        self.order: list[list[int]] = []
        """Per robot, the cubes that have reached their places, in their order."""

    @property
    def position(self) -> Array:
        """[N, 2] x and y of the gripper (m)."""
        here = [data.site_xpos[self.env._pinch_site_id][:2] for data in self._data]
        return np.array(here, np.float64).reshape(-1, 2)

    def outcome(self) -> Outcome:
        """Success, first cube and share of cubes placed, of every robot so far."""
        standing = np.array([self._standing(robot) for robot in range(len(self._data))])
        return Outcome(
            success=self._finished.copy(),
            mode=np.array([order[0] if order else -1 for order in self.order], np.int64),
            reward=standing.mean(axis=1),
        )

    def info(self, robot: int) -> dict[str, Any]:
        """What the environment tells of one robot beside its observation."""
        self.env._data = self._data[robot]
        told: dict[str, Any] = self.env.get_step_info()
        return told

    def places(self) -> Array:
        """[2, 3] where the cubes have to go (m)."""
        ids = self.env._cube_target_mocap_ids
        return np.array([self._data[0].mocap_pos[i] for i in ids])

    def _begin(self, n: int, rng: np.random.Generator) -> Array:
        """Draw a start per robot."""
        self._data, self.order = [], [[] for _ in range(n)]
        first = np.zeros((n, self.dim_obs))
        for robot in range(n):
            self.env._data = self._home  # the one that its reset clears and fills
            # The reset takes two random steps from the goal; their source is not the seed.
            self.env.action_space.seed(int(rng.integers(2**31)))
            with _seeded(int(rng.integers(2**31))):
                first[robot], _ = self.env.reset(
                    seed=int(rng.integers(2**31)), options={"task_id": TASK_ID}
                )
            self._data.append(copy(self._home))
        return first

    def _advance(self, robot: int, action: Array) -> tuple[Array, bool]:
        """Step the environment with this robot's data in it."""
        self.env._data = self._data[robot]
        observation = self.env.step(action)[0]
        standing = self._standing(robot)
        order = self.order[robot]
        order += [cube for cube in range(N_CUBES) if standing[cube] and cube not in order]
        return observation, bool(standing.all())

    def _standing(self, robot: int) -> NDArray[np.bool_]:
        """[2] which cubes are at their places."""
        self.env._data = self._data[robot]
        return np.array(self.env._compute_successes(), np.bool_)


@dataclass(frozen=True)
class CubeExpertSettings:
    """How the packaged expert is disturbed."""

    noise: float = 0.2
    """Standard deviation of the disturbance of executed shifts and turns, in actions (-1..1)."""

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0.0 <= self.noise <= 1.0:
            raise VddError(f"noise: got {self.noise}, expected 0 to 1")


class CubeExpert:
    """OGBench's Markov oracle, told which cube to move.

    The oracle moves one cube to one target and reads both from the environment's `info`, which
    names them while data are collected. Here they are written into it: the first cube of the
    order until the oracle has put it down, opened the gripper and risen; then the second. So the
    order is the expert's task, and every motion is the oracle's.

    Args:
        task: where the robot is.
        robot: its number.
        order: the cubes in the order they are to be moved.
        seed: of the pose that the oracle goes to in the end.
    """

    def __init__(
        self, task: OgbenchCubeTask, robot: int, *, order: tuple[int, ...], seed: int
    ) -> None:
        """Set the oracle to the first cube."""
        oracles = simulator(
            "ogbench.manipspace.oracles.markov.cube_markov", task=task.name, install=INSTALL
        )
        self._task, self._robot, self._left = task, robot, list(order)
        self._oracle: Any = oracles.CubeMarkovOracle(env=task.env)
        with _seeded(seed):  # the oracle draws from numpy's global generator
            self._oracle.reset(None, None)

    def act(self) -> Array:
        """The oracle's action [5] in the robot's present state."""
        info, places = self._task.info(self._robot), self._task.places()
        cube = self._left[0]
        at_place = np.linalg.norm(info[f"privileged/block_{cube}_pos"] - places[cube])
        clear = info["proprio/effector_pos"][2] > _ABOVE_M
        let_go = info["proprio/gripper_contact"][0] < _LET_GO
        if len(self._left) > 1 and at_place <= _AT_PLACE_M and clear and let_go:
            self._left.pop(0)
            cube = self._left[0]
        info["privileged/target_block"] = cube
        info["privileged/target_block_pos"] = places[cube]
        info["privileged/target_block_yaw"] = np.zeros(1)
        action: Array = np.asarray(self._oracle.select_action(None, info), np.float64)
        return action


def scripted_demonstrations(
    n: int,
    *,
    seed: int,
    level: str = "ideal",
    settings: CubeExpertSettings | None = None,
) -> Demonstrations:
    """Record n successful episodes of the packaged expert, both orders equally often.

    As in DART (Laskey et al., CoRL 2017) noise is added to what is executed and the expert's own
    action is what is recorded, so that recovery is demonstrated. Which episode takes which order
    is shuffled. An episode that fails, or in which the other cube arrives first, is drawn again.

    Args:
        n: number of episodes.
        seed: the recordings are a function of it.
        level: `ideal`.
        settings: how the expert is disturbed.

    Raises:
        VddError: n below 1, ogbench is not installed, or an episode fails again and again.
    """
    if n < 1:
        raise VddError(f"got n={n} scripted demonstrations; expected at least 1")
    task, rng = OgbenchCubeTask(level=level), np.random.default_rng(seed)
    settings = settings or CubeExpertSettings()
    mode = rng.permutation(np.arange(n) % N_CUBES)
    observation, action = [], []
    for first in mode:
        for _ in range(_ATTEMPTS):
            seen, done = _record(task, int(first), rng, settings)
            outcome = task.outcome()
            if outcome.success[0] and outcome.mode[0] == first:
                break
        else:
            raise VddError(
                f"a scripted episode failed {_ATTEMPTS} times with {settings}; expected an expert "
                "that mostly succeeds: reduce noise"
            )
        observation.append(seen)
        action.append(done)
    return Demonstrations(
        observation=np.concatenate(observation),
        action=np.concatenate(action),
        episode_ends=np.cumsum([len(rows) for rows in action]),
        mode=mode,
        source=f"scripted ogbench-cube, {n} episodes, seed {seed}",
    )


def _record(
    task: OgbenchCubeTask, first: int, rng: np.random.Generator, settings: CubeExpertSettings
) -> tuple[Array, Array]:
    """One episode: observations [T, 37] and the expert's actions [T, 5]."""
    now = task.reset(1, rng)
    expert = CubeExpert(task, 0, order=(first, 1 - first), seed=int(rng.integers(2**31)))
    seen, done = [], []
    while not task.done.all():
        action = expert.act()
        seen.append(now[0])
        done.append(action)
        disturbed = action.copy()
        disturbed[:4] += settings.noise * rng.standard_normal(4)  # a gripper half open is no error
        now = task.step(disturbed[None])
    return np.stack(seen), np.stack(done)


@cache
def _environment() -> tuple[Any, Any]:
    """The environment and the data it was built with; its model takes seconds to compile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a missing display, which nothing here needs
        module = simulator(
            "ogbench.manipspace.envs.cube_env", task=OgbenchCubeTask.name, install=INSTALL
        )
        env = module.CubeEnv(
            "double", permute_blocks=False, terminate_at_goal=False, visualize_info=False
        )
        env.reset(seed=0, options={"task_id": TASK_ID})
    return env, env._data


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let numpy's global generator start from this seed, and put it back afterwards."""
    state = np.random.get_state()  # noqa: NPY002 - the library behind it draws from nothing else
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
