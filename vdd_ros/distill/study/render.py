"""From a study's folder to its tables, figures and JSON. Needs no torch.

Written beside the rows: ``results.jsonl`` (every row), ``results.json`` (means, intervals,
differences, curves), ``table.md`` (for people) and, where matplotlib is there, ``*.png``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vdd_ros.core.config_io import dump_json, write_atomic
from vdd_ros.core.errors import VddError
from vdd_ros.distill.study import published
from vdd_ros.distill.study.figures import of_name
from vdd_ros.distill.study.rows import read_failures, read_rows, read_settings
from vdd_ros.distill.study.settings import Judge, StudyTask, folder_name
from vdd_ros.distill.study.summary import (
    Interval,
    RowSummary,
    TaskSummary,
    best_first,
    summarise,
)
from vdd_ros.evaluation import study_figures

TABLE = "table.md"
RESULTS = "results.json"
# What a student is said to gain or lose against its teacher.
_ABOUT_TEACHERS = ("success", "entropy", "energy_score", "energy_score_acting")


def render_study(folder: str | Path) -> Path:
    """Write tables, figures and JSON from the rows that are there; returns the Markdown's path.

    Raises:
        VddError: not a study's folder, or one without a finished row.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    rows = list(read_rows(folder))
    tables = summarise(settings, rows)
    failures = list(read_failures(folder))
    if not tables:
        why = "".join(f": {f.row}, seed {f.seed}: {f.message}" for f in failures[:1])
        raise VddError(f"{folder}: no row of this study has finished yet{why}")
    write_atomic(folder / "results.jsonl", "".join(dump_json(row) + "\n" for row in rows))
    text = "\n\n".join(markdown(table) for table in tables)
    if any(line.published for table in tables for line in table.rows):
        text += f"\n\n[p] {published.SOURCE}"
    text += "".join(
        f"\n\nNot finished: {f.row} on {f.task}, seed {f.seed}: {f.message}." for f in failures
    )
    pictures = [name for table in tables for name in _draw(folder, table)]
    document = {
        "tables": [_document(table) for table in tables],
        "failures": [asdict(failure) for failure in failures],
        "published_source": published.SOURCE,
        "pictures": pictures,
    }
    write_atomic(folder / RESULTS, dump_json(document, indent=2) + "\n")
    write_atomic(folder / TABLE, text + "\n")
    return folder / TABLE


def markdown(table: TaskSummary) -> str:
    """Return one task's heading, table and the statements below it."""
    lines = [f"**{table.task.name}** ({_conditions(table)})", ""]
    columns = _columns(table)
    lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(_cells(table, line))} |" for line in table.rows]
    return "\n".join([*lines, "", *(f"- {text}" for text in statements(table))])


def statements(table: TaskSummary) -> list[str]:
    """Return what the table says about the one-pass policies, in sentences."""
    judge = table.task.judge
    if table.best is None:
        return ["No row acts in one pass."]
    by_name = {line.row: line for line in table.rows}
    best = by_name[table.best]
    title, one_pass = _judged_by(judge), [line for line in table.rows if line.nfe == 1]
    said = f"Best one-pass policy on {title}: {best.row}, {_shown(best.figures[judge])}."
    if table.runner_up is None:
        return [said]
    runner_up = by_name[table.runner_up]
    verdict = {
        None: "one seed has no interval",
        True: "the intervals do not overlap",
        False: "the intervals overlap: not separated",
    }[table.separated]
    said += f" Next: {runner_up.row}, {_shown(runner_up.figures[judge])}; {verdict}."
    sentences = [said]
    gaps = [
        f"{d.row} {_signed(d.figures[judge])}"
        for d in table.differences
        if d.reference == best.row and by_name[d.row].nfe <= 1
    ]
    if gaps:
        name = of_name(judge).title
        sentences.append(f"Paired by seed, {name} minus that of {best.row}: {'; '.join(gaps)}.")
    # Of the students, the best one and the best that was distilled by VDD; more is in the JSON.
    distilled = best_first(table.task, (line for line in one_pass if line.method == "vdd"))
    students = dict.fromkeys(line.row for line in (best, *distilled[:1]))
    for difference in table.differences:
        if difference.row in students and by_name[difference.reference].nfe > 1:
            parts = [
                f"{of_name(name).title} {_signed(difference.figures[name])}"
                for name in _ABOUT_TEACHERS
                if name in difference.figures
            ]
            sentences.append(f"{difference.row} minus {difference.reference}: {', '.join(parts)}.")
    return sentences


def _judged_by(judge: Judge) -> str:
    figure = of_name(judge)
    return f"{figure.title} (less is better)" if figure.lower_is_better else figure.title


