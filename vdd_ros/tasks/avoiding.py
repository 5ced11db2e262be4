"""Avoiding: push a rod past three rows of obstacles to the far side of a table, in 24 ways.

The 2-D task of D3IL (Jia et al., ICLR 2024) re-implemented without a physics engine. Metres.
The robot starts at one fixed point and must reach y > .35 without touching any of six
cylinders; a gap left or right in row 1, of three in row 2 and of four in row 3 make
2 * 3 * 4 = 24 modes.

Observation [4] = desired x, desired y, measured x, measured y; action [2] = change of the
desired position. Two levels: `ideal`, where the rod is where it is told to be, and `panda`,
where each axis follows the command as the original's simulated arm does (a second-order
difference equation fitted on it, one-step RMS error 1.1 mm in x and .75 mm in y, underdamped).

Contact is tested on the whole segment between two measured positions, since the original tests
it in each of its 35 physics steps: a policy cannot jump over an obstacle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.tasks.protocol import Outcome, checked_action

Array = NDArray[np.float64]

START: tuple[float, float] = (0.52493, -0.27974)
"""Where the rod starts (m), without randomness."""
ROD_RADIUS_M = 0.010
"""Radius of the rod the robot holds."""
OBSTACLE_XY: Array = np.array(
    [[0.5, -0.1], [0.425, 0.08], [0.575, 0.08], [0.35, 0.26], [0.5, 0.26], [0.65, 0.26]]
)
"""Centres of the six obstacles (m): one in row 1, two in row 2, three in row 3."""
OBSTACLE_RADIUS_M: Array = np.array([0.030, 0.025, 0.025, 0.025, 0.025, 0.025])
"""Radii of the six obstacles."""
GOAL_Y_M = 0.35
"""Beyond this y, without contact, a rollout has succeeded."""
DT_S = 0.035
"""Seconds per control step: 28.57 Hz."""
REACH_M = 1.0
"""Distance from the arm's base, the origin, at which a rod is lost: the original's arm reaches
.855 m, and a rod thrown past the obstacles at such a distance has not gone through them."""
MAX_STEPS = 250
"""Steps after which a rollout ends without success."""
N_MODES = 24
"""Ways through the three rows."""
LEVELS: tuple[str, ...] = ("ideal", "panda")
"""Degrees of realism."""
PANDA_TRACKING: Array = np.array([[0.7097, 0.8795], [0.3441, 0.1399], [-0.3004, -0.0972]])
"""[3, 2] gains of `panda_track` (velocity, command, previous command) per axis."""

_ROW_HALF_HEIGHT_M = 0.03
_GAP_1 = ("left", "right")
_GAP_2 = ("left", "middle", "right")
_GAP_3 = ("far left", "left", "right", "far right")
for _constant in (OBSTACLE_XY, OBSTACLE_RADIUS_M, PANDA_TRACKING):
    _constant.setflags(write=False)


def panda_track(
    measured: ArrayLike, previous: ArrayLike, desired: ArrayLike, previous_desired: ArrayLike
) -> Array:
    """One control step of the fitted arm, per axis: where the rod will be measured next.

    c+ = c + k0 (c - c_) + k1 (d - c) + k2 (d_ - c), with c measured, d desired and _ for the
    step before. All arguments [..., 2] in metres.
    """
    c, d = np.asarray(measured), np.asarray(desired)
    k0, k1, k2 = PANDA_TRACKING
    towards: Array = k0 * (c - previous) + k1 * (d - c) + k2 * (np.asarray(previous_desired) - c)
    return c + towards


def clearance(start: ArrayLike, end: ArrayLike) -> Array:
    """Smallest gap in metres between rod and obstacles along segments start -> end [..., 2].

    Negative is contact; exactly zero is not.
    """
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    along = (end - start)[..., None, :]
    to_centre = OBSTACLE_XY - start[..., None, :]
    length2 = np.maximum((along * along).sum(-1), np.finfo(np.float64).tiny)
    share = np.clip((to_centre * along).sum(-1) / length2, 0.0, 1.0)
    distance = np.linalg.norm(to_centre - share[..., None] * along, axis=-1)
    gap: Array = (distance - (OBSTACLE_RADIUS_M + ROD_RADIUS_M)).min(axis=-1)
    return gap


def mark_gaps(gaps: NDArray[np.int64], position: ArrayLike) -> NDArray[np.int64]:
    """Note which gap each robot is in; a row once noted stays as it is.

    Args:
        gaps: [N, 3] gap index per row, -1 = not passed yet.
        position: [N, 2] measured positions.

    Returns:
        [N, 3] the updated copy.
    """
    x, y = np.asarray(position, np.float64).T
    inside = np.stack(
        [
            np.abs(y + 0.1) <= _ROW_HALF_HEIGHT_M,
            np.abs(y - 0.08) <= _ROW_HALF_HEIGHT_M,
            y >= 0.26,
        ],
        axis=-1,
    )
    gap_1 = (x >= 0.5).astype(np.int64)
    gap_2 = (x >= 0.425).astype(np.int64) + (x > 0.575)
    gap_3 = (x >= 0.35).astype(np.int64) + (x >= 0.5) + (x >= 0.65)
    now = np.stack([gap_1, gap_2, gap_3], axis=-1)
    return np.where((gaps < 0) & inside, now, gaps)


def gaps_to_mode(gaps: NDArray[np.int64]) -> NDArray[np.int64]:
    """[..., 3] gap indices -> mode 12 g1 + 4 g2 + g3 in 0..23; -1 where a row is missing."""
    return np.where((gaps >= 0).all(-1), gaps @ np.array([12, 4, 1]), -1)


def mode_gaps(mode: ArrayLike) -> NDArray[np.int64]:
    """Mode(s) 0..23 -> gap indices [..., 3]; the inverse of `gaps_to_mode`.

    Raises:
        VddError: a mode outside 0..23.
    """
    mode = np.asarray(mode, np.int64)
    if ((mode < 0) | (mode >= N_MODES)).any():
        raise VddError(f"mode must lie in 0..{N_MODES - 1}, got {mode.tolist()}")
    return np.stack([mode // 12, mode // 4 % 3, mode % 4], axis=-1)


def mode_bits(mode: ArrayLike) -> NDArray[np.uint8]:
    """Mode(s) -> D3IL's nine bits [..., 9]: 2 of row 1, 3 of row 2, 4 of row 3, one hot each."""
    gaps = mode_gaps(mode)
    hot = [np.eye(k, dtype=np.uint8)[gaps[..., i]] for i, k in enumerate((2, 3, 4))]
    return np.concatenate(hot, axis=-1)


