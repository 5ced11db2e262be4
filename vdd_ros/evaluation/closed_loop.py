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
from vdd_ros.tasks.metrics import task_metrics
from vdd_ros.tasks.protocol import Task
from vdd_ros.tasks.rollouts import RolloutResult, rollout


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
        entropy_ci95, modes, score, reward, and extra: the task's own figures by name) and the
        rollouts behind them, for figures.

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

    def act(
        windows: NDArray[np.floating],
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        return policy.act_batch(windows)

    try:
        result = rollout(
            task,
            act,
            n=rollouts,
            seed=seed,
            n_obs_steps=contract.n_obs_steps,
            n_action_steps=contract.n_action_steps,
        )
    except VddError as error:
        raise VddError(f"{policy.file.path}: {error}") from None
    figures: dict[str, Any] = {"task": task.name, "level": task.level}
    figures.update(dataclasses.asdict(task_metrics(result, task.n_modes)))
    return figures, result
