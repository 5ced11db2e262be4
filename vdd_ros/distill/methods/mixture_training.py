"""What VDD and its EM controls share: everything but the experts' objective and the targets.

One iteration draws a minibatch, computes the mixture once, and takes an expert step and a gate
step from it: neither loss has a gradient in the other's head, so the two steps of the published
alternation can share the forward pass.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vdd_ros.core.errors import VddError
from vdd_ros.distill.methods.gate_judgement import JudgementSettings
from vdd_ros.distill.methods.kmeans import kmeans
from vdd_ros.distill.methods.objectives import ExpertWeight, gate_cross_entropy
from vdd_ros.distill.methods.rival_settings import (
    ConsistencySettings,
    ImcSettings,
    TrajectorySettings,
)
from vdd_ros.distill.mixtures.mixture import MixtureParameters, gate_entropy, joint_log_prob
from vdd_ros.distill.mixtures.student import (
    GaussianMixtureOfExperts,
    StudentSettings,
    prune_experts,
)
from vdd_ros.distill.training.augmentation import NoiseSettings
from vdd_ros.distill.training.ema import Ema
from vdd_ros.distill.training.learning_rate import cosine_rate
from vdd_ros.distill.training.targets import Targets

Method = Literal["vdd", "em", "em-teacher", "imc", "cd", "ctm"]
Estimator = Literal["path", "paper", "diffused"]
WarmStart = Literal["em", "kmeans", "none"]
SigmaRule = Literal["anneal", "uniform", "fixed", "discrete"]
GateSource = Literal["data", "teacher"]

# Actions k-means looks at: it settles the centres, which training then moves anyway.
_KMEANS_POINTS = 4096


@dataclass(frozen=True)
class DistillSettings:
    """From a teacher, or from data, to a student. Sigmas are in units of normalised actions."""

    student: StudentSettings = field(default_factory=StudentSettings)
    """Shape of the student."""
    n_obs_steps: int | None = None
    """Observations in the window; null takes the teacher's (1 without a teacher)."""
    horizon: int | None = None
    """Actions in the chunk; null takes the teacher's (1 without a teacher)."""
    pad: bool = False
    """Keep chunks that run past an episode's end, filled with its last action (see the teacher's
    setting of this name)."""
    n_iters: int = 4000
    """Iterations in all, the warm start included."""
    batch_size: int = 256
    """States per iteration."""
    learning_rate: float = 1e-3
    """Peak learning rate of the experts; falls to zero along a half cosine."""
    gate_learning_rate: float = 1e-3
    """Peak learning rate of the gate."""
    ema_decay: float = 0.995
    """Decay of the averaged weights, which act; 0 keeps the raw weights."""
    detach_gate: bool = False
    """Train only the gate's own layers on the gate loss, as published."""
    learn_gate: bool = True
    """False leaves the gate as it starts, every expert equally likely in every state."""
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    """Observation noise: the teacher is asked beside the demonstrations, too."""
    warm_start: WarmStart = "em"
    """kmeans places the experts; em also fits them to teacher samples for a while; none."""
    warm_start_iters: int = 1500
    """em: iterations before VDD begins."""
    warm_source: GateSource = "teacher"
    """vdd: actions k-means and the warm start look at: the teacher's samples or demonstrated ones.
    With ``gate_source`` data as well, the teacher is never sampled, which saves that time."""
    cache_states: int = 16384
    """Distinct states the teacher is sampled at."""
    cache_samples: int = 8
    """Teacher samples per state."""
    cache_steps: int = 8
    """Denoiser calls per teacher sample."""
    gate_source: GateSource = "teacher"
    """vdd: fit the gate to the responsibilities of demonstrated or of teacher-sampled actions."""
    estimator: Estimator = "path"
    """vdd: path (low variance), paper (the published surrogate) or diffused (noised student)."""
    expert_weight: ExpertWeight = "floor"
    """vdd: gate the expert step assumes: gate (the bound), uniform, or floor (half and half)."""
    forward_kl: float = 0.0
    """vdd: share of maximum likelihood on the gate's target actions in the expert loss.

    0 is the published objective, 1 is EM. With ``gate_source: data`` a share of the student then
    comes from the demonstrations directly, not through the teacher.
    """
    experts_per_state: int = 2
    """vdd: experts drawn per state, importance-corrected; as many as there are takes all."""
    samples_per_expert: int = 2
    """vdd: actions per drawn expert."""
    natural: bool = True
    """vdd, path and diffused: scale each expert's gradient by its covariance."""
    sigma_rule: SigmaRule = "anneal"
    """vdd: anneal sigma_start to sigma_end, uniform between them, fixed at sigma_end, or discrete:
    drawn from ``sigma_grid``, as far as it lies between them."""
    sigma_start: float = 0.3
    """vdd: first, largest sigma the teacher is asked at."""
    sigma_end: float = 0.05
    """vdd: last, smallest sigma."""
    sigma_grid: tuple[float, ...] = ()
    """vdd, discrete: the sigmas; empty for the levels that the teacher itself was trained at."""
    deblur: bool = False
    """vdd, path and paper: in the end take out of the covariances what judging at sigma > 0 put
    into them; ``estimator: diffused`` puts nothing in."""
    prune: float = 0.0
    """Experts whose average gate is below this share of an even one are taken out in the end, so
    that ``n_experts`` is an upper bound; 0 keeps all, .1 takes out the dead."""
    judgement: JudgementSettings = field(default_factory=JudgementSettings)
    """vdd: the teacher's say in the gate, at the end of the training."""
    imc: ImcSettings = field(default_factory=ImcSettings)
    """imc: the curriculum."""
    consistency: ConsistencySettings = field(default_factory=ConsistencySettings)
    """cd: noise levels, targets, loss."""
    trajectory: TrajectorySettings = field(default_factory=TrajectorySettings)
    """ctm: noise levels, targets, losses."""
    seed: int = 0
    """Seed of initialisation and training."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in (
            "n_iters",
            "batch_size",
            "cache_states",
            "cache_samples",
            "cache_steps",
            "experts_per_state",
            "samples_per_expert",
        ):
            if getattr(self, name) < 1:
                raise VddError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if not 0 <= self.warm_start_iters <= self.n_iters:
            raise VddError(
                f"warm_start_iters: got {self.warm_start_iters}, expected 0 to n_iters "
                f"({self.n_iters}), which includes the warm start: raise n_iters (--iterations) "
                "or lower warm_start_iters in the settings file (--config)"
            )
        before = self.n_iters - self.judgement.iterations(self.n_iters)
        if self.warm_start == "em" and self.warm_start_iters > before:
            raise VddError(
                f"warm_start_iters: got {self.warm_start_iters}, but judgement.share "
                f"{self.judgement.share:g} leaves {before} iterations before it; lower one of them"
            )
        if self.judgement.weight and not self.learn_gate:
            raise VddError(
                f"judgement.weight: got {self.judgement.weight:g} with learn_gate false, which "
                "leaves the gate as it is; expected one of the two"
            )
        if not 0 < self.sigma_end <= self.sigma_start:
            raise VddError(
                f"sigma_end {self.sigma_end} and sigma_start {self.sigma_start}: expected "
                "0 < sigma_end <= sigma_start"
            )
        if not (self.learning_rate > 0 and self.gate_learning_rate > 0):
            raise VddError("learning_rate and gate_learning_rate: expected positive numbers")
        if not 0 <= self.forward_kl <= 1:
            raise VddError(f"forward_kl: got {self.forward_kl}, expected 0 to 1")
        if not 0 <= self.ema_decay < 1:
            raise VddError(f"ema_decay: got {self.ema_decay}, expected 0 <= ema_decay < 1")
        if not all(0 < sigma < math.inf for sigma in self.sigma_grid):
            raise VddError(f"sigma_grid: got {self.sigma_grid}, expected positive numbers")
        if not 0 <= self.prune <= 1:
            raise VddError(f"prune: got {self.prune}, expected 0 to 1")
        if self.deblur and (self.estimator == "diffused" or self.forward_kl > 0):
            raise VddError(
                "deblur: takes out what the path and paper estimators put in; expected another "
                f"estimator than '{self.estimator}' and forward_kl 0, not {self.forward_kl}"
            )
        if self.seed < 0:
            raise VddError(f"seed: got {self.seed}, expected 0 or more")


class MixtureTraining:
    """A `trainer.Trainable` that fits a student; subclasses say with which expert loss.

    Args:
        student: trained in place.
        settings: how.
        targets: actions for the gate, and for maximum likelihood.
    """

    def __init__(
        self, student: GaussianMixtureOfExperts, settings: DistillSettings, targets: Targets
    ) -> None:
        self.student, self.settings, self.targets = student, settings, targets
        self.n_iters = settings.n_iters
        self.anneal_iters = settings.n_iters
        """Iterations over which learning rates and sigmas come down."""
        self.teacher_queries = 0
        if not settings.learn_gate:
            # Its last layer starts at zero and stays there, so the trunk hears nothing from it.
            student.gate.requires_grad_(False)
        self._ema = Ema(student, settings.ema_decay) if settings.ema_decay else None
        gate = list(student.gate.parameters())
        of_gate = {id(p) for p in gate}
        # In the order of definition, which a resumed run finds again.
        experts = [p for p in student.parameters() if id(p) not in of_gate]
        self._groups = [
            {"params": experts, "peak": settings.learning_rate},
            {"params": gate, "peak": settings.gate_learning_rate},
        ]
        self._optimizer = torch.optim.Adam(self._groups, lr=settings.learning_rate, fused=True)

    @abstractmethod
    def expert_loss(
        self,
        mixture: MixtureParameters,
        obs: Float[Tensor, "B T O"],
        action: Float[Tensor, "B S D"],
        iteration: int,
    ) -> Float[Tensor, ""]:
        """Return the loss whose gradient moves the experts."""

    def gate_targets(
        self, mixture: MixtureParameters, joint: Float[Tensor, "B S K"]
    ) -> Float[Tensor, "B S K"]:
        """Return what the gate is fitted to: here the responsibilities; ``joint`` is constant."""
        return torch.softmax(joint, dim=-1)

    def draw(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Draw observations [B, T, O] and target actions [B, S, H, A]."""
        return self.targets.draw(self.settings.batch_size)

    def step(self, iteration: int) -> Mapping[str, Tensor | float]:
        """Take one expert step and one gate step from one minibatch."""
        obs, chunks = self.draw(iteration)
        action = chunks.flatten(2)
        mixture = self.student(obs, detach_gate=self.settings.detach_gate)
        # E-step: responsibilities under the current parameters, as constants.
        joint = joint_log_prob(action, mixture.detach())
        gate_loss = gate_cross_entropy(mixture.gating_logits, self.gate_targets(mixture, joint))
        loss = self.expert_loss(mixture, obs, action, iteration) + gate_loss
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * cosine_rate(iteration, self.anneal_iters)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        if self._ema:
            self._ema.update(iteration)
        return {
            "loss": -torch.logsumexp(joint, dim=-1).mean(),
            "gate_entropy": gate_entropy(mixture.gating_logits.detach()).mean(),
            "experts_alive": experts_alive(mixture.gating_logits),
        }

    def parts(self) -> dict[str, nn.Module]:
        """Return the student and its average."""
        parts: dict[str, nn.Module] = {"student": self.student}
        return parts | ({"ema": self._ema.shadow} if self._ema else {})

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the one optimiser, which has a group for the experts and one for the gate."""
        return {"adam": self._optimizer}

    def acting(self) -> GaussianMixtureOfExperts:
        """Return the averaged student."""
        return self._ema.shadow if self._ema else self.student

    def blur(self) -> float:
        """Return the sigma whose square the training leaves in every covariance."""
        return 0.0

    def refined(self) -> GaussianMixtureOfExperts:
        """Return the averaged student as its settings want it in the end: pruned and deblurred."""
        student = self.acting()
        if self.settings.prune:
            student = prune_experts(student, self.targets.obs, self.settings.prune)
        if self.settings.deblur and self.blur():
            student = copy.deepcopy(student)
            student.settings = replace(student.settings, deblur=self.blur())
        return student


def place_experts(student: GaussianMixtureOfExperts, targets: Targets) -> None:
    """Start the experts at the k-means centres of target actions, the same for every state."""
    points = targets.action.flatten(0, 1).flatten(1)
    points = points[torch.randint(len(points), (min(len(points), _KMEANS_POINTS),))]
    student.head.set_means(kmeans(points, student.settings.n_experts))


@torch.no_grad()
def experts_alive(gating_logits: Float[Tensor, "B K"]) -> float:
    """Return how many experts have more than a tenth of an even share of the average gate."""
    share = torch.softmax(gating_logits, dim=-1).mean(0)
    return float((share > 0.1 / len(share)).sum())
