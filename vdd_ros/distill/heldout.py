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
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vdd_ros.core.errors import VddError
from vdd_ros.core.normalizer import Normalizer
from vdd_ros.core.samplers import SamplerKind
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.windows import Windows, make_windows
from vdd_ros.distill.denoisers import Teacher, sample_actions
from vdd_ros.distill.mixture import MixtureParameters
from vdd_ros.distill.networks.normalization import Affine

# Ranks of y among so many draws are uniform on 0..199 under the truth, and both .5 and .9 of 200
# are whole: coverage then has no error from the finite number of draws.
_N_DENSITY = 199
_BATCH = 256
_NUMBERS = 1 << 22
_LEVELS = (0.5, 0.9)

ActionSampler = Callable[[Tensor, int, torch.Generator], Tensor]
"""(raw windows [B, T, O], S, generator) -> raw action chunks [B, S, H, A]."""


@runtime_checkable
class Student(Protocol):
    """A network whose answer is a mixture over normalised action chunks."""

    @property
    def observation(self) -> Affine:
        """Normaliser of observations."""
        ...

    @property
    def action(self) -> Affine:
        """Normaliser of actions."""
        ...

    def __call__(self, obs: Tensor) -> MixtureParameters:
        """Return the mixture for normalised windows."""
        ...


@runtime_checkable
class SampledTeacher(Teacher, Protocol):
    """A denoiser with the normalisers and the chunk length it was trained with."""

    @property
    def observation(self) -> Affine:
        """Normaliser of observations."""
        ...

    @property
    def action(self) -> Affine:
        """Normaliser of actions."""
        ...

    @property
    def horizon(self) -> int:
        """Actions in a chunk."""
        ...

    @property
    def dim_act(self) -> int:
        """Entries of one action."""
        ...


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
    covered = [_coverage(torch.cat(ranks), level) for level in _LEVELS]
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
    """Judge whatever can be sampled: a teacher (`teacher_sampler`) or a student.

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


def mixture_sampler(student: Student) -> ActionSampler:
    """Return draws from the whole mixture, spread of the experts included."""

    def draw(obs: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        mixture = student(student.observation.normalize(obs))
        chunks = _draw(mixture, n_samples, generator)
        return student.action.unnormalize(chunks)

    return draw


def teacher_sampler(
    teacher: SampledTeacher, *, n_steps: int = 16, kind: SamplerKind = "euler"
) -> ActionSampler:
    """Return draws from a diffusion teacher, each of ``n_steps`` denoiser calls."""

    def draw(obs: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        rows = teacher.observation.normalize(obs).repeat_interleave(n_samples, 0)
        shape = (len(rows), teacher.horizon, teacher.dim_act)
        chunks = sample_actions(
            teacher,
            rows,
            torch.randn(shape, generator=generator),
            n_steps=n_steps,
            sigma_min=teacher.sigma_min,
            sigma_max=teacher.sigma_max,
            kind=kind,
            schedule=teacher.schedule,
            generator=generator,
        )
        return teacher.action.unnormalize(chunks).unflatten(0, (len(obs), n_samples))

    return draw


def climatology_sampler(train: Demonstrations, *, horizon: int) -> ActionSampler:
    """Return draws of training chunks whatever the observation: a model must beat this."""
    chunks = torch.as_tensor(make_windows(train, n_obs_steps=1, horizon=horizon).action)

    def draw(obs: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        return chunks[torch.randint(len(chunks), (len(obs), n_samples), generator=generator)]

    return draw


def persistence_sampler(*, horizon: int, dim_act: int) -> ActionSampler:
    """Return the newest observation as the command: stay where you are.

    The rival to beat where actions are positions and the observation begins with the position
    they command, as in the recordings of the G1 and the Franka: at 30 Hz little changes.
    """

    def draw(obs: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        return obs[:, -1, None, None, :dim_act].expand(-1, n_samples, horizon, -1)

    return draw


def density_rank(
    mixture: MixtureParameters, truth: Float[Tensor, "B D"], generator: torch.Generator
) -> Int[Tensor, " B"]:
    """Count how many of 199 draws from the mixture are denser than the truth: 0..199."""
    level, rank = mixture.log_prob(truth[:, None])[:, 0], torch.zeros(len(truth), dtype=torch.long)
    draws = _draw(mixture, _N_DENSITY, generator).flatten(2)
    # A few at a time: all at once would hold B S K D numbers, gigabytes for long chunks.
    for some in draws.split(max(1, _NUMBERS // mixture.flat_mean.numel()), dim=1):
        rank += (mixture.log_prob(some) > level[:, None]).sum(1)
    return rank


def sampled_energy(error: Float[Tensor, "B S H A"]) -> Float[Tensor, " B"]:
    """Energy score of S draws given as errors, over sqrt(D); fair: unbiased for any S >= 2."""
    flat = error.flatten(2)
    n_samples, dim = flat.shape[1:]
    near = flat.norm(dim=-1).mean(1)
    apart = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum((1, 2))
    return (near - 0.5 * apart / (n_samples * (n_samples - 1))) / math.sqrt(dim)


def weighted_energy(
    error: Float[Tensor, "B K H A"], weight: Float[Tensor, "B K"]
) -> Float[Tensor, " B"]:
    """Energy score of K weighted points given as errors, over sqrt(D); exact."""
    flat = error.flatten(2)
    near = (weight * flat.norm(dim=-1)).sum(1)
    apart = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    spread = torch.einsum("bk,bkj,bj->b", weight, apart, weight)
    return (near - 0.5 * spread) / math.sqrt(flat.shape[-1])


def _draw(
    mixture: MixtureParameters, n_samples: int, generator: torch.Generator
) -> Float[Tensor, "B S H A"]:
    """Draw chunks, normalised."""
    draws = [mixture.sample(generator)[0] for _ in range(n_samples)]
    return torch.stack(draws, dim=1)


def _coverage(rank: Int[Tensor, " N"], level: float) -> float:
    """Share of ranks below the level's: exact for a calibrated mixture, see `_N_DENSITY`."""
    return float((rank < round(level * (_N_DENSITY + 1))).double().mean())


def _root_mean(square: Float[Tensor, " N"]) -> float:
    """Root of the mean."""
    return float(square.double().mean().sqrt())
