r"""Variational Diffusion Distillation: a diffusion teacher into a Mixture of Experts.

Zhou, Blessing, Li, Celik, Jia, Neumann, Lioutikov: "Variational Distillation of Diffusion Policies
into Mixture of Experts", NeurIPS 2024, arXiv:2406.12538. Each iteration:

1. states from the demonstrations, perturbed; one forward pass gives the mixture q(a|s);
2. experts z drawn per state, actions :math:`a = \mu_z + L_z \epsilon` drawn from each;
3. the teacher's score at (a, sigma, s), sigma falling over the run;
4. expert step (M-step) with :math:`\tilde q` = current responsibilities (E-step);
5. gate step on the responsibilities of demonstrated or teacher-sampled actions.

What differs from the published code, and why: log-sum-exp throughout (theirs loses the repulsion
between experts in more than a few dimensions), the path-derivative estimator (about a tenth of the
variance), variance-exploding coordinates for every teacher (theirs shrinks the means under a VP
teacher), a floor under the expert weights (an expert without weight never comes back), gradients
scaled by each expert's covariance (else narrow experts drown the others in the shared network), a
gate that trains the trunk, too, sub-sampled experts, and a start from k-means and EM on teacher
samples (random starts cover half the modes).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vdd_ros.core.errors import VddError
from vdd_ros.distill.denoisers import Denoiser, score
from vdd_ros.distill.methods.gate_judgement import GateJudgement
from vdd_ros.distill.methods.mixture_training import DistillSettings, MixtureTraining
from vdd_ros.distill.methods.objectives import (
    choose_experts,
    em_expert_loss,
    expert_weights,
    reparameterized_actions,
    vdd_paper_loss,
    vdd_path_loss,
)
from vdd_ros.distill.mixtures.mixture import MixtureParameters, diffuse
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts
from vdd_ros.distill.training.targets import Targets


class VddTraining(MixtureTraining):
    """A warm start by EM on teacher samples, then VDD.

    Args:
        student: trained in place.
        settings: how.
        targets: actions the gate is fitted to, with the states of the VDD iterations.
        warm_targets: teacher samples of the warm start.
        teacher: any denoiser in normalised coordinates.
    """

    def __init__(
        self,
        student: GaussianMixtureOfExperts,
        settings: DistillSettings,
        targets: Targets,
        *,
        warm_targets: Targets,
        teacher: Denoiser,
    ) -> None:
        super().__init__(student, settings, targets)
        self._warm_targets, self._teacher = warm_targets, teacher
        self._warm_iters = settings.warm_start_iters if settings.warm_start == "em" else 0
        if settings.sigma_rule == "discrete":
            self._grid = sigma_grid(settings, teacher)
        judged = settings.judgement.iterations(self.n_iters)
        self.anneal_iters = self.n_iters - judged
        self._judgement: GateJudgement | None = None
        if judged:
            self._judgement = GateJudgement(
                student, settings.judgement, targets, teacher=teacher, n_iters=judged
            )

    def step(self, iteration: int) -> Mapping[str, Tensor | float]:
        """Take an expert step and a gate step; at the end, let the teacher judge the gate."""
        judgement, since = self._judgement, iteration - self.anneal_iters
        if judgement is None or since < 0:
            return super().step(iteration)
        if since == 0:
            judgement.begin(super().acting())
        asked = judgement.teacher_queries
        figures = judgement.step(since)
        self.teacher_queries += judgement.teacher_queries - asked
        return figures

    def parts(self) -> dict[str, nn.Module]:
        """Return the student, its average, and the judged one."""
        return super().parts() | (self._judgement.parts() if self._judgement else {})

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimiser of the student and that of the judged gate."""
        return super().optimizers() | (self._judgement.optimizers() if self._judgement else {})

    def acting(self) -> GaussianMixtureOfExperts:
        """Return the averaged student, judged where that has begun."""
        if self._judgement and self._judgement.begun:
            return self._judgement.student
        return super().acting()

    def draw(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Draw teacher samples during the warm start, the gate's targets afterwards."""
        targets = self._warm_targets if iteration < self._warm_iters else self.targets
        return targets.draw(self.settings.batch_size)

    def expert_loss(
        self,
        mixture: MixtureParameters,
        obs: Float[Tensor, "B T O"],
        action: Float[Tensor, "B S D"],
        iteration: int,
    ) -> Float[Tensor, ""]:
        """Return the expert loss of the warm start or of VDD (equation 11 of the paper)."""
        share = 1.0 if iteration < self._warm_iters else self.settings.forward_kl
        if share == 0:
            return self._reverse_kl(mixture, obs, iteration)
        likelihood = em_expert_loss(action, mixture)
        if share == 1:
            return likelihood
        # Reverse KL is about the quality of every expert, forward KL about covering every mode;
        # their weighted sum is a Jeffreys-like divergence.
        return (1.0 - share) * self._reverse_kl(mixture, obs, iteration) + share * likelihood

    def _reverse_kl(
        self, mixture: MixtureParameters, obs: Float[Tensor, "B T O"], iteration: int
    ) -> Float[Tensor, ""]:
        """Return the expert loss of VDD at this iteration's sigma."""
        settings = self.settings
        weights = expert_weights(mixture.gating_logits, settings.expert_weight)
        # The expert step sees the mixture with these weights, not only its loss: an expert that
        # is weighted by one gate and judged by another, smaller one has no entropy to keep and
        # shrinks to a point that no responsibility ever finds again.
        mixture = mixture._replace(gating_logits=weights.log())
        experts, weight = choose_experts(weights, settings.experts_per_state)
        drawn = reparameterized_actions(mixture, experts, settings.samples_per_expert)
        sigma = self.sigma(iteration, len(obs))
        metric = mixture.covariance.select(experts) if settings.natural else None
        if settings.estimator == "path":
            return vdd_path_loss(
                drawn, weight, self.teacher_score(drawn, sigma, obs), mixture, metric
            )
        if settings.estimator == "paper":
            target = self.teacher_score(drawn, sigma, obs)
            return vdd_paper_loss(drawn, experts, weight, target, mixture)
        if settings.estimator == "diffused":
            # Judged by p_sigma, the student is noised by sigma as well: q * N(0, sigma^2 I)
            # against pi * N(0, sigma^2 I) has its optimum at q = pi for every sigma, where the
            # two other forms end at covariances that are sigma^2 I too wide. Without the metric,
            # the weight sigma^2 keeps the score's magnitude the same along the run.
            width = sigma[:, None, None, None]
            noised = drawn + width * torch.randn_like(drawn)
            target = self.teacher_score(noised, sigma, obs)
            wider = diffuse(mixture.detach(), sigma)
            scale = weight if settings.natural else weight * sigma[:, None] ** 2
            return vdd_path_loss(noised, scale, target, wider, metric)
        raise VddError(f"estimator: unknown '{settings.estimator}'; known: path, paper, diffused")

    def sigma(self, iteration: int, batch: int) -> Float[Tensor, " B"]:
        """Return the sigma each state's actions are judged at."""
        settings = self.settings
        low, high = settings.sigma_end, settings.sigma_start
        if settings.sigma_rule == "uniform":
            return low + (high - low) * torch.rand(batch)
        if settings.sigma_rule == "discrete":
            return self._grid[torch.randint(len(self._grid), (batch,))]
        if settings.sigma_rule == "fixed":
            return torch.full((batch,), low)
        first, last = self._warm_iters, max(self.anneal_iters - 1, self._warm_iters + 1)
        return torch.full((batch,), high + (low - high) * (iteration - first) / (last - first))

    def blur(self) -> float:
        r"""Return the sigma whose square the training leaves in every covariance.

        The path and paper forms end where :math:`\Sigma_q^{-1} = E_\sigma[(\Sigma_\pi + \sigma^2
        I)^{-1}]`: for a teacher narrow beside sigma, at :math:`\sigma_{eff}^{-2} =
        E[\sigma^{-2}]`, which for sigma uniform on [a, b] is 1 / (a b).
        """
        settings = self.settings
        if settings.estimator == "diffused" or self._warm_iters >= self.n_iters:
            return 0.0
        if settings.sigma_rule == "uniform":
            return math.sqrt(settings.sigma_end * settings.sigma_start)
        if settings.sigma_rule == "discrete":
            return float(self._grid.pow(-2).mean().rsqrt())
        return settings.sigma_end

    @torch.no_grad()
    def teacher_score(
        self,
        action: Float[Tensor, "B M S D"],
        sigma: Float[Tensor, " B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B M S D"]:
        """Ask the teacher for the score of all drawn actions in one call; no gradient."""
        per_state = action.shape[1] * action.shape[2]
        chunks = action.reshape(-1, self.student.horizon, self.student.dim_act)
        self.teacher_queries += len(chunks)
        return score(
            self._teacher,
            chunks,
            sigma.repeat_interleave(per_state),
            obs.repeat_interleave(per_state, 0),
        ).view_as(action)


def sigma_grid(settings: DistillSettings, teacher: Denoiser) -> Float[Tensor, " N"]:
    """Return the sigmas that ``sigma_rule: discrete`` draws from, in rising order.

    Raises:
        VddError: neither settings nor teacher name any, or none lies in the interval.
    """
    schedule = getattr(teacher, "schedule", None)
    levels = settings.sigma_grid or (() if isinstance(schedule, str) else schedule or ())
    if not levels:
        raise VddError(
            "sigma_rule: discrete, but the teacher was trained at every sigma; name some in "
            "sigma_grid or use sigma_rule: uniform"
        )
    low, high = settings.sigma_end, settings.sigma_start
    inside = sorted(level for level in levels if low <= level <= high)
    if not inside:
        raise VddError(
            f"sigma_rule: discrete, but none of the {len(levels)} levels from {min(levels):.3g} "
            f"to {max(levels):.3g} lies between sigma_end {low} and sigma_start {high}; widen "
            "these"
        )
    return torch.tensor(inside)
