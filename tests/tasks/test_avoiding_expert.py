"""The scripted expert: every mode, evenly, reproducibly, and back on its way after a push."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.tasks.avoiding import GOAL_Y_M, START, AvoidingTask, clearance, mode_gaps, path_mode
from vdd_ros.tasks.avoiding_expert import (
    ExpertSettings,
    ScriptedExpert,
    mode_path,
    scripted_demonstrations,
)

LEVELS = ["ideal", "panda"]


@pytest.fixture(scope="module", params=LEVELS)
def demos(request: pytest.FixtureRequest) -> tuple[str, Demonstrations]:
    """480 episodes of one level."""
    return request.param, scripted_demonstrations(480, seed=0, level=request.param)


@pytest.mark.parametrize("mode", range(24))
def test_every_way_takes_its_mode_with_room_to_spare(mode: int) -> None:
    """From the start past the goal line, never closer than 1.5 cm to contact, evenly spaced."""
    path = mode_path(mode)
    assert path_mode(path) == mode
    np.testing.assert_allclose(path[0], START)
    assert path[-1, 1] > GOAL_Y_M
    assert clearance(path[:-1], path[1:]).min() >= 0.015 - 1e-9
    spacing = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert spacing.max() < 1.02 * np.median(spacing)


def test_recordings_hold_each_mode_equally_often(demos: tuple[str, Demonstrations]) -> None:
    """480 episodes, 20 of each mode, and the label is the mode of the measured path."""
    _, recorded = demos
    assert recorded.n_episodes == 480
    assert recorded.mode is not None
    assert np.bincount(recorded.mode).tolist() == [20] * 24
    for rows, mode in zip(recorded.episodes(), recorded.mode, strict=True):
        measured = recorded.observation[rows, 2:].astype(np.float64)
        assert path_mode(measured) == mode


def test_recordings_start_at_the_start_and_end_one_step_before_the_goal(
    demos: tuple[str, Demonstrations],
) -> None:
    """Each is a whole episode of human length and speed, free of contact."""
    _, recorded = demos
    for rows in recorded.episodes():
        observation = recorded.observation[rows].astype(np.float64)
        np.testing.assert_allclose(observation[0], START * 2, atol=1e-7)
        assert observation[-1, 3] <= GOAL_Y_M
        assert observation[-1, 3] > GOAL_Y_M - 0.035
        assert 45 <= len(observation) <= 110
        assert clearance(observation[:-1, 2:], observation[1:, 2:]).min() > -1e-6
    low, high = ExpertSettings().speed_m
    speed = np.linalg.norm(recorded.action, axis=1)
    assert low - 1e-6 <= speed.min()
    assert speed.max() <= high + 1e-6


def test_the_recorded_action_is_the_experts_and_the_executed_motion_is_not(
    demos: tuple[str, Demonstrations],
) -> None:
    """The disturbance is the difference, with the standard deviation that was asked for."""
    _, recorded = demos
    executed = np.concatenate(
        [np.diff(recorded.observation[rows, :2], axis=0) for rows in recorded.episodes()]
    )
    inner = np.ones(len(recorded), bool)
    inner[recorded.episode_ends - 1] = False
    disturbance = executed - recorded.action[inner]
    assert disturbance.std() == pytest.approx(ExpertSettings().noise_m, rel=0.02)
    assert np.abs(disturbance.mean(axis=0)).max() < 1e-4


@pytest.mark.parametrize("level", LEVELS)
def test_the_expert_in_closed_loop_succeeds_in_the_mode_it_is_given(level: str) -> None:
    """Without disturbance all of 240 robots arrive, each in its own mode."""
    mode = np.arange(240) % 24
    rng = np.random.default_rng(1)
    expert = ScriptedExpert(mode, rng)
    task = AvoidingTask(level=level)
    task.reset(240, rng)
    while not task.done.all():
        task.step(expert.act(task.desired, task.measured))
    outcome = task.outcome()
    assert outcome.success.mean() >= 0.995
    np.testing.assert_array_equal(outcome.mode[outcome.success], mode[outcome.success])


def test_after_a_push_sideways_the_distance_to_the_way_shrinks_every_step() -> None:
    """Recovery: 1.2 cm off, above every hub's and obstacle's influence, the expert returns."""
    expert = ScriptedExpert([0], np.random.default_rng(0), settings=ExpertSettings(lane_m=0.0))
    path = mode_path(0)
    position = path[120] + [0.012, 0.0]
    distances = []
    for _ in range(8):
        action = expert.act(position[None], position[None])[0]
        position = position + action
        distances.append(np.linalg.norm(path - position, axis=1).min())
    assert all(b < a for a, b in itertools.pairwise([0.012, *distances[:4]]))
    assert distances[-1] < 0.002


def test_ways_leave_a_hub_decisively() -> None:
    """Three steps' length behind a fork its ways are more than a step apart, and few.

    This is what lets a policy without memory keep to the way it has drawn.
    """
    step = max(ExpertSettings().speed_m)
    gaps = mode_gaps(np.arange(24))
    everyone = np.ones(24, bool)
    forks = [
        (START, everyone, gaps[:, 0], 2),
        ((0.5, -0.02), everyone, gaps[:, 1], 3),
        ((0.5, 0.165), everyone, gaps[:, 2] // 2, 2),
        ((0.425, 0.165), gaps[:, 2] < 2, gaps[:, 2], 2),
        ((0.575, 0.165), gaps[:, 2] >= 2, gaps[:, 2], 2),
    ]
    for fork, through, way, count in forks:
        ends: dict[int, list[NDArray[np.float64]]] = {}
        for mode in np.flatnonzero(through):
            path = mode_path(int(mode))
            distance = np.linalg.norm(path - fork, axis=1)
            assert distance.min() < 0.003
            spacing = float(np.linalg.norm(path[1] - path[0]))
            after = path[int(distance.argmin()) + round(3 * step / spacing)]
            ends.setdefault(int(way[mode]), []).append(after)
        assert len(ends) == count
        centres = np.array([np.mean(points, axis=0) for points in ends.values()])
        for points, centre in zip(ends.values(), centres, strict=True):
            assert np.linalg.norm(points - centre, axis=1).max() < 0.004
        apart = np.linalg.norm(centres[:, None] - centres, axis=2)
        assert apart[np.triu_indices(count, 1)].min() > step


def test_the_seed_decides_the_recordings() -> None:
    """Same seed, same contents; another seed, other contents."""
    hashes = [scripted_demonstrations(24, seed=s).data_hash() for s in (3, 3, 4)]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


def test_lag_delays_the_measured_half_of_the_recordings_only() -> None:
    """At level ideal the measured position becomes the desired one of a step before."""
    recorded = scripted_demonstrations(24, seed=5, lag=True)
    for rows in recorded.episodes():
        observation = recorded.observation[rows]
        np.testing.assert_array_equal(observation[1:, 2:], observation[:-1, :2])


def test_an_expert_that_cannot_succeed_is_an_error_and_not_an_endless_loop() -> None:
    """A disturbance as large as the gaps: the message says how many failed and what to do."""
    with pytest.raises(VddError, match=r"failed 20 times.*reduce noise_m"):
        scripted_demonstrations(24, seed=0, settings=ExpertSettings(noise_m=0.1))


@pytest.mark.parametrize("n", [0, -3])
def test_no_demonstrations_is_not_a_data_set(n: int) -> None:
    """Refused before anything runs."""
    with pytest.raises(VddError, match="at least 1"):
        scripted_demonstrations(n, seed=0)
