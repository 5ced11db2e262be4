"""Everything of one task and one training seed: its teachers, its students, their rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vdd_ros.core.config_io import dump_json, write_atomic
from vdd_ros.core.errors import VddError
from vdd_ros.distill.loading import load_teacher
from vdd_ros.distill.pipeline import distill, train_teacher
from vdd_ros.distill.study.budget import Budget, fit_once
from vdd_ros.distill.study.judging import Judging, make_judge
from vdd_ros.distill.study.recipes import (
    of_length,
    student_settings,
    teacher_name,
    teacher_settings,
)
from vdd_ros.distill.study.rows import (
    FAILED,
    ROWS,
    CurvePoint,
    Failure,
    StudyRow,
    append_row,
    read_failures,
    read_rows,
)
from vdd_ros.distill.study.settings import StudySettings, StudyTask, folder_name
from vdd_ros.distill.study.variants import Row
from vdd_ros.distill.training.checkpoint import METRICS, SETTINGS, training_cpu_s
from vdd_ros.distill.training.tracking import read_lines


@dataclass(frozen=True)
class _Trained:
    """A model that can act, and how it came about."""

    model: Any
    folder: Path
    n_iters: int
    budget: Budget | None


class Pair:
    """Everything of one task and one seed.

    Args:
        settings: of the study.
        folder: of the study.
        task: one of its tasks.
        seed: one of its seeds.
        rows: names of those to compute.
    """

    judge: Judging

    def __init__(
        self,
        settings: StudySettings,
        folder: Path,
        task: StudyTask,
        seed: int,
        *,
        rows: Sequence[str] | None = None,
    ) -> None:
        self.asked = [row for row in settings.resolved() if rows is None or row.name in rows]
        self.settings, self.folder, self.task, self.seed = settings, folder, task, seed
        self.here = folder / f"{folder_name(task.name)}-seed{seed}"
        self._teachers: dict[str, _Trained] = {}
        self._broken: dict[str, VddError] = {}

    def run(self) -> None:
        """Train and judge every row that is not there yet.

        A row that fails, for example because its training diverges, does not keep the others from
        being computed: it is noted, and tried again by the next run.

        Raises:
            VddError: no demonstrations.
        """
        mine = (self.task.name, self.seed)
        done = {r.row for r in read_rows(self.folder) if (r.task, r.seed) == mine}
        todo = [row for row in self.asked if row.name not in done]
        names = {row.name for row in self.asked}
        failures = [
            f
            for f in read_failures(self.folder)
            if (f.task, f.seed) == mine and f.row not in names
        ]
        self._note(failures)
        if not todo:
            return
        task = self.task
        _warm_up()
        self.judge = make_judge(self.settings, task, seed=self.seed)
        for row in todo:
            try:
                append_row(self.here / ROWS, self._row(row))
            except VddError as error:
                failures.append(Failure(task.name, row.name, self.seed, str(error)))
                self._note(failures)

    def _note(self, failures: Sequence[Failure]) -> None:
        """Keep what failed, and nothing where nothing did."""
        if failures:
            lines = "".join(dump_json(failure) + "\n" for failure in failures)
            write_atomic(self.here / FAILED, lines)
        else:
            (self.here / FAILED).unlink(missing_ok=True)

    def _row(self, row: Row) -> StudyRow:
        if row.is_reference:
            return self._judged(row, None, "none")
        teacher = self._teacher(row)
        trained = teacher if row.is_teacher else self._student(row, teacher)
        return self._judged(row, trained, teacher_settings(self.task, row, seed=0).family)

    def _judged(self, row: Row, trained: _Trained | None, teacher: str) -> StudyRow:
        """Return the row of a finished policy, or of what needs no training."""
        figures, n_judged = self.judge.figures(trained and trained.model, row)
        found = StudyRow(
            task=self.task.name,
            row=row.name,
            method=row.method,
            teacher=teacher,
            seed=self.seed,
            nfe=row.nfe,
            figures=dict(figures),
            n_judged=n_judged,
            n_iters=0,
            training_cpu_s=0.0,
            n_modes=self.judge.n_modes,
        )
        if trained is None:
            return found
        suffix = _suffix(row) if row.is_teacher else ""
        return replace(
            found,
            n_iters=trained.n_iters,
            training_cpu_s=training_cpu_s(trained.folder),
            budget_cpu_s=trained.budget.cpu_s if trained.budget else None,
            curve=tuple(_curve(read_lines(trained.folder / METRICS), suffix, figures)),
        )

    def _teacher(self, row: Row) -> _Trained:
        """Train the row's teacher, finish it, or load it."""
        name = teacher_name(row)
        if name in self._broken:
            raise self._broken[name]
        if name not in self._teachers:
            try:
                self._teachers[name] = self._trained_teacher(name, row)
            except VddError as error:
                self._broken[name] = VddError(f"its teacher: {error}")
                raise self._broken[name] from None
        return self._teachers[name]

    def _trained_teacher(self, name: str, row: Row) -> _Trained:
        settings = teacher_settings(self.task, row, seed=self.seed)
        budget = None
        asked = self.task.teacher_cpu_s or self.settings.teacher_cpu_s
        if asked and "n_iters" not in row.variant.teacher_overrides:
            budget = self._budget(
                f"teacher-{name}",
                asked,
                lambda n, out: train_teacher(self.judge.demos, replace(settings, n_iters=n), out),
            )
            settings = replace(settings, n_iters=budget.n_iters)
        # Every row that rolls this teacher out gets its curve from the one training.
        watched = [
            other
            for other in self.settings.resolved()
            if other.is_teacher and teacher_name(other) == name
        ]
        out = self.here / "teachers" / name
        train_teacher(
            self.judge.demos,
            settings,
            out,
            resume=(out / SETTINGS).exists(),
            evaluate=lambda model: self._watch(model, watched),
            evaluate_every=self._every(settings.n_iters) if watched else 0,
        )
        return _Trained(load_teacher(out), out, settings.n_iters, budget)

    def _student(self, row: Row, teacher: _Trained) -> _Trained:
        """Train the row's student, or finish it."""
        settings = student_settings(self.task, row, seed=self.seed)
        method: Any = row.method
        budget = None
        asked = row.variant.cpu_s or self.task.cpu_s or self.settings.cpu_s
        if asked and "n_iters" not in row.variant.overrides:
            budget = self._budget(
                f"student-{row.name}",
                asked,
                lambda n, out: distill(
                    teacher.folder,
                    self.judge.demos,
                    of_length(settings, n),
                    out_dir=out,
                    method=method,
                ),
            )
            settings = of_length(settings, budget.n_iters)
        out = self.here / "students" / folder_name(row.name)
        result = distill(
            teacher.folder,
            self.judge.demos,
            settings,
            out_dir=out,
            method=method,
            resume=(out / SETTINGS).exists(),
            evaluate=lambda model: self._watch(model, [row]),
            evaluate_every=self._every(settings.n_iters),
        )
        return _Trained(result.student, out, settings.n_iters, budget)

    def _budget(self, name: str, cpu_s: float, train: Callable[[int, Path], object]) -> Budget:
        """Find the iterations that fit, once for all seeds, by a training that is thrown away."""

        def probe(n_iters: int) -> list[tuple[int, float]]:
            self.here.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.here, prefix=".probe-") as scratch:
                train(n_iters, Path(scratch))
                lines = read_lines(Path(scratch) / METRICS)
            return [(int(line["iteration"]), line["cpu_s"]) for line in lines]

        what = f"{self.task.name}, {name}"
        record = self.folder / "budgets" / f"{folder_name(f'{self.task.name}-{name}')}.json"
        return fit_once(record, cpu_s, probe, what=what)

    def _every(self, n_iters: int) -> int:
        points = self.settings.curve_points
        return -(-n_iters // points) if points else 0

    def _watch(self, model: Any, rows: Sequence[Row]) -> dict[str, float]:  # noqa: ANN401
        """Return the curve's figures of a model in training, for every row that shows it."""
        figures: dict[str, float] = {}
        training = model.training
        model.eval()  # dropout would act, and would draw from the training's random numbers
        for row in rows:
            suffix = _suffix(row) if row.is_teacher else ""
            judged = self.judge.curve(model, row)
            figures |= {f"{name}{suffix}": value for name, value in judged.items()}
        model.train(training)
        return figures


def _warm_up() -> None:
    """Let the first optimiser of the process load what it needs: no training shall pay for it."""
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    with torch.random.fork_rng(devices=[]):
        network(torch.ones(1, 1)).sum().backward()
        optimizer.step()


def _curve(
    lines: Sequence[Mapping[str, float]], suffix: str, names: Iterable[str]
) -> list[CurvePoint]:
    """Return the moments of a training at which it was judged."""
    keys = {name: f"{name}{suffix}" for name in names}
    found = (
        (line, {name: line[key] for name, key in keys.items() if key in line}) for line in lines
    )
    return [
        CurvePoint(iteration=int(line["iteration"]), cpu_s=line["cpu_s"], figures=figures)
        for line, figures in found
        if figures
    ]


def _suffix(row: Row) -> str:
    start = "" if row.variant.start_sigma is None else f"-from-{row.variant.start_sigma:g}"
    return f"@{row.nfe}-{row.variant.sampler}{start}"
