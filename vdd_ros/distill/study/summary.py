"""From rows to statements: means, intervals, paired differences, time to the final score.

The unit of every interval is the training seed, because the spread between trainings is larger
than that of the rollouts of one policy. Differences are taken seed by seed: rows of one seed share
demonstrations and teacher, so their common luck cancels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from vdd_ros.distill.study import published
from vdd_ros.distill.study.figures import goodness, in_order
from vdd_ros.distill.study.rows import CurvePoint, StudyRow
from vdd_ros.distill.study.settings import Judge, StudySettings, StudyTask

# 97.5 % quantiles of Student's t by degrees of freedom: a table of ten beats a dependency.
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
ALMOST = 0.99
"""Share of the final figure that counts as having arrived."""


@dataclass(frozen=True)
class Interval:
    """A mean over training seeds with a 95 % Student-t interval."""

    mean: float
    """Mean."""
    half: float
    """Half the width of the interval; NaN for one value."""
    values: tuple[float, ...]
    """What it was computed from, in the order of the seeds."""

    def overlaps(self, other: Interval) -> bool | None:
        """Return whether two intervals share a point; None where one is not known."""
        if math.isnan(self.half + other.half):
            return None
        return abs(self.mean - other.mean) <= self.half + other.half


@dataclass(frozen=True)
class CurveBand:
    """Figures of one row at one moment, over seeds."""

    cpu_s: float
    """Processor seconds of training spent, mean over seeds."""
    figures: dict[str, Interval]
    """Those that all points, or both rows, have, by name."""


@dataclass(frozen=True)
class RowSummary:
    """One line of the table."""

    row: str
    """Name of the row."""
    method: str
    """teacher, or how the student was trained."""
    nfe: int
    """Network passes per action."""
    seeds: tuple[int, ...]
    """Training seeds it rests on."""
    figures: dict[str, Interval]
    """By name, in the order of `figures.KNOWN`, then the task's own."""
    training_cpu_s: Interval
    """Processor seconds of the training."""
    budget_cpu_s: float | None
    """Processor seconds that were allotted."""
    n_iters: tuple[int, ...]
    """Iterations, seed by seed."""
    cpu_s_to_almost: Interval | None
    """Processor seconds after which 99 % of the final figure is reached for good."""
    published: published.Published | None
    """What the paper reports for the same task and method; not a figure of ours."""
    curve: tuple[CurveBand, ...]
    """Figures along the training; the last is the row's own."""


@dataclass(frozen=True)
class Difference:
    """Row minus reference, seed by seed."""

    row: str
    """What is compared."""
    reference: str
    """With what."""
    figures: dict[str, Interval]
    """Those that all points, or both rows, have, by name."""


