"""Avoiding: modes, contact, tracking and lag against hand-made paths and scalar loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.tasks.avoiding import (
    DT_S,
    GOAL_Y_M,
    MAX_STEPS,
    OBSTACLE_RADIUS_M,
    OBSTACLE_XY,
    ROD_RADIUS_M,
    START,
    AvoidingTask,
    bits_to_mode,
    clearance,
    mode_bits,
    mode_gaps,
    mode_name,
    panda_track,
    path_mode,
)

# x inside each gap of each row, written down from the picture of the table.
GAP_X = ((0.44, 0.56), (0.36, 0.50, 0.64), (0.29, 0.425, 0.575, 0.71))


def new(n: int, *, level: str = "ideal", lag: bool = False) -> AvoidingTask:
    """A task with n rods at the start."""
    task = AvoidingTask(level=level, lag=lag)
    task.reset(n, np.random.default_rng(0))
    return task


def moved_to(task: AvoidingTask, *points: tuple[float, float]) -> AvoidingTask:
    """Send the only rod to these points, one per step."""
    for point in points:
        task.step(np.array([point]) - task.desired)
    return task


def hand_made_path(gaps: tuple[int, int, int]) -> list[tuple[float, float]]:
    """Straight legs between the rows, straight up within them."""
    x1, x2, x3 = (GAP_X[row][gap] for row, gap in enumerate(gaps))
    corners = [(x1, -0.2), (x1, -0.02), (x2, 0.01), (x2, 0.15), (x3, 0.17), (x3, 0.36)]
    path = [START]
    for corner in corners:
        steps = np.linspace(path[-1], corner, 9)[1:]
        path += [(float(x), float(y)) for x, y in steps]
    return path


@pytest.mark.parametrize("mode", range(24))
def test_each_of_the_24_hand_made_paths_has_its_mode_and_succeeds(mode: int) -> None:
    """Modes count rows like digits: 12 g1 + 4 g2 + g3, in the order of the gaps from the left."""
    gaps = list(itertools.product(range(2), range(3), range(4)))[mode]
    path = hand_made_path(gaps)
    assert path_mode(path) == mode
    task = moved_to(new(1), *path[1:])
    assert task.outcome().success.tolist() == [True]
    assert task.outcome().mode.tolist() == [mode]
    bits = mode_bits(mode)
    assert [int(np.flatnonzero(b)[0]) for b in np.split(bits, [2, 5])] == list(gaps)
    assert bits.sum() == 3
    assert int(bits_to_mode(bits)) == mode
    assert tuple(mode_gaps(mode)) == gaps


def test_mode_names_tell_the_rows_apart() -> None:
    """24 different names, readable row by row."""
    assert len({mode_name(m) for m in range(24)}) == 24
    assert mode_name(0) == "left / left / far left"
    assert mode_name(19) == "right / middle / far right"


@pytest.mark.parametrize("mode", [-1, 24])
def test_a_mode_that_does_not_exist_is_refused(mode: int) -> None:
    """An undecided rollout (-1) has no name and no bits."""
    with pytest.raises(VddError, match=r"0\.\.23"):
        mode_bits(mode)


@pytest.mark.parametrize(
    ("row", "x", "gap"),
    [
        (0, 0.49999, 0), (0, 0.5, 1),
        (1, 0.42499, 0), (1, 0.425, 1), (1, 0.575, 1), (1, 0.57501, 2),
        (2, 0.34999, 0), (2, 0.35, 1), (2, 0.49999, 1), (2, 0.5, 2), (2, 0.64999, 2), (2, 0.65, 3),
    ],
)  # fmt: skip
def test_gaps_are_told_apart_at_the_obstacles_centres(row: int, x: float, gap: int) -> None:
    """The borders of the specification: x < .5; .425 and .575; .35, .5 and .65."""
    path = np.array([(0.3, -0.1), (0.3, 0.08), (0.3, 0.3)])
    path[row, 0] = x
    expected = [0, 0, 0]
    expected[row] = gap
    assert path_mode(path) == int(np.dot(expected, [12, 4, 1]))


def test_each_row_is_written_once_and_only_in_its_band() -> None:
    """A rod that wanders back through another gap keeps the first; row 3 has no upper end."""
    assert path_mode([(0.4, -0.13), (0.6, -0.1), (0.5, 0.05), (0.3, 0.1), (0.7, 0.9)]) == 7
    assert path_mode([(0.4, -0.1301), (0.5, 0.08), (0.5, 0.3)]) == -1
    assert path_mode([(0.4, -0.1), (0.5, 0.1101), (0.5, 0.3)]) == -1
    assert path_mode([(0.4, -0.1), (0.5, 0.08), (0.5, 0.2599)]) == -1


@pytest.mark.parametrize("obstacle", range(6))
@pytest.mark.parametrize(("gap_m", "contact"), [(1e-9, False), (-1e-9, True)])
def test_contact_begins_at_the_sum_of_the_radii(
    obstacle: int, gap_m: float, contact: bool
) -> None:
    """Standing a nanometre outside is free, a nanometre inside is not."""
    reach = OBSTACLE_RADIUS_M[obstacle] + ROD_RADIUS_M + gap_m
    angle = 0.7
    point = OBSTACLE_XY[obstacle] + reach * np.array([np.cos(angle), np.sin(angle)])
    assert clearance(point, point) == pytest.approx(gap_m, abs=1e-12)
    task = new(1)
    task.measured = task.desired = point[None] + 1e-3 * np.array([[np.cos(angle), np.sin(angle)]])
    moved_to(task, (float(point[0]), float(point[1])))
    assert task.contact.tolist() == [contact]


def test_exactly_at_the_sum_of_the_radii_there_is_no_contact() -> None:
    """The inequality is strict; the numbers here are exact in binary up to the constants'."""
    reach = OBSTACLE_RADIUS_M[0] + ROD_RADIUS_M
    beside = OBSTACLE_XY[0] + [reach, 0.0]
    exact = float(beside[0] - OBSTACLE_XY[0, 0]) >= reach
    assert (clearance(beside, beside) >= 0.0) == exact


