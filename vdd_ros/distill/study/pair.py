"""Everything of one task and one training seed: its teachers, its students, their rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vdd_ros.core.config_io import dump_json, write_atomic
from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.npz import load_demonstrations
from vdd_ros.distill.checkpoint import METRICS, SETTINGS, load_teacher, training_cpu_s
from vdd_ros.distill.evaluation import closed_loop, student_policy, teacher_policy
from vdd_ros.distill.pipeline import distill, train_teacher
from vdd_ros.distill.student import GaussianMixtureOfExperts
from vdd_ros.distill.study.budget import Budget, fit_once
from vdd_ros.distill.study.recipes import (
    of_length,
    student_settings,
    teacher_name,
    teacher_settings,
)
from vdd_ros.distill.study.rows import (
    CURVE_FIGURES,
    FAILED,
    ROWS,
    CurvePoint,
    Failure,
    StudyRow,
    append_row,
    read_failures,
    read_rows,
)
from vdd_ros.distill.study.settings import Row, StudySettings, StudyTask, folder_name
from vdd_ros.distill.study.summary import FIGURES
from vdd_ros.distill.tracking import read_lines
from vdd_ros.tasks.protocol import Policy, make_task

# Fresh robots, and not those of any training seed's own evaluation.
_ROLLOUT_SEED = 1000


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

    demos: Demonstrations

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
        self.demos = load_demonstrations(
            task.data or "", task=task.task, level=task.level, n=task.episodes, seed=self.seed
        )
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
        teacher = self._teacher(row)
        trained = teacher if row.is_teacher else self._student(row, teacher)
        figures = self._judge(trained.model, row, rollouts=self.task.rollouts)
        suffix = _suffix(row) if row.is_teacher else ""
        return StudyRow(
            task=self.task.name,
            row=row.name,
            method=row.method,
            teacher=str(getattr(teacher_settings(self.task, row, seed=0), "family", "edm")),
            seed=self.seed,
            nfe=row.nfe,
            success=figures["success"],
            entropy=figures["entropy"],
            modes=int(figures["modes"]),
            n_modes=make_task(self.task.task, level=self.task.level).n_modes,
            score=figures["score"],
            reward=figures["reward"],
            n_rollouts=self.task.rollouts,
            n_iters=trained.n_iters,
            training_cpu_s=training_cpu_s(trained.folder),
            budget_cpu_s=trained.budget.cpu_s if trained.budget else None,
            extra={name: figures[name] for name in figures if name not in FIGURES},
            curve=tuple(_curve(read_lines(trained.folder / METRICS), suffix)),
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
                lambda n, out: train_teacher(self.demos, replace(settings, n_iters=n), out),
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
            self.demos,
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
                    self.demos,
                    of_length(settings, n),
                    out_dir=out,
                    method=method,
                ),
            )
            settings = of_length(settings, budget.n_iters)
        out = self.here / "students" / folder_name(row.name)
        result = distill(
            teacher.folder,
            self.demos,
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
            judged = self._judge(model, row, rollouts=self.settings.curve_rollouts)
            suffix = _suffix(row) if row.is_teacher else ""
            figures |= {f"{name}{suffix}": judged[name] for name in CURVE_FIGURES}
        model.train(training)
        return figures

    def _judge(self, model: Any, row: Row, *, rollouts: int) -> Mapping[str, float]:  # noqa: ANN401

        return closed_loop(
            _policy(model, row),
            task=self.task.task,
            level=self.task.level,
            rollouts=rollouts,
            seed=_ROLLOUT_SEED + self.seed,
            n_obs_steps=model.n_obs_steps,
            n_action_steps=self.task.n_action_steps,
        )


def _warm_up() -> None:
    """Let the first optimiser of the process load what it needs: no training shall pay for it."""
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    with torch.random.fork_rng(devices=[]):
        network(torch.ones(1, 1)).sum().backward()
        optimizer.step()


def _policy(model: Any, row: Row) -> Policy:  # noqa: ANN401 - any teacher or student
    """Return how a model acts: mixtures by an expert's mean, all others by denoising."""
    if isinstance(model, GaussianMixtureOfExperts):
        return student_policy(model)
    variant = row.variant
    return teacher_policy(model, row.nfe, variant.sampler, start_sigma=variant.start_sigma)


def _curve(lines: Sequence[Mapping[str, float]], suffix: str) -> list[CurvePoint]:
    names = {name: f"{name}{suffix}" for name in CURVE_FIGURES}
    return [
        CurvePoint(
            iteration=int(line["iteration"]),
            cpu_s=line["cpu_s"],
            **{name: line[key] for name, key in names.items()},
        )
        for line in lines
        if names["score"] in line
    ]


def _suffix(row: Row) -> str:
    start = "" if row.variant.start_sigma is None else f"-from-{row.variant.start_sigma:g}"
    return f"@{row.nfe}-{row.variant.sampler}{start}"