def _conditions(table: TaskSummary) -> str:
    task = table.task
    data = "scripted demonstrations" if task.data == "scripted" else Path(task.data or "").name
    seeds = sorted({seed for line in table.rows for seed in line.seeds})
    judged = f"{table.n_judged} rollouts"
    if task.is_held_out:
        judged = f"{table.n_judged} windows of the {100 * task.held_out:g} % of episodes held out"
    words = [data, judged, f"seeds {', '.join(map(str, seeds))}"]
    if task.data == "scripted":
        words[0] = f"{task.episodes} {data}"
    if task.relative:
        words.append("actions as differences from the observation")
    if task.n_action_steps > 1:
        words.append(f"{task.n_action_steps} actions per prediction")
    return "; ".join(words)


def _columns(table: TaskSummary) -> list[str]:
    titles = {name: of_name(name).title for name in table.columns}
    if "modes" in titles:
        titles["modes"] = f"modes of {table.n_modes}"
    columns = ["policy", "passes", "seeds", *titles.values(), "training CPU s"]
    if any(line.cpu_s_to_almost for line in table.rows):
        columns.append(_arrival(table))
    if any(line.published for line in table.rows):
        columns.append("published [p]")
    return columns


def _cells(table: TaskSummary, line: RowSummary) -> list[str]:
    cells = [line.row, str(line.nfe), str(len(line.seeds))]
    cells += [
        _cell(name, line.figures[name]) if name in line.figures else "-" for name in table.columns
    ]
    allotted = f" (of {line.budget_cpu_s:g})" if line.budget_cpu_s else ""
    cells.append(f"{line.training_cpu_s.mean:.0f}{allotted}")
    if _arrival(table) in _columns(table):
        arrived = line.cpu_s_to_almost
        cells.append(_minutes(arrived) if arrived else "-")
    if "published [p]" in _columns(table):
        cells.append(f"{line.published} [p]" if line.published else "-")
    return cells


def _arrival(table: TaskSummary) -> str:
    lower = of_name(table.task.judge).lower_is_better
    return "CPU min to within 1 %" if lower else "CPU min to 99 %"


def _cell(name: str, value: Interval) -> str:
    """Return a cell; how many modes there are needs no interval."""
    if name == "modes":
        return f"{value.mean:.1f}"
    return _shown(value, of_name(name).digits)


def _shown(value: Interval, digits: int = 3) -> str:
    spread = "" if math.isnan(value.half) else f" ± {value.half:.{digits}f}"
    return f"{value.mean:.{digits}f}{spread}"


def _signed(value: Interval) -> str:
    return f"{value.mean:+.3f}" + ("" if math.isnan(value.half) else f" ± {value.half:.3f}")


def _minutes(seconds: Interval) -> str:
    spread = "" if math.isnan(seconds.half) else f" ± {seconds.half / 60:.2f}"
    return f"{seconds.mean / 60:.2f}{spread}"


def _document(table: TaskSummary) -> dict[str, Any]:
    tree = asdict(table)
    for line in tree["rows"]:
        beside = line["published"]
        if beside:
            line["published"] = beside | {"published": True, "source": published.SOURCE}
    tree["statements"] = statements(table)
    return tree


def _draw(folder: Path, table: TaskSummary) -> Sequence[str]:
    """Write the pictures of one table; none where matplotlib is missing."""
    judge = table.task.judge
    in_picture = ("success", "entropy", "nll", "coverage_90")
    shown = [judge, *(name for name in in_picture if name in table.columns and name != judge)]
    names = {
        name: folder_name(f"{name}-{table.task.name}") + ".png" for name in ("rows", "curves")
    }
    figures = [
        study_figures.Line(
            name=line.row,
            values={
                of_name(n).title: (line.figures[n].mean, line.figures[n].half)
                for n in shown
                if n in line.figures
            },
            cpu_s=[band.cpu_s for band in line.curve],
            curve={
                of_name(n).title: [
                    (band.figures[n].mean, band.figures[n].half) for band in line.curve
                ]
                for n in shown
                if n in line.curve[-1].figures
            },
            published=_success_published(table.task, line),
        )
        for line in table.rows
    ]
    try:
        pictures = {
            names["rows"]: study_figures.interval_figure(
                figures, title=f"{table.task.name}: means and 95 % intervals"
            )
        }
        if any(len(line.cpu_s) > 1 for line in figures):
            pictures[names["curves"]] = study_figures.curve_figure(
                figures,
                title=f"{table.task.name}: learning curves",
                shares=[of_name(name).title for name in shown if of_name(name).is_share],
            )
    except VddError:
        return ()
    for name, png in pictures.items():
        write_atomic(folder / name, png)
    return tuple(pictures)


def _success_published(task: StudyTask, line: RowSummary) -> float | None:
    """Return the published cell where it is a success rate, which a picture can show."""
    if line.published is None or task.published == "kitchen":
        return None
    return line.published.value
