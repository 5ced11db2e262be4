r"""What all trained teachers share: a network, normalisers, and the score adapter around it.

The network sees the observation window as history and denoises the action chunk alone. The
published teachers denoise the actions of the whole window and feed clean past actions when they
act, so that a distilled score is taken under inputs that never occur in use; a chunk behind its
history has no such mismatch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vdd_ros.core.schedules import SigmaSchedule
from vdd_ros.distill.networks.denoising import make_denoising_network
from vdd_ros.distill.networks.normalization import Affine
from vdd_ros.distill.teachers.adapter import Prediction, coefficients
from vdd_ros.distill.teachers.settings import TeacherSettings


class DenoisingTeacher(nn.Module, ABC):
    """Denoiser D(x, sigma, obs) in normalised VE coordinates (see `denoisers.Teacher`).

    Args:
        settings: the shape.
        dim_obs: length of one observation.
        dim_act: length of one action.
        observation: normaliser of observations, kept for export and acting.
        action: normaliser of actions.
        sigma_data: standard deviation of normalised actions.
        action_box: [2, A] lowest and highest normalised action; needed where the settings clip.
    """

    sigma_data: Tensor
    action_box: Tensor

    def __init__(
        self,
        settings: TeacherSettings,
        *,
        dim_obs: int,
        dim_act: int,
        observation: Affine | None = None,
        action: Affine | None = None,
        sigma_data: float = 1.0,
        action_box: Float[Tensor, "2 A"] | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.dim_obs, self.dim_act = dim_obs, dim_act
        self.n_obs_steps, self.horizon = settings.n_obs_steps, settings.horizon
        self.observation = observation or Affine(dim_obs)
        self.action = action or Affine(dim_act)
        self.register_buffer("sigma_data", torch.tensor(sigma_data))
        if settings.clips:
            if action_box is None:  # until weights are loaded
                action_box = torch.tensor([[-math.inf], [math.inf]]).repeat(1, dim_act)
            self.register_buffer("action_box", action_box.clone())
        self.network = make_denoising_network(settings.network(), dim_obs=dim_obs, dim_act=dim_act)

    @property
    @abstractmethod
    def prediction(self) -> Prediction:
        """What the network's output means."""

    @property
    def sigma_min(self) -> float:
        """Smallest sigma the teacher was trained at."""
        return self.settings.sigma_min

    @property
    def sigma_max(self) -> float:
        """Largest sigma the teacher was trained at."""
        return self.settings.sigma_max

    @property
    def schedule(self) -> SigmaSchedule:
        """Sigmas its sampler walks through."""
        return self.settings.schedule

    def level(self, sigma: Float[Tensor, " #B"]) -> Float[Tensor, " #B"]:
        """Return what the network is told about sigma."""
        return sigma.log() / 4

    def denoise(
        self,
        x: Float[Tensor, "B H A"],
        sigma: Float[Tensor, " #B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        """Return D(x; sigma, obs); all normalised. One sigma may stand for the whole batch."""
        return self.clip(self.unclipped(x, sigma, obs))

    def forward(
        self,
        x: Float[Tensor, "B H A"],
        sigma: Float[Tensor, " #B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        """Denoise."""
        return self.denoise(x, sigma, obs)

    def unclipped(
        self,
        x: Float[Tensor, "B H A"],
        sigma: Float[Tensor, " #B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        """Return what the network makes of x, wherever it lies."""
        c = coefficients(self.prediction, sigma[:, None, None], self.sigma_data)
        return c.skip * x + c.out * self.network(x * c.into, self.level(sigma)[:, None], obs)

    def clip(self, denoised: Float[Tensor, "B H A"]) -> Float[Tensor, "B H A"]:
        """Keep denoised actions in the box of the training actions, where the settings say so."""
        if not self.settings.clips:
            return denoised
        return torch.minimum(torch.maximum(denoised, self.action_box[0]), self.action_box[1])

    def loss(
        self,
        action: Float[Tensor, "B H A"],
        obs: Float[Tensor, "B T O"],
        sigma: Float[Tensor, " B"],
        noise: Float[Tensor, "B H A"],
    ) -> Float[Tensor, ""]:
        """Return the mean squared error of the network's output against what it should be.

        Written as a weighted error of D: for edm it is BESO's form of EDM's loss, for ddpm the
        plain loss of the predicted quantity (Ho et al., 2020, equation 14), for flow the loss of
        the velocity.
        """
        denoised = self.unclipped(action + sigma[:, None, None] * noise, sigma, obs)
        weight = coefficients(self.prediction, sigma[:, None, None], self.sigma_data).weight
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


def measured_action_box(action: Float[Tensor, "N S H A"]) -> Float[Tensor, "2 A"]:
    """Return the lowest and highest normalised action, a tenth further apart than in the data."""
    flat = action.flatten(0, -2)
    low, high = flat.min(0).values, flat.max(0).values
    margin = 0.05 * (high - low)
    return torch.stack([low - margin, high + margin])
