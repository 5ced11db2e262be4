"""Closed-loop evaluation through the robot's runtime."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from tests.policy_files import make_contract, make_denoiser_file, make_moe_file
from vdd_ros.core.errors import VddError
from vdd_ros.evaluation.closed_loop import evaluate_policy
from vdd_ros.runtime.loading import load_policy
from vdd_ros.runtime.policy import Policy
from vdd_ros.tasks.metrics import task_metrics
from vdd_ros.tasks.protocol import make_task

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
        "reward",
        "extra",
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


class Constant:
    """A policy file that answers with one chunk whatever it sees."""

    def __init__(self, policy: Policy, chunk: NDArray[np.float32]) -> None:
        """Wrap a policy."""
        self.contract, self.file, self.chunk = policy.contract, policy.file, chunk

    def reset(self, *, seed: int) -> None:
        """Nothing to forget."""

    def act_batch(
        self, windows: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the chunk for every window."""
        return np.tile(self.chunk, (len(windows), 1, 1)), np.full(len(windows), -1)


def test_as_many_actions_of_a_chunk_are_executed_as_the_contract_says(tmp_path: Path) -> None:
    """With n_action_steps = 2 of horizon 3, the first two actions alternate."""
    contract = dataclasses.replace(AVOIDING, n_action_steps=2)
    policy = load_policy(make_moe_file(tmp_path / "m.onnx", contract=contract).path)
    chunk = np.array([[0.002, 0.0], [0.001, 0.001], [0.5, 0.5]], np.float32)
    constant = cast("Policy", Constant(policy, chunk))
    _, result = evaluate_policy(constant, make_task("avoiding"), rollouts=2, seed=0)
    moved = np.diff(result.trajectory[0, :6], axis=0)
    assert_allclose(moved, chunk[[0, 1, 0, 1, 0]], atol=1e-9)


def test_a_policy_for_another_robot_is_refused(tmp_path: Path) -> None:
    policy = load_policy(make_moe_file(tmp_path / "m.onnx").path)
    with pytest.raises(VddError, match=r"3 observed values to 2 actions.*has 4 and 2"):
        evaluate_policy(policy, make_task("avoiding"), rollouts=2, seed=0)


def test_an_action_that_is_not_finite_names_the_file(tmp_path: Path) -> None:
    """A diverged policy is an error with its place, not a low success rate."""
    policy = load_policy(make_moe_file(tmp_path / "m.onnx", contract=AVOIDING).path)
    diverged = cast("Policy", Constant(policy, np.full((3, 2), np.nan, np.float32)))
    with pytest.raises(VddError, match=r"m\.onnx: the action of rollout 0 at step 0 is not"):
        evaluate_policy(diverged, make_task("avoiding"), rollouts=2, seed=0)
