"""Normalizer: raw units to the unit scale networks learn on, and back.

``normalized = (raw - offset) / scale``, elementwise. Three ways to fit it, as LeRobot and
diffusion_policy name them: ``min_max`` maps the data to [-1, 1], ``mean_std`` to zero mean and
unit deviation, ``identity`` leaves it alone. A constant column gets scale 1: it becomes 0 and
carries no information, instead of a division by nearly nothing that turns sensor noise into
huge inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError

NormalizerKind = Literal["min_max", "mean_std", "identity"]

# Below this spread (relative to the magnitude of the data) a column is constant: float32 cannot
# tell its values apart reliably.
_CONSTANT = 1e-6


@dataclass(frozen=True)
class Normalizer:
    """Affine map of the last axis; ``offset`` and ``scale`` have shape [D]."""

    offset: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def fit(cls, data: NDArray[np.floating], kind: NormalizerKind) -> Normalizer:
        """Fit to rows of data [N, D].

        Raises:
            VddError: no rows, non-finite values or an unknown kind.
        """
        if data.ndim != 2 or len(data) == 0:
            raise VddError(f"normalizer: got data of shape {data.shape}, expected [N > 0, D]")
        if not np.isfinite(data).all():
            row, column = np.argwhere(~np.isfinite(data))[0]
            raise VddError(f"normalizer: value at row {row}, column {column} is not finite")
        wide = data.astype(np.float64)
        if kind == "min_max":
            low, high = wide.min(axis=0), wide.max(axis=0)
            offset, scale = (low + high) / 2, (high - low) / 2
        elif kind == "mean_std":
            offset, scale = wide.mean(axis=0), wide.std(axis=0)
        elif kind == "identity":
            offset, scale = np.zeros(wide.shape[1]), np.ones(wide.shape[1])
        else:
            raise VddError(
                f"normalizer: unknown kind '{kind}'; known: min_max, mean_std, identity"
            )
        constant = scale <= _CONSTANT * np.maximum(np.abs(offset), 1e-6)
        scale = np.where(constant, 1.0, scale)
        return cls(offset.astype(np.float32), scale.astype(np.float32))

    def normalize(self, raw: NDArray[np.floating]) -> NDArray[np.float32]:
        """Map raw units [..., D] to the unit scale."""
        return ((raw - self.offset) / self.scale).astype(np.float32)

    def unnormalize(self, normalized: NDArray[np.floating]) -> NDArray[np.float32]:
        """Map the unit scale [..., D] back to raw units."""
        return (normalized * self.scale + self.offset).astype(np.float32)
