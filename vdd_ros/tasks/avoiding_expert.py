"""A scripted expert for Avoiding: every mode equally often, with recovery from disturbances.

For each of the 24 modes the expert follows a smooth path through the three gaps by pure pursuit:
it steers at a point a little further along the path, at a speed of its own. Two things make the
recordings fit to learn from.

Recovery. As in DART (Laskey et al., CoRL 2017) noise is added to what the robot executes, while
the expert's own correcting action is what is recorded. A learner therefore sees how to come back
from the states its own errors will lead it to, and cannot copy its last action from the history.

Decisive branching. Behind each row all ways meet in one hub and part again under clearly different
angles: in two at the start, three at the first hub, two at the second and each of these in two
below its inner gap of row 3. There, and only there, the action distribution is multimodal, and a
step or two later the position tells the ways apart. A
policy without memory can therefore reproduce all 24 modes evenly; with ways that cross or part
slowly it could not, since it would draw again and again while the position still leaves the way
open, and the draws would average out to the ways in the middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.tasks.avoiding import (
    N_MODES,
    START,
    AvoidingTask,
    mode_gaps,
)

Array = NDArray[np.float64]

_X1 = (0.44, 0.56)
_X2 = (0.36, 0.50, 0.64)
_X3 = (0.28, 0.425, 0.575, 0.72)
# Where the ways enter a hub, and the point they all leave it from. These differ in height so that
# ways in and ways out do not overlap.
_HUB_1 = ((0.5, -0.045), (0.5, -0.02))
_HUB_2 = ((0.5, 0.13), (0.5, 0.165))
_POINTS = 400
_ATTEMPTS = 20


@dataclass(frozen=True)
class ExpertSettings:
    """How the scripted expert moves and how it is disturbed."""

    speed_m: tuple[float, float] = (0.012, 0.0145)
    """Range of the speed in metres per step; each episode draws its own, as people do."""
    lookahead_m: float = 0.02
    """How far ahead on the path the expert aims: shorter is a harder correction."""
    noise_m: float = 0.0045
    """Standard deviation per axis and step of the disturbance of the executed motion."""
    lane_m: float = 0.005
    """Standard deviation of an episode's own sideways shift of the gaps' centres."""
    feedback: float = 0.35
    """Share of the measured position in the one the expert steers by; the rest is the desired.

    They differ at level `panda`: steering by the measured position alone excites the arm's swing
    (a third of the episodes then touch an obstacle), by the desired alone leaves it uncorrected.
    """


def mode_path(mode: int, *, shift: ArrayLike = (0.0, 0.0, 0.0)) -> Array:
    """The way of one mode as `_POINTS` points [P, 2] at equal distances (m).

    Args:
        mode: 0..23.
        shift: [3] sideways shift of the way in each row's gap (m).
    """
    g1, g2, g3 = mode_gaps(mode)
    s1, s2, s3 = np.asarray(shift, np.float64)
    x1, x2, x3 = _X1[g1] + s1, _X2[g2] + s2, _X3[g3] + s3
    (in_1, hub_1), (in_2, hub_2) = _HUB_1, _HUB_2
    middle = g2 == 1
    aside_1 = 0.04 if middle else hub_1[1] + 0.01
    back_2 = 0.12 if middle else in_2[1]
    # Each leg is smoothed on its own: the corners between legs, where ways part, stay sharp.
    legs = [
        [START, (x1, -0.16), (x1, -0.10), (x1, -0.05), in_1, hub_1],
        [hub_1, (x2, aside_1), (x2, 0.08), (x2, back_2), in_2, hub_2],
        [hub_2, (x3, hub_2[1])],
        [(x3, hub_2[1]), (x3, 0.26), (x3, 0.42)],
    ]
    points = np.concatenate([_round_corners(np.array(leg)) for leg in legs])
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    even = np.linspace(0.0, along[-1], _POINTS)
    return np.stack([np.interp(even, along, axis) for axis in points.T], axis=1)


def _round_corners(points: Array, times: int = 3) -> Array:
    """Chaikin's corner cutting (1974): tends to a quadratic B-spline, keeps both end points."""
    for _ in range(times):
        a, b = points[:-1], points[1:]
        cut = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], axis=1).reshape(-1, 2)
        points = np.concatenate([points[:1], cut, points[-1:]])
    return points


