r"""A stack of pre-LayerNorm transformer blocks, the trunk BESO and VDD use.

The shape is GPT-2's (Radford et al., 2019) as D3IL and BESO (Reuss et al., 2023) configure it:
learned positions that start at zero, pre-LayerNorm blocks, GELU, four times the width inside.

A condition may scale and shift what every half of a block reads, after its LayerNorm, as in DiT's
adaptive LayerNorm (Peebles and Xie, 2023, "Scalable Diffusion Models with Transformers"; here
without their gates on the residual updates).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vdd_ros.core.errors import VddError
from vdd_ros.distill.networks.film import Film


class Block(nn.Module):
    r"""One block: :math:`x + \mathrm{attn}(\mathrm{ln}(x))`, then the same with a small MLP.

    Args:
        width: length of a token.
        n_heads: attention heads; divides the width.
        dropout_attention: dropout of the attention weights.
        dropout_residual: dropout of what each half adds to the residual stream.
        causal: a token sees itself and what came before it.
        dim_condition: length of the condition that modulates the block; 0 for none.
    """

    def __init__(
        self,
        *,
        width: int,
        n_heads: int,
        dropout_attention: float,
        dropout_residual: float,
        causal: bool,
        dim_condition: int = 0,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.causal = causal
        self.dropout_attention = dropout_attention
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout_residual)
        self.film_attention = Film(dim_condition, width) if dim_condition else None
        self.film_mlp = Film(dim_condition, width) if dim_condition else None

    def forward(
        self, x: Float[Tensor, "B N W"], condition: Float[Tensor, "B C"] | None = None
    ) -> Float[Tensor, "B N W"]:
        """Return the tokens after attention and MLP."""
        read = _modulate(self.norm_attention(x), self.film_attention, condition)
        x = x + self.dropout(self._attend(read))
        read = _modulate(self.norm_mlp(x), self.film_mlp, condition)
        return x + self.dropout(self.contract(functional.gelu(self.expand(read))))

    def _attend(self, x: Float[Tensor, "B N W"]) -> Float[Tensor, "B N W"]:
        batch, tokens, width = x.shape
        heads = self.query_key_value(x).view(batch, tokens, 3, self.n_heads, width // self.n_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            is_causal=self.causal,
            dropout_p=self.dropout_attention if self.training else 0.0,
        )
        return self.project(mixed.transpose(1, 2).reshape(batch, tokens, width))


def _modulate(
    x: Float[Tensor, "B N W"], film: Film | None, condition: Float[Tensor, "B C"] | None
) -> Float[Tensor, "B N W"]:
    """Scale and shift all tokens of a sample alike, where there is a condition."""
    if film is None or condition is None:
        return x
    scale, shift = film(condition)
    return scale[:, None] * x + shift[:, None]


class Transformer(nn.Module):
    """``depth`` blocks with learned positions over a fixed number of tokens.

    Args:
        n_tokens: number of tokens.
        width: length of a token.
        depth: number of blocks.
        n_heads: attention heads.
        dropout_attention: dropout of the attention weights.
        dropout_residual: dropout of embeddings and residual updates.
        causal: a token sees only itself and what came before it.
        dim_condition: length of the condition that modulates every block; 0 for none.
        one_place: index of a token that shares the position of the one before it; 0 for none.

    Raises:
        VddError: the heads do not divide the width.
    """

    def __init__(
        self,
        *,
        n_tokens: int,
        width: int,
        depth: int,
        n_heads: int,
        dropout_attention: float = 0.0,
        dropout_residual: float = 0.0,
        causal: bool = True,
        dim_condition: int = 0,
        one_place: int = 0,
    ) -> None:
        super().__init__()
        if width % n_heads:
            raise VddError(
                f"transformer: width {width} is not a multiple of n_heads {n_heads}; choose a "
                "width that the heads divide"
            )
        self.one_place = one_place
        self.position = nn.Parameter(torch.zeros(1, n_tokens - bool(one_place), width))
        self.dropout = nn.Dropout(dropout_residual)
        self.blocks = nn.ModuleList(
            Block(
                width=width,
                n_heads=n_heads,
                dropout_attention=dropout_attention,
                dropout_residual=dropout_residual,
                causal=causal,
                dim_condition=dim_condition,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, tokens: Float[Tensor, "B N W"], condition: Float[Tensor, "B C"] | None = None
    ) -> Float[Tensor, "B N W"]:
        """Return the tokens after all blocks and the final LayerNorm."""
        x = self.dropout(tokens + self._positions())
        for block in self.blocks:
            x = block(x, condition)
        return self.norm(x)

    def _positions(self) -> Float[Tensor, "1 N W"]:
        if not self.one_place:
            return self.position
        before = self.position[:, : self.one_place]
        return torch.cat([before, self.position[:, self.one_place - 1 :]], dim=1)


def initialise_like_gpt(module: nn.Module) -> None:
    """Give linear layers N(0, 0.02^2) weights and zero biases, in place (Radford et al., 2019)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
