"""Settings of every teacher: the family, what it is trained on, and its network."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.core.normalizer import NormalizerKind
from vdd_ros.core.schedules import ScheduleKind
from vdd_ros.distill.networks.denoising import (
    Conditioning,
    DenoisingBackbone,
    DenoisingShape,
    TokenLayout,
)
from vdd_ros.distill.training.augmentation import NoiseSettings

Family = Literal["edm", "ddpm", "flow"]
SigmaDensity = Literal["loguniform", "loglogistic"]
Betas = Literal["cosine", "linear"]
VpPrediction = Literal["epsilon", "x0", "v"]

_OF_CONTINUOUS = ("sigma_min", "sigma_max", "sigma_data", "sigma_density", "sigma_spread")
_OF_DDPM = ("n_diffusion_steps", "betas", "beta_start", "beta_end", "prediction")


@dataclass(frozen=True)
class TeacherSettings:
    """Shape and training of the teacher. Sigmas are in units of normalised actions."""

    family: Family = "edm"
    """edm (BESO), ddpm (variance preserving, discrete steps) or flow (rectified flow)."""
    n_obs_steps: int = 1
    """Observations the policy sees."""
    horizon: int = 1
    """Actions it denoises at once."""
    pad: bool = False
    """Keep chunks that run past an episode's end, filled with its last action.

    Right where actions are positions to go to; wrong where they are increments.
    """
    backbone: DenoisingBackbone = "mlp"
    """mlp over the flattened window, a transformer over frames and actions, or a unet along the
    chunk."""
    width: int = 256
    """Hidden units, length of a token, or length of the unet's condition."""
    depth: int = 3
    """Hidden layers, or transformer blocks."""
    n_heads: int = 4
    """transformer: attention heads."""
    dropout_attention: float = 0.1
    """transformer: dropout of attention weights."""
    dropout: float = 0.1
    """transformer: dropout of embeddings and residual updates."""
    conditioning: Conditioning = "concat"
    """mlp, transformer: window and noise level beside the actions (concat), or scaling and
    shifting every layer (film; a transformer keeps their tokens). The unet always has the
    latter."""
    n_frequencies: int = 0
    """Random Fourier features of the window (transformer: of each frame); 0 for none. For a few
    coordinates in which centimetres matter."""
    frequency_scale: float = 1.5
    """Their standard deviation, in radians per normalised unit."""
    down_dims: tuple[int, ...] = (64, 128, 256)
    """unet: channels per level; each level after the first halves the chunk."""
    kernel_size: int = 5
    """unet: steps a convolution sees; odd."""
    n_groups: int = 8
    """unet: groups of the group normalisation; divides every entry of down_dims."""
    dim_goal: int = 0
    """transformer: trailing observation components that are the goal, a token of its own."""
    token_layout: TokenLayout = "full"
    """transformer: every token sees all others (full), or those before it, the newest observation
    and the first action at one position, as BESO and D3IL have it (causal)."""
    n_diffusion_steps: int = 16
    """ddpm: steps T. Avoiding 8, other D3IL tasks 16 or 64, Diffusion Policy 100."""
    betas: Betas = "cosine"
    """ddpm: cosine (Nichol and Dhariwal, 2021) or linear (Ho et al., 2020)."""
    beta_start: float = 0.0
    """ddpm, linear: first beta; 0 respaces the published 1000 steps from 1e-4 to .02."""
    beta_end: float = 0.0
    """ddpm, linear: last beta; given if and only if beta_start is."""
    prediction: VpPrediction = "epsilon"
    """ddpm: what the network puts out: the noise, the clean action x0, or v."""
    clip_denoised: bool | None = None
    """Keep denoised actions in the box of the training actions (a tenth wider), as DDPM samplers
    do. The exact denoiser is a mean of actions and never leaves it, so nothing but error is cut.
    By default on for ddpm, off for the others."""
    sigma_min: float = 0.02
    """edm, flow: smallest sigma trained and sampled."""
    sigma_max: float = 20.0
    """edm, flow: largest sigma trained and sampled; sampling starts from N(0, sigma_max^2). It has
    to dwarf the spread of a whole chunk along its widest direction (several deviations, where a
    chunk goes one way), else samples crowd at the mean and ways are lost."""
    sigma_data: float = 0.0
    """edm, flow: standard deviation of normalised actions; 0 measures it from the data."""
    sigma_density: SigmaDensity = "loguniform"
    """edm, flow: training sigmas: loguniform, or loglogistic around sigma_data as BESO draws them.

    The score at small sigma decides which way the robot goes at a fork, and the log-logistic
    density hardly visits it. For a flow, loglogistic with sigma_spread 1 (and sigma_data 1) is
    the uniform time of the papers.
    """
    sigma_spread: float = 0.5
    """loglogistic: scale of the distribution."""
    schedule: ScheduleKind = "exponential"
    """edm, flow: sigmas a sampler walks through; ddpm walks through its own levels."""
    normalize_obs: NormalizerKind = "mean_std"
    """mean_std, min_max or identity."""
    normalize_action: NormalizerKind = "mean_std"
    """mean_std, min_max or identity."""
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    """Observation noise."""
    n_iters: int = 6000
    """Optimiser steps."""
    batch_size: int = 512
    """Windows per step."""
    learning_rate: float = 1e-3
    """Peak learning rate of Adam; falls to zero along a half cosine."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW)."""
    ema_decay: float = 0.999
    """Decay of the averaged weights, which are the teacher; 0 keeps the raw weights."""
    seed: int = 0
    """Seed of initialisation and training."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        counts = ("n_obs_steps", "horizon", "width", "depth", "n_heads", "n_iters", "batch_size")
        for name in counts:
            if getattr(self, name) < 1:
                raise VddError(f"{name}: got {getattr(self, name)}, expected at least 1")
        for name in ("dropout_attention", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise VddError(f"{name}: got {getattr(self, name)}, expected 0 <= {name} < 1")
        if self.weight_decay < 0 or self.seed < 0:
            raise VddError(
                f"weight_decay {self.weight_decay} and seed {self.seed}: expected 0 or more"
            )
        if not 0 < self.sigma_min < self.sigma_max:
            raise VddError(
                f"sigma_min {self.sigma_min} and sigma_max {self.sigma_max}: expected "
                "0 < sigma_min < sigma_max"
            )
        if self.sigma_data < 0 or self.sigma_spread <= 0 or self.learning_rate <= 0:
            raise VddError(
                "expected sigma_data >= 0, sigma_spread > 0 and learning_rate > 0; got "
                f"{self.sigma_data}, {self.sigma_spread}, {self.learning_rate}"
            )
        if not 0 <= self.ema_decay < 1:
            raise VddError(f"ema_decay: got {self.ema_decay}, expected 0 <= ema_decay < 1")
        self._check_family()
        self.network().check()

    @property
    def clips(self) -> bool:
        """Whether denoised actions are kept in the box of the training actions."""
        return self.family == "ddpm" if self.clip_denoised is None else self.clip_denoised

    def network(self) -> DenoisingShape:
        """Return the shape of the network F."""
        return DenoisingShape(
            n_obs_steps=self.n_obs_steps,
            horizon=self.horizon,
            backbone=self.backbone,
            width=self.width,
            depth=self.depth,
            n_heads=self.n_heads,
            dropout_attention=self.dropout_attention,
            dropout=self.dropout,
            conditioning=self.conditioning,
            n_frequencies=self.n_frequencies,
            frequency_scale=self.frequency_scale,
            down_dims=self.down_dims,
            kernel_size=self.kernel_size,
            n_groups=self.n_groups,
            dim_goal=self.dim_goal,
            token_layout=self.token_layout,
        )

    def _check_family(self) -> None:
        """Refuse a setting that the family would ignore: it was meant to do something."""
        if self.family not in ("edm", "ddpm", "flow"):
            raise VddError(
                f"family: got '{self.family}'{did_you_mean(self.family, ('edm', 'ddpm', 'flow'))}"
            )
        idle = (*_OF_CONTINUOUS, "schedule") if self.family == "ddpm" else _OF_DDPM
        defaults = {f.name: f.default for f in fields(self)}
        for name in idle:
            if getattr(self, name) != defaults[name]:
                raise VddError(
                    f"{name}: got {getattr(self, name)!r}, which family '{self.family}' does not "
                    "use; leave it out or choose another family"
                )
        if not 2 <= self.n_diffusion_steps <= 1000:
            raise VddError(f"n_diffusion_steps: got {self.n_diffusion_steps}, expected 2 to 1000")
        given = (self.beta_start, self.beta_end)
        if given != (0, 0) and not all(0 < beta < 1 for beta in given):
            raise VddError(
                f"beta_start {self.beta_start} and beta_end {self.beta_end}: expected both "
                "between 0 and 1, or both 0 for the published ones"
            )
