r"""A multilayer perceptron whose layers are scaled and shifted by a condition (FiLM).

Perez et al., 2018, "FiLM: Visual Reasoning with a General Conditioning Layer", equation 2: a layer
h becomes :math:`(1 + \gamma(c)) h + \beta(c)`. Concatenated, a condition has to make its way
through a sum of inputs, in which a wide noisy action drowns a small difference between states;
here it turns every layer of the network into another one.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Film(nn.Module):
    """Scale and shift of ``width`` channels by a condition; starts as the identity."""

    def __init__(self, dim_condition: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.map = nn.Linear(dim_condition, 2 * width)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(
        self, condition: Float[Tensor, "B C"]
    ) -> tuple[Float[Tensor, "B W"], Float[Tensor, "B W"]]:
        """Return the factor and the shift."""
        both = self.map(condition)
        return 1 + both[:, : self.width], both[:, self.width :]


class Condition(nn.Module):
    """Two layers that turn raw conditions into features every `Film` reads."""

    def __init__(self, dim_in: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(dim_in, width), nn.Linear(width, width)

    def forward(self, raw: Float[Tensor, "B I"]) -> Float[Tensor, "B W"]:
        """Return the features."""
        return functional.silu(self.second(functional.silu(self.first(raw))))


class FilmMlp(nn.Module):
    """The residual `Mlp`, every layer modulated by a condition.

    Args:
        dim_in: length of the input.
        dim_out: length of the output.
        dim_condition: length of the condition.
        width: hidden units.
        depth: hidden layers, at least 1.
    """

    def __init__(
        self, dim_in: int, dim_out: int, *, dim_condition: int, width: int, depth: int
    ) -> None:
        super().__init__()
        self.condition = Condition(dim_condition, width)
        self.lift = nn.Linear(dim_in, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.films = nn.ModuleList(Film(width, width) for _ in range(depth))
        self.output = nn.Linear(width, dim_out)

    def forward(
        self, x: Float[Tensor, "B I"], condition: Float[Tensor, "B C"]
    ) -> Float[Tensor, "B O"]:
        """Map ``dim_in`` to ``dim_out`` under the condition."""
        features = self.condition(condition)
        h = self.lift(x)
        for film, layer in zip(self.films, [*self.hidden, None], strict=True):
            scale, shift = film(features)
            active = functional.silu(scale * h + shift)
            h = self.output(active) if layer is None else h + layer(active)
        return h
