r"""Judging on held-out episodes, where no simulator can tell who succeeds.

What is compared is a predicted distribution of action chunks with the one chunk that a person
chose. Errors of a single answer reward averaging over modes and are shown for orientation only;
what ranks methods are proper scores, best at the truth (Gneiting and Raftery, JASA 2007):

- the negative log-likelihood, for students, whose density is known;
- the energy score :math:`E\|X - y\| - \tfrac12 E\|X - X'\|`, for whatever can be sampled, so that
  a teacher and a student meet on one scale.

Calibration: y lies in the highest-density region of level p if less than p of q's own draws are
denser than y. A student that is the truth covers exactly p of the chunks by its regions.

Units. `Scale` holds one standard deviation per action dimension, from the TRAINING actions. "raw"
figures are in the action's own units (errors) or densities over them (likelihood); "normalised"
ones over actions divided by that deviation, whatever normaliser a model has inside. Models with
different normalisers are therefore compared on the same figures.

Shapes: B windows, S samples, K experts, D = H A the flattened chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.core.errors import VddError
from vdd_ros.core.normalizer import Normalizer
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.windows import Windows, make_windows
from vdd_ros.distill.judging.action_samplers import ActionSampler, Student, mixture_sampler
from vdd_ros.distill.judging.proper_scores import (
    coverage,
    density_rank,
    sampled_energy,
    weighted_energy,
)

_BATCH = 256
_LEVELS = (0.5, 0.9)


@dataclass(frozen=True)
class HeldOutSettings:
    """How the figures are taken."""

    fraction: float = 0.2
    """Share of EPISODES held out; rows of one episode are too alike to be split."""
    seed: int = 0
    """Of the split and of everything drawn."""
    n_samples: int = 32
    """Actions drawn per window for sampled errors and the energy score."""
    max_windows: int = 2048
    """Windows judged, evenly spread over the held-out ones; 0 for all."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0.0 < self.fraction < 1.0 or self.n_samples < 2 or self.max_windows < 0:
            raise VddError(
                f"fraction {self.fraction}, n_samples {self.n_samples} and max_windows "
                f"{self.max_windows}: expected 0 < fraction < 1, at least 2 samples, no negatives"
            )


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What models are judged on."""

    observation: Float[Tensor, "B T O"]
    """Raw windows."""
    action: Float[Tensor, "B H A"]
    """Raw chunks that followed them."""
    deviation: Float[Tensor, " A"]
    """Standard deviation of the training actions, 1 where they are constant."""


@dataclass(frozen=True)
class SampleFigures:
    """What can be said of any policy that can be sampled. Means over windows."""

    windows: int
    """How many held-out windows."""
    rmse_sample: float
    """Root mean square error of a drawn chunk, raw units, over its D numbers."""
    rmse_mean: float
    """The same of the mean of the S drawn chunks: what averaging modes earns."""
    rmse_best: float
    """The same of the nearest of the S drawn chunks; falls with S."""
    energy_score: float
    """Energy score of the drawn chunks, normalised, over sqrt(D); proper, lower is better."""


@dataclass(frozen=True)
class StudentFigures:
    """What can be said of a mixture. Errors are raw, over all D numbers of a chunk."""

    windows: int
    """How many held-out windows."""
    nll_raw: float
    """Negative log-likelihood per number of the chunk, nats, density over raw units."""
    nll_normalised: float
    """The same over actions divided by the training deviation; comparable between data sets."""
    rmse_best: float
    """RMSE of the expert nearest to what was done: what a perfect gate could reach."""
    rmse_argmax: float
    """RMSE of the most probable expert's mean."""
    rmse_drawn: float
    """RMSE of an expert drawn from the gate; exact expectation, not drawn."""
    rmse_argmax_per_dim: tuple[float, ...]
    """[A] `rmse_argmax` for each action dimension, which may have different units."""
    coverage_50: float
    """Share of chunks in the 50 % region of highest density; more: too wide, less: too sure."""
    coverage_90: float
    """The same for 90 %."""
    energy_score_means: float
    """Energy score of acting by a drawn expert's mean, as robots do; exact, normalised."""
    sampled: SampleFigures = field(repr=False)
    """Figures of chunks drawn from the whole mixture, to compare with a teacher's."""


def split_episodes(
    demos: Demonstrations, settings: HeldOutSettings | None = None
) -> tuple[Demonstrations, Demonstrations]:
    """Split into (training, held out), by episode.

    Raises:
        VddError: fewer than two episodes.
    """
    settings = settings or HeldOutSettings()
    return demos.split(1.0 - settings.fraction, settings.seed)


