r"""What every teacher is: a denoiser D(x, sigma, obs) in variance-exploding coordinates.

Everything is normalised. A sample is noised as :math:`x = a + \sigma \epsilon`; the denoiser
returns the mean of the clean action given x. Tweedie's formula (Efron, 2011; Karras et al., 2022,
equation 3) turns it into the score of the noised distribution,
:math:`\nabla_x \log p_\sigma(x) = (D(x; \sigma) - x)/\sigma^2`, which is all that distillation
asks of a teacher.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.core.samplers import SamplerKind, sample
from vdd_ros.core.schedules import SigmaSchedule, sigma_schedule


@runtime_checkable
class Denoiser(Protocol):
    """The mean of the clean action given a noisy one. Everything is normalised."""

    def denoise(
        self,
        x: Float[Tensor, "B H A"],
        sigma: Float[Tensor, " B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        """Return D(x, sigma, obs)."""
        ...


@runtime_checkable
class Teacher(Denoiser, Protocol):
    """A denoiser that knows the noise levels it is good at."""

    @property
    def sigma_min(self) -> float:
        """Smallest sigma it denoises."""
        ...

    @property
    def sigma_max(self) -> float:
        """Largest sigma it denoises; sampling starts from N(0, sigma_max^2)."""
        ...

    @property
    def schedule(self) -> SigmaSchedule:
        """Sigmas its sampler walks through: a named schedule, or the levels it was trained at."""
        ...


def score(
    denoiser: Denoiser,
    x: Float[Tensor, "B H A"],
    sigma: Float[Tensor, " B"],
    obs: Float[Tensor, "B T O"],
) -> Float[Tensor, "B H A"]:
    """Return the score of the teacher's action distribution blurred by sigma, at x."""
    return (denoiser.denoise(x, sigma, obs) - x) / sigma[:, None, None] ** 2


def sample_actions(
    denoiser: Denoiser,
    obs: Float[Tensor, "B T O"],
    noise: Float[Tensor, "B H A"],
    *,
    n_steps: int,
    sigma_min: float,
    sigma_max: float,
    kind: SamplerKind = "euler",
    schedule: SigmaSchedule = "exponential",
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B H A"]:
    """Draw one normalised action chunk per observation from standard normal noise.

    ``generator`` feeds the fresh noise of ancestral samplers; the deterministic ones ignore it.
    """
    sigmas = sigma_schedule(schedule, n_steps=n_steps, sigma_min=sigma_min, sigma_max=sigma_max)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return denoiser.denoise(x, x.new_full((len(x),), sigma), obs)

    def fresh() -> Tensor:
        return torch.randn(noise.shape, generator=generator, dtype=noise.dtype)

    with torch.no_grad():
        return sample(kind, denoise, noise * float(sigmas[0]), sigmas.tolist(), fresh)
