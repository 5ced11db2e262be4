r"""Networks that look at a noisy action chunk: F(x, levels, obs), one output per entry of x.

What is behind every teacher and behind the consistency models. They differ in what F means (noise,
clean action, EDM's unit-variance target) and in how many noise levels it is told: one for a
denoiser, two for a model that jumps from one level to another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.distill.networks.film import Condition, Film, FilmMlp
from vdd_ros.distill.networks.fourier import FourierFeatures
from vdd_ros.distill.networks.levels import LevelFeatures
from vdd_ros.distill.networks.mlp import Mlp
from vdd_ros.distill.networks.transformer import Transformer, initialise_like_gpt
from vdd_ros.distill.networks.unet1d import Unet1d

DenoisingBackbone = Literal["mlp", "transformer", "unet"]
Conditioning = Literal["concat", "film"]
TokenLayout = Literal["full", "causal"]


@dataclass(frozen=True)
class DenoisingShape:
    """Shape of a denoising network; the fields mean what they mean in a teacher's settings."""

    n_obs_steps: int
    """Observations in the window."""
    horizon: int
    """Actions in the chunk."""
    backbone: DenoisingBackbone
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
    conditioning: Conditioning = "concat"
    """mlp, transformer: how window and levels act. A transformer has them as tokens either way."""
    n_frequencies: int = 0
    """Random Fourier features of the window; of each frame where frames are tokens."""
    frequency_scale: float = 1.5
    """Their scale."""
    down_dims: tuple[int, ...] = (64, 128, 256)
    """unet: channels per level."""
    kernel_size: int = 5
    """unet: steps a convolution sees."""
    n_groups: int = 8
    """unet: groups of the normalisation."""
    dim_goal: int = 0
    """transformer: trailing observation components that are the goal."""
    token_layout: TokenLayout = "full"
    """transformer: whether every token sees all others, or those before it (published)."""

    def check(self) -> None:
        """Check what belongs to the backbone.

        Raises:
            VddError: a shape that cannot be built.
        """
        known = ("mlp", "transformer", "unet")
        if self.backbone not in known:
            raise VddError(f"backbone: got '{self.backbone}'{did_you_mean(self.backbone, known)}")
        if self.conditioning not in ("concat", "film"):
            raise VddError(f"conditioning: got '{self.conditioning}', expected 'concat' or 'film'")
        if self.conditioning != "concat" and self.backbone == "unet":
            raise VddError(
                f"conditioning '{self.conditioning}' belongs to backbones 'mlp' and "
                "'transformer', got 'unet', which has no other; leave it out"
            )
        if self.n_frequencies < 0:
            raise VddError(f"n_frequencies: got {self.n_frequencies}, expected 0 or more")
        if not self.frequency_scale > 0:
            raise VddError(f"frequency_scale: got {self.frequency_scale}, expected above 0")
        if self.dim_goal < 0 or (self.dim_goal and self.backbone != "transformer"):
            raise VddError(
                f"dim_goal: got {self.dim_goal} with backbone '{self.backbone}'; expected 0, or "
                "the trailing goal components of the observation with backbone 'transformer'"
            )
        if self.token_layout not in ("full", "causal"):
            raise VddError(f"token_layout: got '{self.token_layout}', expected 'full' or 'causal'")
        if self.token_layout != "full" and self.backbone != "transformer":
            raise VddError(
                f"token_layout '{self.token_layout}' belongs to backbone 'transformer', got "
                f"'{self.backbone}'; leave it out"
            )
        if self.backbone == "unet":
            self._check_unet()

    def _check_unet(self) -> None:
        if not self.down_dims or min(self.down_dims) < 1 or self.n_groups < 1:
            raise VddError(
                f"down_dims {list(self.down_dims)} and n_groups {self.n_groups}: expected at "
                "least one level of at least 1 channel, and at least 1 group"
            )
        if any(channels % self.n_groups for channels in self.down_dims):
            raise VddError(
                f"down_dims {list(self.down_dims)}: n_groups {self.n_groups} does not divide all "
                "of them; choose multiples of it"
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise VddError(f"kernel_size: got {self.kernel_size}, expected an odd number")
        halvings = 2 ** (len(self.down_dims) - 1)
        if self.horizon % halvings:
            raise VddError(
                f"horizon: got {self.horizon}, but a unet of {len(self.down_dims)} levels halves "
                f"the chunk {len(self.down_dims) - 1} times; choose a multiple of {halvings}, or "
                "fewer entries in down_dims"
            )


def make_denoising_network(shape: DenoisingShape, *, dim_obs: int, dim_act: int) -> nn.Module:
    """Build F: (x [B, H, A], levels [#B, L], obs [B, T, O]) -> [B, H, A].

    Raises:
        VddError: a shape that cannot be built.
    """
    shape.check()
    if not shape.dim_goal < dim_obs:
        raise VddError(
            f"dim_goal: got {shape.dim_goal} of {dim_obs} observation components; expected fewer"
        )
    if shape.backbone == "unet":
        return _UnetBackbone(shape, dim_obs, dim_act)
    if shape.backbone == "transformer":
        return _TransformerBackbone(shape, dim_obs, dim_act)
    if shape.conditioning == "film":
        return _FilmBackbone(shape, dim_obs, dim_act)
    return _MlpBackbone(shape, dim_obs, dim_act)


def _see(shape: DenoisingShape, dim_obs: int) -> FourierFeatures:
    return FourierFeatures(
        shape.n_obs_steps * dim_obs, shape.n_frequencies, scale=shape.frequency_scale
    )


class _MlpBackbone(nn.Module):
    """F as a multilayer perceptron over [x, window, features of the levels]."""

    def __init__(self, shape: DenoisingShape, dim_obs: int, dim_act: int) -> None:
        super().__init__()
        dim = shape.horizon * dim_act
        self.told = LevelFeatures(shape.n_levels)
        self.seen = _see(shape, dim_obs)
        self.mlp = Mlp(
            dim + self.seen.dim + self.told.dim,
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
        told = self.told(levels).expand(x.shape[0], -1)
        return self.mlp(
            torch.cat([x.flatten(1), self.seen(obs.flatten(1)), told], dim=-1)
        ).view_as(x)


class _FilmBackbone(nn.Module):
    """F as a multilayer perceptron over x that window and levels scale and shift."""

    def __init__(self, shape: DenoisingShape, dim_obs: int, dim_act: int) -> None:
        super().__init__()
        dim = shape.horizon * dim_act
        self.told = LevelFeatures(shape.n_levels)
        self.seen = _see(shape, dim_obs)
        self.mlp = FilmMlp(
            dim,
            dim,
            dim_condition=self.seen.dim + self.told.dim,
            width=shape.width,
            depth=shape.depth,
        )
        for parameter in self.mlp.output.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        x: Float[Tensor, "B H A"],
        levels: Float[Tensor, "#B L"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        told = self.told(levels).expand(x.shape[0], -1)
        condition = torch.cat([told, self.seen(obs.flatten(1))], dim=-1)
        return self.mlp(x.flatten(1), condition).view_as(x)


class _UnetBackbone(nn.Module):
    """F as a U-Net along the chunk, conditioned on [features of the levels, window]."""

    def __init__(self, shape: DenoisingShape, dim_obs: int, dim_act: int) -> None:
        super().__init__()
        self.told = LevelFeatures(shape.n_levels)
        self.seen = _see(shape, dim_obs)
        self.unet = Unet1d(
            dim_act,
            dim_condition=self.told.dim + self.seen.dim,
            width=shape.width,
            down_dims=shape.down_dims,
            kernel_size=shape.kernel_size,
            n_groups=shape.n_groups,
        )

    def forward(
        self,
        x: Float[Tensor, "B H A"],
        levels: Float[Tensor, "#B L"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        told = self.told(levels).expand(x.shape[0], -1)
        return self.unet(x, torch.cat([told, self.seen(obs.flatten(1))], dim=-1))


class _TransformerBackbone(nn.Module):
    """F as a transformer over the tokens [levels, goal, s_1..s_T, x_1..x_H], reading the x slots.

    With ``dim_goal`` the last components of the newest observation are the goal and a token of
    their own; the frames are embedded without them. (BESO repeats the goal's token and shares its
    embedding with the observations, which asks for goals that are observations.)

    The published layout, [level, goals, s_1, x_1, .., s_T, x_T] under a causal mask with one
    position per pair (Reuss et al., 2023; Jia et al., 2024), denoises the actions of the whole
    window beside their observations. While acting, its first T - 1 pairs must be filled with the
    actions that were really taken, so those actions are an input of the policy. Ours see
    observations and nothing else: the contract has no such input, a student distilled under
    the teacher's own noisy window actions meets a score that never occurs in use, and past actions
    invite a policy to copy itself. Without them the pairs before the last have no action to
    denoise and the published layout becomes this one: history, then the chunk. The window is
    known as a whole and the chunk is denoised as a whole, so nothing is hidden from anything;
    ``token_layout`` causal hides the future as the papers do, s_T and x_1 at one position. With
    one observation and one action the two are the published layout, mask and all.

    With ``conditioning`` film, levels and frames also scale and shift what every block reads. As
    tokens alone they reach the actions through attention, which a short training hardly opens.
    """

    def __init__(self, shape: DenoisingShape, dim_obs: int, dim_act: int) -> None:
        super().__init__()
        self.horizon, self.dim_goal = shape.horizon, shape.dim_goal
        self.embed_sigma = nn.Linear(shape.n_levels, shape.width)
        self.seen = FourierFeatures(
            dim_obs - shape.dim_goal, shape.n_frequencies, scale=shape.frequency_scale
        )
        self.embed_obs = nn.Linear(self.seen.dim, shape.width)
        self.embed_action = nn.Linear(dim_act, shape.width)
        self.embed_goal = nn.Linear(shape.dim_goal, shape.width) if shape.dim_goal else None
        before = 1 + bool(shape.dim_goal) + shape.n_obs_steps
        causal = shape.token_layout == "causal"
        self.trunk = Transformer(
            n_tokens=before + shape.horizon,
            width=shape.width,
            depth=shape.depth,
            n_heads=shape.n_heads,
            dropout_attention=shape.dropout_attention,
            dropout_residual=shape.dropout,
            causal=causal,
            dim_condition=shape.width if shape.conditioning == "film" else 0,
            one_place=before if causal else 0,
        )
        initialise_like_gpt(self.trunk)
        self.told: LevelFeatures | None = None
        if shape.conditioning == "film":
            self.told = LevelFeatures(shape.n_levels)
            raw = self.told.dim + shape.n_obs_steps * self.seen.dim
            self.condition = Condition(raw, shape.width)
            for module in self.trunk.modules():
                if isinstance(module, Film):
                    nn.init.zeros_(module.map.weight)
        self.output = nn.Linear(shape.width, dim_act)

    def forward(
        self,
        x: Float[Tensor, "B H A"],
        levels: Float[Tensor, "#B L"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        tokens = [self.embed_sigma(levels)[:, None].expand(x.shape[0], -1, -1)]
        if self.embed_goal is not None:
            tokens.append(self.embed_goal(obs[:, -1:, -self.dim_goal :]))
            obs = obs[..., : -self.dim_goal]
        frames, condition = self.seen(obs), None
        tokens += [self.embed_obs(frames), self.embed_action(x)]
        if self.told is not None:
            told = self.told(levels).expand(x.shape[0], -1)
            condition = self.condition(torch.cat([told, frames.flatten(1)], dim=-1))
        return self.output(self.trunk(torch.cat(tokens, dim=1), condition)[:, -self.horizon :])
