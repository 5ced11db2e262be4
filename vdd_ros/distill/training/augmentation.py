r"""Observation noise: teaching a policy to look at where it is, not at how it got there.

A policy with history learns to repeat its last action, and one without history has never seen
the states beside the demonstrations. Noise on the observations, independent per frame, hides the
history's exact increments and covers the neighbourhood; where actions are increments of an
observed quantity, the label can undo a fraction of the noise, which teaches the way back (the idea
of DART, Laskey et al., 2017, applied to the data instead of the demonstrator).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.core.errors import VddError
from vdd_ros.distill.networks.normalization import Affine


@dataclass(frozen=True)
class NoiseSettings:
    """How observations are perturbed while training; never while acting."""

    std: float = 0.0
    """Standard deviation in normalised observation units; 0 switches the noise off."""
    correction: float = 0.0
    """Fraction of the newest frame's noise that the first action of the chunk undoes."""
    relative_obs: tuple[int, ...] = ()
    """Observation component each action component is an increment of, for ``correction``."""
    tied: tuple[int, ...] = ()
    """For every observation component, the component whose noise (in raw units) it shares.

    Empty for independent noise. Needed where one quantity is observed twice: independent noise
    on both copies could be averaged away.
    """

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.std < 0:
            raise VddError(f"noise.std: got {self.std}, expected 0 or more")
        if not 0 <= self.correction <= 1:
            raise VddError(f"noise.correction: got {self.correction}, expected 0 to 1")
        if self.correction > 0 and not self.relative_obs:
            raise VddError(
                "noise.correction needs noise.relative_obs: the observation components the "
                "actions are increments of, for example [0, 1]"
            )


class ObservationNoise:
    """Perturbs normalised windows and, where asked, corrects their actions.

    Args:
        settings: how much and how.
        observation: normaliser of the observations.
        action: normaliser of the actions.

    Raises:
        VddError: an index in the settings names no component.
    """

    def __init__(self, settings: NoiseSettings, observation: Affine, action: Affine) -> None:
        dim_obs, dim_act = len(observation.scale), len(action.scale)
        if settings.tied and len(settings.tied) != dim_obs:
            raise VddError(
                f"noise.tied: got {len(settings.tied)} entries, expected one per observation "
                f"component ({dim_obs})"
            )
        if settings.relative_obs and len(settings.relative_obs) != dim_act:
            raise VddError(
                f"noise.relative_obs: got {len(settings.relative_obs)} entries, expected one per "
                f"action component ({dim_act})"
            )
        for index in (*settings.tied, *settings.relative_obs):
            if not 0 <= index < dim_obs:
                raise VddError(f"noise: no observation component {index}, there are {dim_obs}")
        self.settings = settings
        self._obs_scale = observation.scale.detach().clone()
        self._action_scale = action.scale.detach().clone()

    def __call__(
        self, obs: Float[Tensor, "B T O"], action: Float[Tensor, "B S H A"]
    ) -> tuple[Float[Tensor, "B T O"], Float[Tensor, "B S H A"]]:
        """Return perturbed observations and the actions that go with them."""
        settings = self.settings
        if settings.std == 0:
            return obs, action
        raw_noise = settings.std * torch.randn_like(obs) * self._obs_scale
        if settings.tied:
            raw_noise = raw_noise[..., list(settings.tied)]
        if settings.correction:
            undone = raw_noise[:, -1, list(settings.relative_obs)] * settings.correction
            action = action.clone()
            action[:, :, 0] -= (undone / self._action_scale)[:, None]
        return obs + raw_noise / self._obs_scale, action
