"""Linear algebra of many small matrices, written out where LAPACK is slow or ONNX has no name.

One LAPACK call per 2 x 2 matrix costs far more than the arithmetic in it, and the policy format
knows neither a Cholesky factorisation nor a triangular solve.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

# Up to here substitution written out row by row beats one LAPACK call per matrix (threefold for
# 2 x 2), and this is the innermost step of training.
SMALL = 4


def forward_substitution(
    factor: Float[Tensor, "*#B M M"], right: Float[Tensor, "*#B M"]
) -> list[Tensor]:
    r"""Return the components of :math:`L^{-1} d`, row by row."""
    rows: list[Tensor] = []
    for i in range(right.shape[-1]):
        rest = right[..., i]
        for j, known in enumerate(rows):
            rest = rest - factor[..., i, j] * known
        rows.append(rest / factor[..., i, i])
    return rows


def backward_substitution(
    factor: Float[Tensor, "*#B M M"], right: Float[Tensor, "*#B M"]
) -> list[Tensor]:
    r"""Return the components of :math:`L^{-T} w`."""
    rows: dict[int, Tensor] = {}
    for i in reversed(range(right.shape[-1])):
        rest = right[..., i]
        for j, known in rows.items():
            rest = rest - factor[..., j, i] * known
        rows[i] = rest / factor[..., i, i]
    return [rows[i] for i in range(right.shape[-1])]


def cholesky(matrix: Float[Tensor, "*B M M"]) -> Float[Tensor, "*B M M"]:
    """Return the lower Cholesky factor; written out where matrices are small."""
    if matrix.shape[-1] > SMALL:
        return torch.linalg.cholesky(matrix)
    return column_cholesky(matrix)


def column_cholesky(matrix: Float[Tensor, "*B M M"]) -> Float[Tensor, "*B M M"]:
    """Return the lower Cholesky factor by M rank-one updates, in elementary operations."""
    size, columns = matrix.shape[-1], []
    for j in range(size):
        column = matrix[..., 0] / matrix[..., :1, 0].sqrt()
        matrix = matrix[..., 1:, 1:] - column[..., 1:, None] * column[..., None, 1:]
        columns.append(torch.nn.functional.pad(column, (j, 0)))
    return torch.stack(columns, dim=-1)


def of_eigenvalues(
    matrix: Float[Tensor, "*B M M"], function: Callable[[Tensor], Tensor]
) -> Float[Tensor, "*B M M"]:
    """Apply a function to the eigenvalues of symmetric matrices; to 2 x 2 without LAPACK."""
    size = matrix.shape[-1]
    if size == 1:
        return function(matrix)
    if size > 2:
        values, vectors = torch.linalg.eigh(matrix)
        return vectors @ (function(values)[..., None] * vectors.mT)
    # f(A) = a I + b (A - m I) with a, b such that the eigenvalues m +- r map to f(m +- r).
    middle = (matrix[..., 0, 0] + matrix[..., 1, 1]) / 2
    half = (matrix[..., 0, 0] - matrix[..., 1, 1]) / 2
    radius = (half.square() + matrix[..., 1, 0].square()).sqrt()
    low, high = function(middle - radius), function(middle + radius)
    slope = (high - low) / (2 * radius).clamp(min=torch.finfo(radius.dtype).tiny)
    shift = (low + high) / 2 - slope * middle
    eye = torch.eye(2, dtype=matrix.dtype)
    return shift[..., None, None] * eye + slope[..., None, None] * matrix
