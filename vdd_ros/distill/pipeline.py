"""From demonstrations to run folders: what the command line calls."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from vdd_ros import __version__
from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.core.normalizer import Normalizer
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.inspection import require_same_units
from vdd_ros.data.windows import make_windows
from vdd_ros.distill import loading
from vdd_ros.distill.methods.jumps import JumpModel
from vdd_ros.distill.methods.mixture_training import DistillSettings, Method, MixtureTraining
from vdd_ros.distill.methods.table import METHODS, Ingredients, measured_sigma_data
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts
from vdd_ros.distill.networks.normalization import Affine
from vdd_ros.distill.teachers.base import DenoisingTeacher, measured_action_box
from vdd_ros.distill.teachers.family import make_teacher
from vdd_ros.distill.teachers.settings import TeacherSettings
from vdd_ros.distill.teachers.training import TeacherTraining, sampling_notes
from vdd_ros.distill.training import checkpoint
from vdd_ros.distill.training.augmentation import NoiseSettings, ObservationNoise
from vdd_ros.distill.training.checkpoint import RunInfo, settings_tree
from vdd_ros.distill.training.targets import data_targets
from vdd_ros.distill.training.trainer import LoopSettings, reproducible, train

Evaluate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class TeacherResult:
    """A trained teacher."""

    folder: Path
    """Its run folder."""
    teacher: DenoisingTeacher
    """The averaged network, ready to denoise."""
    training_cpu_s: float
    """Processor seconds of the training."""
    notes: tuple[str, ...] = ()
    """What in the settings does not suit the data, with the remedy; empty where all is well."""


@dataclass(frozen=True)
class StudentResult:
    """A trained one-pass policy."""

    folder: Path
    """Its run folder."""
    student: GaussianMixtureOfExperts | JumpModel
    """The averaged network, ready to act: a mixture, or with cd and ctm a consistency model."""
    training_cpu_s: float
    """Processor seconds of the distillation, teacher samples included, teacher training not."""


def train_teacher(
    demos: Demonstrations,
    settings: TeacherSettings,
    out_dir: str | Path,
    *,
    resume: bool = False,
    loop: LoopSettings | None = None,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 0,
) -> TeacherResult:
    """Train a diffusion teacher on demonstrations.

    Args:
        demos: what to imitate.
        settings: shape and training.
        out_dir: the run folder; made if missing.
        resume: continue the run in ``out_dir``; its settings must be these.
        loop: progress, checkpoints, threads.
        evaluate: called with the averaged network now and then; its figures are recorded.
        evaluate_every: iterations between those calls.

    Raises:
        VddError: unusable data or settings, or a folder that holds another run.
        TrainingInterrupted: Ctrl-C; the run is saved.
    """
    cpu_start_s, folder, loop = time.process_time(), Path(out_dir), loop or LoopSettings()
    with reproducible(settings.seed, loop.n_threads):
        windows = make_windows(
            demos,
            n_obs_steps=settings.n_obs_steps,
            horizon=settings.horizon,
            pad=settings.pad,
        )
        observation = Affine(
            demos.dim_obs, Normalizer.fit(demos.observation, settings.normalize_obs)
        )
        action = Affine(demos.dim_act, Normalizer.fit(demos.action, settings.normalize_action))
        targets = data_targets(
            windows, observation, action, _noise(settings.noise, observation, action)
        )
        teacher = make_teacher(
            settings,
            dim_obs=demos.dim_obs,
            dim_act=demos.dim_act,
            observation=observation,
            action=action,
            sigma_data=settings.sigma_data or measured_sigma_data(targets.action),
            action_box=measured_action_box(targets.action),
        )
        info = _teacher_info(demos, settings)
        checkpoint.claim(folder, info, windows.observation, resume=resume)
        cpu_s = train(
            TeacherTraining(teacher, targets),
            folder,
            loop=loop,
            resume=resume,
            cpu_start_s=cpu_start_s,
            evaluate=evaluate,
            evaluate_every=evaluate_every,
            title="teacher",
        )
    notes = sampling_notes(teacher.sigma_max, targets.action)
    return TeacherResult(folder, loading.load_teacher(folder), cpu_s, notes)


def distill(
    teacher_dir: str | Path | None,
    demos: Demonstrations,
    settings: DistillSettings,
    *,
    out_dir: str | Path,
    method: Method = "vdd",
    resume: bool = False,
    loop: LoopSettings | None = None,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 0,
) -> StudentResult:
    """Train a one-pass policy: VDD, or one of its rivals.

    Args:
        teacher_dir: the teacher's run folder; ``em`` and ``imc`` need none, but take its
            normalisers and window from it when given, so that methods differ in nothing but the
            objective.
        demos: where states (and, for ``em`` and ``imc``, actions) come from.
        settings: shape and training.
        out_dir: the run folder; made if missing.
        method: ``vdd``, ``em`` or ``imc`` (on the demonstrations), ``em-teacher`` (on teacher
            samples), ``cd`` or ``ctm`` (consistency models).
        resume: continue the run in ``out_dir``; its settings must be these.
        loop: progress, checkpoints, threads.
        evaluate: called with the averaged network now and then; its figures are recorded.
        evaluate_every: iterations between those calls.

    Raises:
        VddError: unusable data, settings or teacher, or a folder that holds another run.
        TrainingInterrupted: Ctrl-C; the run is saved.
    """
    if method not in METHODS:
        raise VddError(f"method: got '{method}'{did_you_mean(method, METHODS)}")
    if teacher_dir is None and METHODS[method].needs_teacher:
        raise VddError(f"method '{method}' needs a teacher: give the folder of a trained one")
    cpu_start_s, folder, loop = time.process_time(), Path(out_dir), loop or LoopSettings()
    teacher = None if teacher_dir is None else loading.load_teacher(teacher_dir)
    with reproducible(settings.seed, loop.n_threads):
        settings = _fit_to_teacher(settings, teacher, demos)
        info = _student_info(demos, settings, method, teacher_dir, teacher)
        windows = make_windows(
            demos, n_obs_steps=info.n_obs_steps, horizon=info.horizon, pad=settings.pad
        )
        checkpoint.claim(folder, info, windows.observation, resume=resume)
        if teacher is not None:
            observation, action = teacher.observation, teacher.action
        else:
            observation = Affine(demos.dim_obs, Normalizer.fit(demos.observation, "mean_std"))
            action = Affine(demos.dim_act, Normalizer.fit(demos.action, "mean_std"))
        noise = _noise(settings.noise, observation, action)
        data = data_targets(windows, observation, action, noise)
        training = METHODS[method].prepare(
            Ingredients(settings, data, teacher, observation, action)
        )
        cpu_s = train(
            training,
            folder,
            loop=loop,
            resume=resume,
            cpu_start_s=cpu_start_s,
            evaluate=evaluate,
            evaluate_every=evaluate_every,
            title=method,
        )
        if isinstance(training, MixtureTraining):
            _refine(folder, info, training)
    return StudentResult(folder, loading.load_policy(folder), cpu_s)


def _fit_to_teacher(
    settings: DistillSettings, teacher: DenoisingTeacher | None, demos: Demonstrations
) -> DistillSettings:
    """Fill in window and chunk, and check that data and teacher belong together."""
    if teacher is None:
        return replace(
            settings, n_obs_steps=settings.n_obs_steps or 1, horizon=settings.horizon or 1
        )
    if (teacher.dim_obs, teacher.dim_act) != (demos.dim_obs, demos.dim_act):
        raise VddError(
            f"{demos.source}: {demos.dim_obs} observation and {demos.dim_act} action components, "
            f"the teacher was trained on {teacher.dim_obs} and {teacher.dim_act}; use the "
            "demonstrations it was trained on"
        )
    for table, affine, name in (
        (demos.observation, teacher.observation, "observation"),
        (demos.action, teacher.action, "action"),
    ):
        known = Normalizer(affine.offset.numpy(), affine.scale.numpy())
        require_same_units(table, known, what=f"{demos.source}: {name}", whose="the teacher")
    for name in ("n_obs_steps", "horizon"):
        asked, has = getattr(settings, name), getattr(teacher, name)
        if asked is not None and asked != has:
            raise VddError(
                f"{name}: got {asked}, but the teacher has {has} and its score exists for that "
                "only; leave it out"
            )
    return replace(settings, n_obs_steps=teacher.n_obs_steps, horizon=teacher.horizon)


def _teacher_info(demos: Demonstrations, settings: TeacherSettings) -> RunInfo:
    return RunInfo(
        format_version=checkpoint.FORMAT_VERSION,
        kind="teacher",
        method=settings.family,
        dim_obs=demos.dim_obs,
        dim_act=demos.dim_act,
        n_obs_steps=settings.n_obs_steps,
        horizon=settings.horizon,
        model=settings_tree(settings),
        training={},
        data_source=demos.source,
        data_hash=demos.data_hash(),
        teacher={},
        vdd_ros_version=__version__,
    )


def _student_info(
    demos: Demonstrations,
    settings: DistillSettings,
    method: Method,
    teacher_dir: str | Path | None,
    teacher: DenoisingTeacher | None,
) -> RunInfo:
    origin: dict[str, object] = {}
    if teacher_dir is not None:
        of = checkpoint.read_info(teacher_dir)
        weights = (Path(teacher_dir) / checkpoint.WEIGHTS).read_bytes()
        origin = {
            "method": of.method,
            "settings": of.model,
            "data_source": of.data_source,
            "data_hash": of.data_hash,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "training_cpu_s": checkpoint.training_cpu_s(teacher_dir),
        }
    return RunInfo(
        format_version=checkpoint.FORMAT_VERSION,
        kind=METHODS[method].kind,
        method=method,
        dim_obs=demos.dim_obs,
        dim_act=demos.dim_act,
        n_obs_steps=settings.n_obs_steps or 1,
        horizon=settings.horizon or 1,
        model=settings_tree(METHODS[method].model(settings, teacher)),
        training=settings_tree(settings),
        data_source=demos.source,
        data_hash=demos.data_hash(),
        teacher=origin,
        vdd_ros_version=__version__,
    )


def _noise(
    settings: NoiseSettings, observation: Affine, action: Affine
) -> ObservationNoise | None:
    noise = ObservationNoise(settings, observation, action)
    return noise if settings.std else None


def _refine(folder: Path, info: RunInfo, training: MixtureTraining) -> None:
    """Prune and deblur the finished student where its settings ask for it.

    What resuming needs stays as it is, so a finished run that is resumed ends here again.
    """
    student = training.refined()
    if student is training.acting():
        return
    _, notes = checkpoint.read_tensors(folder / checkpoint.WEIGHTS)
    checkpoint.write_tensors(folder / checkpoint.WEIGHTS, student.state_dict(), **notes)
    checkpoint.write_info(folder, replace(info, model=settings_tree(student.settings)))
