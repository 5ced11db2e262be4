r"""The diffusion teacher: an EDM-preconditioned denoiser of action chunks, the BESO family.

Preconditioning (Karras et al., 2022, table 1, as BESO, Reuss et al., 2023, uses it):

.. math:: D(x; \sigma, s) = c_{skip} x + c_{out} F(c_{in} x, s, \sigma), \quad
    c_{skip} = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}, \;
    c_{out} = \frac{\sigma \sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}}, \;
    c_{in} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}},

so that D(x; 0) = x and the network F always regresses a target of unit variance. The network sees
the observation window as history and denoises the action chunk alone. BESO denoises the actions
of the whole window and feeds clean past actions when it acts, so that a distilled score is taken
under inputs that never occur in use; a chunk behind its history has no such mismatch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vdd_ros.core.errors import VddError
from vdd_ros.core.normalizer import NormalizerKind
from vdd_ros.core.schedules import ScheduleKind
from vdd_ros.distill.augmentation import NoiseSettings
from vdd_ros.distill.ema import Ema
from vdd_ros.distill.learning_rate import cosine_rate
from vdd_ros.distill.networks.denoising import DenoisingShape, make_denoising_network
from vdd_ros.distill.networks.normalization import Affine
from vdd_ros.distill.student import Backbone
from vdd_ros.distill.targets import Targets

SigmaDensity = Literal["loguniform", "loglogistic"]


@dataclass(frozen=True)
class TeacherSettings:
    """Shape and training of the teacher. Sigmas are in units of normalised actions."""

    n_obs_steps: int = 1
    """Observations the policy sees."""
    horizon: int = 1
    """Actions it denoises at once."""
    pad: bool = False
    """Keep chunks that run past an episode's end, filled with its last action.

    Right where actions are positions to go to; wrong where they are increments.
    """
    backbone: Backbone = "mlp"
    """mlp over the flattened window, or a transformer over frames and actions."""
    width: int = 256
    """Hidden units, or length of a token."""
    depth: int = 3
    """Hidden layers, or transformer blocks."""
    n_heads: int = 4
    """transformer: attention heads."""
    dropout_attention: float = 0.1
    """transformer: dropout of attention weights."""
    dropout: float = 0.1
    """transformer: dropout of embeddings and residual updates."""
    sigma_min: float = 0.02
    """Smallest sigma trained and sampled."""
    sigma_max: float = 2.0
    """Largest sigma trained and sampled; sampling starts from N(0, sigma_max^2)."""
    sigma_data: float = 0.0
    """Standard deviation of normalised actions; 0 measures it from the data."""
    sigma_density: SigmaDensity = "loguniform"
    """Training sigmas: loguniform, or loglogistic around sigma_data as BESO draws them.

    The score at small sigma decides which way the robot goes at a fork, and the log-logistic
    density hardly visits it.
    """
    sigma_spread: float = 0.5
    """loglogistic: scale of the distribution."""
    schedule: ScheduleKind = "exponential"
    """Sigmas a sampler walks through."""
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
        )


class EdmTeacher(nn.Module):
    """Denoiser D(x, sigma, obs) in normalised coordinates (see `denoisers.Denoiser`).

    Args:
        settings: the shape.
        dim_obs: length of one observation.
        dim_act: length of one action.
        observation: normaliser of observations, kept for export and acting.
        action: normaliser of actions.
        sigma_data: standard deviation of normalised actions.
    """

    sigma_data: Tensor

    def __init__(
        self,
        settings: TeacherSettings,
        *,
        dim_obs: int,
        dim_act: int,
        observation: Affine | None = None,
        action: Affine | None = None,
        sigma_data: float = 1.0,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.dim_obs, self.dim_act = dim_obs, dim_act
        self.n_obs_steps, self.horizon = settings.n_obs_steps, settings.horizon
        self.observation = observation or Affine(dim_obs)
        self.action = action or Affine(dim_act)
        self.register_buffer("sigma_data", torch.tensor(sigma_data))
        self.network = make_denoising_network(settings.network(), dim_obs=dim_obs, dim_act=dim_act)

    @property
    def sigma_min(self) -> float:
        """Smallest sigma the teacher was trained at."""
        return self.settings.sigma_min

    @property
    def sigma_max(self) -> float:
        """Largest sigma the teacher was trained at."""
        return self.settings.sigma_max

    @property
    def schedule(self) -> ScheduleKind:
        """Sigmas its sampler walks through."""
        return self.settings.schedule

    def denoise(
        self,
        x: Float[Tensor, "B H A"],
        sigma: Float[Tensor, " #B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        """Return D(x; sigma, obs); all normalised. One sigma may stand for the whole batch."""
        scale = sigma[:, None, None]
        total = scale.square() + self.sigma_data.square()
        skip = self.sigma_data.square() / total
        out = scale * self.sigma_data * torch.rsqrt(total)
        return skip * x + out * self.network(x * torch.rsqrt(total), sigma.log()[:, None] / 4, obs)

    forward = denoise

    def loss(
        self,
        action: Float[Tensor, "B H A"],
        obs: Float[Tensor, "B T O"],
        sigma: Float[Tensor, " B"],
        noise: Float[Tensor, "B H A"],
    ) -> Float[Tensor, ""]:
        r"""Return :math:`E |F - (a - c_{skip} x) / c_{out}|^2`, BESO's form of EDM's loss.

        It equals EDM's weighting :math:`\lambda(\sigma) = 1 / c_{out}^2` of the denoising error.
        """
        scale = sigma[:, None, None]
        denoised = self.denoise(action + scale * noise, sigma, obs)
        total = scale.square() + self.sigma_data.square()
        weight = total / (scale * self.sigma_data).square()
        return (weight * (denoised - action).square()).mean()

    def draw_sigma(self, batch: int) -> Float[Tensor, " B"]:
        """Draw training sigmas between sigma_min and sigma_max."""
        uniform = torch.rand(batch)
        if self.settings.sigma_density == "loguniform":
            ratio = math.log(self.sigma_max / self.sigma_min)
            return self.sigma_min * torch.exp(ratio * uniform)
        loc, spread = float(self.sigma_data.log()), self.settings.sigma_spread

        def cdf(sigma: float) -> float:
            return 1.0 / (1.0 + math.exp(-(math.log(sigma) - loc) / spread))

        low, high = cdf(self.sigma_min), cdf(self.sigma_max)
        inside = low + (high - low) * uniform
        return torch.exp(loc + spread * torch.logit(inside, eps=1e-7))


class EdmTraining:
    """A `trainer.Trainable` that fits a teacher to demonstrations.

    Args:
        teacher: trained in place.
        targets: normalised windows with their action chunks.
    """

    teacher_queries = 0

    def __init__(self, teacher: EdmTeacher, targets: Targets) -> None:
        settings = teacher.settings
        self.teacher, self.targets, self.settings = teacher, targets, settings
        self.n_iters = settings.n_iters
        self._ema = Ema(teacher, settings.ema_decay) if settings.ema_decay else None
        self._optimizer = torch.optim.AdamW(
            teacher.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def step(self, iteration: int) -> Mapping[str, Tensor | float]:
        """Take one optimiser step on one minibatch."""
        settings = self.settings
        obs, action = self.targets.draw(settings.batch_size)
        sigma = self.teacher.draw_sigma(len(obs))
        loss = self.teacher.loss(action[:, 0], obs, sigma, torch.randn_like(action[:, 0]))
        rate = settings.learning_rate * cosine_rate(iteration, self.n_iters)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        if self._ema:
            self._ema.update(iteration)
        return {"loss": loss.detach()}

    def parts(self) -> dict[str, nn.Module]:
        """Return the teacher and its average."""
        return {"teacher": self.teacher} | ({"ema": self._ema.shadow} if self._ema else {})

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the one optimiser."""
        return {"adam": self._optimizer}

    def acting(self) -> nn.Module:
        """Return the averaged teacher."""
        return self._ema.shadow if self._ema else self.teacher
