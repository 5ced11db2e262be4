r"""Networks that look at a noisy action chunk: F(x, levels, obs), one output per entry of x.

What is behind every teacher and behind the consistency models. They differ in what F means (noise,
clean action, EDM's unit-variance target) and in how many noise levels it is told: one for a
denoiser, two for a model that jumps from one level to another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vdd_ros.core.errors import VddError
from vdd_ros.distill.networks.mlp import Mlp
from vdd_ros.distill.networks.transformer import Transformer, initialise_like_gpt
from vdd_ros.distill.student import Backbone

# Frequencies of a level that the multilayer perceptron sees. Levels are log sigma / 4, whose
# useful range spans about one unit, so the highest turns a few times over it.
_FREQUENCIES = (1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class DenoisingShape:
    """Shape of a denoising network; the fields mean what they mean in a teacher's settings."""

    n_obs_steps: int
    """Observations in the window."""
    horizon: int
    """Actions in the chunk."""
    backbone: Backbone
    """Kind of network."""
    width: int
    """Hidden units, or length of a token."""
    depth: int
    """Hidden layers, or blocks."""
    n_heads: int
    """transformer: attention heads."""
    dropout_attention: float
    """transformer: dropout of attention weights."""
    dropout: float
    """transformer: dropout of embeddings and residual updates."""
    n_levels: int = 1
    """Noise levels the network is told."""


def make_denoising_network(shape: DenoisingShape, *, dim_obs: int, dim_act: int) -> nn.Module:
    """Build F: (x [B, H, A], levels [#B, L], obs [B, T, O]) -> [B, H, A].

    Raises:
        VddError: unknown backbone.
    """
    if shape.backbone == "mlp":
        return _MlpBackbone(shape, dim_obs, dim_act)
    if shape.backbone == "transformer":
        return _TransformerBackbone(shape, dim_obs, dim_act)
    raise VddError(f"backbone: got '{shape.backbone}', expected 'mlp' or 'transformer'")


class _MlpBackbone(nn.Module):
    """F as a multilayer perceptron over [x, window, features of the levels]."""

    frequencies: Tensor

    def __init__(self, shape: DenoisingShape, dim_obs: int, dim_act: int) -> None:
        super().__init__()
        dim = shape.horizon * dim_act
        self.register_buffer("frequencies", torch.tensor(_FREQUENCIES), persistent=False)
        self.mlp = Mlp(
            dim + shape.n_obs_steps * dim_obs + shape.n_levels * (1 + 2 * len(_FREQUENCIES)),
            dim,
            width=shape.width,
            depth=shape.depth,
        )
        # F starts at zero, so an EDM denoiser starts as the best linear one.
        for parameter in self.mlp.output.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        x: Float[Tensor, "B H A"],
        levels: Float[Tensor, "#B L"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        # Shapes by .shape, not len(): len() would freeze the batch of an exported graph.
        features = [
            torch.cat([column, torch.sin(phase), torch.cos(phase)], dim=-1)
            for column in levels.split(1, dim=-1)
            for phase in [column * math.pi * self.frequencies]
        ]
        told = torch.cat(features, dim=-1).expand(x.shape[0], -1)
        return self.mlp(torch.cat([x.flatten(1), obs.flatten(1), told], dim=-1)).view_as(x)


class _TransformerBackbone(nn.Module):
    """F as a transformer over the tokens [levels, s_1..s_T, x_1..x_H], reading the action slots.

    Nothing is hidden from anything: the window is history and the chunk is denoised as a whole,
    so every token may attend to all. The published causal mask serves a window of actions in
    which later ones are not yet known.
    """

    def __init__(self, shape: DenoisingShape, dim_obs: int, dim_act: int) -> None:
        super().__init__()
        self.horizon = shape.horizon
        self.embed_sigma = nn.Linear(shape.n_levels, shape.width)
        self.embed_obs = nn.Linear(dim_obs, shape.width)
        self.embed_action = nn.Linear(dim_act, shape.width)
        self.trunk = Transformer(
            n_tokens=1 + shape.n_obs_steps + shape.horizon,
            width=shape.width,
            depth=shape.depth,
            n_heads=shape.n_heads,
            dropout_attention=shape.dropout_attention,
            dropout_residual=shape.dropout,
            causal=False,
        )
        initialise_like_gpt(self.trunk)
        self.output = nn.Linear(shape.width, dim_act)

    def forward(
        self,
        x: Float[Tensor, "B H A"],
        levels: Float[Tensor, "#B L"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        tokens = [
            self.embed_sigma(levels)[:, None].expand(x.shape[0], -1, -1),
            self.embed_obs(obs),
            self.embed_action(x),
        ]
        return self.output(self.trunk(torch.cat(tokens, dim=1))[:, -self.horizon :])
