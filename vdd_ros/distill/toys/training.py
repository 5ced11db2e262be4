"""One toy, one way to learn it, one seed: train a mixture and compare it with the truth."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.distill.denoisers import Teacher, sample_actions
from vdd_ros.distill.diagnostics.coverage import mode_mass
from vdd_ros.distill.diagnostics.distances import (
    Policy,
    draw_actions,
    monte_carlo_kl,
    sliced_wasserstein,
)
from vdd_ros.distill.methods.em import EmTraining
from vdd_ros.distill.methods.mixture_training import (
    MixtureTraining,
    experts_alive,
    place_experts,
)
from vdd_ros.distill.methods.vdd import VddTraining
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts
from vdd_ros.distill.teachers.edm import EdmTeacher, TeacherSettings
from vdd_ros.distill.toys.recipes import VARIANTS, ToySettings, recipe
from vdd_ros.distill.toys.truths import Toy, make_toy, train_toy_teacher
from vdd_ros.distill.training.targets import Targets
from vdd_ros.distill.training.trainer import reproducible

# A mode counts as found when the experts near it carry this share of what it weighs.
_FOUND = 0.5
_KL_SAMPLES = 8192
_WASSERSTEIN_SAMPLES = 4096
_DRAWN = 1500
# Experts below this share of an even gate are not drawn.
_DEAD = 0.1


@dataclass(frozen=True)
class ToyFigures:
    """What one run is worth. A teacher has samples but no density: its divergences are null."""

    toy: str
    """Name of the toy."""
    variant: str
    """How it was learnt."""
    seed: int
    """Of everything random."""
    forward_kl: float | None
    """KL(truth || student) in nats, by Monte Carlo: what missing modes and wrong widths cost."""
    reverse_kl: float | None
    """KL(student || truth) in nats, by Monte Carlo: what samples in empty places cost."""
    sliced_wasserstein: float
    """Sliced 2-Wasserstein distance of samples; two samples of the truth have some, too."""
    modes: float
    """Modes found, averaged over states."""
    n_modes: int
    """Modes there are."""
    entropy: float
    """Entropy of the weights of the modes over the truth's: 1 is the truth's own diversity."""
    experts: float
    """Experts with more than a tenth of an even share of the gate; 0 for a teacher."""
    cpu_s: float
    """Processor seconds of sampling the teacher and training; a learned teacher's own are not
    included."""


@dataclass(frozen=True)
class ToyPicture:
    """What can be drawn of a run, at the first state."""

    action: NDArray[np.float32]
    """[S, 2] samples."""
    expert: NDArray[np.int64]
    """[S] the expert that made each; -1 for a teacher."""
    mean: NDArray[np.float32]
    """[K, 2] means of the experts the gate uses."""


def run_toy(
    name: str, variant: str, seed: int, settings: ToySettings
) -> tuple[ToyFigures, ToyPicture]:
    """Learn a toy and measure the result.

    Args:
        name: of the toy.
        variant: ``vdd-diffused`` (after EM, student and teacher noised alike), ``vdd-mixed`` (the
            same with a share of maximum likelihood), ``vdd-warm`` (the teacher alone noised),
            ``vdd`` (the same without EM), ``em`` (maximum likelihood on teacher samples),
            ``paper`` (see `recipe`), ``teacher`` (its samples).
        seed: of everything random; the caller's generator is left as it was.
        settings: how.

    Raises:
        VddError: unknown toy or variant.
    """
    if variant not in VARIANTS:
        raise VddError(f"variant: got '{variant}'{did_you_mean(variant, VARIANTS)}")
    with reproducible(seed, 1):
        toy = make_toy(name)
        teacher = _teacher(toy, settings.teacher, seed)
        if variant == "teacher":
            return _teacher_figures(toy, teacher, settings, seed)
        begun_s = time.process_time()
        student = learn(toy, variant, teacher, settings)
        cpu_s = time.process_time() - begun_s
        student = student.requires_grad_(False).eval()
        return _student_figures(toy, student, variant, seed, cpu_s)


def learn(
    toy: Toy, variant: str, teacher: Teacher, settings: ToySettings
) -> GaussianMixtureOfExperts:
    """Sample the teacher, place the experts, and train.

    The warm start is a training of its own. Adam's memory of the likelihood's large gradients
    would otherwise keep the steps of VDD small for a thousand iterations: on the ring that alone
    makes a forward KL of .05 to .1 out of one below .001.
    """
    how = recipe(variant, toy, settings)
    student = GaussianMixtureOfExperts(how.student, dim_obs=1, dim_act=2, n_obs_steps=1, horizon=1)
    obs = toy.states(how.cache_states)
    samples = Targets(obs, _sample(teacher, obs, how.cache_samples, settings)[..., None, :])
    if variant == "paper":
        student.head.set_means(torch.rand(how.student.n_experts, 2) - 0.5)
    else:
        place_experts(student, samples)
    if variant == "em":
        return _trained(EmTraining(student, how, samples))
    n_warm = how.warm_start_iters if how.warm_start == "em" else 0
    if n_warm:
        _trained(EmTraining(student, replace(how, n_iters=n_warm), samples))
    rest = replace(how, n_iters=how.n_iters - n_warm, warm_start="none", warm_start_iters=0)
    return _trained(VddTraining(student, rest, samples, warm_targets=samples, teacher=teacher))


def mode_figures(toy: Toy, mass: Float[Tensor, "B C"]) -> tuple[float, float]:
    """Return modes found, and the entropy over the modes relative to the truth's."""
    weight = toy.mode_weight()
    found = (mass >= _FOUND * weight).sum(-1).float().mean()
    share = mass / mass.sum(-1, keepdim=True).clamp(min=1e-12)
    entropy = torch.special.entr(share).sum(-1).mean()
    return float(found), float(entropy / torch.special.entr(weight).sum())


