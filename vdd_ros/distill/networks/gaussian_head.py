r"""From features to the means and Cholesky factors of K Gaussian experts.

A free vector becomes a lower triangular matrix (`fill_triangular`) whose diagonal is made positive
by :math:`\mathrm{softplus}(x + \mathrm{softplus}^{-1}(s_0 - s_{min})) + s_{min}`: at x = 0 every
standard deviation is :math:`s_0`, and none falls below :math:`s_{min}` (Zhou et al., 2024, and the
reference implementation). The off-diagonal entries are free.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vdd_ros.core.errors import VddError

CovarianceKind = Literal["full", "diag"]


def triangular_index(dim: int) -> Int[Tensor, "D D"]:
    """Return for each cell of a D x D matrix the entry of the free vector that fills it.

    The order is the clockwise spiral of TensorFlow Probability's ``fill_triangular``: the vector
    without its first D entries, followed by the whole vector reversed, row by row. On and below
    the diagonal every entry of the vector appears exactly once.
    """
    count = dim * (dim + 1) // 2
    forward = torch.arange(count)
    return torch.cat([forward[dim:], forward.flip(0)]).view(dim, dim)


def fill_triangular(free: Float[Tensor, "*B M"], dim: int) -> Float[Tensor, "*B D D"]:
    """Arrange M = D (D + 1) / 2 free values as a lower triangular matrix."""
    return torch.tril(free[..., triangular_index(dim).to(free.device)])


class GaussianHead(nn.Module):
    """Two linear maps from features to K means and K Cholesky factors of D dimensions.

    Both start near zero (orthogonal, gain 0.01), so that every state begins with the experts that
    the biases name: set them with `set_means`.

    Args:
        dim_in: length of the features.
        n_experts: K.
        dim: D.
        covariance: ``full`` or ``diag``.
        init_std: standard deviation of every component at the start.
        min_std: lower bound of the diagonal of the factor.

    Raises:
        VddError: unknown covariance, or not 0 < min_std < init_std.
    """

    def __init__(
        self,
        *,
        dim_in: int,
        n_experts: int,
        dim: int,
        covariance: CovarianceKind,
        init_std: float,
        min_std: float,
    ) -> None:
        super().__init__()
        if covariance not in ("full", "diag"):
            raise VddError(f"covariance: got '{covariance}', expected 'full' or 'diag'")
        if not 0 < min_std < init_std:
            raise VddError(
                f"min_std {min_std} and init_std {init_std}: expected 0 < min_std < init_std"
            )
        self.n_experts, self.dim, self.covariance = n_experts, dim, covariance
        self.min_std = min_std
        self.shift = math.log(math.expm1(init_std - min_std))
        n_free = dim * (dim + 1) // 2 if covariance == "full" else dim
        self.mean = nn.Linear(dim_in, n_experts * dim)
        self.free = nn.Linear(dim_in, n_experts * n_free)
        for layer in (self.mean, self.free):
            nn.init.orthogonal_(layer.weight, gain=0.01)
            nn.init.zeros_(layer.bias)

    def set_means(self, means: Float[Tensor, "K D"]) -> None:
        """Start every expert at the given mean, for every state."""
        with torch.no_grad():
            self.mean.bias.copy_(means.reshape(-1))

    def means(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B K D"]:
        """Return the experts' means."""
        return self.mean(features).view(-1, self.n_experts, self.dim)

    def scale_tril(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B K D D"]:
        """Return the experts' lower Cholesky factors."""
        free = self.free(features).view(features.shape[0], self.n_experts, -1)
        if self.covariance == "diag":
            return torch.diag_embed(self._positive(free))
        filled = fill_triangular(free, self.dim)
        diagonal = self._positive(torch.diagonal(filled, dim1=-2, dim2=-1))
        return torch.tril(filled, diagonal=-1) + torch.diag_embed(diagonal)

    def forward(
        self, features: Float[Tensor, "B F"]
    ) -> tuple[Float[Tensor, "B K D"], Float[Tensor, "B K D D"]]:
        """Return means and Cholesky factors."""
        return self.means(features), self.scale_tril(features)

    def _positive(self, free: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return functional.softplus(free + self.shift) + self.min_std