class ScriptedExpert:
    """Steers N robots, each on its own path.

    Args:
        mode: [N] the mode each robot is to take.
        rng: draws speeds and lanes.
        settings: how it moves.
    """

    def __init__(
        self, mode: ArrayLike, rng: np.random.Generator, *, settings: ExpertSettings | None = None
    ) -> None:
        """Lay out every robot's path."""
        self.settings = settings or ExpertSettings()
        self.mode = np.asarray(mode, np.int64)
        n = len(self.mode)
        lane = self.settings.lane_m * np.clip(rng.standard_normal((n, 3)), -2.0, 2.0)
        self.speed_m = rng.uniform(*self.settings.speed_m, size=n)
        self._path = np.stack(
            [mode_path(int(m), shift=s) for m, s in zip(self.mode, lane, strict=True)]
        )
        self._spacing = np.linalg.norm(self._path[:, 1] - self._path[:, 0], axis=1)
        self._at = np.zeros(n, np.int64)

    def act(self, desired: ArrayLike, measured: ArrayLike) -> Array:
        """The expert's action [N, 2] at these positions [N, 2]; advances its progress."""
        rows = np.arange(len(self.mode))
        share = self.settings.feedback
        position = share * np.asarray(measured) + (1.0 - share) * np.asarray(desired)
        # The nearest point ahead, and not far ahead: ways may pass close by themselves.
        ahead = self._at[:, None] + np.arange(1 + _POINTS // 12)
        ahead = np.minimum(ahead, _POINTS - 1)
        gap = np.linalg.norm(self._path[rows[:, None], ahead] - position[:, None], axis=2)
        self._at = ahead[rows, gap.argmin(axis=1)]
        step = np.rint(self.settings.lookahead_m / self._spacing).astype(np.int64)
        aim = self._path[rows, np.minimum(self._at + step, _POINTS - 1)] - position
        action: Array = self.speed_m[:, None] * aim / np.linalg.norm(aim, axis=1, keepdims=True)
        return action


def scripted_demonstrations(
    n: int,
    *,
    seed: int,
    level: str = "ideal",
    lag: bool = False,
    settings: ExpertSettings | None = None,
) -> Demonstrations:
    """Record n successful episodes of the scripted expert, the 24 modes in turn.

    An episode that touches an obstacle under its noise is drawn again, with new noise.

    Args:
        n: number of episodes; a multiple of 24 covers the modes exactly evenly.
        seed: the recordings are a function of it.
        level: `ideal` or `panda`.
        lag: record the measured position one step late.
        settings: how the expert moves and how it is disturbed.

    Returns:
        observation [desired x, y, measured x, y] and the expert's (undisturbed) action, metres.

    Raises:
        VddError: n below 1, an unknown level, or settings under which some episode fails again
            and again.
    """
    if n < 1:
        raise VddError(f"got n={n} scripted demonstrations; expected at least 1")
    rng = np.random.default_rng(seed)
    settings = settings or ExpertSettings()
    mode = np.arange(n) % N_MODES
    recorded: dict[int, tuple[Array, Array]] = {}
    missing = np.arange(n)
    for _ in range(_ATTEMPTS):
        task = AvoidingTask(level=level, lag=lag)
        episodes, taken = _record(task, mode[missing], rng, settings)
        good = taken == mode[missing]
        recorded |= {int(missing[i]): episodes[i] for i in np.flatnonzero(good)}
        missing = missing[~good]
        if missing.size == 0:
            break
    else:
        raise VddError(
            f"{missing.size} of {n} scripted episodes failed {_ATTEMPTS} times with {settings}; "
            "expected an expert that mostly succeeds: reduce noise_m or lane_m"
        )
    kind = f"level {level}, lag" if lag else f"level {level}"
    lengths = [len(recorded[i][0]) for i in range(n)]
    return Demonstrations(
        observation=np.concatenate([recorded[i][0] for i in range(n)]),
        action=np.concatenate([recorded[i][1] for i in range(n)]),
        episode_ends=np.cumsum(lengths),
        mode=mode,
        source=f"scripted avoiding, {kind}, {n} episodes, seed {seed}",
    )


def _record(
    task: AvoidingTask, mode: NDArray[np.int64], rng: np.random.Generator, settings: ExpertSettings
) -> tuple[list[tuple[Array, Array]], NDArray[np.int64]]:
    """Run the expert once per entry of `mode`; mode taken is -1 where the episode failed."""
    expert = ScriptedExpert(mode, rng, settings=settings)
    seen = [task.reset(len(mode), rng)]
    actions, steps = [], np.zeros(len(mode), np.int64)
    while not task.done.all():
        action = expert.act(task.desired, task.measured)
        steps += ~task.done
        actions.append(action)
        seen.append(task.step(action + settings.noise_m * rng.standard_normal(action.shape)))
    outcome = task.outcome()
    observation, action = np.stack(seen, axis=1), np.stack(actions, axis=1)
    episodes = [(observation[i, :t], action[i, :t]) for i, t in enumerate(steps)]
    return episodes, np.where(outcome.success, outcome.mode, -1)
