r"""Consistency Distillation: the end of the teacher's trajectory in one jump.

Song, Dhariwal, Chen, Sutskever: "Consistency Models", ICML 2023, arXiv:2303.01469. A consistency
function f maps every point of a trajectory of the teacher's ODE to the trajectory's end. It is
parameterised such that :math:`f(x, 0) = x` holds by construction (section 3), with EDM's factors:

.. math:: f(x, t) = c_{skip}(t) x + c_{out}(t) F(c_{in}(t) x, t), \quad
    c_{skip} = \frac{\sigma_d^2}{t^2 + \sigma_d^2}, \;
    c_{out} = \frac{\sigma_d t}{\sqrt{\sigma_d^2 + t^2}}, \;
    c_{in} = \frac{1}{\sqrt{\sigma_d^2 + t^2}}.

Noise levels :math:`t_1 > \dots > t_N > t_{N+1}` from sigma_max to sigma_min, rho = 7, and 0. Each
iteration (algorithm 2): a demonstrated action is noised to :math:`x = a + t_n \epsilon`, the
teacher takes one solver step from it to :math:`\hat x` at :math:`t_{n+1}`, and

.. math:: L = E \, d( f_\theta(x, t_n), f_{\theta^-}(\hat x, t_{n+1}) ),

where :math:`\theta^-` averages :math:`\theta`, with a decay of 0.95 and weight one for every level
as in the paper. Three things are not as published:

- Trajectories end at 0, not at sigma_min (appendix C there). Images have sigma_min = .002, below
  a grey level; policies .02 to .1, and what lies on a trajectory at sigma_min still has that much
  noise in every direction, also where action chunks hardly vary at all. Every sampler of the
  teacher takes it out with a last step to 0, so that is where the jump has to end.
- Few levels and Euler steps, instead of N = 18 and Heun's: `ConsistencySettings`.
- LPIPS is for images, so the distance is the pseudo-Huber one (Song and Dhariwal, 2024), or the
  squared one on request.

The values behind the published robot results are not known. Iterations, batch and averaging are
what all methods share.

F starts as the teacher's network where that is an EDM network, and f then is the teacher's
denoiser; else it starts fresh and knows the teacher by its answers alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.distill.denoisers import Teacher
from vdd_ros.distill.methods.jumps import JumpModel, JumpTraining, distance
from vdd_ros.distill.methods.mixture_training import DistillSettings
from vdd_ros.distill.training.targets import Targets


class ConsistencyModel(JumpModel):
    """f(x, sigma, obs): the end of the trajectory through x at sigma."""

    def denoise(
        self,
        x: Float[Tensor, "B H A"],
        sigma: Float[Tensor, " #B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        """Return f(x, sigma, obs); one sigma may stand for the whole batch."""
        level = sigma[:, None, None]
        data = self.sigma_data.square()
        variance = level.square() + data
        scale, skip = torch.rsqrt(variance), data / variance
        out = level * self.sigma_data * scale
        told = sigma.clamp(min=self.sigma_min).log()[:, None] / 4  # 0 has no logarithm
        return skip * x + out * self.network(x * scale, told, obs)

    forward = denoise


class ConsistencyTraining(JumpTraining):
    """Algorithm 2 of the paper.

    Args:
        model: trained in place.
        settings: iterations, batches, rates, and ``consistency``.
        targets: states, with the demonstrated actions that are noised.
        teacher: any denoiser in normalised coordinates.
    """

    def __init__(
        self,
        model: ConsistencyModel,
        settings: DistillSettings,
        targets: Targets,
        *,
        teacher: Teacher,
    ) -> None:
        super().__init__(model, settings, settings.consistency, targets, teacher=teacher)

    def losses(
        self, action: Float[Tensor, "B H A"], obs: Float[Tensor, "B T O"]
    ) -> Mapping[str, Tensor]:
        """Return the distance between f at both ends of one solver step."""
        options = self.settings.consistency
        index = self.draw_level(len(obs), options.n_scales)
        now, then = self.sigmas[index], self.sigmas[index + 1]
        x = action + now[:, None, None] * torch.randn_like(action)
        fixed = cast(ConsistencyModel, self._target.shadow)
        with torch.no_grad():
            target = fixed.denoise(self.ode_step(x, now, then, obs), then, obs)
        found = self.model.denoise(x, now, obs)
        return {"loss": distance(options.distance, found, target)}