def _trained(training: MixtureTraining) -> GaussianMixtureOfExperts:
    for iteration in range(training.n_iters):
        training.step(iteration)
    student = training.acting()
    assert isinstance(student, GaussianMixtureOfExperts)
    return student


@lru_cache(maxsize=1)
def _learned(settings: TeacherSettings, seed: int) -> EdmTeacher:
    """Train the teacher of a seed once for all variants that follow each other."""
    with reproducible(seed, 1):
        return train_toy_teacher(make_toy("moons"), settings)


def _teacher(toy: Toy, settings: TeacherSettings, seed: int) -> Teacher:
    return _learned(settings, seed) if toy.name == "moons" else toy.truth


def _sample(
    teacher: Teacher, obs: Float[Tensor, "B T O"], n_samples: int, settings: ToySettings
) -> Float[Tensor, "B S D"]:
    """Draw from the teacher as a robot would: through its score alone."""
    rows = obs.repeat_interleave(n_samples, 0)
    action = sample_actions(
        teacher,
        rows,
        torch.randn(len(rows), 1, 2),
        n_steps=settings.sampler_steps,
        sigma_min=teacher.sigma_min,
        sigma_max=teacher.sigma_max,
        kind="heun",
        schedule="karras",
    )
    return action.view(len(obs), n_samples, 2)


def _teacher_figures(
    toy: Toy, teacher: Teacher, settings: ToySettings, seed: int
) -> tuple[ToyFigures, ToyPicture]:
    begun_s = time.process_time()
    action = _sample(teacher, toy.obs, _WASSERSTEIN_SAMPLES, settings)
    cpu_s = time.process_time() - begun_s
    weight = torch.full(action.shape[:2], 1.0 / action.shape[1])
    found, entropy = mode_figures(toy, _mass(toy, action, weight))
    figures = ToyFigures(
        toy=toy.name,
        variant="teacher",
        seed=seed,
        forward_kl=None,
        reverse_kl=None,
        sliced_wasserstein=_distance(toy, action),
        modes=found,
        n_modes=toy.n_modes,
        entropy=entropy,
        experts=0.0,
        cpu_s=cpu_s,
    )
    drawn = action[0, :_DRAWN].numpy()
    nobody = np.full(len(drawn), -1, np.int64)
    return figures, ToyPicture(drawn, nobody, np.zeros((0, 2), np.float32))


@torch.no_grad()
def _student_figures(
    toy: Toy, student: Policy, variant: str, seed: int, cpu_s: float
) -> tuple[ToyFigures, ToyPicture]:
    mixture = student(toy.obs)
    gate = mixture.log_gate.exp()
    found, entropy = mode_figures(toy, _mass(toy, mixture.flat_mean, gate))
    n_samples = math.ceil(_KL_SAMPLES / len(toy.obs))
    figures = ToyFigures(
        toy=toy.name,
        variant=variant,
        seed=seed,
        forward_kl=monte_carlo_kl(toy.density, student, toy.obs, n_samples=n_samples),
        reverse_kl=monte_carlo_kl(student, toy.density, toy.obs, n_samples=n_samples),
        sliced_wasserstein=_distance(toy, draw_actions(student, toy.obs, _WASSERSTEIN_SAMPLES)),
        modes=found,
        n_modes=toy.n_modes,
        entropy=entropy,
        experts=experts_alive(mixture.gating_logits),
        cpu_s=cpu_s,
    )
    action, expert = student(toy.obs[:1].expand(_DRAWN, -1, -1)).sample()
    used = gate[0] > _DEAD / gate.shape[1]
    mean = mixture.flat_mean[0, used]
    return figures, ToyPicture(action[:, 0].numpy(), expert.numpy(), mean.numpy())


def _mass(
    toy: Toy, place: Float[Tensor, "B N D"], weight: Float[Tensor, "B N"]
) -> Float[Tensor, "B C"]:
    centres = toy.density(toy.obs).flat_mean
    return mode_mass(place, weight, centres, toy.mode, radius=toy.radius)


def _distance(toy: Toy, action: Float[Tensor, "B S D"]) -> float:
    truth = draw_actions(toy.density, toy.obs, action.shape[1])
    pairs = zip(action, truth, strict=True)
    return sum(sliced_wasserstein(a, b) for a, b in pairs) / len(action)
