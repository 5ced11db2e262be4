"""Running a study: every row of every task and seed, once, in processes of one thread each.

::

    study.json                        what is compared
    TASK-seedN/teachers/..., students/...   run folders
    TASK-seedN/rows.jsonl             rows as they finish
    budgets/*.json                    iterations that fit the stated processor time
    results.jsonl, results.json, table.md, *.png   the outcome, written by `render`

A study can be interrupted and continued: finished rows are never computed again, trainings go on
from their last checkpoint.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path

from vdd_ros.core.config_io import dump_json, write_atomic
from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.distill.study.changes import chosen, conflicts
from vdd_ros.distill.study.render import render_study
from vdd_ros.distill.study.rows import CLAIM, read_settings
from vdd_ros.distill.study.settings import StudySettings, StudyTask
from vdd_ros.distill.study.variants import Row

# Time to reach the end of an iteration and to write a checkpoint.
_GRACE_S = 15.0


def run_study(
    settings: StudySettings,
    out_dir: str | Path,
    *,
    jobs: int = 1,
    tasks: Sequence[str] = (),
    rows: Sequence[str] = (),
    say: Callable[[str], object] = lambda _: None,
) -> Path:
    """Compute every row that ``out_dir`` does not hold yet, and render the tables.

    Args:
        settings: what to compare.
        out_dir: the study's folder. It may hold a part of the study, or one with other rows,
            tasks and seeds beside these.
        jobs: (task, seed) pairs computed at a time, each in a process with one thread.
        tasks: names of the tasks to compute; empty for all.
        rows: names of the rows to compute; empty for all.
        say: takes what is odd about the recordings, before time is spent on them.

    Returns:
        The path of the tables, in Markdown. Rows that failed are named below them.

    Raises:
        VddError: unusable settings or data, a folder that holds another study, or not one row.
    """
    if jobs < 1:
        raise VddError(f"jobs: got {jobs}, expected at least 1")
    chosen_tasks, chosen_rows = chosen(settings, tasks, rows)
    for note in check(settings, chosen_tasks, chosen_rows):
        say(note)
    folder = Path(out_dir)
    _claim(folder, settings)
    names = [row.name for row in chosen_rows]
    pairs = [(task, seed, names) for task in chosen_tasks for seed in settings.seeds]
    # Each pair has a file of its own: two processes never write to one.
    in_processes(_run_or_stop, [(settings, folder, *pair) for pair in pairs], jobs=jobs)
    return render_study(folder)


def in_processes(
    function: Callable[..., object], calls: Sequence[tuple[object, ...]], *, jobs: int
) -> None:
    """Call a function once per tuple of arguments, ``jobs`` at a time, in fresh processes.

    Raises:
        VddError: a process was ended from outside.
        KeyboardInterrupt: Ctrl-C here or in one of them; all were given the time to save.
        Exception: what the first call that failed has raised; the others are ended.
    """
    ours = set(active_children())
    executor = ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_end_with_the_study
    )
    running = [executor.submit(function, *arguments) for arguments in calls]
    try:
        for result in running:
            result.result()
    except BrokenProcessPool:
        raise VddError(
            "a process of the study was ended from outside, perhaps because memory ran out; what "
            "had finished is kept: run the same command again, with fewer --jobs if that is why"
        ) from None
    finally:
        # After the last result nothing is left to wait for. Otherwise Ctrl-C has reached the
        # other processes, too, and they are saving.
        executor.shutdown(wait=False, cancel_futures=True)
        wait(running, timeout=_GRACE_S)
        for process in set(active_children()) - ours:
            process.terminate()


def _end_with_the_study() -> None:
    """Let this process save and end, as after Ctrl-C, when the study it works for is killed."""

    def watch() -> None:
        study = parent_process()
        if study is not None:
            study.join()
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def check(
    settings: StudySettings,
    tasks: Sequence[StudyTask] | None = None,
    rows: Sequence[Row] | None = None,
) -> tuple[str, ...]:
    """Find what cannot be trained before anything is.

    Returns:
        What is odd about the recordings and may be meant.

    Raises:
        VddError: a missing or wrong settings file, an override that does not fit, a method that
            is not there, recordings that cannot be used.
    """
    from vdd_ros.data.inspection import oddities
    from vdd_ros.distill.pipeline import METHODS
    from vdd_ros.distill.study.judging import load
    from vdd_ros.distill.study.recipes import student_settings, teacher_settings

    notes: dict[str, None] = {}
    for task in settings.tasks if tasks is None else tasks:
        if task.data is None:
            raise VddError(
                f"task '{task.name}' has no demonstrations; give them with --data PATH, or with "
                f"--data {task.name}=PATH where other tasks have none, either; or name the tasks "
                "to compute with --tasks"
            )
        demos = None
        if task.data != "scripted":  # those of the scripted expert are yet to be made
            demos = load(task)
            if task.is_held_out:
                demos.split(1 - task.held_out, 0)
        for row in settings.resolved() if rows is None else rows:
            teacher = teacher_settings(task, row, seed=0)
            if demos is not None:
                found = oddities(demos, horizon=teacher.horizon, pad=teacher.pad)
                notes.update(dict.fromkeys(found))
            if not (row.is_teacher or row.is_reference):
                if row.method not in METHODS:
                    raise VddError(
                        f"row '{row.name}': method '{row.method}' is not there"
                        f"{did_you_mean(row.method, METHODS)}"
                    )
                student_settings(task, row, seed=0)
    return tuple(notes)


def _claim(folder: Path, settings: StudySettings) -> None:
    """Take the folder, or go on with what is in it."""
    # A folder that was only claimed, by a study that failed at once, is free.
    if (folder / CLAIM).exists() and any(path.is_dir() for path in folder.iterdir()):
        differ = list(conflicts(read_settings(folder), settings))
        if differ:
            raise VddError(
                f"{folder}: holds a study with other settings or data ({', '.join(differ[:6])}); "
                "choose another folder. Rows, tasks and seeds may be added, not changed"
            )
    write_atomic(folder / CLAIM, dump_json(settings, indent=2) + "\n")


def _run_or_stop(
    settings: StudySettings, folder: Path, task: StudyTask, seed: int, rows: Sequence[str]
) -> None:
    """Run one pair; Ctrl-C crosses the process boundary as what it is."""
    # torch is imported by the processes that train, not by the one that waits for them.
    from vdd_ros.distill.study.pair import Pair
    from vdd_ros.distill.training.trainer import TrainingInterrupted

    try:
        Pair(settings, folder, task, seed, rows=rows).run()
    except TrainingInterrupted as stop:
        raise KeyboardInterrupt(str(stop)) from None