@given(
    start=st.tuples(st.floats(0.2, 0.8), st.floats(-0.3, 0.4)),
    end=st.tuples(st.floats(0.2, 0.8), st.floats(-0.3, 0.4)),
)
def test_contact_between_steps_equals_that_of_a_finely_sampled_segment(
    start: tuple[float, float], end: tuple[float, float]
) -> None:
    """The closed form may be no larger than any sample's distance, and not far below the least."""
    points = np.linspace(start, end, 2001)
    distance = np.linalg.norm(points[:, None] - OBSTACLE_XY, axis=2)
    sampled = (distance - OBSTACLE_RADIUS_M - ROD_RADIUS_M).min()
    swept = float(clearance(start, end))
    spacing = float(np.linalg.norm(np.subtract(end, start))) / 2000
    assert sampled - spacing - 1e-12 <= swept <= sampled + 1e-12


def test_a_robot_cannot_jump_over_an_obstacle() -> None:
    """Both ends of the step are free, the way between them is not."""
    task = moved_to(new(1), (0.5, -0.16), (0.5, -0.04))
    assert task.contact.tolist() == [True]
    assert task.done.tolist() == [True]
    assert not task.outcome().success[0]


def test_success_needs_more_than_the_goal_line() -> None:
    """y = .35 is not yet success, the next number is."""
    path = hand_made_path((0, 0, 0))[1:-1]
    x = path[-1][0]
    task = moved_to(new(1), *[p for p in path if p[1] < GOAL_Y_M], (x, GOAL_Y_M))
    assert not task.done[0]
    moved_to(task, (x, float(np.nextafter(GOAL_Y_M, 1.0))))
    assert task.outcome().success[0]


def test_a_robot_thrown_past_the_obstacles_has_not_succeeded() -> None:
    """Beyond the goal line, but where no arm reaches: the rollout has ended, and has failed."""
    task = moved_to(new(2), (-98.0, 63.0))
    assert task.done.all()
    assert not task.outcome().success.any()
    assert not task.contact.any()
    near = moved_to(new(1), (0.95, -0.27))
    assert not near.done[0]
    moved_to(near, (0.97, -0.27))
    assert near.done[0]


def test_a_rollout_ends_after_250_steps() -> None:
    """8.75 s at 28.57 Hz."""
    task = new(2)
    for _ in range(MAX_STEPS - 1):
        task.step(np.zeros((2, 2)))
    assert not task.done.any()
    task.step(np.zeros((2, 2)))
    assert task.done.all()
    assert not task.outcome().success.any()
    assert abs(MAX_STEPS * DT_S - 8.75) < 1e-12


