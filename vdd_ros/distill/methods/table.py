"""The methods that make one-pass policies: how each one's training is put together.

All of them get the same demonstrations, perturbed alike, and the same teacher; they differ in the
network, in the objective, and in what they ask the teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from torch import Tensor

from vdd_ros.core.errors import VddError
from vdd_ros.distill.methods.consistency import ConsistencyModel, ConsistencyTraining
from vdd_ros.distill.methods.em import EmTraining
from vdd_ros.distill.methods.imc import ImcTraining
from vdd_ros.distill.methods.jumps import JumpModel, JumpShape, take_over
from vdd_ros.distill.methods.mixture_training import (
    DistillSettings,
    Method,
    MixtureTraining,
    place_experts,
)
from vdd_ros.distill.methods.trajectory_consistency import TrajectoryModel, TrajectoryTraining
from vdd_ros.distill.methods.vdd import VddTraining
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts
from vdd_ros.distill.networks.normalization import Affine
from vdd_ros.distill.teachers.base import DenoisingTeacher
from vdd_ros.distill.teachers.edm import EdmTeacher
from vdd_ros.distill.training.targets import Targets, teacher_targets
from vdd_ros.distill.training.trainer import Trainable

RunKind = Literal["student", "consistency"]
"""What a run folder holds: a mixture of experts, or a consistency model."""

J = TypeVar("J", bound=JumpModel)


@dataclass(frozen=True)
class Ingredients:
    """What every method is made from."""

    settings: DistillSettings
    """How."""
    data: Targets
    """Demonstrated states and actions, perturbed where the settings say so."""
    teacher: DenoisingTeacher | None
    """Asked, or only lending its normalisers; None where there is none."""
    observation: Affine
    """Normaliser of observations."""
    action: Affine
    """Normaliser of actions."""


@dataclass(frozen=True)
class Recipe:
    """A method, seen from the command line."""

    prepare: Callable[[Ingredients], Trainable]
    """Puts the training together."""
    kind: RunKind = "student"
    """What it leaves in the run folder."""
    needs_teacher: bool = True
    """Whether it asks a teacher anything."""
    n_levels: int = 0
    """consistency: noise levels the network is told."""

    def model(self, settings: DistillSettings, teacher: DenoisingTeacher | None) -> object:
        """Return the settings of the network, as the run folder records them."""
        if self.kind == "student" or teacher is None:
            return settings.student
        # The teacher's own network: the two can then differ in nothing but what they learnt.
        network = replace(teacher.settings.network(), n_levels=self.n_levels)
        return JumpShape(network, sigma_min=teacher.sigma_min, sigma_max=teacher.sigma_max)


def em(given: Ingredients) -> Trainable:
    """EM on the demonstrations."""
    return EmTraining(_student(given, given.data), given.settings, given.data)


def imc(given: Ingredients) -> Trainable:
    """IMC on the demonstrations."""
    return ImcTraining(_student(given, given.data), given.settings, given.data)


def em_teacher(given: Ingredients) -> Trainable:
    """EM on teacher samples."""
    samples = _teacher_samples(given)
    return _charged(EmTraining(_student(given, samples), given.settings, samples), samples)


def vdd(given: Ingredients) -> Trainable:
    """VDD after a start by EM."""
    settings, teacher = given.settings, _teacher(given)
    sources = {"data": given.data}
    if "teacher" in (settings.gate_source, settings.warm_source):
        sources["teacher"] = _teacher_samples(given)
    warm = sources[settings.warm_source]
    training = VddTraining(
        _student(given, warm),
        settings,
        sources[settings.gate_source],
        warm_targets=warm,
        teacher=teacher,
    )
    return _charged(training, sources["teacher"]) if "teacher" in sources else training


def cd(given: Ingredients) -> Trainable:
    """Consistency Distillation."""
    model = _jump_model(ConsistencyModel, given, "cd")
    return ConsistencyTraining(model, given.settings, given.data, teacher=_teacher(given))


def ctm(given: Ingredients) -> Trainable:
    """Consistency Trajectory Model."""
    model = _jump_model(TrajectoryModel, given, "ctm")
    return TrajectoryTraining(model, given.settings, given.data, teacher=_teacher(given))


METHODS: dict[Method, Recipe] = {
    "vdd": Recipe(vdd),
    "em": Recipe(em, needs_teacher=False),
    "em-teacher": Recipe(em_teacher),
    "imc": Recipe(imc, needs_teacher=False),
    "cd": Recipe(cd, kind="consistency", n_levels=1),
    "ctm": Recipe(ctm, kind="consistency", n_levels=2),
}


def measured_sigma_data(action: Tensor) -> float:
    """Return the root mean square over components of the standard deviation of actions.

    EDM fixes sigma_data at .5 for images scaled to [-1, 1]; normalised actions have another
    spread, and the preconditioning is only right (unit-variance targets) with the true one.
    """
    return float(action.flatten(0, -2).var(0).mean().sqrt().clamp(min=1e-3))


def _teacher(given: Ingredients) -> DenoisingTeacher:
    if given.teacher is None:
        raise VddError("this method needs a teacher: give the folder of a trained one")
    return given.teacher


def _student(given: Ingredients, targets: Targets) -> GaussianMixtureOfExperts:
    """Build the mixture, its experts where the targets are."""
    settings, obs, action = given.settings, given.data.obs, given.data.action
    student = GaussianMixtureOfExperts(
        settings.student,
        dim_obs=obs.shape[2],
        dim_act=action.shape[3],
        n_obs_steps=obs.shape[1],
        horizon=action.shape[2],
        observation=given.observation,
        action=given.action,
    )
    if settings.warm_start != "none":
        place_experts(student, targets)
    return student


def _teacher_samples(given: Ingredients) -> Targets:
    settings = given.settings
    return teacher_targets(
        _teacher(given),
        given.data,
        n_states=settings.cache_states,
        n_samples=settings.cache_samples,
        n_steps=settings.cache_steps,
    )


def _charged(training: MixtureTraining, samples: Targets) -> MixtureTraining:
    """Count what the teacher was asked before the first iteration."""
    n_states, n_samples = samples.action.shape[:2]
    training.teacher_queries = n_states * n_samples * training.settings.cache_steps
    return training


def _jump_model(model: type[J], given: Ingredients, method: Method) -> J:
    """Build a consistency model, as the teacher where it can be that."""
    teacher, settings = _teacher(given), given.settings
    shape = METHODS[method].model(settings, teacher)
    assert isinstance(shape, JumpShape)
    is_edm = isinstance(teacher, EdmTeacher)
    spread = float(teacher.sigma_data) if is_edm else measured_sigma_data(given.data.action)
    built = model(
        shape,
        dim_obs=teacher.dim_obs,
        dim_act=teacher.dim_act,
        observation=given.observation,
        action=given.action,
        sigma_data=spread,
    )
    if is_edm:
        take_over(built.network, teacher.network, shape.network)
    return built
