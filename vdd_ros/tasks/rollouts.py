"""How a policy is rolled out on a task: N robots from start to end, and what they did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.tasks.protocol import Array, Policy, Task


@dataclass(frozen=True)
class RolloutResult:
    """What N rollouts did; T is the number of steps the longest of them took."""

    success: NDArray[np.bool_]
    """[N] the goal was reached."""
    mode: NDArray[np.int64]
    """[N] way taken, -1 where undecided."""
    steps: NDArray[np.int64]
    """[N] control steps until the robot finished."""
    trajectory: NDArray[np.float64]
    """[N, T+1, 2] positions from the start on; NaN after the robot's end."""
    expert: NDArray[np.int64]
    """[N, T] expert that acted; -1 where there was none, and after the robot's end."""
    reward: NDArray[np.float64]
    """[N] how well it went, 0..1."""
    counted: NDArray[np.bool_] | None = None
    """[N] whose modes count for the diversity; None: those that succeeded."""
    extra: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """[N] each: further figures by name."""


def rollout(
    task: Task,
    policy: Policy,
    *,
    n: int,
    seed: int,
    n_obs_steps: int = 1,
    n_action_steps: int = 1,
) -> RolloutResult:
    """Run `policy` on n fresh robots until all have finished.

    Before a robot has seen `n_obs_steps` observations, the window is filled with the first one.

    Args:
        task: the simulated robots; reset here.
        policy: called with the windows of all n robots, once per ``n_action_steps`` steps.
        n: number of robots.
        seed: the whole result is a function of it, provided the policy draws from the
            generator it is given.
        n_obs_steps: length of the observation window.
        n_action_steps: actions of every predicted chunk that are executed before the next
            prediction.

    Raises:
        VddError: a number below 1, or the policy's answer has a wrong shape, too short a chunk or
            numbers that are not finite.
    """
    if min(n, n_obs_steps, n_action_steps) < 1:
        raise VddError(
            f"got n={n}, n_obs_steps={n_obs_steps} and n_action_steps={n_action_steps}; all must "
            "be at least 1"
        )
    seeds = np.random.SeedSequence(seed).spawn(2)
    task_rng, policy_rng = np.random.default_rng(seeds[0]), np.random.default_rng(seeds[1])
    observation = task.reset(n, task_rng)
    # float32, as on the robot: a policy must not depend on digits it will not have there.
    window = np.repeat(observation[:, None, :].astype(np.float32), n_obs_steps, axis=1)
    steps = np.zeros(n, np.int64)
    positions = [task.position.astype(np.float64)]
    experts: list[NDArray[np.int64]] = []
    while not task.done.all():
        active = ~task.done
        position = len(experts) % n_action_steps
        if position == 0:
            chunk, expert = policy(window, policy_rng)
            chunk, expert = np.asarray(chunk), np.asarray(expert)
            _check_shape(chunk, expert, task, n, n_action_steps)
            # Robots that have ended stand anywhere; what is said about them is not executed.
            chunk = np.where(active[:, None, None], chunk, 0.0)
            _check_finite(chunk, step=len(experts))
        observation = task.step(chunk[:, position])
        window = np.roll(window, -1, axis=1)
        window[:, -1] = observation
        steps += active
        positions.append(np.where(active[:, None], task.position, np.nan))
        experts.append(np.where(active, expert, -1).astype(np.int64))
    outcome = task.outcome()
    return RolloutResult(
        success=outcome.success,
        mode=outcome.mode,
        steps=steps,
        trajectory=np.stack(positions, axis=1),
        expert=np.stack(experts, axis=1) if experts else np.empty((n, 0), np.int64),
        reward=outcome.reward,
        counted=outcome.counted,
        extra=outcome.extra,
    )


def _check_shape(
    chunk: Array, expert: NDArray[np.integer], task: Task, n: int, n_action_steps: int
) -> None:
    """Refuse an answer that is not a chunk of actions and an expert per robot."""
    horizon = chunk.shape[1] if chunk.ndim == 3 else 0
    fits = chunk.shape == (n, horizon, task.dim_act) and expert.shape == (n,)
    if not fits or horizon < n_action_steps:
        raise VddError(
            f"the policy returned chunk {chunk.shape} and expert {expert.shape}; task "
            f"'{task.name}' expects ({n}, {n_action_steps} or more, {task.dim_act}) and ({n},)"
        )


def _check_finite(chunk: Array, *, step: int) -> None:
    """Refuse actions that no robot could execute."""
    if not np.isfinite(chunk).all():
        robot = int(np.argwhere(~np.isfinite(chunk))[0][0])
        raise VddError(
            f"the action of rollout {robot} at step {step} is not finite; the policy was trained "
            "on bad data or its training diverged: train it again"
        )
