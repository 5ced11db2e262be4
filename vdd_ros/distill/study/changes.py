"""Settings with something changed: data from the command line, overrides of a row, later rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from vdd_ros.core.config_io import from_dict, to_dict
from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.distill.study.settings import StudySettings, StudyTask
from vdd_ros.distill.study.variants import Row

T = TypeVar("T")


def with_data(settings: StudySettings, given: Sequence[str]) -> StudySettings:
    """Return the study with demonstrations from the command line.

    Args:
        settings: the study.
        given: `NAME=SPEC` for the task of that name; one bare `SPEC` for every task whose
            settings name none, or for all where all do.

    Raises:
        VddError: a name that is no task's.
    """
    names = [task.name for task in settings.tasks]
    without = [task.name for task in settings.tasks if task.data is None]
    named: dict[str, str] = {}
    for word in given:
        name, equals, spec = word.partition("=")
        if equals and name in names:
            named[name] = spec
        elif equals and not Path(word).exists():
            raise VddError(f"--data {word}: no task '{name}' here{did_you_mean(name, names)}")
        else:
            named |= dict.fromkeys(without or names, word)
    tasks = tuple(replace(task, data=named.get(task.name, task.data)) for task in settings.tasks)
    return replace(settings, tasks=tasks)


def chosen(
    settings: StudySettings, tasks: Sequence[str], rows: Sequence[str]
) -> tuple[list[StudyTask], list[Row]]:
    """Return the tasks and rows of these names, all where none is given.

    A row answers to its name in the settings and to the one the table prints.

    Raises:
        VddError: a name that is no task's or no row's.
    """
    known = {task.name: task for task in settings.tasks}
    resolved = settings.resolved()
    answers = {row.name: row for row in resolved} | dict(zip(settings.rows, resolved, strict=True))
    for what, asked, there in (("task", tasks, known), ("row", rows, answers)):
        for name in asked:
            if name not in there:
                raise VddError(f"no {what} '{name}' in this study{did_you_mean(name, there)}")
    kept = {answers[name].name for name in rows} or {row.name for row in resolved}
    return (
        [task for task in settings.tasks if not tasks or task.name in tasks],
        [row for row in resolved if row.name in kept],
    )


def with_overrides(settings: T, overrides: Mapping[str, Any], *, where: str) -> T:
    """Return a settings dataclass with some fields, by dotted name, replaced.

    Raises:
        VddError: an unknown name, a whole group instead of its fields, or a value that does not
            fit; ``where`` stands in front.
    """
    tree = to_dict(settings)
    for dotted, value in overrides.items():
        *path, last = dotted.split(".")
        node = tree
        for name in (*path, last):
            if not isinstance(node, dict):
                raise VddError(f"{where}: '{dotted}': nothing is inside '{path[-1]}'")
            if name not in node:
                raise VddError(f"{where}: unknown key '{dotted}'{did_you_mean(name, node)}")
            holder, node = node, node[name]
        if isinstance(node, dict):
            raise VddError(f"{where}: '{dotted}' is a group; name its fields: '{dotted}.X: value'")
        holder[last] = value
    return from_dict(type(settings), tree, where=where)


def conflicts(old: StudySettings, new: StudySettings) -> Iterator[str]:
    """Yield in what two studies differ beyond what one folder may hold.

    Rows, tasks and seeds may come and go; what is in both must be the same.
    """
    for name, theirs in asdict(old).items():
        ours = asdict(new)[name]
        if name not in ("tasks", "rows", "seeds") and theirs != ours:
            yield name
    ours_by_name = {task.name: task for task in new.tasks}
    for task in old.tasks:
        other = asdict(ours_by_name.get(task.name, task))
        for key, value in asdict(task).items():
            unset = key == "data" and None in (value, other[key])
            if other[key] != value and not unset:
                yield f"tasks.{task.name}.{key}"
    rows = {row.name: row for row in new.resolved()}
    for row in old.resolved():
        if rows.get(row.name, row) != row:
            yield f"rows.{row.name}"
