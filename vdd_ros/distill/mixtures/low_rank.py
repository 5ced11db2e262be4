r"""A covariance of independent noise and a few directions in which everything varies together.

What an action chunk needs: its steps are smooth, so most of its variance lies in a few ways to
bend the whole chunk. See `covariance.py` for the interface and for its sisters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.distill.mixtures.covariance import Covariance
from vdd_ros.distill.mixtures.small_matrices import (
    SMALL,
    cholesky,
    column_cholesky,
    forward_substitution,
)


@dataclass(frozen=True, eq=False)
class LowRank(Covariance):
    r"""Independent noise plus r shared directions: :math:`\mathrm{diag}(d) + W W^T`.

    With :math:`U = D^{-1/2} W` and the capacitance :math:`C = I + U^T U = L_C L_C^T`, the Woodbury
    identity gives :math:`\Sigma^{-1} = D^{-1/2} (I - V V^T) D^{-1/2}`, :math:`V = U L_C^{-T}`, and
    the matrix determinant lemma :math:`\det\Sigma = \det D \, \det C`. Nothing of D x D is made.

    A whitened difference has D + r coordinates, the last r of which count negative in `square`.
    """

    variance: Float[Tensor, "B K D"]
    """Variances d of the independent noise."""
    directions: Float[Tensor, "B K D R"]
    """The shared directions W, one per column."""

    @property
    def dim(self) -> int:
        """D."""
        return self.variance.shape[-1]

    @property
    def n_noise(self) -> int:
        """D + r."""
        return self.dim + self.directions.shape[-1]

    @cached_property
    def _inverse_scale(self) -> Float[Tensor, "B K D"]:
        return self.variance.rsqrt()

    @cached_property
    def _capacitance(self) -> tuple[Float[Tensor, "B K R R"], Float[Tensor, "B K D R"]]:
        """Return L_C and V."""
        scaled = self.directions * self._inverse_scale[..., None]
        rank = scaled.shape[-1]
        eye = torch.eye(rank, dtype=scaled.dtype)
        factor = cholesky(eye + scaled.mT @ scaled)
        if rank <= SMALL:
            columns = forward_substitution(factor[:, :, None], scaled)
            return factor, torch.stack(columns, dim=-1)
        return factor, torch.linalg.solve_triangular(factor, scaled.mT, upper=False).mT

    def whiten(self, difference: Float[Tensor, "B S K D"]) -> Float[Tensor, "B S K E"]:
        """Return D coordinates of the noise and r of the directions."""
        noise = difference * self._inverse_scale[:, None]
        shared = torch.einsum("bskd,bkdr->bskr", noise, self._capacitance[1])
        return torch.cat([noise, shared], dim=-1)

    def square(self, whitened: Float[Tensor, "B S K E"]) -> Float[Tensor, "B S K"]:
        """Subtract what the directions explain."""
        squares = whitened.square()
        return squares[..., : self.dim].sum(-1) - squares[..., self.dim :].sum(-1)

    def whiten_transposed(self, whitened: Float[Tensor, "B S K E"]) -> Float[Tensor, "B S K D"]:
        """Subtract what the directions explain, and scale."""
        shared = torch.einsum("bskr,bkdr->bskd", whitened[..., self.dim :], self._capacitance[1])
        return (whitened[..., : self.dim] - shared) * self._inverse_scale[:, None]

    def half_log_det(self) -> Float[Tensor, "B K"]:
        """Add those of the noise and of the capacitance."""
        factor = torch.diagonal(self._capacitance[0], dim1=-2, dim2=-1)
        return factor.log().sum(-1) - self._inverse_scale.log().sum(-1)

    def color(self, noise: Float[Tensor, "B K S E"]) -> Float[Tensor, "B K S D"]:
        r"""Return :math:`\sqrt{d} \epsilon + W \eta`."""
        own = self.variance.sqrt()[:, :, None] * noise[..., : self.dim]
        return own + torch.einsum("bkdr,bksr->bksd", self.directions, noise[..., self.dim :])

    def times(self, vector: Float[Tensor, "B K S D"]) -> Float[Tensor, "B K S D"]:
        r"""Return :math:`d v + W W^T v`."""
        along = torch.einsum("bkdr,bksd->bksr", self.directions, vector)
        shared = torch.einsum("bkdr,bksr->bksd", self.directions, along)
        return self.variance[:, :, None] * vector + shared

    def diffuse(self, sigma: Float[Tensor, " B"]) -> LowRank:
        """Add to the noise: the rank stays."""
        return LowRank(self.variance + sigma.square()[:, None, None], self.directions)

    def deblur(self, sigma: float, min_std: float) -> LowRank:
        """Subtract from the noise, and what it does not hold from the directions.

        Exact where the noise holds sigma^2 or is the same in all components; else each principal
        direction of W gives up the missing variance along itself, and the rank stays.
        """
        variance = (self.variance - sigma**2).clamp(min=min_std**2)
        missing = sigma**2 - (self.variance - variance)
        strength, rotation = torch.linalg.eigh(self.directions.mT @ self.directions)
        principal = self.directions @ rotation  # orthogonal columns of squared length `strength`
        strength = strength.clamp(min=torch.finfo(strength.dtype).tiny)
        along = (missing[..., None] * principal.square()).sum(-2) / strength
        kept = (1.0 - along / strength).clamp(min=0.0).sqrt()
        return LowRank(variance, principal * kept[..., None, :])

    def marginal(self, n_dims: int) -> LowRank:
        """Take the first components."""
        return LowRank(self.variance[..., :n_dims], self.directions[..., :n_dims, :])

    def stretch(self, scale: Float[Tensor, " D"]) -> LowRank:
        """Stretch noise and directions."""
        return LowRank(self.variance * scale.square(), self.directions * scale[:, None])

    def dense(self) -> Float[Tensor, "B K D D"]:
        """Return the covariance as a matrix."""
        return torch.diag_embed(self.variance) + self.directions @ self.directions.mT

    def cholesky(self) -> Float[Tensor, "B K D D"]:
        """Factorise the dense matrix column by column."""
        return column_cholesky(self.dense())
