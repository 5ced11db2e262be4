"""Push-T: push a T-shaped block onto its outline with a round finger.

The task of Diffusion Policy (Chi et al., RSS 2023) in the simulation of gym-pusht, whose bodies
are stepped directly: the same physics, control and coverage to the last digit, without the
rendering and the per-step polygons that make its own `step` six times slower. Pixels, radians.

Observation [6] = finger x, y, block x, y, cos and sin of the block's angle. The recorded angle
lies in 0..2 pi and jumps in almost every second human episode; a network would have to learn
that both ends are the same pose, and an average over a window would be nonsense. Action [2] =
where the finger shall go (absolute), 10 times a second; a PD law moves it there.

Reward is the largest coverage of the outline so far over .95, at most 1: the published score.
A rollout succeeds and ends when the coverage exceeds .95; people hardly ever get there, so the
reward is the figure to lead with, and every rollout counts for the diversity, successful or not.

Mode: from which of eight directions, seen from the block's centre of mass in the block's own
frame, the finger first touches it. The sense of winding round the block is reported beside it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.tasks.optional import simulator
from vdd_ros.tasks.protocol import Outcome, checked_action
from vdd_ros.tasks.pusht_geometry import (
    N_MODES,
    OUTLINE,
    Array,
    bearing,
    contact_mode,
    observe,
    winding_sense,
    wrap,
)

if TYPE_CHECKING:
    from types import ModuleType

DT_S = 0.1
"""Seconds per control step: 10 Hz."""
MAX_STEPS = 300
"""Steps after which a rollout ends without success."""
LEVELS: tuple[str, ...] = ("ideal",)
"""Degrees of realism: the one of the simulation."""
SUCCESS_COVERAGE = 0.95
"""Share of the outline that must be covered."""
WINDOW_PX = 512.0
"""Side of the square the finger can be sent to."""
GOAL_POSE: Array = np.array([256.0, 256.0, np.pi / 4])
"""x, y (px) and angle (rad) of the outline to be covered."""

_SUBSTEPS, _SUBSTEP_S = 10, 0.01
_GAIN_P, _GAIN_V = 100, 20  # integers, as the original has them
GOAL_POSE.setflags(write=False)


class PushTTask:
    """N fingers with a block each; see the module's docstring for the rules.

    Args:
        level: `ideal`, the simulation as it is.
        lag: observations are one control step old.

    Raises:
        VddError: unknown level, or gym-pusht is not installed.
    """

    name = "pusht"
    levels = LEVELS
    dim_obs = 6
    dim_act = 2
    dt_s = DT_S
    max_steps = MAX_STEPS
    n_modes = N_MODES

    def __init__(self, *, level: str = "ideal", lag: bool = False) -> None:
        """Find the simulator; `reset` places the robots."""
        if level not in LEVELS:
            raise VddError(
                f"unknown level '{level}' of task 'pusht'; known levels: {', '.join(LEVELS)}"
            )
        self.level = level
        self.lag = lag
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it greets on stdout
        install = "gym-pusht>=0.1.8"
        self._simulator = simulator("gym_pusht.envs.pusht", task=self.name, install=install)
        self._shapely = simulator("shapely", task=self.name, install=install)
        self._goal = _blocks(self._shapely, GOAL_POSE[None])[0]
        self._shapely.prepare(self._goal)
        self._envs: list[Any] = []
        self.reset(0, np.random.default_rng())

    def reset(self, n: int, rng: np.random.Generator) -> Array:
        """Put n fingers and blocks at random, as gym-pusht does.

        Its order of setting the block's position first and its angle then, which turns the block
        about its centre of mass and so displaces it by up to 90 px, is kept here: the blocks of
        the human demonstrations stand where it puts them.

        Returns:
            observation [N, 6].
        """
        drawn = np.concatenate(
            [
                rng.integers(50, 450, (n, 2)),
                rng.integers(100, 400, (n, 2)),
                rng.uniform(-np.pi, np.pi, (n, 1)),
            ],
            axis=1,
        )
        self._make(n)
        for env, state in zip(self._envs, drawn, strict=True):
            env.reset(options={"reset_to_state": state})
        return self._begin()

    def reset_to(self, states: ArrayLike) -> Array:
        """Put one robot in each of the given states [N, 5], at rest.

        Args:
            states: finger x, y, block x, y (px), block angle (rad), as `state` says them.

        Returns:
            observation [N, 6].

        Raises:
            VddError: wrong shape, or not finite.
        """
        states = np.asarray(states, np.float64)
        if states.ndim != 2 or states.shape[1] != 5 or not np.isfinite(states).all():
            raise VddError(
                f"states have shape {states.shape}; expected finite numbers (N, 5): finger x, y, "
                "block x, y in px, block angle in rad"
            )
        self._make(len(states))
        for env, (x, y, block_x, block_y, angle) in zip(self._envs, states.tolist(), strict=True):
            # A start without contact, lest the bodies keep a velocity or a cached collision.
            env.reset(options={"reset_to_state": np.array([20.0, 20.0, 250.0, 250.0, 0.0])})
            env.agent.position = x, y
            env.block.angle = angle  # first, since it displaces the block
            env.block.position = block_x, block_y
        return self._begin()

    def observe(self) -> Array:
        """[N, 6] finger, block and the cosine and sine of its angle; one step old if `lag`."""
        return observe(self._previous if self.lag else self.state)

    @property
    def position(self) -> Array:
        """[N, 2] where the fingers are (px)."""
        return self.state[:, :2]

    @property
    def coverage(self) -> Array:
        """[N] share of the outline that is covered now."""
        return self._coverage

    @property
    def winding(self) -> Array:
        """[N] rad the fingers have gone round their blocks so far; see `winding_sense`."""
        return self._winding

    @property
    def done(self) -> NDArray[np.bool_]:
        """[N] covered, or out of steps."""
        return self._success | (self._steps >= self.max_steps)

    def outcome(self) -> Outcome:
        """Success, first contact, score and winding of every robot so far."""
        sense = winding_sense(self._winding)
        return Outcome(
            success=self._success.copy(),
            mode=self._mode.copy(),
            reward=np.clip(self._best / SUCCESS_COVERAGE, 0.0, 1.0),
            counted=np.ones(len(self._mode), bool),
            extra={
                "winding_positive": (sense > 0).astype(np.float64),
                "winding_negative": (sense < 0).astype(np.float64),
            },
        )

    def step(self, action: ArrayLike) -> Array:
        """Advance every unfinished robot by one control step.

        Args:
            action: [N, 2] where the fingers shall go, in px; brought into the window.

        Returns:
            observation [N, 6].

        Raises:
            VddError: wrong shape, or not finite. Nothing has moved then.
        """
        action = checked_action(action, len(self._envs), self.dim_act)
        active = np.flatnonzero(~self.done)
        targets = np.clip(action, 0.0, WINDOW_PX).tolist()
        self._previous = self.state.copy()
        for robot in active:
            env = self._envs[robot]
            _drive(env, *targets[robot])
            self.state[robot] = _state(env)
        self._steps[active] += 1
        self._note(active)
        turned = bearing(self.state[active]) - bearing(self._previous[active])
        self._winding[active] += wrap(turned)
        return self.observe()

    def _make(self, n: int) -> None:
        """Have n simulations."""
        env = self._simulator.PushTEnv
        self._envs = self._envs[:n] + [env() for _ in range(n - len(self._envs))]

    def _begin(self) -> Array:
        """Forget the last episodes; the bodies stand where they are to start."""
        n = len(self._envs)
        self.state: Array = np.array([_state(env) for env in self._envs]).reshape(n, 5)
        """[N, 5] finger x, y, block x, y (px), block angle (rad, any number of turns)."""
        self._previous = self.state.copy()
        self._steps = np.zeros(n, np.int64)
        self._success = np.zeros(n, bool)
        self._mode = np.full(n, -1, np.int64)
        self._coverage, self._best, self._winding = np.zeros(n), np.zeros(n), np.zeros(n)
        self._note(np.arange(n))
        # As in the original, only a step scores: a block that starts on its outline has no merit.
        self._best[:], self._success[:] = 0.0, False
        return self.observe()

    def _note(self, robots: NDArray[np.int64]) -> None:
        """Bring coverage, success and first contact of these robots up to date."""
        state = self.state[robots]
        blocks = _blocks(self._shapely, state[:, 2:])
        area = self._shapely.area(self._shapely.intersection(self._goal, blocks))
        coverage = area / self._goal.area
        self._coverage[robots] = coverage
        self._best[robots] = np.maximum(self._best[robots], coverage)
        self._success[robots] |= coverage > SUCCESS_COVERAGE
        known = self._mode[robots]
        self._mode[robots] = np.where(known < 0, contact_mode(state), known)


def _drive(env: Any, x: float, y: float) -> None:  # noqa: ANN401 - an untyped simulator
    """One control step of gym-pusht's `step`: its PD law and its physics, without the rest."""
    finger, space = env.agent, env.space
    vx, vy = finger.velocity
    for _ in range(_SUBSTEPS):
        px, py = finger.position
        vx += (_GAIN_P * (x - px) + _GAIN_V * (0 - vx)) * _SUBSTEP_S
        vy += (_GAIN_P * (y - py) + _GAIN_V * (0 - vy)) * _SUBSTEP_S
        finger.velocity = vx, vy
        space.step(_SUBSTEP_S)


def _state(env: Any) -> tuple[float, ...]:  # noqa: ANN401 - an untyped simulator
    return (*env.agent.position, *env.block.position, env.block.angle)


def _blocks(shapely: ModuleType, pose: Array) -> Any:  # noqa: ANN401 - an array of polygons
    """[N] the T at poses [N, 3]."""
    cos, sin = np.cos(pose[:, 2:]), np.sin(pose[:, 2:])
    x = pose[:, :1] + cos * OUTLINE[:, 0] - sin * OUTLINE[:, 1]
    y = pose[:, 1:2] + sin * OUTLINE[:, 0] + cos * OUTLINE[:, 1]
    return shapely.polygons(np.stack([x, y], axis=-1))
