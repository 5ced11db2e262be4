"""How a student scores what it should agree with: the calibration of the teacher audit.

Scores of neighbouring steps are alike, and the promises of `core.conformal` are for scores that
are not. So it is measured how many steps apart two scores must be taken, the calibration uses
scores that far apart, and the node waits as long between two samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.runtime.density import LEVEL, Calibration, Density, calibrate
from vdd_ros.runtime.diffusion_policy import DiffusionPolicy
from vdd_ros.runtime.policy_file import PolicyFile

_RELATED = 0.1
"""Correlation of two drops above which they tell the same story."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Demonstrated steps that the student was not trained on."""

    observation: NDArray[np.float32]
    """[N, n_obs_steps, dim_obs] windows, in order of time within each episode."""
    action: NDArray[np.float32]
    """[N, horizon, dim_act] what was done."""
    episode: NDArray[np.int64]
    """[N] index of the episode, growing."""
    data_hash: str
    """Of the recording."""


def calibrate_file(
    file: PolicyFile, held_out: HeldOut, *, teacher: DiffusionPolicy | None = None
) -> tuple[Calibration, NDArray[np.float64]]:
    """Score held-out steps; return the calibration and all scores [N].

    With a teacher, its samples at the demonstrated states are scored: that is what the node sees
    later, so the scores are of one kind. Without, the demonstrated actions are, which the teacher
    imitates: the better it does, the more alike the two are.

    Args:
        file: the student, exported with density.
        held_out: demonstrations.
        teacher: what will run beside it.

    Raises:
        VddError: no density, vectors of other lengths, or too few steps.
    """
    contract = file.contract
    if teacher is not None:
        pairs = [(n, getattr(contract, n), getattr(teacher.contract, n)) for n in _COMMON]
        for name, ours, theirs in pairs:
            if ours != theirs:
                raise VddError(
                    f"{teacher.file.path}: {name} is {theirs}, the student's is {ours}; the "
                    "teacher must be one of the same robot"
                )
        actions, _ = teacher.act_batch(held_out.observation)
    else:
        actions = held_out.action
    horizon = min(actions.shape[1], contract.horizon)
    scores = Density(file).log_prob_batch(held_out.observation, actions[:, :horizon])
    apart = steps_apart(scores, held_out.episode)
    chosen = _thin(held_out.episode, apart)
    calibration = calibrate(
        scores[chosen],
        actions="demonstrations" if teacher is None else "teacher",
        n_episodes=len(np.unique(held_out.episode)),
        steps_apart=apart,
        horizon=horizon,
        data_hash=held_out.data_hash,
        teacher="" if teacher is None else teacher.file.sha256,
    )
    return calibration, scores


_COMMON = ("dim_obs", "dim_act", "n_obs_steps")


def steps_apart(scores: NDArray[np.floating], episode: NDArray[np.integer]) -> int:
    """Return how many steps apart two scores of one episode have little in common.

    That is the first lag at which drops (scores among the lowest `LEVEL`) are correlated by less
    than 0.1; at most the length of the longest episode, one score of each.
    """
    drops = (scores < np.quantile(scores, LEVEL)).astype(np.float64)
    centred = drops - drops.mean()
    variance = float((centred**2).mean())
    longest = int(np.unique(episode, return_counts=True)[1].max())
    if variance == 0.0:
        return 1
    for lag in range(1, longest):
        same = episode[lag:] == episode[:-lag]
        product = centred[lag:][same] * centred[:-lag][same]
        if float(product.mean()) < _RELATED * variance:
            return lag
    return longest


def _thin(episode: NDArray[np.integer], apart: int) -> NDArray[np.intp]:
    """Return rows of every episode that are ``apart`` steps apart, from a place of its own.

    Always starting at the first row would calibrate on the beginnings of episodes.
    """
    rng = np.random.default_rng(0)
    rows = []
    for index in np.unique(episode):
        (of_one,) = np.nonzero(episode == index)
        first = int(rng.integers(min(apart, len(of_one))))
        rows.append(of_one[first::apart])
    return np.concatenate(rows)
