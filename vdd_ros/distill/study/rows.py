"""The rows of a study's table, one JSON object a line, appended as they finish."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdd_ros.core.config_io import dump_json, from_dict, load_json, write_atomic
from vdd_ros.core.errors import VddError
from vdd_ros.distill.study.settings import StudySettings
from vdd_ros.distill.study.variants import StudyMethod

ROWS = "rows.jsonl"
FAILED = "failed.jsonl"
CLAIM = "study.json"
_EARLIER = ("success", "entropy", "modes", "score", "reward")
"""Fields of rows that were written before figures had names."""


@dataclass(frozen=True)
class CurvePoint:
    """Figures at one moment of a training."""

    iteration: int
    """Iterations done."""
    cpu_s: float
    """Processor seconds of training spent, preparation included, evaluations not."""
    figures: dict[str, float]
    """By name; see `figures.KNOWN`."""


@dataclass(frozen=True)
class StudyRow:
    """One policy's figures."""

    task: str
    """Name of the study's task."""
    row: str
    """Name of the row, as the table prints it."""
    method: StudyMethod
    """teacher, how the student was trained, or what was not trained at all."""
    teacher: str
    """Family of the teacher: edm, ddpm, ...; none for what needs none."""
    seed: int
    """Training seed."""
    nfe: int
    """Network passes per action; 0 for what has no network."""
    figures: dict[str, float]
    """By name: those of `figures.KNOWN` that apply, and the task's own."""
    n_judged: int
    """Rollouts, or held-out windows, that the figures rest on."""
    n_iters: int
    """Iterations of the training."""
    training_cpu_s: float
    """Processor seconds of the training; for a student its teacher's is not included."""
    n_modes: int | None = None
    """Modes the task counts; null where there are none to count."""
    budget_cpu_s: float | None = None
    """Processor seconds that were allotted; null where iterations were."""
    curve: tuple[CurvePoint, ...] = ()
    """Figures along the training."""

    def whole_curve(self) -> tuple[CurvePoint, ...]:
        """Return the curve with the row's own figures as its last point."""
        end = CurvePoint(self.n_iters, self.training_cpu_s, self.figures)
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
    """Yield the finished rows of a study, or of the record of one.

    Raises:
        VddError: a line that is not a row.
    """
    for path in sorted(folder.glob(f"*/{ROWS}")) or sorted(folder.glob(ROWS)):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            yield _row(line, where=f"{path}:{number}")


def _row(line: str, *, where: str) -> StudyRow:
    """Parse a line, also one of an earlier study, whose figures are fields of their own."""
    try:
        raw = json.loads(line)
    except json.JSONDecodeError as error:
        raise VddError(f"{where}: not valid JSON ({error})") from None
    if isinstance(raw, dict) and "figures" not in raw:
        raw = _gathered(raw)
        raw["n_judged"] = raw.pop("n_rollouts", None)
        raw["figures"] |= raw.pop("extra", {})
        raw["curve"] = [_gathered(point) for point in raw.get("curve", [])]
    return from_dict(StudyRow, raw, where=where)


def _gathered(raw: dict[str, Any]) -> dict[str, Any]:
    """Move figures that stand among other things into a dictionary of their own."""
    kept = {name: value for name, value in raw.items() if name not in _EARLIER}
    return kept | {"figures": {name: raw[name] for name in _EARLIER if name in raw}}


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
