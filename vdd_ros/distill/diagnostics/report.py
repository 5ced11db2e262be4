"""Everything that can be said about a student, measured at the states of some demonstrations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.core.errors import VddError
from vdd_ros.distill.denoisers import Teacher, sample_actions
from vdd_ros.distill.diagnostics.calibration import Calibration, calibration, density_ranks
from vdd_ros.distill.diagnostics.coverage import (
    Coverage,
    GateUse,
    cluster_actions,
    cluster_coverage,
    gate_use,
)
from vdd_ros.distill.diagnostics.distances import draw_actions
from vdd_ros.distill.diagnostics.stein import SteinComparison, compare_discrepancies
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts


@dataclass(frozen=True)
class DiagnosisSettings:
    """How much is looked at. Sigmas are in units of normalised actions."""

    n_states: int = 256
    """States, spread evenly over the demonstrations."""
    n_samples: int = 64
    """Actions per state, of the teacher and of the student."""
    n_steps: int = 16
    """Steps of Heun's method per teacher sample."""
    n_draws: int = 199
    """Student samples behind every density rank; one less than a multiple of ten."""
    sigmas: tuple[float, ...] = (0.1, 0.3)
    """Noise levels of the Stein discrepancy, moved into the range the teacher knows."""
    seed: int = 0
    """Seed of all samples."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.n_states < 2 or self.n_samples < 8 or self.n_steps < 1 or self.n_draws < 9:
            raise VddError(
                "diagnosis: expected n_states >= 2, n_samples >= 8, n_steps >= 1 and n_draws >= "
                f"9; got {self.n_states}, {self.n_samples}, {self.n_steps}, {self.n_draws}"
            )
        if not self.sigmas or min(self.sigmas) <= 0:
            raise VddError(f"diagnosis: got sigmas {self.sigmas}, expected positive numbers")


@dataclass(frozen=True)
class TeacherDiagnosis:
    """The student beside its teacher."""

    nll: float
    """Negative log-likelihood of the teacher's samples in nats per action chunk."""
    coverage: Coverage
    """Which clusters of teacher samples have an expert."""
    calibration: Calibration
    """Of log q on the teacher's samples."""
    stein: tuple[SteinComparison, ...]
    """By noise level."""


@dataclass(frozen=True)
class Diagnosis:
    """All figures of a student; everything in normalised actions."""

    n_states: int
    """States looked at."""
    n_experts: int
    """Experts K."""
    gate: GateUse
    """How the gate uses them."""
    nll: float
    """Negative log-likelihood of the demonstrated actions in nats per action chunk."""
    calibration: Calibration
    """Of log q on the demonstrated actions."""
    teacher: TeacherDiagnosis | None
    """Figures that need the teacher."""


@torch.no_grad()
def diagnose(
    student: GaussianMixtureOfExperts,
    obs: Float[Tensor, "N T O"],
    action: Float[Tensor, "N H A"],
    *,
    teacher: Teacher | None = None,
    settings: DiagnosisSettings | None = None,
) -> Diagnosis:
    """Measure a student at demonstrated states.

    Args:
        student: to look at.
        obs: normalised windows of the demonstrations.
        action: the normalised chunks that followed.
        teacher: what it was distilled from.
        settings: how much is looked at.

    Raises:
        VddError: fewer than two windows, or a student or teacher that answers with NaN.
    """
    settings = settings or DiagnosisSettings()
    if len(obs) < 2:
        raise VddError(f"diagnosis: got {len(obs)} windows, expected at least 2")
    rows = torch.linspace(0, len(obs) - 1, min(settings.n_states, len(obs))).long()
    obs, flat = obs[rows], action[rows].flatten(1)[:, None]
    generator = torch.Generator().manual_seed(settings.seed)
    mixture = student(obs)
    log_prob = mixture.log_prob(flat)
    if not bool(torch.isfinite(log_prob).all()):
        raise VddError(
            "diagnosis: the student's log-density of a demonstrated action is not finite; its "
            "training has diverged, or the data is not in the units it was trained in"
        )
    ranks = density_ranks(student, obs, flat, n_draws=settings.n_draws, generator=generator)
    return Diagnosis(
        n_states=len(obs),
        n_experts=mixture.gating_logits.shape[1],
        gate=gate_use(mixture.gating_logits),
        nll=-float(log_prob.mean()),
        calibration=calibration(ranks),
        teacher=_beside(student, teacher, obs, settings, generator) if teacher else None,
    )


def _beside(
    student: GaussianMixtureOfExperts,
    teacher: Teacher,
    obs: Float[Tensor, "B T O"],
    settings: DiagnosisSettings,
    generator: torch.Generator,
) -> TeacherDiagnosis:
    """Measure the student against samples and scores of its teacher."""
    chunk = (student.horizon, student.dim_act)
    samples = _teacher_samples(teacher, obs, chunk, settings, generator)
    if not bool(torch.isfinite(samples).all()):
        raise VddError("diagnosis: the teacher samples NaN or infinity; train it again")
    own = draw_actions(student, obs, settings.n_samples, generator)
    mixture = student(obs)
    # A dozen ranks per state say as much as all: those of one state share their draws.
    some = samples[:, :12]
    ranks = density_ranks(student, obs, some, n_draws=settings.n_draws, generator=generator)
    levels = sorted(
        {min(max(sigma, teacher.sigma_min), teacher.sigma_max) for sigma in settings.sigmas}
    )

    return TeacherDiagnosis(
        nll=-float(mixture.log_prob(samples).mean()),
        coverage=cluster_coverage(samples, cluster_actions(samples), mixture),
        calibration=calibration(ranks),
        stein=tuple(
            compare_discrepancies(
                own, samples, teacher, obs, chunk, sigma=sigma, generator=generator
            )
            for sigma in levels
        ),
    )


def _teacher_samples(
    teacher: Teacher,
    obs: Float[Tensor, "B T O"],
    chunk: tuple[int, int],
    settings: DiagnosisSettings,
    generator: torch.Generator,
) -> Float[Tensor, "B S D"]:
    rows = obs.repeat_interleave(settings.n_samples, 0)
    samples = sample_actions(
        teacher,
        rows,
        torch.randn(len(rows), *chunk, generator=generator),
        n_steps=settings.n_steps,
        sigma_min=teacher.sigma_min,
        sigma_max=teacher.sigma_max,
        kind="heun",
        schedule=teacher.schedule,
    )
    return samples.flatten(1).view(len(obs), settings.n_samples, -1)
