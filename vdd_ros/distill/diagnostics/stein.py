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

The discrepancy has a unit of its own: it grows with the square of the scores, hence with 1 /
sigma^2, and with the narrowness of the teacher. So it is read between two yardsticks measured with
the same score at the same states: the teacher's own samples, and the same samples moved aside by a
distance that one knows (`compare_discrepancies`).

Shapes: B states, S samples per state, D flattened chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.core.errors import VddError
from vdd_ros.distill.denoisers import Denoiser, score

MOVED = 1 / 3
"""How far the second yardstick is moved, in units of sigma. A mode is at least as wide as sigma
once it is blurred, so such a student differs from its teacher by at most MOVED^2 / 2 = 1/18 nat.
The discrepancy of a width that is wrong by half comes out about as large: it notices
places better than widths, since samples on both sides of a mode cancel."""


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
    return _summary(*_statistics(x, score_at_x, scale=scale, beta=beta))


def _statistics(
    x: Float[Tensor, "B S D"],
    score_at_x: Float[Tensor, "B S D"],
    *,
    scale: float,
    beta: float = -0.5,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Return the U-statistic, the V-statistic and the mean self term of every state."""
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
    return (total - own) / (n * (n - 1)), total / n**2, own / n


def _summary(
    u: Float[Tensor, " B"], v: Float[Tensor, " B"], own: Float[Tensor, " B"]
) -> SteinDiscrepancy:
    return SteinDiscrepancy(
        u_statistic=float(u.mean()),
        v_statistic=float(v.mean()),
        self_term=float(own.mean()),
        standard_error=_standard_error(u),
    )


def _standard_error(value: Float[Tensor, " B"]) -> float:
    return float(value.std() / len(value) ** 0.5) if len(value) > 1 else float("nan")


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


@dataclass(frozen=True)
class SteinComparison:
    """A student's discrepancy at one noise level, between two yardsticks."""

    sigma: float
    """The noise level."""
    student: SteinDiscrepancy
    """Of the student's samples from the teacher."""
    teacher: SteinDiscrepancy
    """Of the teacher's own samples: what an exact student would have. About 0 where its sampler
    and its score agree."""
    moved: SteinDiscrepancy
    """Of the teacher's own samples, moved aside by a third of sigma, those of a state
    together and in a direction of its own: what is just tolerable."""
    excess: float
    """Student less teacher."""
    excess_error: float
    """Standard error of the excess. It is taken state by state, because the scale of the
    discrepancy differs more between states than student and teacher do; NaN for one state."""

    @property
    def tolerance(self) -> float:
        """How much of an excess the second yardstick has."""
        return max(self.moved.u_statistic - self.teacher.u_statistic, 0.0)


@torch.no_grad()
def compare_discrepancies(
    student: Float[Tensor, "B S D"],
    own: Float[Tensor, "B S D"],
    teacher: Denoiser,
    obs: Float[Tensor, "B T O"],
    chunk: tuple[int, int],
    *,
    sigma: float,
    generator: torch.Generator | None = None,
) -> SteinComparison:
    r"""Measure a student's samples beside the teacher's own, all blurred by the same noise.

    A teacher knows the scores of :math:`p_\sigma = \pi * N(0, \sigma^2 I)` only. Blurring the
    samples alike keeps the discrepancy zero just when the two agree; without it samples of the
    teacher itself would be found too narrow. The kernel is as wide as the noise alone keeps two
    samples apart, :math:`\sigma \sqrt{2 D}`: wider, and it looks past the width of a mode.

    Args:
        student: its samples, normalised.
        own: as many samples of the teacher.
        teacher: whose score counts.
        obs: normalised states.
        chunk: horizon and length of an action.
        sigma: noise level, one the teacher was trained at.
        generator: of the noise and of the directions.

    Raises:
        VddError: fewer than two samples per state.
    """
    noise = sigma * torch.randn(own.shape, generator=generator, dtype=own.dtype)
    aside = torch.randn(own[:, :1].shape, generator=generator, dtype=own.dtype)
    aside = MOVED * sigma * aside / aside.norm(dim=-1, keepdim=True)
    its, teachers, moved = (
        _blurred(action + noise, teacher, obs, chunk, sigma)
        for action in (student, own, own + aside)
    )
    excess = its[0] - teachers[0]
    return SteinComparison(
        sigma=sigma,
        student=_summary(*its),
        teacher=_summary(*teachers),
        moved=_summary(*moved),
        excess=float(excess.mean()),
        excess_error=_standard_error(excess),
    )


def _blurred(
    x: Float[Tensor, "B S D"],
    teacher: Denoiser,
    obs: Float[Tensor, "B T O"],
    chunk: tuple[int, int],
    sigma: float,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Return the statistics of samples that have been blurred, by the score at sigma."""
    rows, states = x.reshape(-1, *chunk), obs.repeat_interleave(x.shape[1], 0)
    slope = score(teacher, rows, x.new_full((len(rows),), sigma), states)
    return _statistics(x, slope.reshape(x.shape), scale=sigma * (2 * x.shape[-1]) ** 0.5)
