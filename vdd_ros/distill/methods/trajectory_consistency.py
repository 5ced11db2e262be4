r"""Consistency Trajectory Model: from any point of the teacher's trajectory to any later one.

Kim, Lai, Liao, Murata, Takida, Uesaka, He, Mitsufuji, Ermon: "Consistency Trajectory Models",
ICLR 2024, arXiv:2310.02279; for robots without the adversarial loss: Prasad, Lin, Wu, Zhou, Bohg:
"Consistency Policy", RSS 2024, arXiv:2405.07503. The model jumps from sigma t to sigma s <= t,

.. math:: G(x, t, s) = \frac{s}{t} x + \left(1 - \frac{s}{t}\right) g(x, t, s), \quad
    g = c_{skip}(t) x + c_{out}(t) F(c_{in}(t) x, t, s)

with EDM's preconditioning (section 3 there). G(x, t, t) = x by construction, g(x, t, t) is the
denoiser, and G(x, t, 0) = g(x, t, 0) the end of the trajectory, with which it acts. Levels
:math:`t_1 > \dots > t_N, 0` have rho = 7. Each iteration draws t > u >= s among them, with u a few
solver steps after t, noises an action to :math:`x = a + t \epsilon`, and descends the sum of

.. math:: L_{CTM} &= E \, d( \bar G(G_\theta(x, t, s), s, 0),
                             \bar G(\bar G(\mathrm{Solver}(x, t \to u), u, s), s, 0) ), \\
          L_{DSM} &= E \, \lambda(t) | a - g_\theta(x, t, t) |^2, \quad \lambda = 1/c_{out}^2

the latter with a weight. A bar marks weights that are constants, the moving average of
:math:`\theta`. The outer jump to 0 measures the distance where it matters, and lets gradients
through to its argument.

The pseudo-Huber distance and one solver step between t and u are as published for robots. This
project's choices are

- few levels and Euler steps (N = 80 and Heun's there), for the reasons that
  `ConsistencySettings` gives;
- targets of averaged weights, as the first paper has them, the second not;
- s = 0 in half of all pairs, and evenly drawn in the others only: acting needs that jump alone,
  and pairs that end there need no outer one;
- a weight of 0.1 instead of 1 for L_DSM, which is a regression to noisy actions beside the small
  distances of L_CTM: on a Gaussian whose trajectories are known, weight 1 left the jump to 0
  three times the error;
- the learning rate.

The values behind the published robot results are not known. Two faults of public code are absent:
a pseudo-Huber distance of the already squared distance (`jumps.distance`), and a moving average
with its decay the wrong way round (`ema.Ema`).

The network starts as the teacher's, indifferent to s, where that is an EDM network: g is then the
teacher's denoiser. Else it starts fresh, and the denoising loss teaches it from the data as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vdd_ros.distill.denoisers import Teacher
from vdd_ros.distill.methods.jumps import JumpModel, JumpTraining, distance
from vdd_ros.distill.methods.mixture_training import DistillSettings
from vdd_ros.distill.training.targets import Targets


class TrajectoryModel(JumpModel):
    """G(x, t, s, obs), and with s = 0 a denoiser."""

    def denoise(
        self,
        x: Float[Tensor, "B H A"],
        sigma: Float[Tensor, " #B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        """Return G(x, sigma, 0, obs), which is g; one sigma may stand for the whole batch."""
        return self.toward(x, sigma, torch.zeros_like(sigma), obs)

    forward = denoise

    def jump(
        self,
        x: Float[Tensor, "B H A"],
        start: Float[Tensor, " #B"],
        stop: Float[Tensor, " #B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        """Return G(x, start, stop, obs); x itself where start equals stop, also at 0."""
        ratio = torch.where(start > 0, stop / start.clamp(min=self.sigma_min), 1.0)[:, None, None]
        return ratio * x + (1.0 - ratio) * self.toward(x, start, stop, obs)

    def toward(
        self,
        x: Float[Tensor, "B H A"],
        start: Float[Tensor, " #B"],
        stop: Float[Tensor, " #B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        """Return g(x, start, stop, obs): what a straight jump to ``stop`` aims at."""
        level = start.clamp(min=self.sigma_min)[:, None, None]
        data = self.sigma_data.square()
        scale = torch.rsqrt(level.square() + data)
        skip, out = data * scale.square(), level * self.sigma_data * scale
        # A logarithm has no place for 0. Half the smallest sigma stands for it: as far from
        # sigma_min as neighbouring levels are from each other.
        from_to = [start.clamp(min=self.sigma_min), stop.clamp(min=self.sigma_min / 2)]
        levels = torch.stack(from_to, dim=-1).log() / 4
        return skip * x + out * self.network(x * scale, levels, obs)


class TrajectoryTraining(JumpTraining):
    """Algorithm 1 of the paper without the adversarial loss.

    Args:
        model: trained in place.
        settings: iterations, batches, rates, and ``trajectory``.
        targets: states, with the demonstrated actions that are noised.
        teacher: any denoiser in normalised coordinates.
    """

    model: TrajectoryModel

    def __init__(
        self,
        model: TrajectoryModel,
        settings: DistillSettings,
        targets: Targets,
        *,
        teacher: Teacher,
    ) -> None:
        super().__init__(model, settings, settings.trajectory, targets, teacher=teacher)

    def losses(
        self, action: Float[Tensor, "B H A"], obs: Float[Tensor, "B T O"]
    ) -> Mapping[str, Tensor]:
        """Return the sum of both losses, and each."""
        weight = self.settings.trajectory.denoising_weight
        index = self.draw_level(len(obs), self.settings.trajectory.n_scales)
        start = self.sigmas[index]
        x = action + start[:, None, None] * torch.randn_like(action)
        trajectory = self.trajectory_loss(x, index, obs)
        if not weight:
            return {"loss": trajectory}
        denoising = self.denoising_loss(action, x, start, obs)
        loss = trajectory + weight * denoising
        return {"loss": loss, "trajectory_loss": trajectory, "denoising_loss": denoising}

    def trajectory_loss(
        self,
        x: Float[Tensor, "B H A"],
        index: Int[Tensor, " B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, ""]:
        """Return the distance between a direct jump to s and one after solver steps, both at 0.

        Args:
            x: noised actions.
            index: their levels t, as indices into ``sigmas``.
            obs: normalised windows.
        """
        options, fixed = self.settings.trajectory, cast(TrajectoryModel, self._target.shadow)
        last = options.n_scales  # the index of 0
        reached, between = x, index
        for _ in range(int(torch.randint(1, options.max_steps + 1, ()))):
            onward = (between + 1).clamp(max=last)
            reached = self.ode_step(reached, self.sigmas[between], self.sigmas[onward], obs)
            between = onward
        remaining = last + 1 - between
        target_index = between + (torch.rand(len(x)) * remaining).long()
        n_ends = round(options.end_share * len(x))  # rows are drawn independently: any will do
        target_index[:n_ends] = last
        start, middle, stop = (self.sigmas[i] for i in (index, between, target_index))

        def at_zero(reached: Tensor) -> Tensor:
            """Jump on to 0 where that is not where the rows are."""
            onward = fixed.jump(
                reached[n_ends:], stop[n_ends:], torch.zeros_like(stop[n_ends:]), obs[n_ends:]
            )
            return torch.cat([reached[:n_ends], onward])

        with torch.no_grad():
            target = at_zero(fixed.jump(reached, middle, stop, obs))
        found = at_zero(self.model.jump(x, start, stop, obs))
        return distance(options.distance, found, target)

    def denoising_loss(
        self,
        action: Float[Tensor, "B H A"],
        x: Float[Tensor, "B H A"],
        sigma: Float[Tensor, " B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, ""]:
        """Return the weighted error of g(x, t, t) as a denoiser, as EDM trains one."""
        data, level = self.model.sigma_data.square(), sigma[:, None, None].square()
        weight = (level + data) / (level * data)
        error = self.model.toward(x, sigma, sigma, obs) - action
        return (weight * error.square()).mean()
