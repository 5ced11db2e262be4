"""Trained models out of their run folders, ready to denoise or to act."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from vdd_ros.core.config_io import from_dict
from vdd_ros.core.errors import VddError
from vdd_ros.distill.methods.consistency import ConsistencyModel
from vdd_ros.distill.methods.jumps import JumpModel, JumpShape
from vdd_ros.distill.methods.trajectory_consistency import TrajectoryModel
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts, StudentSettings
from vdd_ros.distill.networks.normalization import Affine
from vdd_ros.distill.teachers.base import DenoisingTeacher
from vdd_ros.distill.teachers.family import make_teacher
from vdd_ros.distill.teachers.settings import TeacherSettings
from vdd_ros.distill.training.checkpoint import SETTINGS, WEIGHTS, RunInfo, read_info, read_tensors

M = TypeVar("M", bound=nn.Module)

_KINDS = {
    "teacher": "a teacher",
    "student": "a student",
    "consistency": "a consistency model",
}


def load_teacher(folder: str | Path) -> DenoisingTeacher:
    """Load a trained teacher of any family, ready to denoise.

    Raises:
        VddError: not a teacher's run folder, or a damaged one.
    """
    info = _expect(folder, "teacher")
    settings = from_dict(TeacherSettings, info.model, where=f"{folder}/{SETTINGS}")
    with _untouched_generator():
        teacher = make_teacher(settings, dim_obs=info.dim_obs, dim_act=info.dim_act)
    return _fill(teacher, Path(folder))


def load_student(folder: str | Path) -> GaussianMixtureOfExperts:
    """Load a trained mixture of experts, ready to act.

    Raises:
        VddError: not a student's run folder, or a damaged one.
    """
    info = _expect(folder, "student")
    settings = from_dict(StudentSettings, info.model, where=f"{folder}/{SETTINGS}")
    with _untouched_generator():
        student = GaussianMixtureOfExperts(
            settings,
            dim_obs=info.dim_obs,
            dim_act=info.dim_act,
            n_obs_steps=info.n_obs_steps,
            horizon=info.horizon,
            observation=Affine(info.dim_obs),
            action=Affine(info.dim_act),
        )
    return _fill(student, Path(folder))


def load_consistency(folder: str | Path) -> JumpModel:
    """Load a trained consistency model, ready to act in one step.

    Raises:
        VddError: not the run folder of a consistency model, or a damaged one.
    """
    info = _expect(folder, "consistency")
    shape = from_dict(JumpShape, info.model, where=f"{folder}/{SETTINGS}")
    model_class = ConsistencyModel if shape.network.n_levels == 1 else TrajectoryModel
    with _untouched_generator():
        model = model_class(shape, dim_obs=info.dim_obs, dim_act=info.dim_act)
    return _fill(model, Path(folder))


def load_policy(folder: str | Path) -> GaussianMixtureOfExperts | JumpModel:
    """Load whatever a distillation left, ready to act.

    Raises:
        VddError: not the run folder of a distillation, or a damaged one.
    """
    if read_info(folder).kind == "consistency":
        return load_consistency(folder)
    return load_student(folder)


def _untouched_generator() -> AbstractContextManager[None]:
    """Building a network draws initial weights; loading one must not disturb the caller."""
    return torch.random.fork_rng(devices=[])


def _expect(folder: str | Path, kind: str) -> RunInfo:
    info = read_info(folder)
    if info.kind != kind:
        raise VddError(
            f"{folder}: holds {_KINDS.get(info.kind, info.kind)} ({info.method}), expected "
            f"{_KINDS[kind]}; give the folder of one"
        )
    return info


def _fill(module: M, folder: Path) -> M:
    tensors, _ = read_tensors(folder / WEIGHTS)
    expected = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if expected != found:
        odd = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise VddError(
            f"{folder / WEIGHTS}: tensor '{odd}' has shape {found.get(odd, 'none')}, the settings "
            f"expect {expected.get(odd, 'none')}; {SETTINGS} and {WEIGHTS} are from different runs"
        )
    for name, own in module.state_dict().items():
        given = tensors[name]
        if given.dtype != own.dtype:
            raise VddError(
                f"{folder / WEIGHTS}: tensor '{name}' is {given.dtype}, expected {own.dtype}; the "
                "file is damaged or not of this program: copy it again or train again"
            )
        if not given.isfinite().all():
            raise VddError(
                f"{folder / WEIGHTS}: tensor '{name}' holds values that are not finite; the file "
                "is damaged, or the training diverged: train again"
            )
    module.load_state_dict(tensors)
    return module.requires_grad_(False).eval()
