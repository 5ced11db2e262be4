r"""From features to the means and covariances of K Gaussian experts.

Free values become a covariance of the chosen kind (`covariance.py`): standard deviations, a lower
triangular factor (`fill_triangular`), one per time step, or deviations and r shared directions.
Deviations, and the factors' diagonals, are made positive by
:math:`\mathrm{softplus}(x + \mathrm{softplus}^{-1}(s_0 - s_{min})) + s_{min}`: at x = 0 every
standard deviation is :math:`s_0`, and none falls below :math:`s_{min}` (Zhou et al., 2024, and the
reference implementation). Everything else is free.
"""

from __future__ import annotations

import copy
import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.distill.mixtures.covariance import Covariance, Diagonal, Triangular
from vdd_ros.distill.mixtures.low_rank import LowRank

CovarianceKind = Literal["full", "diag", "block", "lowrank"]

# Standard deviation the shared directions of `lowrank` add at the start, relative to init_std. At
# zero their gradient would be zero, too.
_START_OF_DIRECTIONS = 0.2


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
    """Two linear maps from features to K means and K covariances of D dimensions.

    Both start near zero (orthogonal, gain 0.01), so that every state begins with the experts that
    the biases name: set them with `set_means`.

    Args:
        dim_in: length of the features.
        n_experts: K.
        dim: D.
        covariance: ``full``, ``diag``, ``block`` or ``lowrank``.
        init_std: standard deviation of every component at the start.
        min_std: lower bound of the deviations, and of the diagonals of the factors.
        block: ``block``: components per block; divides D.
        rank: ``lowrank``: shared directions.

    Raises:
        VddError: unknown covariance, not 0 < min_std < init_std, blocks that do not fit.
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
        block: int = 1,
        rank: int = 1,
    ) -> None:
        super().__init__()
        kinds = get_args(CovarianceKind)
        if covariance not in kinds:
            raise VddError(f"covariance: got '{covariance}'{did_you_mean(covariance, kinds)}")
        if not 0 < min_std < init_std:
            raise VddError(
                f"min_std {min_std} and init_std {init_std}: expected 0 < min_std < init_std"
            )
        if covariance == "block" and dim % block:
            raise VddError(f"block: got {block}, expected a divisor of {dim} components")
        self.n_experts, self.dim, self.kind = n_experts, dim, covariance
        self.min_std = min_std
        self.shift = math.log(math.expm1(init_std - min_std))
        self.block = dim if covariance == "full" else block
        n_free = dim
        if covariance in ("full", "block"):
            n_free = dim * (self.block + 1) // 2
        elif covariance == "lowrank":
            n_free = dim * (1 + rank)
        self.mean = nn.Linear(dim_in, n_experts * dim)
        self.free = nn.Linear(dim_in, n_experts * n_free)
        for layer in (self.mean, self.free):
            nn.init.orthogonal_(layer.weight, gain=0.01)
            nn.init.zeros_(layer.bias)
        if covariance == "lowrank":
            directions = self.free.bias.detach().view(n_experts, dim, 1 + rank)[..., 1:]
            nn.init.normal_(directions, std=_START_OF_DIRECTIONS * init_std / math.sqrt(rank))

    def set_means(self, means: Float[Tensor, "K D"]) -> None:
        """Start every expert at the given mean, for every state."""
        with torch.no_grad():
            self.mean.bias.copy_(means.reshape(-1))

    def means(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B K D"]:
        """Return the experts' means."""
        return self.mean(features).view(-1, self.n_experts, self.dim)

    def covariance(self, features: Float[Tensor, "B F"]) -> Covariance:
        """Return the experts' covariances [B, K]."""
        free = self.free(features).view(features.shape[0], self.n_experts, -1)
        if self.kind == "diag":
            return Diagonal(self._positive(free))
        if self.kind == "lowrank":
            split = free.unflatten(-1, (self.dim, -1))
            return LowRank(self._positive(split[..., 0]).square(), split[..., 1:])
        blocks = free.unflatten(-1, (self.dim // self.block, -1))
        filled = blocks[..., triangular_index(self.block)]
        diagonal = self._positive(torch.diagonal(filled, dim1=-2, dim2=-1))
        # A product with a mask: five times faster than tril of many small matrices.
        below = torch.ones(self.block, self.block, dtype=free.dtype).tril(-1)
        return Triangular(filled * below + torch.diag_embed(diagonal))

    def forward(self, features: Float[Tensor, "B F"]) -> tuple[Float[Tensor, "B K D"], Covariance]:
        """Return means and covariances."""
        return self.means(features), self.covariance(features)

    @torch.no_grad()
    def keep(self, experts: Int[Tensor, " M"]) -> GaussianHead:
        """Return a head of the named experts alone, with their weights."""
        head = copy.deepcopy(self)
        head.n_experts = len(experts)
        for name in ("mean", "free"):
            setattr(head, name, keep_rows(getattr(self, name), experts, self.n_experts))
        return head

    def _positive(self, free: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return functional.softplus(free + self.shift) + self.min_std


@torch.no_grad()
def keep_rows(layer: nn.Linear, kept: Int[Tensor, " M"], n_groups: int) -> nn.Linear:
    """Return a linear map with only the named ones of ``n_groups`` equal groups of outputs."""
    weight = layer.weight.view(n_groups, -1, layer.in_features)[kept].flatten(0, 1)
    smaller = nn.utils.skip_init(nn.Linear, layer.in_features, len(weight))
    smaller.weight.copy_(weight)
    smaller.bias.copy_(layer.bias.view(n_groups, -1)[kept].flatten())
    return smaller.requires_grad_(layer.weight.requires_grad)
