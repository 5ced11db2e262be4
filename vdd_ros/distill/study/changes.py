"""Settings with something changed: data from the command line, overrides of a row, later rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from vdd_ros.core.config_io import from_dict, to_dict
from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.distill.study.settings import StudySettings

T = TypeVar("T")


def with_data(settings: StudySettings, given: Sequence[str]) -> StudySettings:
    """Return the study with demonstrations from the command line.

    Args:
        settings: the study.
        given: `NAME=SPEC` for the task of that name, or one bare `SPEC` for every task.

    Raises:
        VddError: a name that is no task's, or a task that is left without demonstrations.
    """
    names = [task.name for task in settings.tasks]
    named: dict[str, str] = {}
    for word in given:
        name, equals, spec = word.partition("=")
        if equals and name in names:
            named[name] = spec
        elif equals and not Path(word).exists():
            raise VddError(f"--data {word}: no task '{name}' here{did_you_mean(name, names)}")
        else:
            named |= dict.fromkeys(names, word)
    tasks = tuple(replace(task, data=named.get(task.name, task.data)) for task in settings.tasks)
    for task in tasks:
        if task.data is None:
            raise VddError(
                f"task '{task.name}' has no demonstrations; give them with --data PATH, or with "
                f"--data {task.name}=PATH where there are several tasks"
            )
    return replace(settings, tasks=tasks)


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
            if other[key] != value:
                yield f"tasks.{task.name}.{key}"
    rows = {row.name: row for row in new.resolved()}
    for row in old.resolved():
        if rows.get(row.name, row) != row:
            yield f"rows.{row.name}"