@pytest.mark.parametrize("level", ["ideal", "panda"])
@pytest.mark.parametrize("lag", [False, True])
def test_finished_robots_stay_frozen_and_do_not_disturb_the_others(level: str, lag: bool) -> None:
    """Robot 0 hits an obstacle; robot 1 moves exactly as it does alone."""
    pair, alone = new(2, level=level, lag=lag), new(1, level=level, lag=lag)
    stopped = None
    for step in range(40):
        action = np.array([[-0.001 if step < 20 else 0.0, 0.012], [0.006, 0.001]])
        both, one = pair.step(action), alone.step(action[1:])
        np.testing.assert_array_equal(both[1:], one)
        if stopped is not None:
            np.testing.assert_array_equal(both[0], stopped)
        elif pair.done[0]:
            stopped = both[0].copy()
    assert stopped is not None
    assert pair.contact.tolist() == [True, False]


def panda_in_scalars(actions: NDArray[np.float64]) -> list[tuple[float, float]]:
    """The tracking equations of both axes, one number at a time."""
    cx = cx_ = dx = START[0]
    cy = cy_ = dy = START[1]
    path = []
    for ax, ay in actions.tolist():
        dx_, dy_ = dx, dy
        dx, dy = dx + ax, dy + ay
        nx = cx + 0.7097 * (cx - cx_) + 0.3441 * (dx - cx) - 0.3004 * (dx_ - cx)
        ny = cy + 0.8795 * (cy - cy_) + 0.1399 * (dy - cy) - 0.0972 * (dy_ - cy)
        cx_, cy_, cx, cy = cx, cy, nx, ny
        path.append((cx, cy))
    return path


def test_panda_tracking_equals_a_scalar_loop() -> None:
    """Small random commands far from any obstacle; desired and measured are both observed."""
    actions = np.random.default_rng(3).normal(0.0, 0.002, (120, 2))
    task = new(1, level="panda")
    seen = np.concatenate([task.step(a[None]) for a in actions])
    assert not task.done.any()
    np.testing.assert_allclose(seen[:, 2:], panda_in_scalars(actions), rtol=0, atol=1e-12)
    np.testing.assert_allclose(seen[:, :2], START + np.cumsum(actions, axis=0), atol=1e-12)


def test_panda_settles_on_a_constant_command_after_overshooting() -> None:
    """Underdamped, as the fit says: the step response overshoots, then comes to rest on it."""
    c = c_ = np.zeros(2)
    d, d_ = np.array([0.05, 0.05]), np.zeros(2)
    path = []
    for _ in range(400):
        c, c_ = panda_track(c, c_, d, d_), c
        d_ = d
        path.append(c)
    assert (np.max(path, axis=0) > 0.051).all()
    np.testing.assert_allclose(path[-1], d, atol=1e-9)


@pytest.mark.parametrize("level", ["ideal", "panda"])
def test_lag_shows_the_measured_position_of_one_step_before_and_the_newest_command(
    level: str,
) -> None:
    """The original reads the observation before it runs its physics; the command is its own."""
    actions = np.random.default_rng(4).normal(0.0, 0.002, (30, 1, 2))
    prompt, late = new(1, level=level), new(1, level=level, lag=True)
    first = prompt.observe()
    np.testing.assert_array_equal(first, late.observe())
    before = first
    for action in actions:
        now, lagged = prompt.step(action), late.step(action)
        np.testing.assert_array_equal(lagged[:, :2], now[:, :2])
        np.testing.assert_array_equal(lagged[:, 2:], before[:, 2:])
        before = now


def test_ideal_is_where_it_is_told_to_be() -> None:
    """Desired and measured agree after every step."""
    task = new(3)
    for action in np.random.default_rng(5).normal(0, 0.002, (20, 3, 2)):
        observation = task.step(action)
        np.testing.assert_array_equal(observation[:, :2], observation[:, 2:])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_command_that_is_not_finite_never_moves_a_robot(value: float) -> None:
    """The message names the robot; nobody has moved, not even those with a good command."""
    task = new(3)
    before = task.observe().copy()
    with pytest.raises(VddError, match="action of robot 1 is not finite"):
        task.step(np.array([[0.01, 0.0], [0.0, value], [0.0, 0.0]]))
    np.testing.assert_array_equal(task.observe(), before)


def test_a_command_of_the_wrong_shape_is_refused() -> None:
    """A single action for three robots would broadcast silently."""
    with pytest.raises(VddError, match=r"shape \(2,\), expected \(3, 2\)"):
        new(3).step(np.zeros(2))


def test_an_unknown_level_names_the_known_ones() -> None:
    """What came, what was expected."""
    with pytest.raises(VddError, match=r"'real'.*ideal, panda"):
        AvoidingTask(level="real")