def held_out(
    train: Demonstrations,
    test: Demonstrations,
    *,
    n_obs_steps: int,
    horizon: int,
    settings: HeldOutSettings | None = None,
) -> HeldOut:
    """Cut the held-out episodes into windows and take the scale from the training ones.

    Raises:
        VddError: the sets have other dimensions, or no window fits.
    """
    settings = settings or HeldOutSettings()
    if (train.dim_obs, train.dim_act) != (test.dim_obs, test.dim_act):
        raise VddError(
            f"{test.source}: {test.dim_obs} observation and {test.dim_act} action columns, but "
            f"{train.source} has {train.dim_obs} and {train.dim_act}; expected the same robot"
        )
    windows: Windows = make_windows(test, n_obs_steps=n_obs_steps, horizon=horizon)
    n = len(windows)
    chosen = np.arange(n)
    if 0 < settings.max_windows < n:
        chosen = np.linspace(0, n - 1, settings.max_windows).round().astype(np.int64)
    return HeldOut(
        torch.as_tensor(windows.observation[chosen]),
        torch.as_tensor(windows.action[chosen]),
        torch.as_tensor(Normalizer.fit(train.action, "mean_std").scale),
    )


@torch.no_grad()
def student_figures(
    student: Student, data: HeldOut, settings: HeldOutSettings | None = None
) -> StudentFigures:
    """Judge a student.

    Raises:
        VddError: its answer is not finite, so that no figure would mean anything.
    """
    settings = settings or HeldOutSettings()
    generator = torch.Generator().manual_seed(settings.seed)
    sampler = mixture_sampler(student)
    nll, ranks, best, argmax, drawn, energy = ([] for _ in range(6))
    for obs, action in zip(data.observation.split(_BATCH), data.action.split(_BATCH), strict=True):
        mixture = student(student.observation.normalize(obs))
        truth = student.action.normalize(action).flatten(1)
        nll.append(-mixture.log_prob(truth[:, None])[:, 0])
        ranks.append(density_rank(mixture, truth, generator))
        error = student.action.unnormalize(mixture.mean) - action[:, None]
        rows, gate = torch.arange(len(error)), mixture.log_gate.exp()
        square = error.square().flatten(2).mean(-1)
        best.append(square.amin(1))
        argmax.append(error[rows, gate.argmax(1)].square())
        drawn.append((gate * square).sum(1))
        energy.append(weighted_energy(error / data.deviation, gate))
    n_numbers, horizon = data.action[0].numel(), data.action.shape[1]
    per_number = float(torch.cat(nll).double().mean()) / n_numbers
    raw = per_number + horizon * float(student.action.scale.double().log().sum()) / n_numbers
    normalised = raw - horizon * float(data.deviation.double().log().sum()) / n_numbers
    if not math.isfinite(raw):
        raise VddError(
            f"the student's log-likelihood on held-out data is {-raw}: its training diverged, or "
            "it was trained on another robot; train it again"
        )
    per_dim = torch.cat(argmax).double().mean((0, 1))
    covered = [coverage(torch.cat(ranks), level) for level in _LEVELS]
    return StudentFigures(
        windows=len(data.action),
        nll_raw=raw,
        nll_normalised=normalised,
        rmse_best=_root_mean(torch.cat(best)),
        rmse_argmax=float(per_dim.mean().sqrt()),
        rmse_drawn=_root_mean(torch.cat(drawn)),
        rmse_argmax_per_dim=tuple(per_dim.sqrt().tolist()),
        coverage_50=covered[0],
        coverage_90=covered[1],
        energy_score_means=float(torch.cat(energy).double().mean()),
        sampled=sample_figures(sampler, data, settings),
    )


@torch.no_grad()
def sample_figures(
    sampler: ActionSampler, data: HeldOut, settings: HeldOutSettings | None = None
) -> SampleFigures:
    """Judge whatever can be sampled: a teacher (`action_samplers.teacher_sampler`) or a student.

    Raises:
        VddError: it draws something that is not finite.
    """
    settings = settings or HeldOutSettings()
    generator = torch.Generator().manual_seed(settings.seed)
    one, mean, best, energy = ([] for _ in range(4))
    for obs, action in zip(data.observation.split(_BATCH), data.action.split(_BATCH), strict=True):
        error = sampler(obs, settings.n_samples, generator) - action[:, None]
        if not bool(torch.isfinite(error).all()):
            raise VddError(
                "the policy drew actions that are not finite on held-out data: its training "
                "diverged; train it again"
            )
        square = error.square().flatten(2).mean(-1)
        one.append(square.mean(1))
        best.append(square.amin(1))
        mean.append(error.mean(1).square().flatten(1).mean(-1))
        energy.append(sampled_energy(error / data.deviation))
    return SampleFigures(
        windows=len(data.action),
        rmse_sample=_root_mean(torch.cat(one)),
        rmse_mean=_root_mean(torch.cat(mean)),
        rmse_best=_root_mean(torch.cat(best)),
        energy_score=float(torch.cat(energy).double().mean()),
    )


def _root_mean(square: Float[Tensor, " N"]) -> float:
    """Root of the mean."""
    return float(square.double().mean().sqrt())
