r"""Covariances of Gaussian experts, each in the form that makes its algebra cheap.

An action chunk has D = horizon * dim_act components. A dense Cholesky factor costs
:math:`O(D^2)` per action and expert, whatever is in it; a chunk of 16 steps wants structure:

============  =============================================  ====================
kind          :math:`\Sigma`                                 cost per action
============  =============================================  ====================
`Diagonal`    :math:`\mathrm{diag}(s^2)`                     D
`Triangular`  N blocks :math:`L_n L_n^T` of M dimensions     N M^2
              (N = 1: full; M = dim_act: one per time step)
`LowRank`     :math:`\mathrm{diag}(d) + W W^T`, rank r       D r
============  =============================================  ====================

All speak one small interface. Shapes: B states, S actions per state, K experts (or the M drawn
ones), D dimensions; a covariance has the leading shape [B, K].

A difference d is *whitened* to w such that `square` (w) is the Mahalanobis distance
:math:`d^T \Sigma^{-1} d`; `whiten_transposed` completes :math:`\Sigma^{-1} d`. In between the
mixture weighs w, which is all that its score needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vdd_ros.distill.mixtures.small_matrices import (
    SMALL,
    backward_substitution,
    cholesky,
    forward_substitution,
    of_eigenvalues,
)

Self = TypeVar("Self", bound="Covariance")


class Covariance(ABC):
    """Positive definite matrices [B, K, D, D] in factored form. All fields are tensors."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """D."""

    @property
    def n_noise(self) -> int:
        """Standard normal numbers that one sample takes."""
        return self.dim

    @abstractmethod
    def whiten(self, difference: Float[Tensor, "B S K D"]) -> Float[Tensor, "B S K E"]:
        """Return coordinates whose `square` is the Mahalanobis distance."""

    def square(self, whitened: Float[Tensor, "B S K E"]) -> Float[Tensor, "B S K"]:
        r"""Return :math:`d^T \Sigma^{-1} d` of a whitened difference."""
        return whitened.square().sum(-1)

    @abstractmethod
    def whiten_transposed(self, whitened: Float[Tensor, "B S K E"]) -> Float[Tensor, "B S K D"]:
        r"""Return :math:`\Sigma^{-1} d` of a whitened difference; linear in it."""

    @abstractmethod
    def half_log_det(self) -> Float[Tensor, "B K"]:
        r"""Return :math:`\frac{1}{2} \log\det\Sigma`."""

    @abstractmethod
    def color(self, noise: Float[Tensor, "B K S E"]) -> Float[Tensor, "B K S D"]:
        """Turn standard normal noise (E = `n_noise`) into draws from N(0, Sigma)."""

    @abstractmethod
    def times(self, vector: Float[Tensor, "B K S D"]) -> Float[Tensor, "B K S D"]:
        r"""Return :math:`\Sigma v`."""

    @abstractmethod
    def diffuse(self: Self, sigma: Float[Tensor, " B"]) -> Self:
        r"""Return :math:`\Sigma + \sigma^2 I` in the same form, one sigma per state."""

    @abstractmethod
    def deblur(self: Self, sigma: float, min_std: float) -> Self:
        r"""Return :math:`\max(\Sigma - \sigma^2 I, s_{min}^2 I)`, the maximum over eigenvalues.

        A student that was judged by the teacher's score at noise level sigma ends at
        :math:`\Sigma_\pi + \sigma^2 I`; this is the way back.
        """

    @abstractmethod
    def marginal(self: Self, n_dims: int) -> Self:
        """Return the covariance of the first ``n_dims`` components."""

    @abstractmethod
    def stretch(self: Self, scale: Float[Tensor, " D"]) -> Self:
        """Return the covariance of the components multiplied by ``scale``, which is positive."""

    @abstractmethod
    def cholesky(self) -> Float[Tensor, "B K D D"]:
        """Return the dense lower Cholesky factor, in operations that ONNX knows."""

    def dense(self) -> Float[Tensor, "B K D D"]:
        """Return the covariance as a matrix."""
        factor = self.cholesky()
        return factor @ factor.mT

    def map(self: Self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return the same covariance with a function applied to every tensor of it."""
        return type(self)(*(function(getattr(self, field.name)) for field in fields(self)))  # type: ignore[arg-type]

    def detach(self: Self) -> Self:
        """Return the same covariance as a constant."""
        return self.map(Tensor.detach)

    def select(self: Self, experts: Int[Tensor, "B M"]) -> Self:
        """Return the covariances of the chosen experts, [B, M]."""
        rows = torch.arange(len(experts))[:, None]
        return self.map(lambda part: part[rows, experts])


