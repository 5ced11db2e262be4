r"""Consistency Distillation: the end of the teacher's trajectory in one jump.

Song, Dhariwal, Chen, Sutskever: "Consistency Models", ICML 2023, arXiv:2303.01469. A consistency
function f maps every point of a trajectory of the teacher's ODE to the trajectory's end. It is
parameterised such that :math:`f(x, \sigma_{min}) = x` holds by construction (section 3 and
appendix C):

.. math:: f(x, t) = c_{skip}(t) x + c_{out}(t) F(c_{in}(t) x, t), \quad
    c_{skip} = \frac{\sigma_d^2}{(t - \sigma_{min})^2 + \sigma_d^2}, \;
    c_{out} = \frac{\sigma_d (t - \sigma_{min})}{\sqrt{\sigma_d^2 + t^2}}, \;
    c_{in} = \frac{1}{\sqrt{\sigma_d^2 + t^2}}.

Noise levels :math:`t_1 > \dots > t_N` from sigma_max to sigma_min, rho = 7. Each iteration
(algorithm 2): a demonstrated action is noised to :math:`x = a + t_n \epsilon`, the teacher takes
one solver step from it to :math:`\hat x` at :math:`t_{n+1}`, and

.. math:: L = E \, d( f_\theta(x, t_n), f_{\theta^-}(\hat x, t_{n+1}) ),

where :math:`\theta^-` averages :math:`\theta`. Heun's step, N = 18, a decay of 0.95 and weight one
for every level follow the paper; its LPIPS distance is for images, so here it is the pseudo-Huber
one (Song and Dhariwal, 2024), or the squared one on request. The values behind the published robot
results are not known: the learning rate is this project's choice, as are iterations, batch and
averaging, which all methods share.

F starts as the teacher's network where that is an EDM network (the preconditionings differ by
nothing but sigma_min, so f starts as the one-step teacher); else it starts fresh and knows the
teacher by its answers alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.distill.denoisers import Teacher
from vdd_ros.distill.jumps import JumpModel, JumpTraining, distance
from vdd_ros.distill.mixture_training import DistillSettings
from vdd_ros.distill.targets import Targets


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
        beyond = level - self.sigma_min
        data = self.sigma_data.square()
        scale = torch.rsqrt(level.square() + data)
        skip = data / (beyond.square() + data)
        out = beyond * self.sigma_data * scale
        return skip * x + out * self.network(x * scale, sigma.log()[:, None] / 4, obs)

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
        index = self.draw_level(len(obs), options.n_scales - 1)
        now, then = self.sigmas[index], self.sigmas[index + 1]
        x = action + now[:, None, None] * torch.randn_like(action)
        fixed = cast(ConsistencyModel, self._target.shadow)
        with torch.no_grad():
            target = fixed.denoise(self.ode_step(x, now, then, obs), then, obs)
        found = self.model.denoise(x, now, obs)
        return {"loss": distance(options.distance, found, target)}
