r"""A Gaussian mixture as a teacher: its denoiser is known in closed form.

For :math:`\pi(a) = \sum_m w_m N(a; \mu_m, \Sigma_m)` the blurred distribution is the same mixture
with covariances :math:`\Sigma_m + \sigma^2 I`, so the score is exact at every sigma and every
statement about distillation can be checked against it. States may shift the means, which makes a
conditional toy.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.core.schedules import ScheduleKind
from vdd_ros.distill.mixtures.covariance import Triangular
from vdd_ros.distill.mixtures.mixture import MixtureParameters, mixture_score


class AnalyticTeacher:
    r"""Denoiser :math:`D(x) = x + \sigma^2 \nabla \log p_\sigma(x)` of a Gaussian mixture.

    Args:
        weights: [M] mixture weights.
        means: [M, H, A] component means.
        covariance: [M, D, D] component covariances, D = H A.
        shift: optional [O, H, A]: the last observation times this moves every mean.
    """

    sigma_min = 0.002
    sigma_max = 10.0
    schedule: ScheduleKind = "exponential"

    def __init__(
        self,
        weights: Float[Tensor, " M"],
        means: Float[Tensor, "M H A"],
        covariance: Float[Tensor, "M D D"],
        shift: Float[Tensor, "O H A"] | None = None,
    ) -> None:
        self.weights, self.means, self.covariance, self.shift = weights, means, covariance, shift

    def blurred(
        self, sigma: Float[Tensor, " B"], obs: Float[Tensor, "B T O"]
    ) -> MixtureParameters:
        """Return the mixture after adding N(0, sigma^2 I), one per row."""
        batch = len(sigma)
        mean = self.means.expand(batch, *self.means.shape)
        if self.shift is not None:
            mean = mean + torch.einsum("bo,oha->bha", obs[:, -1], self.shift)[:, None]
        own = Triangular.full(torch.linalg.cholesky(self.covariance)[None])
        return MixtureParameters(self.weights.log().expand(batch, -1), mean, own.diffuse(sigma))

    def denoise(
        self,
        x: Float[Tensor, "B H A"],
        sigma: Float[Tensor, " B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        """Return the exact mean of the clean action given the noisy one."""
        pull = mixture_score(x.flatten(1)[:, None], self.blurred(sigma, obs))[:, 0]
        return x + (sigma**2)[:, None, None] * pull.view_as(x)