def bits_to_mode(bits: ArrayLike) -> NDArray[np.int64]:
    """D3IL's nine bits [..., 9] -> mode; -1 where a row has no bit set."""
    bits = np.asarray(bits)
    rows = bits[..., :2], bits[..., 2:5], bits[..., 5:]
    return gaps_to_mode(np.stack([np.where(r.any(-1), r.argmax(-1), -1) for r in rows], axis=-1))


def mode_name(mode: int) -> str:
    """Readable name of a mode, row by row, e.g. 'left / middle / far right'."""
    g1, g2, g3 = mode_gaps(mode)
    return f"{_GAP_1[g1]} / {_GAP_2[g2]} / {_GAP_3[g3]}"


def path_mode(path: ArrayLike) -> int:
    """Mode of one measured path [T, 2]; -1 if it misses a row."""
    gaps = np.full((1, 3), -1, np.int64)
    for position in np.asarray(path, np.float64):
        gaps = mark_gaps(gaps, position[None])
    return int(gaps_to_mode(gaps)[0])


class AvoidingTask:
    """N rods on N tables; see the module's docstring for the rules.

    Args:
        level: `ideal` or `panda`.
        lag: the measured half of an observation is one control step old, as in the original,
            whose step() reads the observation before it runs its physics.

    Raises:
        VddError: unknown level.
    """

    name = "avoiding"
    levels = LEVELS
    dim_obs = 4
    dim_act = 2
    dt_s = DT_S
    max_steps = MAX_STEPS
    n_modes = N_MODES

    def __init__(self, *, level: str = "ideal", lag: bool = False) -> None:
        """Choose the realism; `reset` places the robots."""
        if level not in LEVELS:
            raise VddError(
                f"unknown level '{level}' of task 'avoiding'; known levels: {', '.join(LEVELS)}"
            )
        self.level = level
        self.lag = lag
        self.reset(0, np.random.default_rng())

    def reset(self, n: int, rng: np.random.Generator) -> Array:
        """Put n rods at the start; `rng` is unused, since the task has no randomness.

        Returns:
            observation [N, 4].
        """
        del rng
        self.measured = np.tile(np.array(START), (n, 1))
        """[N, 2] where the rods are."""
        self.desired = self.measured.copy()
        """[N, 2] where they have been told to be."""
        self._previous = self.measured.copy()
        self._previous_desired = self.measured.copy()
        self._gaps = np.full((n, 3), -1, np.int64)
        self._steps = np.zeros(n, np.int64)
        self._contact = np.zeros(n, bool)
        self._lost = np.zeros(n, bool)
        self._success = np.zeros(n, bool)
        return self.observe()

    def observe(self) -> Array:
        """[N, 4] desired and measured position, the latter one step old if `lag`."""
        seen = self._previous if self.lag else self.measured
        return np.concatenate([self.desired, seen], axis=1)

    @property
    def position(self) -> Array:
        """[N, 2] where the rods are."""
        return self.measured

    @property
    def contact(self) -> NDArray[np.bool_]:
        """[N] which rods have touched an obstacle."""
        return self._contact

    @property
    def done(self) -> NDArray[np.bool_]:
        """[N] touched, out of reach, arrived, or out of steps."""
        ended: NDArray[np.bool_] = self._contact | self._lost | self._success
        return ended | (self._steps >= self.max_steps)

    def outcome(self) -> Outcome:
        """Success and mode of every robot so far."""
        return Outcome(
            success=self._success.copy(),
            mode=gaps_to_mode(self._gaps),
            reward=self._success.astype(np.float64),
        )

    def step(self, action: ArrayLike) -> Array:
        """Advance every unfinished robot by one control step.

        Args:
            action: [N, 2] change of the desired position in metres.

        Returns:
            observation [N, 4].

        Raises:
            VddError: wrong shape, or not finite. Nothing has moved then.
        """
        action = checked_action(action, len(self.measured), self.dim_act)
        active = ~self.done
        moving = active[:, None]
        desired = self.desired + action
        if self.level == "ideal":
            measured = desired
        else:
            measured = panda_track(self.measured, self._previous, desired, self._previous_desired)
        touched = active & (clearance(self.measured, measured) < 0.0)
        self._previous_desired = np.where(moving, desired, self._previous_desired)
        self._previous = np.where(moving, self.measured, self._previous)
        self.desired = np.where(moving, desired, self.desired)
        self.measured = np.where(moving, measured, self.measured)
        self._gaps = np.where(moving, mark_gaps(self._gaps, self.measured), self._gaps)
        self._steps += active
        self._contact |= touched
        self._lost |= active & (np.linalg.norm(self.measured, axis=1) > REACH_M)
        arrived = self.measured[:, 1] > GOAL_Y_M
        self._success |= active & ~touched & ~self._lost & arrived
        return self.observe()
