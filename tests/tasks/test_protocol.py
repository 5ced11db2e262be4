"""Rollouts, their figures against closed forms, and the registry of tasks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.tasks.avoiding import START, AvoidingTask
from vdd_ros.tasks.metrics import mode_entropy, task_metrics, wilson_ci95
from vdd_ros.tasks.protocol import Task, make_task
from vdd_ros.tasks.rollouts import RolloutResult, rollout

Window = NDArray[np.floating]


def result_of(success: list[bool], mode: list[int]) -> RolloutResult:
    """A result with these outcomes and no paths."""
    n = len(success)
    return RolloutResult(
        success=np.array(success),
        mode=np.array(mode),
        steps=np.ones(n, np.int64),
        trajectory=np.zeros((n, 2, 2)),
        expert=np.zeros((n, 1), np.int64),
        reward=np.array(success, np.float64),
    )


def upwards(
    window: Window, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Every robot goes straight up from x = .525, with expert = its index."""
    n = len(window)
    return np.tile([0.0, 0.01], (n, 1, 1)), np.arange(n)


def test_the_registry_builds_tasks_that_keep_the_protocol() -> None:
    """Name, level and lag arrive."""
    task = make_task("avoiding", level="panda", lag=True)
    assert isinstance(task, Task)
    assert isinstance(task, AvoidingTask)
    assert (task.level, task.lag, task.n_modes) == ("panda", True, 24)


def test_an_unknown_task_names_the_known_ones_and_the_nearest() -> None:
    """A typo is answered with the right name."""
    with pytest.raises(VddError, match="unknown task 'avoidng'; did you mean 'avoiding'"):
        make_task("avoidng")
    with pytest.raises(VddError, match="known levels: ideal, panda"):
        make_task("avoiding", level="perfect")


def test_a_rollout_records_paths_experts_and_steps_and_nothing_after_the_end() -> None:
    """Straight up hits the first obstacle: 11 steps to y = -.16974, the 12th touches."""
    result = rollout(make_task("avoiding"), upwards, n=3, seed=0, n_obs_steps=2)
    # Contact at x = .52493 begins at y = -.1 - sqrt(.04^2 - .02493^2) = -.13128.
    steps = int(np.ceil((START[1] + 0.1 + np.sqrt(0.04**2 - 0.02493**2)) / -0.01))
    assert result.steps.tolist() == [steps] * 3
    assert result.trajectory.shape == (3, steps + 1, 2)
    expected = START[1] + 0.01 * np.arange(steps + 1)
    np.testing.assert_allclose(result.trajectory[..., 1], np.tile(expected, (3, 1)))
    np.testing.assert_array_equal(result.expert, np.repeat([[0], [1], [2]], steps, axis=1))
    assert not result.success.any()


