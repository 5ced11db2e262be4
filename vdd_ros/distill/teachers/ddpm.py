r"""DDPM teachers: variance preserving, trained at T discrete noise levels.

Ho, Jain, Abbeel, 2020, "Denoising Diffusion Probabilistic Models": with betas
:math:`\beta_1..\beta_T` and :math:`\bar\alpha_t = \prod_{i \le t} (1 - \beta_i)` the network sees
:math:`x_t = \sqrt{\bar\alpha_t} a + \sqrt{1-\bar\alpha_t} \epsilon` and predicts the noise, the
clean action or v. Betas are cosine (Nichol and Dhariwal, 2021, equation 17, offset .008, at most
.999) or linear (1e-4 to .02 over 1000 steps, respaced to T, or as given).

Here :math:`x_t = \sqrt{\bar\alpha_t} x` with x in variance-exploding coordinates and
:math:`\sigma_t = \sqrt{(1-\bar\alpha_t)/\bar\alpha_t}` (see `adapter`), so the teacher is a
denoiser like any other, and its own ancestral sampler is `core.samplers.euler_ancestral` over
:math:`\sigma_T..\sigma_1, 0`, its DDIM sampler `core.samplers.euler`.

At a trained level D is exactly what the network learnt. Between two levels the network is told the
time in between, on the interpolation in log sigma, and fed :math:`x/\sqrt{1+\sigma^2}`, as the
k-diffusion library does with such models; the network's features of time are smooth enough for
that down to T = 8. Below the first level nothing was learnt: the answer is the one whose score is
that of the first level, so that distillation at a smaller sigma meets a true score and not an
extrapolated one.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from vdd_ros.core.errors import VddError
from vdd_ros.core.schedules import SigmaSchedule
from vdd_ros.distill.networks.normalization import Affine
from vdd_ros.distill.teachers.adapter import Prediction
from vdd_ros.distill.teachers.base import DenoisingTeacher
from vdd_ros.distill.teachers.settings import TeacherSettings

_LARGEST_BETA = 0.999
_PUBLISHED_BETAS, _PUBLISHED_STEPS = (1e-4, 0.02), 1000
# Sampling starts from noise alone: the last level must not show the action any more.
_SMALLEST_LAST_SIGMA = 1.0


def ddpm_betas(settings: TeacherSettings) -> NDArray[np.float64]:
    """Return the betas [T] of the settings."""
    n = settings.n_diffusion_steps
    if settings.betas == "cosine":
        angle = (np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2
        kept = np.cos(angle) ** 2
        return np.minimum(1 - kept[1:] / kept[:-1], _LARGEST_BETA)
    if settings.betas == "linear":
        if settings.beta_start:
            return np.linspace(settings.beta_start, settings.beta_end, n)
        # Published are 1000 steps. Fewer take every so many of their levels, as respaced samplers
        # do, and end at the same noise.
        kept = np.cumprod(1 - np.linspace(*_PUBLISHED_BETAS, _PUBLISHED_STEPS))
        kept = np.append(1.0, kept)[np.round(np.linspace(0, _PUBLISHED_STEPS, n + 1)).astype(int)]
        return 1 - kept[1:] / kept[:-1]
    raise VddError(f"betas: got '{settings.betas}', expected 'cosine' or 'linear'")


def ddpm_sigmas(settings: TeacherSettings) -> NDArray[np.float64]:
    """Return the VE noise levels [T], rising.

    Raises:
        VddError: the last one is not noise alone.
    """
    alpha_bar = np.cumprod(1 - ddpm_betas(settings))
    sigmas = np.sqrt((1 - alpha_bar) / alpha_bar)
    if sigmas[-1] < _SMALLEST_LAST_SIGMA:
        raise VddError(
            f"betas: after {settings.n_diffusion_steps} steps the noise is only "
            f"{sigmas[-1]:.2f} times the action; sampling starts from noise alone: raise "
            "beta_end or leave it out"
        )
    return sigmas


class DdpmTeacher(DenoisingTeacher):
    """A teacher at T discrete levels; see the module's docstring."""

    levels: Tensor

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
        super().__init__(
            settings,
            dim_obs=dim_obs,
            dim_act=dim_act,
            observation=observation,
            action=action,
            sigma_data=sigma_data,
            action_box=action_box,
        )
        self._sigmas = tuple(float(sigma) for sigma in ddpm_sigmas(settings))
        # Not saved: the settings say it.
        self.register_buffer("levels", torch.tensor(self._sigmas), persistent=False)

    @property
    def prediction(self) -> Prediction:
        """What the network puts out."""
        return self.settings.prediction

    @property
    def sigma_min(self) -> float:
        """The first level."""
        return self._sigmas[0]

    @property
    def sigma_max(self) -> float:
        """The last level."""
        return self._sigmas[-1]

    @property
    def schedule(self) -> SigmaSchedule:
        """All levels."""
        return self._sigmas

    def level(self, sigma: Float[Tensor, " #B"]) -> Float[Tensor, " #B"]:
        """Return half the time t/T of the levels, linear in log sigma between them.

        Half, because a level's fastest wave then turns by no more than a quarter from one of 8
        steps to the next, and what it says in between is in between.
        """
        knots = self.levels.log()
        passed = (sigma.log()[:, None] - knots[:-1]) / (knots[1:] - knots[:-1])
        time = 1 + passed.clamp(0, 1).sum(-1)
        return time / (2 * len(self._sigmas))

    def denoise(
        self,
        x: Float[Tensor, "B H A"],
        sigma: Float[Tensor, " #B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        """Return D(x; sigma, obs); below the first level with the score of the first level."""
        known = torch.maximum(sigma, self.levels[0])
        denoised = self.clip(self.unclipped(x, known, obs))
        share = (sigma / known).square()[:, None, None]
        return share * denoised + (1 - share) * x

    def draw_sigma(self, batch: int) -> Float[Tensor, " B"]:
        """Draw levels, each alike."""
        return self.levels[torch.randint(len(self.levels), (batch,))]
