"""Teachers and mixtures in closed form."""

from __future__ import annotations

import math

import torch

from vdd_ros.distill.mixtures.covariance import Covariance, Diagonal, Triangular
from vdd_ros.distill.mixtures.gaussian_head import CovarianceKind
from vdd_ros.distill.mixtures.low_rank import LowRank
from vdd_ros.distill.mixtures.mixture import MixtureParameters
from vdd_ros.distill.teachers.analytic import AnalyticTeacher


def ring_teacher(n_modes: int = 8, *, radius: float = 2.0, std: float = 0.1) -> AnalyticTeacher:
    """Return a teacher with modes on a circle, the toy of the paper."""
    angle = torch.arange(n_modes) * (2 * math.pi / n_modes)
    means = radius * torch.stack([angle.cos(), angle.sin()], -1)[:, None]
    covariance = (std**2 * torch.eye(2)).expand(n_modes, 2, 2)
    return AnalyticTeacher(torch.full((n_modes,), 1.0 / n_modes), means, covariance)


def random_mixture(
    batch: int, n_experts: int, horizon: int, dim_act: int, *, dtype: torch.dtype = torch.float64
) -> MixtureParameters:
    """Return mixtures with full covariances of moderate condition."""
    dim = horizon * dim_act
    factor = 0.3 * torch.randn(batch, n_experts, dim, dim, dtype=dtype)
    diagonal = 0.5 + torch.rand(batch, n_experts, dim, dtype=dtype)
    return MixtureParameters(
        torch.randn(batch, n_experts, dtype=dtype),
        torch.randn(batch, n_experts, horizon, dim_act, dtype=dtype),
        Triangular.full(torch.tril(factor, -1) + torch.diag_embed(diagonal)),
    )


def random_covariance(
    kind: CovarianceKind, batch: int, n_experts: int, *, dim: int, size: int
) -> Covariance:
    """Return covariances of a form; ``size`` is that of the blocks, or the rank."""
    lead = (batch, n_experts)
    scale = 0.5 + torch.rand(*lead, dim, dtype=torch.float64)
    if kind == "diag":
        return Diagonal(scale)
    if kind == "lowrank":
        return LowRank(scale**2, 0.5 * torch.randn(*lead, dim, size, dtype=torch.float64))
    size = dim if kind == "full" else size
    free = 0.3 * torch.randn(*lead, dim // size, size, size, dtype=torch.float64)
    diagonal = torch.diag_embed(scale.view(*lead, dim // size, size))
    return Triangular(torch.tril(free, -1) + diagonal)
