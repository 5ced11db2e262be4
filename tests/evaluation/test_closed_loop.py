"""Closed-loop evaluation through the robot's runtime."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.policy_files import make_contract, make_denoiser_file, make_moe_file
from vdd_ros.core.errors import VddError
from vdd_ros.evaluation.closed_loop import ChunkExecutor, evaluate_policy
from vdd_ros.runtime.loading import load_policy
from vdd_ros.tasks.protocol import make_task, task_metrics

AVOIDING = make_contract(n_obs_steps=2, dim_obs=4, horizon=3, dim_act=2)


def test_figures_are_json_and_belong_to_the_rollouts(tmp_path: Path) -> None:
    """Every promised key is there, as plain JSON, and equals the metrics of the result."""
    policy = load_policy(make_moe_file(tmp_path / "m.onnx", contract=AVOIDING).path)
    task = make_task("avoiding", level="ideal")
    figures, result = evaluate_policy(policy, task, rollouts=30, seed=4)
    assert set(figures) == {
        "task",
        "level",
        "rollouts",
        "success",
        "success_ci95",
        "entropy",
        "entropy_ci95",
        "modes",
        "score",
    }
    assert json.loads(json.dumps(figures))["rollouts"] == 30
    metrics = dataclasses.asdict(task_metrics(result, task.n_modes))
    assert {k: figures[k] for k in metrics} == metrics


@pytest.mark.parametrize("kind", ["moe", "denoiser"])
def test_a_seed_replays_an_evaluation(tmp_path: Path, kind: str) -> None:
    """The same seed gives the same trajectories from a used policy; another seed does not."""
    make = make_moe_file if kind == "moe" else make_denoiser_file
    policy = load_policy(make(tmp_path / "p.onnx", contract=AVOIDING).path)
    task = make_task("avoiding", level="ideal")
    first, again, other = (
        evaluate_policy(policy, task, rollouts=20, seed=s)[1] for s in (1, 1, 2)
    )
    assert_array_equal(first.trajectory, again.trajectory)
    assert_array_equal(first.expert, again.expert)
    assert not np.array_equal(first.trajectory[:, :2], other.trajectory[:, :2])


def test_chunks_are_played_in_order_before_the_next_prediction(tmp_path: Path) -> None:
    """With n_action_steps = 3 of horizon 3, every third step predicts and all three are used."""
    contract = dataclasses.replace(AVOIDING, n_action_steps=3)
    twin = make_denoiser_file(tmp_path / "t.onnx", contract=contract, unroll=[])
    played, direct = load_policy(twin.path), load_policy(twin.path)
    executor = ChunkExecutor(played)
    rng = np.random.default_rng(0)
    for _ in range(2):
        windows = rng.standard_normal((5, 2, 4)).astype(np.float32)
        chunk, _ = direct.act_batch(windows)
        for step in range(3):
            # Later windows differ; the chunk in hand is what counts.
            action, expert = executor(windows + step, rng)
            assert_array_equal(action, chunk[:, step])
            assert_array_equal(expert, -1)


def test_a_policy_for_another_robot_is_refused(tmp_path: Path) -> None:
    policy = load_policy(make_moe_file(tmp_path / "m.onnx").path)
    with pytest.raises(VddError, match=r"3 observed values to 2 actions.*has 4 and 2"):
        evaluate_policy(policy, make_task("avoiding"), rollouts=2, seed=0)


def test_an_action_that_is_not_finite_stops_the_evaluation(tmp_path: Path) -> None:
    """A diverged policy is an error with its place, not a low success rate."""
    policy = load_policy(make_moe_file(tmp_path / "m.onnx", contract=AVOIDING).path)
    windows = np.zeros((3, 2, 4))
    windows[1, 0, 0] = np.inf
    with (
        pytest.raises(VddError, match="rollout 1 at step 0 is not finite"),
        np.errstate(all="ignore"),
    ):
        ChunkExecutor(policy)(windows, np.random.default_rng(0))
