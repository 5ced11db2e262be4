"""The training settings behind a row: the task's files, the row's overrides, the seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vdd_ros.core.config_io import load_yaml
from vdd_ros.core.shipped import shipped_file
from vdd_ros.distill.methods.mixture_training import DistillSettings
from vdd_ros.distill.study.changes import with_overrides
from vdd_ros.distill.study.settings import StudyTask, folder_name
from vdd_ros.distill.study.variants import Row
from vdd_ros.distill.teachers.settings import TeacherSettings


def teacher_name(row: Row) -> str:
    """Return the folder of a row's teacher: that of the task's file, or what differs from it."""
    file, overrides = row.teacher
    words = [Path(file).stem] if file else []
    words += [f"{name}={value}" for name, value in sorted(overrides.items())]
    return folder_name(",".join(words) or "base")


def teacher_settings(task: StudyTask, row: Row, *, seed: int) -> TeacherSettings:
    """Return the settings of the teacher behind a row.

    Raises:
        VddError: a missing or wrong file, an override that does not fit.
    """
    base = load_yaml(TeacherSettings, _file(row.variant.teacher or task.teacher))
    where = f"row '{row.name}', teacher_overrides"
    return replace(with_overrides(base, row.variant.teacher_overrides, where=where), seed=seed)


def student_settings(task: StudyTask, row: Row, *, seed: int) -> DistillSettings:
    """Return the settings of a row's student.

    Raises:
        VddError: a missing or wrong file, an override that does not fit.
    """
    base = load_yaml(DistillSettings, _file(row.variant.distill or task.distill))
    overrides = dict(row.variant.overrides)
    n_iters = overrides.get("n_iters")
    if isinstance(n_iters, int) and n_iters > 0 and "warm_start_iters" not in overrides:
        # The phases keep their proportion, as they do under a budget.
        del overrides["n_iters"]
        base = of_length(base, n_iters)
    where = f"row '{row.name}', overrides"
    return replace(with_overrides(base, overrides, where=where), seed=seed)


def of_length(settings: DistillSettings, n_iters: int) -> DistillSettings:
    """Return the settings for so many iterations, the warm start keeping its share of them."""
    share = settings.warm_start_iters / settings.n_iters
    return replace(settings, n_iters=n_iters, warm_start_iters=round(share * n_iters))


def _file(name: str) -> Path:
    path = Path(name)
    return path if path.is_file() else shipped_file(name)