@dataclass(frozen=True, eq=False)
class Diagonal(Covariance):
    """Independent components."""

    scale: Float[Tensor, "B K D"]
    """Standard deviations."""

    @property
    def dim(self) -> int:
        """D."""
        return self.scale.shape[-1]

    @cached_property
    def _inverse_scale(self) -> Float[Tensor, "B K D"]:
        # Divided once per expert, not per action: a quotient's gradient costs three divisions.
        return self.scale.reciprocal()

    def whiten(self, difference: Float[Tensor, "B S K D"]) -> Float[Tensor, "B S K D"]:
        """Divide by the standard deviations."""
        return difference * self._inverse_scale[:, None]

    def whiten_transposed(self, whitened: Float[Tensor, "B S K D"]) -> Float[Tensor, "B S K D"]:
        """Divide by the standard deviations once more."""
        return whitened * self._inverse_scale[:, None]

    def half_log_det(self) -> Float[Tensor, "B K"]:
        """Return the sum of the logarithms of the standard deviations."""
        return self.scale.log().sum(-1)

    def color(self, noise: Float[Tensor, "B K S D"]) -> Float[Tensor, "B K S D"]:
        """Multiply by the standard deviations."""
        return self.scale[:, :, None] * noise

    def times(self, vector: Float[Tensor, "B K S D"]) -> Float[Tensor, "B K S D"]:
        """Multiply by the variances."""
        return self.scale.square()[:, :, None] * vector

    def diffuse(self, sigma: Float[Tensor, " B"]) -> Diagonal:
        """Add variances."""
        return Diagonal((self.scale.square() + sigma.square()[:, None, None]).sqrt())

    def deblur(self, sigma: float, min_std: float) -> Diagonal:
        """Subtract variances."""
        return Diagonal((self.scale.square() - sigma**2).clamp(min=min_std**2).sqrt())

    def marginal(self, n_dims: int) -> Diagonal:
        """Take the first components."""
        return Diagonal(self.scale[..., :n_dims])

    def stretch(self, scale: Float[Tensor, " D"]) -> Diagonal:
        """Stretch the standard deviations."""
        return Diagonal(self.scale * scale)

    def cholesky(self) -> Float[Tensor, "B K D D"]:
        """Return the standard deviations on a diagonal."""
        return torch.diag_embed(self.scale)


