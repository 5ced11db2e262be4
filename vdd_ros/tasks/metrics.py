"""The figures every method is judged by: success, diversity and their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.tasks.rollouts import RolloutResult

_Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


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
