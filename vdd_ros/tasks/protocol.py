"""What a simulated robot must offer, how a policy is rolled out on it, and what is measured.

A `Task` holds N robots at once, because the figures that matter (success, diversity) need
hundreds of rollouts and a loop over single robots would make them slow enough to be skipped.
Robots that have finished stay frozen where they are, so every array keeps its first axis N
until the last robot has finished.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd_ros.core.errors import VddError, did_you_mean

Array = NDArray[np.floating]
Policy = Callable[[Array, np.random.Generator], tuple[Array, NDArray[np.integer]]]
"""(windows [N, n_obs_steps, D_obs], generator) -> (chunk [N, horizon, D_act], expert [N]).

A policy without experts returns -1 for every robot.
"""

_Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


@dataclass(frozen=True)
class Outcome:
    """How the rollouts stand."""

    success: NDArray[np.bool_]
    """[N] the goal was reached."""
    mode: NDArray[np.int64]
    """[N] which of the task's ways was taken, 0..n_modes-1; -1 where it is not (yet) decided."""
    reward: NDArray[np.float64]
    """[N] how well it went so far, 0..1; a task that knows success only says 0 or 1."""
    counted: NDArray[np.bool_] | None = None
    """[N] whose modes count for the diversity; None: those that succeeded.

    A task where success is rare has to count others, or its diversity would rest on nothing.
    """
    extra: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """[N] each: further figures by name, whose means are reported."""


@runtime_checkable
class Task(Protocol):
    """N simulated robots of one kind."""

    name: str
    """Name in the registry of `make_task`."""
    level: str
    """Which of `levels` this one simulates."""
    levels: tuple[str, ...]
    """The degrees of realism on offer."""
    dim_obs: int
    """Entries of one observation."""
    dim_act: int
    """Entries of one action."""
    dt_s: float
    """Seconds per control step."""
    max_steps: int
    """Steps after which a rollout ends without success."""
    n_modes: int
    """How many different ways to succeed the task counts."""

    def reset(self, n: int, rng: np.random.Generator) -> Array:
        """Put n robots at the start; returns their observations [N, D_obs]."""
        ...

    def observe(self) -> Array:
        """The latest observations [N, D_obs]."""
        ...

    def step(self, action: Array) -> Array:
        """Advance by one control step with `action` [N, D_act]; returns observations."""
        ...

    @property
    def done(self) -> NDArray[np.bool_]:
        """[N] which robots have finished."""
        ...

    @property
    def position(self) -> Array:
        """[N, 2] where the robots are in the plane that is drawn."""
        ...

    def outcome(self) -> Outcome:
        """Success and mode of every robot so far."""
        ...


TASKS: Mapping[str, str] = MappingProxyType(
    {
        "avoiding": "vdd_ros.tasks.avoiding:AvoidingTask",
        "kitchen": "vdd_ros.tasks.kitchen:KitchenTask",
        "ogbench-cube": "vdd_ros.tasks.ogbench_cube:OgbenchCubeTask",
        "pusht": "vdd_ros.tasks.pusht:PushTTask",
    }
)
"""Where each task is defined, "module:factory" by name; imported only when that task is made.

A factory takes `level` and `lag` and says with `vdd_ros.tasks.optional.simulator` which library
it needs beside the package's own requirements.
"""

SCRIPTED: Mapping[str, str] = MappingProxyType(
    {
        "avoiding": "vdd_ros.tasks.avoiding_expert:scripted_demonstrations",
        "ogbench-cube": "vdd_ros.tasks.ogbench_cube:scripted_demonstrations",
    }
)
"""Which tasks have a scripted expert; "module:function", called with n, seed and level."""


def make_task(name: str, *, level: str = "ideal", lag: bool = False) -> Task:
    """Build the task `name` at one of its levels.

    Args:
        name: a key of the registry.
        level: degree of realism; each task says which it has.
        lag: observations are one control step old.

    Raises:
        VddError: unknown task or level; the message names the known ones. Or the task's simulator
            is not installed; the message says how to install it.
    """
    if name not in TASKS:
        raise VddError(f"unknown task '{name}'{did_you_mean(name, TASKS)}")
    # Imported here because the tasks import the words of this file, and simulators of others.
    module, factory = TASKS[name].split(":")
    task: Task = getattr(import_module(module), factory)(level=level, lag=lag)
    return task


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
            _check_answer(chunk, expert, task, n, n_action_steps, step=len(experts))
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


def checked_action(action: ArrayLike, n: int, dim_act: int) -> NDArray[np.float64]:
    """Return the actions [n, dim_act] of all robots, which a task may then carry out.

    Raises:
        VddError: wrong shape, or a number that is not finite.
    """
    action = np.asarray(action, np.float64)
    if action.shape != (n, dim_act):
        raise VddError(f"action has shape {action.shape}, expected ({n}, {dim_act})")
    if not np.isfinite(action).all():
        row = int(np.flatnonzero(~np.isfinite(action).all(axis=1))[0])
        raise VddError(
            f"action of robot {row} is not finite: {action[row].tolist()}; "
            "a policy must not send such a command, hold the last one instead"
        )
    return action