@dataclass(frozen=True, eq=False)
class Triangular(Covariance):
    """N independent blocks of M = D / N components, each with its Cholesky factor."""

    blocks: Float[Tensor, "B K N M M"]
    """Lower Cholesky factors."""

    @staticmethod
    def full(scale_tril: Float[Tensor, "B K D D"]) -> Triangular:
        """Return the covariance of one dense Cholesky factor."""
        return Triangular(scale_tril[:, :, None])

    @property
    def dim(self) -> int:
        """D."""
        return self.blocks.shape[-3] * self.blocks.shape[-1]

    def whiten(self, difference: Float[Tensor, "B S K D"]) -> Float[Tensor, "B S K D"]:
        r"""Return :math:`L^{-1} d`, block by block."""
        return self._solve(difference, forward_substitution)

    def whiten_transposed(self, whitened: Float[Tensor, "B S K D"]) -> Float[Tensor, "B S K D"]:
        r"""Return :math:`L^{-T} w`, block by block."""
        return self._solve(whitened, backward_substitution)

    def half_log_det(self) -> Float[Tensor, "B K"]:
        """Return the sum of the logarithms of the factors' diagonals."""
        return torch.diagonal(self.blocks, dim1=-2, dim2=-1).flatten(2).log().sum(-1)

    def color(self, noise: Float[Tensor, "B K S D"]) -> Float[Tensor, "B K S D"]:
        r"""Return :math:`L \epsilon`."""
        return self._apply(self.blocks, noise)

    def times(self, vector: Float[Tensor, "B K S D"]) -> Float[Tensor, "B K S D"]:
        r"""Return :math:`L L^T v`."""
        return self._apply(self.blocks @ self.blocks.mT, vector)

    def diffuse(self, sigma: Float[Tensor, " B"]) -> Triangular:
        """Add to the blocks' diagonals and factorise again."""
        eye = torch.eye(self.blocks.shape[-1], dtype=self.blocks.dtype)
        wider = self.blocks @ self.blocks.mT + sigma.square()[:, None, None, None, None] * eye
        return Triangular(cholesky(wider))

    def deblur(self, sigma: float, min_std: float) -> Triangular:
        """Subtract from the blocks' eigenvalues and factorise again."""
        covariance = self.blocks @ self.blocks.mT
        return Triangular(
            cholesky(of_eigenvalues(covariance, lambda v: (v - sigma**2).clamp(min=min_std**2)))
        )

    def marginal(self, n_dims: int) -> Triangular:
        """Take the leading part: that of a Cholesky factor is the factor of the leading part."""
        size = self.blocks.shape[-1]
        if self.blocks.shape[-3] == 1:
            return Triangular(self.blocks[..., :n_dims, :n_dims])
        if n_dims % size:
            raise ValueError(f"got {n_dims} components, expected a multiple of the block's {size}")
        return Triangular(self.blocks[..., : n_dims // size, :, :])

    def stretch(self, scale: Float[Tensor, " D"]) -> Triangular:
        """Stretch the factors' rows."""
        return Triangular(scale.view(self.blocks.shape[-3], -1, 1) * self.blocks)

    def cholesky(self) -> Float[Tensor, "B K D D"]:
        """Return the blocks along the diagonal."""
        n, size = self.blocks.shape[-3:-1]
        if n == 1:
            return self.blocks[:, :, 0]
        eye = torch.eye(n, dtype=self.blocks.dtype)
        # [B, K, N, M, N', M]: block n stands where n = n'.
        spread = self.blocks[:, :, :, :, None, :] * eye[:, None, :, None]
        return spread.reshape(*self.blocks.shape[:2], n * size, n * size)

    def _solve(
        self, right: Tensor, substitution: Callable[[Tensor, Tensor], list[Tensor]]
    ) -> Tensor:
        n, size = self.blocks.shape[-3:-1]
        split = right.unflatten(-1, (n, size))
        if size <= SMALL:
            return torch.stack(substitution(self.blocks[:, None], split), dim=-1).flatten(-2)
        upper = substitution is backward_substitution
        columns = torch.linalg.solve_triangular(
            self.blocks.mT if upper else self.blocks, split.permute(0, 2, 3, 4, 1), upper=upper
        )
        return columns.permute(0, 4, 1, 2, 3).flatten(-2)

    def _apply(self, matrix: Float[Tensor, "B K N M M"], vector: Tensor) -> Tensor:
        n, size = matrix.shape[-3:-1]
        if n == 1:
            return torch.einsum("bkij,bksj->bksi", matrix[:, :, 0], vector)
        split = vector.unflatten(-1, (n, size))
        return torch.einsum("bknij,bksnj->bksni", matrix, split).flatten(-2)