@dataclass(frozen=True)
class TaskSummary:
    """One table."""

    task: StudyTask
    """What it is about."""
    n_modes: int | None
    """Modes the task counts; null where there are none to count."""
    columns: tuple[str, ...]
    """Figures worth a column, by name: a reward that says what the success says is not."""
    n_judged: int
    """Rollouts per policy, or held-out windows."""
    rows: tuple[RowSummary, ...]
    """Lines in the order of the settings."""
    best: str | None
    """The one-pass row with the best mean of the judged figure."""
    runner_up: str | None
    """The next."""
    separated: bool | None
    """Whether their intervals share no point; null where there are none."""
    differences: tuple[Difference, ...]
    """Every other row against the best one-pass row, and every student against its teacher."""


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % Student-t interval; NaN for one value."""
    if len(values) < 2:
        return fmean(values), math.nan
    quantile = _T975[min(len(values) - 1, len(_T975)) - 1]
    return fmean(values), quantile * stdev(values) / math.sqrt(len(values))


def interval(values: Sequence[float]) -> Interval:
    """Return `mean_and_interval` with the values behind it."""
    return Interval(*mean_and_interval(values), tuple(values))


def cpu_s_to_almost(curve: Sequence[CurvePoint], judge: Judge) -> float:
    """Return the processor seconds from which on the figure stays within 1 % of its last value.

    That is above 99 % of it; where less is better, below 1/.99 of it. Between two points the
    curve is taken as straight; a curve that begins there has arrived by its first point. NaN
    where there is nothing to arrive at: a curve of one point, points without the figure, or a
    final figure of zero.
    """
    values = [goodness(judge, point.figures.get(judge, math.nan)) for point in curve]
    if len(curve) < 2 or values[-1] == 0 or any(map(math.isnan, values)):
        return math.nan
    goal = values[-1] * (ALMOST if values[-1] > 0 else 1 / ALMOST)
    below = [index for index, value in enumerate(values) if value < goal]
    if not below:
        return curve[0].cpu_s
    last = below[-1]  # never the last point of all, which is the final figure itself
    here, there = curve[last], curve[last + 1]
    share = (goal - values[last]) / (values[last + 1] - values[last])
    return here.cpu_s + share * (there.cpu_s - here.cpu_s)


def summarise(settings: StudySettings, rows: Sequence[StudyRow]) -> tuple[TaskSummary, ...]:
    """Return a table for every task that has rows; rows the settings do not ask for are left out.

    Args:
        settings: what the study compares.
        rows: what has finished.
    """
    tables = []
    for task in settings.tasks:
        here = [r for r in rows if r.task == task.name and r.seed in settings.seeds]
        groups = {
            asked.name: sorted((r for r in here if r.row == asked.name), key=lambda r: r.seed)
            for asked in settings.resolved()
        }
        groups = {name: group for name, group in groups.items() if group}
        if groups:
            tables.append(_table(settings, task, groups))
    return tuple(tables)


def _table(
    settings: StudySettings, task: StudyTask, groups: dict[str, list[StudyRow]]
) -> TaskSummary:
    asked = {row.name: row for row in settings.resolved()}
    lines = []
    for name, group in groups.items():
        stands_beside = asked[name].published_method(group[0].teacher)
        lines.append(_line(task, group, published.cell(task.published, stands_beside)))
    one_pass = best_first(task, (line for line in lines if line.nfe == 1))
    best, runner_up, separated = (one_pass[0] if one_pass else None), None, None
    if best and len(one_pass) > 1:
        runner_up = one_pass[1]
        shared = best.figures[task.judge].overlaps(runner_up.figures[task.judge])
        separated = None if shared is None else not shared
    every = [row for group in groups.values() for row in group]
    return TaskSummary(
        task=task,
        n_modes=every[0].n_modes,
        columns=_columns(every),
        n_judged=every[0].n_judged,
        rows=tuple(lines),
        best=best.row if best else None,
        runner_up=runner_up.row if runner_up else None,
        separated=separated,
        differences=tuple(_differences(settings, groups, best.row if best else None)),
    )


def best_first(task: StudyTask, lines: Iterable[RowSummary]) -> list[RowSummary]:
    """Return lines by the mean of the figure the task is judged by."""
    judge = task.judge
    return sorted(lines, key=lambda line: -goodness(judge, line.figures[judge].mean))


def _columns(rows: list[StudyRow]) -> tuple[str, ...]:
    """Return the figures that any row has; a reward only where it is not the success again."""
    names = in_order(name for row in rows for name in row.figures)
    said_twice = all(
        abs(row.figures.get("reward", 0.0) - row.figures.get("success", 0.0)) < 1e-9
        for row in rows
    )
    return tuple(name for name in names if name != "reward" or not said_twice)


def _line(
    task: StudyTask, group: list[StudyRow], beside: published.Published | None
) -> RowSummary:
    first = group[0]
    curves = [row.whole_curve() for row in group]
    arrived = [cpu_s_to_almost(curve, task.judge) for curve in curves]
    return RowSummary(
        row=first.row,
        method=first.method,
        nfe=first.nfe,
        seeds=tuple(row.seed for row in group),
        figures={
            name: interval([row.figures[name] for row in group])
            for name in in_order(_shared(row.figures for row in group))
        },
        training_cpu_s=interval([row.training_cpu_s for row in group]),
        budget_cpu_s=first.budget_cpu_s,
        n_iters=tuple(row.n_iters for row in group),
        cpu_s_to_almost=None if any(map(math.isnan, arrived)) else interval(arrived),
        published=beside,
        curve=_band(curves),
    )


def _band(curves: list[tuple[CurvePoint, ...]]) -> tuple[CurveBand, ...]:
    """Join the seeds' curves point by point; what only some of them have is left out."""
    shared = set.intersection(*({p.iteration for p in curve[:-1]} for curve in curves))
    kept = [[p for p in curve[:-1] if p.iteration in shared] + [curve[-1]] for curve in curves]
    names = _shared(point.figures for points in kept for point in points)
    return tuple(
        CurveBand(
            cpu_s=fmean(point.cpu_s for point in points),
            figures={name: interval([p.figures[name] for p in points]) for name in names},
        )
        for points in zip(*kept, strict=True)
    )


def _differences(
    settings: StudySettings, groups: dict[str, list[StudyRow]], best: str | None
) -> list[Difference]:
    """Compare every row with the best one-pass row, and every student with its teacher."""
    asked = {row.name: row for row in settings.resolved()}
    pairs = [(name, best) for name in groups if best and name != best]
    for name in groups:
        for other in groups:
            same = asked[other].teacher == asked[name].teacher
            is_student = not (asked[name].is_teacher or asked[name].is_reference)
            if asked[other].is_teacher and is_student and same:
                pairs.append((name, other))
    found = []
    for name, other in dict.fromkeys(pairs):
        references = {row.seed: row for row in groups[other]}
        matched = [(row, references[row.seed]) for row in groups[name] if row.seed in references]
        if matched:
            shared = _shared(row.figures for match in matched for row in match)
            figures = {
                name: interval([a.figures[name] - b.figures[name] for a, b in matched])
                for name in shared
            }
            found.append(Difference(name, other, figures))
    return found


def _shared(every: Iterable[Mapping[str, float]]) -> list[str]:
    """Return the names that all have, in the order of the first."""
    first, *others = every
    return [name for name in first if all(name in figures for figures in others)]