def _check_answer(
    chunk: Array,
    expert: NDArray[np.integer],
    task: Task,
    n: int,
    n_action_steps: int,
    *,
    step: int,
) -> None:
    """Refuse an answer that is not a chunk of finite actions and an expert per robot."""
    horizon = chunk.shape[1] if chunk.ndim == 3 else 0
    fits = chunk.shape == (n, horizon, task.dim_act) and expert.shape == (n,)
    if not fits or horizon < n_action_steps:
        raise VddError(
            f"the policy returned chunk {chunk.shape} and expert {expert.shape}; task "
            f"'{task.name}' expects ({n}, {n_action_steps} or more, {task.dim_act}) and ({n},)"
        )
    if not np.isfinite(chunk).all():
        robot = int(np.argwhere(~np.isfinite(chunk))[0][0])
        raise VddError(
            f"the action of rollout {robot} at step {step} is not finite; the policy was trained "
            "on bad data or its training diverged: train it again"
        )


@dataclass(frozen=True)
class TaskMetrics:
    """The figures every method is judged by. Success alone is never a bar: see `entropy`."""

    rollouts: int
    """How many rollouts they rest on; the entropy of few rollouts is biased low."""
    success: float
    """Share of rollouts that reached the goal."""
    success_ci95: tuple[float, float]
    """Wilson interval of `success`."""
    entropy: float
    """Entropy of the modes of the rollouts that count, over log(n_modes); 1 = all equally often.

    Those that succeeded count, unless the task says otherwise (`Outcome.counted`).
    """
    entropy_ci95: tuple[float, float]
    """Bootstrap interval of `entropy`."""
    modes: int
    """Number of different modes among the rollouts that count."""
    score: float
    """.8 success + .2 entropy, the combined score of D3IL (Jia et al., ICLR 2024)."""
    reward: float
    """Mean of the task's own graded measure, 0..1."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Means of the task's further figures."""


def task_metrics(result: RolloutResult, n_modes: int, *, seed: int = 0) -> TaskMetrics:
    """Success, diversity and their 95 % intervals.

    Rollouts whose mode is undecided count for success and not for the entropy.

    Args:
        result: what `rollout` returned.
        n_modes: modes the task counts.
        seed: of the bootstrap behind `entropy_ci95`.
    """
    n = len(result.success)
    success = float(np.mean(result.success))
    counts = mode_counts(result, n_modes)
    entropy = float(mode_entropy(counts))
    return TaskMetrics(
        rollouts=n,
        success=success,
        success_ci95=wilson_ci95(int(result.success.sum()), n),
        entropy=entropy,
        entropy_ci95=_entropy_ci95(counts, entropy, np.random.default_rng(seed)),
        modes=int(np.count_nonzero(counts)),
        score=0.8 * success + 0.2 * entropy,
        reward=float(np.mean(result.reward)),
        extra={name: float(np.mean(values)) for name, values in result.extra.items()},
    )


def mode_counts(result: RolloutResult, n_modes: int) -> NDArray[np.int64]:
    """[n_modes] rollouts per mode, of those that count and whose mode is decided."""
    counted = result.success if result.counted is None else result.counted
    modes = result.mode[counted & (result.mode >= 0)]
    return np.bincount(modes, minlength=n_modes).astype(np.int64)


def mode_entropy(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Normalised entropy -sum_m p_m log p_m / log M of mode counts [..., M]; 0 for no counts."""
    n_modes = np.shape(counts)[-1]
    if n_modes < 2:
        return np.zeros(np.shape(counts)[:-1])
    share = counts / np.maximum(np.sum(counts, axis=-1, keepdims=True), 1.0)
    log_share = np.log(np.where(share > 0.0, share, 1.0))
    # max() turns the -0.0 of a single mode into 0.0, which is what a report should print.
    entropy: NDArray[np.float64] = -(share * log_share).sum(axis=-1) / np.log(n_modes)
    return np.maximum(entropy, 0.0)


def wilson_ci95(successes: int, n: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson, 1927); unlike +-2 sigma it is sane at 0 and 1."""
    if n < 1:
        raise VddError(f"a confidence interval needs at least one rollout, got {n}")
    share, z2 = successes / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _entropy_ci95(
    counts: NDArray[np.integer], entropy: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Bootstrap interval, with its spread centred on the estimate.

    A resample's entropy is biased low by about (M-1)/(2n), so plain percentiles would often
    exclude the very estimate they belong to; subtracting the bootstrap's mean removes that.
    """
    n = int(counts.sum())
    if n == 0:
        return 0.0, 0.0
    replicas = mode_entropy(rng.multinomial(n, counts / n, size=2000))
    low, high = entropy + np.quantile(replicas, [0.025, 0.975]) - replicas.mean()
    return max(0.0, float(low)), min(1.0, float(high))
