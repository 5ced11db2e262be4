r"""Random Fourier features of an observation window: letting a small network see fine detail.

Tancik et al., 2020, "Fourier Features Let Networks Learn High Frequency Functions in Low
Dimensional Domains", equation 4: beside x the network is given :math:`\sin(W x)` and
:math:`\cos(W x)` with a fixed random W. A multilayer perceptron alone learns a function of a few
coordinates from its low frequencies upwards and needs very long for what happens within
centimetres, as the choice of a way between two obstacles does.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class FourierFeatures(nn.Module):
    """Append ``n`` sines and cosines of random projections; none for n = 0.

    Args:
        dim_in: length of the input.
        n: random projections.
        scale: their standard deviation in radians per unit of the normalised input. A wavelength
            is 2 pi / scale; much shorter ones than the data can support are noise to the network.
    """

    projection: Tensor

    def __init__(self, dim_in: int, n: int, *, scale: float) -> None:
        super().__init__()
        self.dim = dim_in + 2 * n
        self._n = n
        if n:
            # A buffer, kept with the weights: the same projections in training and in use.
            self.register_buffer("projection", scale * torch.randn(dim_in, n))

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B F"]:
        """Return [x, sin, cos]."""
        if not self._n:
            return x
        phase = x @ self.projection
        return torch.cat([x, torch.sin(phase), torch.cos(phase)], dim=-1)
