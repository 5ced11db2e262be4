"""What a network is told about noise levels: the level itself and a few waves of it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Half turns per unit. Levels span about one unit, so the fastest wave turns a few times over it:
# enough to tell levels apart, and smooth between the levels of a discrete-time model.
_FREQUENCIES = (1.0, 2.0, 4.0, 8.0)


class LevelFeatures(nn.Module):
    """Each level becomes itself, four sines and four cosines. Has no weights."""

    frequencies: Tensor

    def __init__(self, n_levels: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.tensor(_FREQUENCIES), persistent=False)
        self.dim = n_levels * (1 + 2 * len(_FREQUENCIES))
        """Length of the features."""

    def forward(self, levels: Float[Tensor, "B L"]) -> Float[Tensor, "B F"]:
        """Return the features of all levels, one after the other."""
        features = []
        for index in range(levels.shape[-1]):
            column = levels[:, index : index + 1]
            phase = column * math.pi * self.frequencies
            features += [column, torch.sin(phase), torch.cos(phase)]
        return torch.cat(features, dim=-1)
