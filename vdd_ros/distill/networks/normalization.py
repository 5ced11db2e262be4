"""The core `Normalizer` as a torch module, so that it is saved and exported with its network."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vdd_ros.core.normalizer import Normalizer


class Affine(nn.Module):
    """``normalized = (raw - offset) / scale`` over the last axis, and back."""

    offset: Tensor
    scale: Tensor

    def __init__(self, dim: int, normalizer: Normalizer | None = None) -> None:
        """Take the values of ``normalizer``, or the identity until weights are loaded."""
        super().__init__()
        self.register_buffer("offset", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        if normalizer is not None:
            self.offset.copy_(torch.as_tensor(normalizer.offset))
            self.scale.copy_(torch.as_tensor(normalizer.scale))

    def normalize(self, raw: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Map raw units to the unit scale."""
        return (raw - self.offset) / self.scale

    def unnormalize(self, normalized: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Map the unit scale back to raw units."""
        return normalized * self.scale + self.offset
