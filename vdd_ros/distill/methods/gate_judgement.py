r"""The gate's reverse-KL step: the teacher judges every expert's proposal.

VDD fits its gate by forward KL, to responsibilities of actions that somebody has drawn, because
the reverse-KL optimum :math:`q(z|s) \propto \exp(-L_z(s))` contains :math:`\log \pi` and a score
model does not have it (Zhou et al., 2024, section 3.3). A forward-KL gate covers every mode, and
pays for it with experts that stand between modes or beside them: nothing drawn there ever says no.

A diffusion model does have a likelihood, though, as a bound (Kingma et al., 2021, "Variational
Diffusion Models", equation 13, here in log sigma):

.. math:: -\log \pi(a|s) \le \int E_\epsilon \frac{|D(a + \sigma \epsilon, \sigma, s) - a|^2}
          {\sigma^2} \, d\log\sigma + C,

and the gate needs no more than its differences between experts. Cut to sigmas at which the teacher
tells modes from the space between them, the integral is an energy :math:`E_z(s)` of every expert's
mean, the action that is executed. The gate is then moved to

.. math:: q(z|s) \propto g(z|s) \, e^{-w E_z(s)}, \quad \text{by minimising} \quad
          KL(q \| g) + w \sum_z q(z|s) E_z(s),

with g the forward-KL gate, whose diversity is the prior. The sum over experts is exact, so the
estimate of E may be as noisy as one draw per state and has no bias; one draw of noise serves all
experts of a state, because only their differences count. w = 0 leaves the gate alone; a larger one
gives diversity away for quality, and w is the exponent of the teacher's likelihood.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vdd_ros.core.errors import VddError
from vdd_ros.distill.denoisers import Denoiser
from vdd_ros.distill.mixtures.mixture import gate_entropy
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts
from vdd_ros.distill.training.learning_rate import cosine_rate
from vdd_ros.distill.training.targets import Targets


@dataclass(frozen=True)
class JudgementSettings:
    """The teacher's say in the gate (method vdd). Sigmas are in units of normalised actions."""

    weight: float = 0.0
    """Exponent w of the teacher's likelihood of an expert's mean; 0 for no say."""
    share: float = 0.2
    """Last share of the iterations, in which only the gate learns."""
    batch_size: int = 64
    """States per iteration; the teacher is asked about all experts of each."""
    draws: int = 2
    """Noisy copies of every expert's mean."""
    sigma_low: float = 0.2
    """Smallest sigma: below it the energy sees a single demonstration's jitter."""
    sigma_high: float = 0.8
    """Largest sigma: above it all experts of a state look alike."""
    learning_rate: float = 2e-3
    """Peak learning rate; falls to zero along a half cosine."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.weight < math.inf:
            raise VddError(f"judgement.weight: got {self.weight}, expected 0 or more")
        if not 0 < self.share < 1:
            raise VddError(f"judgement.share: got {self.share}, expected between 0 and 1")
        if self.batch_size < 1 or self.draws < 1:
            raise VddError(
                f"judgement.batch_size {self.batch_size} and judgement.draws {self.draws}: "
                "expected at least 1"
            )
        if not 0 < self.sigma_low < self.sigma_high < math.inf:
            raise VddError(
                f"judgement.sigma_low {self.sigma_low} and judgement.sigma_high "
                f"{self.sigma_high}: expected 0 < sigma_low < sigma_high"
            )
        if not self.learning_rate > 0:
            raise VddError(f"judgement.learning_rate: got {self.learning_rate}, expected above 0")

    def iterations(self, n_iters: int) -> int:
        """Return how many of a run's last iterations are the judgement's."""
        return round(self.share * n_iters) if self.weight else 0


@torch.no_grad()
def expert_energy(
    teacher: Denoiser,
    mean: Float[Tensor, "B K H A"],
    obs: Float[Tensor, "B T O"],
    settings: JudgementSettings,
) -> Float[Tensor, "B K"]:
    r"""Estimate :math:`E_z(s)` in nats, up to what is common to all experts of a state.

    Sigmas are loguniform between the two ends, so that the mean over draws times
    :math:`\log(\sigma_{high}/\sigma_{low})` is an unbiased estimate of the integral.
    """
    batch, n_experts = mean.shape[:2]
    width = math.log(settings.sigma_high / settings.sigma_low)
    clean = mean.flatten(0, 1)
    windows = obs.repeat_interleave(n_experts, 0)
    energy = mean.new_zeros(batch, n_experts)
    for _ in range(settings.draws):
        sigma = settings.sigma_low * torch.exp(width * torch.rand(batch))
        noise = torch.randn(batch, 1, *mean.shape[2:]).expand_as(mean).flatten(0, 1)
        sigmas = sigma.repeat_interleave(n_experts)
        denoised = teacher.denoise(clean + sigmas[:, None, None] * noise, sigmas, windows)
        error = ((denoised - clean) / sigmas[:, None, None]).square().flatten(1).sum(-1)
        energy += error.view(batch, n_experts)
    return energy * (width / settings.draws)


def judged_gate_loss(
    gating_logits: Float[Tensor, "B K"],
    prior_logits: Float[Tensor, "B K"],
    energy: Float[Tensor, "B K"],
    weight: float,
) -> Float[Tensor, ""]:
    r"""Return :math:`KL(q \| g) + w \sum_z q(z|s) E_z(s)`, averaged over states."""
    log_gate = torch.log_softmax(gating_logits, dim=-1)
    log_prior = torch.log_softmax(prior_logits.detach(), dim=-1)
    return (log_gate.exp() * (log_gate - log_prior + weight * energy)).sum(-1).mean()


class GateJudgement:
    """Moves a trained student's gate; experts and trunk stay as they are.

    Args:
        student: shape to build from; `begin` brings the weights.
        settings: how.
        targets: where states come from.
        teacher: any denoiser in normalised coordinates.
        n_iters: iterations of this part.
    """

    def __init__(
        self,
        student: GaussianMixtureOfExperts,
        settings: JudgementSettings,
        targets: Targets,
        *,
        teacher: Denoiser,
        n_iters: int,
    ) -> None:
        self.settings, self.targets, self.n_iters = settings, targets, n_iters
        self.teacher_queries = 0
        self._teacher = teacher
        self.state = _State(student)
        self._optimizer = torch.optim.Adam(
            self.state.student.gate.parameters(), lr=settings.learning_rate
        )

    @property
    def begun(self) -> bool:
        """Whether the judged student has taken over from the trained one."""
        return bool(self.state.begun)

    @property
    def student(self) -> GaussianMixtureOfExperts:
        """The judged student."""
        return self.state.student

    def begin(self, trained: GaussianMixtureOfExperts) -> None:
        """Start from a trained student, whose gate becomes the prior."""
        self.state.student.load_state_dict(trained.state_dict())
        self.state.prior.load_state_dict(trained.gate.state_dict())
        self.state.begun.fill_(1)

    def step(self, iteration: int) -> Mapping[str, Tensor | float]:
        """Take one step on one minibatch; ``iteration`` counts from 0."""
        settings, student = self.settings, self.student
        obs, _ = self.targets.draw(settings.batch_size)
        with torch.no_grad():
            features = student.features(obs)
            _, mean = student.proposals(features)
            prior = self.state.prior(features)
        energy = expert_energy(self._teacher, mean, obs, settings)
        energy -= energy.min(-1, keepdim=True).values
        self.teacher_queries += settings.draws * energy.numel()
        logits = student.gate(features)
        loss = judged_gate_loss(logits, prior, energy, settings.weight)
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * cosine_rate(iteration, self.n_iters)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        gate = torch.softmax(logits.detach(), dim=-1)
        return {
            "loss": loss.detach(),
            "gate_entropy": gate_entropy(logits.detach()).mean(),
            "energy": (gate * energy).sum(-1).mean(),
        }

    def parts(self) -> dict[str, nn.Module]:
        """Return the judged student with its prior."""
        return {"judged": self.state}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the gate's optimiser."""
        return {"judge": self._optimizer}


class _State(nn.Module):
    """What a checkpoint has to keep."""

    begun: Tensor

    def __init__(self, student: GaussianMixtureOfExperts) -> None:
        super().__init__()
        self.student = copy.deepcopy(student).requires_grad_(False).eval()
        self.prior = copy.deepcopy(self.student.gate)
        self.student.gate.requires_grad_(True)
        self.register_buffer("begun", torch.tensor(0))
