"""Exponential moving average of a network's weights: the weights that act."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    r"""Keeps :math:`\bar\theta \leftarrow d \bar\theta + (1 - d) \theta` of a module.

    The decay warms up as (1 + n) / (10 + n), so that short runs are not averages of their
    initialisation. Buffers are constants here (normalisers) and are shared through the copy.
    """

    def __init__(self, module: M, decay: float) -> None:
        """Start the average at the module's present weights."""
        self.decay = decay
        self.shadow: M = copy.deepcopy(module).requires_grad_(False).eval()
        self._source: list[torch.Tensor] = [p for p in module.parameters() if p.requires_grad]
        names = [n for n, p in module.named_parameters() if p.requires_grad]
        shadow = dict(self.shadow.named_parameters())
        self._target: list[torch.Tensor] = [shadow[name] for name in names]

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Move the average towards the module's weights after optimiser step ``iteration``."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(self._target, self._source, 1.0 - decay)
