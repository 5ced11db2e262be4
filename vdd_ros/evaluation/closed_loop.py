"""Closed-loop evaluation of a policy file: the figures a policy is judged by.

The robot's own runtime acts, so what is measured is what would drive the robot, for student and
teacher alike.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.runtime.policy import Policy
from vdd_ros.tasks.protocol import RolloutResult, Task, rollout, task_metrics


def evaluate_policy(
    policy: Policy, task: Task, *, rollouts: int, seed: int
) -> tuple[dict[str, Any], RolloutResult]:
    """Roll a policy out on a task.

    Args:
        policy: reset here; of each predicted chunk, ``n_action_steps`` actions are executed
            before the next prediction.
        task: the simulated robots.
        rollouts: number of independent robots.
        seed: the result is a function of it.

    Returns:
        The figures as plain JSON types (task, level, rollouts, success, success_ci95, entropy,
        entropy_ci95, modes, score) and the rollouts behind them, for figures.

    Raises:
        VddError: the policy was made for a robot with other observations or actions, or it
            predicted values that are not finite.
    """
    contract = policy.contract
    if (contract.dim_obs, contract.dim_act) != (task.dim_obs, task.dim_act):
        raise VddError(
            f"{policy.file.path}: the policy maps {contract.dim_obs} observed values to "
            f"{contract.dim_act} actions, task '{task.name}' has {task.dim_obs} and "
            f"{task.dim_act}; evaluate it on the task it was trained for"
        )
    policy.reset(seed=seed)
    result = rollout(
        task, ChunkExecutor(policy), n=rollouts, seed=seed, n_obs_steps=contract.n_obs_steps
    )
    figures: dict[str, Any] = {"task": task.name, "level": task.level}
    figures.update(dataclasses.asdict(task_metrics(result, task.n_modes)))
    return figures, result


class ChunkExecutor:
    """Plays ``n_action_steps`` actions of every predicted chunk, for many robots in step."""

    def __init__(self, policy: Policy) -> None:
        """Start before the first prediction."""
        self._policy = policy
        self._n_action_steps = policy.contract.n_action_steps
        self._step = 0
        self._chunk: NDArray[np.floating]
        self._expert: NDArray[np.int64]

    def __call__(
        self,
        windows: NDArray[np.floating],
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """Return action [N, dim_act] and expert [N] for windows [N, n_obs_steps, dim_obs].

        The policy draws from its own seeded stream, as it does on the robot; ``rng`` is the
        task protocol's and stays untouched.
        """
        position = self._step % self._n_action_steps
        if position == 0:
            self._chunk, self._expert = self._policy.act_batch(windows.astype(np.float32))
            if not np.isfinite(self._chunk).all():
                robot = int(np.argwhere(~np.isfinite(self._chunk))[0][0])
                raise VddError(
                    f"{self._policy.file.path}: the action of rollout {robot} at step "
                    f"{self._step} is not finite; the policy was trained on bad data or its "
                    "training diverged: train it again"
                )
        self._step += 1
        return self._chunk[:, position], self._expert
