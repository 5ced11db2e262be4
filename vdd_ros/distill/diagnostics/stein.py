r"""Kernel Stein discrepancy: how far samples are from a distribution known by its score alone.

For a diffusion teacher there is no density to compare with, but there is a score. With a kernel k
and :math:`s_p = \nabla \log p`,

.. math:: u_p(x, y) = s_p(x)^T s_p(y) k + s_p(x)^T \nabla_y k + s_p(y)^T \nabla_x k
          + \mathrm{tr} \nabla_x \nabla_y k,
          \qquad KSD^2(q, p) = E_{x, y \sim q}\, u_p(x, y)

is zero just when q = p (Liu, Lee and Jordan, 2016; Chwialkowski, Strathmann and Gretton, 2016).
The inverse multiquadric :math:`k = (c^2 + |x - y|^2)^\beta` with :math:`-1 < \beta < 0` also
notices samples that wander off, which Gaussian kernels do not (Gorham and Mackey, 2017).

A score sees the shape of a mode and not its weight: modes far apart may be weighted wrongly, or be
missing, at hardly any discrepancy. Read it beside the coverage.

Shapes: B states, S samples per state, D flattened chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.core.errors import VddError
from vdd_ros.distill.denoisers import Denoiser, score


@dataclass(frozen=True)
class SteinDiscrepancy:
    """Squared kernel Stein discrepancy, averaged over states."""

    u_statistic: float
    """Without the diagonal: unbiased, about 0 for exact samples, of either sign."""
    v_statistic: float
    """With the diagonal: never negative, biased by E u(x, x) / S."""
    self_term: float
    """E u(x, x): what samples that all sit on one spot would have; the scale to read it by."""
    standard_error: float
    """Of the U-statistic, from its spread over states; NaN for a single state."""


def stein_discrepancy(
    x: Float[Tensor, "B S D"],
    score_at_x: Float[Tensor, "B S D"],
    *,
    scale: float = 1.0,
    beta: float = -0.5,
) -> SteinDiscrepancy:
    """Return the discrepancy of samples from the distribution with these scores.

    Args:
        x: samples of the student.
        score_at_x: the teacher's score there.
        scale: c of the kernel, in normalised actions.
        beta: exponent of the kernel, in (-1, 0).

    Raises:
        VddError: fewer than two samples, or an unsuitable kernel.
    """
    if x.shape[1] < 2:
        raise VddError(f"Stein discrepancy: got {x.shape[1]} samples, expected at least 2")
    if not -1 < beta < 0 or scale <= 0:
        raise VddError(
            f"Stein discrepancy: got beta {beta} and scale {scale}, expected -1 < beta < 0 and "
            "a positive scale"
        )
    values = stein_kernel(x, score_at_x, scale=scale, beta=beta)
    n = x.shape[1]
    total, own = values.sum((1, 2)), torch.diagonal(values, dim1=1, dim2=2).sum(1)
    u = (total - own) / (n * (n - 1))
    return SteinDiscrepancy(
        u_statistic=float(u.mean()),
        v_statistic=float((total / n**2).mean()),
        self_term=float((own / n).mean()),
        standard_error=float(u.std() / len(u) ** 0.5) if len(u) > 1 else float("nan"),
    )


def stein_kernel(
    x: Float[Tensor, "B S D"],
    score_at_x: Float[Tensor, "B S D"],
    *,
    scale: float = 1.0,
    beta: float = -0.5,
) -> Float[Tensor, "B S S"]:
    r"""Return :math:`u_p` for all pairs, with the inverse multiquadric's derivatives by hand.

    With :math:`r = x - y` and :math:`w = c^2 + |r|^2`: :math:`\nabla_x k = 2 \beta w^{\beta - 1} r
    = -\nabla_y k` and :math:`\mathrm{tr} \nabla_x \nabla_y k = -2 \beta D w^{\beta - 1}
    - 4 \beta (\beta - 1) w^{\beta - 2} |r|^2`.
    """
    difference = x[:, :, None] - x[:, None]
    distance = difference.square().sum(-1)
    width = scale**2 + distance
    # s(x)^T grad_y k + s(y)^T grad_x k = -2 beta w^(beta-1) (s(x) - s(y))^T r
    gap = score_at_x[:, :, None] - score_at_x[:, None]
    slope = 2 * beta * width.pow(beta - 1)
    cross = -slope * (gap * difference).sum(-1)
    trace = -slope * x.shape[-1] - 4 * beta * (beta - 1) * width.pow(beta - 2) * distance
    return score_at_x @ score_at_x.mT * width.pow(beta) + cross + trace


@torch.no_grad()
def blurred_discrepancy(
    action: Float[Tensor, "B S D"],
    teacher: Denoiser,
    obs: Float[Tensor, "B T O"],
    chunk: tuple[int, int],
    *,
    sigma: float,
    generator: torch.Generator | None = None,
) -> SteinDiscrepancy:
    r"""Return the discrepancy of actions from a teacher, both blurred by sigma.

    A teacher knows the scores of :math:`p_\sigma = \pi * N(0, \sigma^2 I)` only. Blurring the
    samples alike keeps the discrepancy zero just when the two agree; without it samples of the
    teacher itself would be found too narrow. The kernel is as wide as the noise alone keeps two
    samples apart, :math:`\sigma \sqrt{2 D}`: wider, and it looks past the width of a mode.

    Args:
        action: samples of a student, or of the teacher for comparison; normalised.
        teacher: whose score counts.
        obs: normalised states.
        chunk: horizon and length of an action.
        sigma: noise level, one the teacher was trained at.
        generator: of the noise.
    """
    x = action + sigma * torch.randn(action.shape, generator=generator, dtype=action.dtype)
    rows, states = x.reshape(-1, *chunk), obs.repeat_interleave(action.shape[1], 0)
    slope = score(teacher, rows, x.new_full((len(rows),), sigma), states)
    width = sigma * (2 * x.shape[-1]) ** 0.5
    return stein_discrepancy(x, slope.reshape(x.shape), scale=width)
