"""The rows of a study's table, one JSON object a line, appended as they finish."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vdd_ros.core.config_io import dump_json, from_dict, load_json, write_atomic
from vdd_ros.core.errors import VddError
from vdd_ros.distill.study.settings import StudyMethod, StudySettings

ROWS = "rows.jsonl"
FAILED = "failed.jsonl"
CLAIM = "study.json"
CURVE_FIGURES = ("success", "entropy", "score", "reward")


@dataclass(frozen=True)
class CurvePoint:
    """Closed-loop figures at one moment of a training."""

    iteration: int
    """Iterations done."""
    cpu_s: float
    """Processor seconds of training spent, preparation included, evaluations not."""
    success: float
    """Share of rollouts that reached the goal."""
    entropy: float
    """Entropy of the modes of successful rollouts over log(n_modes)."""
    score: float
    """.8 success + .2 entropy."""
    reward: float
    """Mean of the task's own graded measure."""


@dataclass(frozen=True)
class StudyRow:
    """One policy's figures."""

    task: str
    """Name of the study's task."""
    row: str
    """Name of the row, as the table prints it."""
    method: StudyMethod
    """teacher, or how the student was trained."""
    teacher: str
    """Family of the teacher: edm, ddpm, ..."""
    seed: int
    """Training seed."""
    nfe: int
    """Network passes per action."""
    success: float
    """Share of rollouts that reached the goal."""
    entropy: float
    """Entropy of the modes of successful rollouts over log(n_modes)."""
    modes: int
    """Different modes among the successful rollouts."""
    n_modes: int
    """Modes the task counts."""
    score: float
    """.8 success + .2 entropy."""
    reward: float
    """Mean of the task's own graded measure, 0..1."""
    n_rollouts: int
    """Rollouts the figures rest on."""
    n_iters: int
    """Iterations of the training."""
    training_cpu_s: float
    """Processor seconds of the training; for a student its teacher's is not included."""
    budget_cpu_s: float | None = None
    """Processor seconds that were allotted; null where iterations were."""
    extra: dict[str, float] = field(default_factory=dict)
    """The task's own figures by name."""
    curve: tuple[CurvePoint, ...] = ()
    """Figures along the training."""

    def whole_curve(self) -> tuple[CurvePoint, ...]:
        """Return the curve with the row's own figures as its last point."""
        end = CurvePoint(
            iteration=self.n_iters,
            cpu_s=self.training_cpu_s,
            success=self.success,
            entropy=self.entropy,
            score=self.score,
            reward=self.reward,
        )
        return (*(p for p in self.curve if p.iteration < self.n_iters), end)


@dataclass(frozen=True)
class Failure:
    """A row that could not be computed, and why."""

    task: str
    """Name of the study's task."""
    row: str
    """Name of the row."""
    seed: int
    """Training seed."""
    message: str
    """What went wrong."""


def append_row(file: Path, row: StudyRow) -> None:
    """Add a row to a file; the file is whole at every moment."""
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    write_atomic(file, before + dump_json(row) + "\n")


def read_rows(folder: Path) -> Iterator[StudyRow]:
    """Yield the finished rows of a study.

    Raises:
        VddError: a line that is not a row.
    """
    for path in sorted(folder.glob(f"*/{ROWS}")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            yield load_json(StudyRow, line, where=f"{path}:{number}")


def read_failures(folder: Path) -> Iterator[Failure]:
    """Yield what the last run of a study could not compute.

    Raises:
        VddError: a line that is not a failure.
    """
    for path in sorted(folder.glob(f"*/{FAILED}")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            yield load_json(Failure, line, where=f"{path}:{number}")


def read_settings(folder: Path) -> StudySettings:
    """Return what a study's folder says it compares.

    Raises:
        VddError: not a study's folder, or one of another version.
    """
    path = folder / CLAIM
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise VddError(
            f"{folder}: not the folder of a study (no {CLAIM}); expected what 'vdd study --out' "
            "made"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise VddError(f"{path}: cannot be read ({error}); choose another folder") from None
    return from_dict(StudySettings, raw, where=str(path))