def test_after_a_robots_end_its_path_is_nan_and_its_expert_none() -> None:
    """Robot 0 hits the obstacle while robot 1 stands still until the steps run out."""

    def policy(
        window: Window, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        return np.array([[[0.0, 0.01]], [[0.0, 0.0]]]), np.array([5, 6])

    result = rollout(make_task("avoiding"), policy, n=2, seed=0, n_obs_steps=1)
    short, full = result.steps.tolist()
    assert full == 250
    assert np.isfinite(result.trajectory[0, : short + 1]).all()
    assert np.isnan(result.trajectory[0, short + 1 :]).all()
    assert np.isfinite(result.trajectory[1]).all()
    assert set(result.expert[0, :short]) == {5}
    assert set(result.expert[0, short:]) == {-1}
    assert set(result.expert[1]) == {6}


def test_windows_are_back_filled_then_slide_by_one() -> None:
    """What the policy is given is the last observations, oldest first, as float32."""
    given_windows: list[Window] = []

    def policy(
        window: Window, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        given_windows.append(window.copy())
        return upwards(window, rng)

    rollout(make_task("avoiding"), policy, n=1, seed=0, n_obs_steps=3)
    assert given_windows[0].dtype == np.float32
    y = np.stack(given_windows)[:, 0, :, 3]
    steps = np.maximum(np.arange(len(y))[:, None] + np.arange(-2, 1), 0)
    np.testing.assert_allclose(y, START[1] + 0.01 * steps, atol=1e-6)


def test_the_seed_decides_the_whole_result() -> None:
    """A policy that draws from its generator gives equal paths for equal seeds only."""

    def policy(
        window: Window, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        return rng.normal(0.0, 0.003, (len(window), 1, 2)), np.full(len(window), -1)

    paths = [
        rollout(make_task("avoiding"), policy, n=4, seed=s, n_obs_steps=1).trajectory
        for s in (7, 7, 8)
    ]
    np.testing.assert_array_equal(paths[0], paths[1])
    assert not np.array_equal(paths[0], paths[2], equal_nan=True)


def test_chunks_are_played_in_order_before_the_next_prediction() -> None:
    """With three actions per chunk, every third step predicts and all three are used."""
    predicted: list[NDArray[np.float64]] = []

    def policy(
        window: Window, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        predicted.append(rng.normal(0.0, 0.001, (len(window), 4, 2)))
        return predicted[-1], np.full(len(window), len(predicted))

    result = rollout(make_task("avoiding"), policy, n=2, seed=0, n_action_steps=3)
    played = np.concatenate([chunk[:, :3] for chunk in predicted], axis=1)[:, : result.steps[0]]
    np.testing.assert_allclose(np.diff(result.trajectory[0], axis=0), played[0], atol=1e-12)
    np.testing.assert_array_equal(result.expert[0, :7], [1, 1, 1, 2, 2, 2, 3])


def test_a_policy_that_answers_in_wrong_shapes_is_named() -> None:
    """Broadcasting would hide that one action was sent to all robots."""
    task, expert = make_task("avoiding"), np.zeros(3, int)
    with pytest.raises(VddError, match=r"chunk \(2,\).*expects \(3, 1 or more, 2\)"):
        rollout(task, lambda w, r: (np.zeros(2), expert), n=3, seed=0)
    with pytest.raises(VddError, match=r"chunk \(3, 2, 2\).*expects \(3, 4 or more, 2\)"):
        rollout(task, lambda w, r: (np.zeros((3, 2, 2)), expert), n=3, seed=0, n_action_steps=4)
    with pytest.raises(VddError, match="at least 1"):
        rollout(task, upwards, n=0, seed=0)


def test_an_action_that_is_not_finite_is_named_with_its_place() -> None:
    """A diverged policy is an error, not a low success rate."""
    chunk = np.zeros((3, 1, 2))
    chunk[1] = np.nan
    with pytest.raises(VddError, match="rollout 1 at step 0 is not finite"):
        rollout(make_task("avoiding"), lambda w, r: (chunk, np.zeros(3, int)), n=3, seed=0)


def test_what_is_answered_for_a_robot_that_has_ended_does_not_matter() -> None:
    """Robot 0 leaves at once; NaN for where it ended must not cost the others their rollout."""

    def policy(
        window: Window, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        chunk, expert = upwards(window, rng)
        chunk = chunk.copy()
        chunk[0] = 50.0 if np.allclose(window[0, -1, :2], START, atol=1e-6) else np.nan
        return chunk, expert

    result = rollout(make_task("avoiding"), policy, n=2, seed=0)
    alone = rollout(make_task("avoiding"), upwards, n=1, seed=0)
    assert result.steps.tolist() == [1, int(alone.steps[0])]
    assert not result.success.any()


def test_entropy_has_its_closed_forms() -> None:
    """Uniform is 1, one mode is 0, two of 24 equally is log 2 / log 24, none is 0."""
    assert mode_entropy(np.full(24, 20)) == pytest.approx(1.0)
    assert mode_entropy(np.eye(24, dtype=int)[3] * 7) == 0.0
    half = np.zeros(24, int)
    half[[2, 9]] = 11
    assert mode_entropy(half) == pytest.approx(np.log(2) / np.log(24))
    assert mode_entropy(np.zeros(24, int)) == 0.0
    assert mode_entropy(np.array([5])) == 0.0


@given(st.lists(st.integers(0, 50), min_size=2, max_size=24))
def test_entropy_lies_in_0_1_and_ignores_order_and_scale(counts: list[int]) -> None:
    """A property of the formula for any counts."""
    value = float(mode_entropy(np.array(counts)))
    assert 0.0 <= value <= 1.0 + 1e-12
    assert float(mode_entropy(np.array(counts[::-1]) * 3)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # The first is Newcombe's worked example (Statistics in Medicine, 1998, table I).
    [(81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0)],
)
def test_the_wilson_interval_has_its_published_values(
    successes: int, n: int, low: float, high: float
) -> None:
    """Sane at 0 and 1, where the usual +-2 sigma has no width."""
    assert wilson_ci95(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_figures_count_the_modes_of_successful_rollouts_only() -> None:
    """8 rollouts: modes 0, 0, 1, 1 succeed, mode 5 fails, one success has no mode."""
    result = result_of(
        [True, True, True, True, False, False, True, False], [0, 0, 1, 1, 5, 5, -1, -1]
    )
    metrics = task_metrics(result, 24)
    assert metrics.rollouts == 8
    assert metrics.success == 5 / 8
    assert metrics.modes == 2
    assert metrics.entropy == pytest.approx(np.log(2) / np.log(24))
    assert metrics.score == pytest.approx(0.8 * 5 / 8 + 0.2 * np.log(2) / np.log(24))
    assert metrics.success_ci95 == wilson_ci95(5, 8)


def test_the_entropy_interval_holds_its_estimate_and_the_truth_about_as_often_as_it_says() -> None:
    """150 samples of 200 rollouts with skewed modes: the truth is inside in 90 to 99 % of them.

    The estimate's own bias, about 11 / (2 * 200 log 24), lowers coverage slightly below .95.
    """
    rng = np.random.default_rng(0)
    share = np.arange(1, 13) / np.arange(1, 13).sum()
    share = np.concatenate([share, np.zeros(12)])
    truth = float(-(share[:12] * np.log(share[:12])).sum() / np.log(24))
    inside = 0
    for _ in range(150):
        modes = rng.choice(24, size=200, p=share)
        metrics = task_metrics(result_of([True] * 200, modes.tolist()), 24)
        low, high = metrics.entropy_ci95
        assert low <= metrics.entropy <= high
        inside += low <= truth <= high
    assert 0.85 * 150 <= inside <= 0.99 * 150


def test_without_success_every_figure_is_zero() -> None:
    """No division by zero, and an honest upper bound for the success."""
    metrics = task_metrics(result_of([False] * 4, [-1] * 4), 24)
    assert (metrics.success, metrics.entropy, metrics.modes, metrics.score) == (0.0, 0.0, 0, 0.0)
    assert metrics.entropy_ci95 == (0.0, 0.0)
    assert metrics.success_ci95[1] > 0.3


def test_a_task_may_count_the_modes_of_failed_rollouts_and_add_figures() -> None:
    """Where success is rare, diversity over successes alone would rest on nothing."""
    result = result_of([True, False, False, False], [0, 1, 0, -1])
    assert task_metrics(result, 2).modes == 1
    figures = {"height": np.array([1.0, 2.0, 3.0, 6.0])}
    every = replace(result, counted=np.ones(4, bool), extra=figures)
    metrics = task_metrics(every, 2)
    assert metrics.success == 0.25
    assert metrics.modes == 2
    assert metrics.entropy == pytest.approx(float(mode_entropy(np.array([2, 1]))))
    assert metrics.extra == {"height": 3.0}
