"""A study: teachers and students over several training seeds, on equal terms, as one table.

For every level and seed one teacher is trained; the teacher (many steps and one step) and every
student method are then rolled out on the same number of fresh robots. Every row is appended to
``results.jsonl`` when it is finished and never computed twice, so a study can be interrupted and
continued. The table gives means over training seeds with 95 % Student-t intervals, because the
spread between training seeds is larger than that of the rollouts of one policy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

from vdd_ros.core.config_io import load_json, load_yaml, to_dict, write_atomic
from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.core.shipped import shipped_file

Row = Literal["teacher", "teacher-1", "vdd", "vdd-forward", "em", "em-teacher"]

_STUDENTS = ("vdd", "vdd-forward", "em", "em-teacher")

# 97.5 % quantiles of Student's t by degrees of freedom: a table of ten beats a dependency.
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_FIGURES = ("success", "entropy", "modes", "score")
_NAMES = {
    "teacher": "teacher",
    "teacher-1": "teacher, one step",
    "vdd": "VDD",
    "vdd-forward": "VDD + forward KL",
    "em": "EM on data",
    "em-teacher": "EM on teacher samples",
}


@dataclass(frozen=True)
class StudySettings:
    """What is compared, on what, how often."""

    teacher: str
    """Settings file of the teacher, relative to the shipped files."""
    distill: str
    """Settings file of every student method, relative to the shipped files."""
    task: str = "avoiding"
    """Task the policies are rolled out on."""
    levels: tuple[str, ...] = ("ideal",)
    """Degrees of realism; demonstrations and rollouts are of the same one."""
    episodes: int = 480
    """Scripted demonstrations, where the data is `scripted`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds; each trains its own teacher."""
    rows: tuple[Row, ...] = ("teacher", "teacher-1", "vdd", "vdd-forward", "em", "em-teacher")
    """What to compare."""
    forward_kl: float = 0.5
    """Share of forward KL in the row `vdd-forward`; the row `vdd` has none."""
    n_iters: dict[str, int] = field(default_factory=dict)
    """Iterations per student method where they differ from the settings file's, so that the
    methods can be given the same processor time."""
    nfe: int = 16
    """Denoiser calls per action of the row `teacher`."""
    rollouts: int = 480
    """Rollouts per policy; the entropy of fewer is biased low."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.seeds or not self.levels or not self.rows:
            raise VddError("a study needs at least one seed, one level and one row")
        if self.rollouts < 1 or self.nfe < 1:
            raise VddError("rollouts and nfe: expected at least 1")
        for method, n_iters in self.n_iters.items():
            if method not in _STUDENTS:
                raise VddError(
                    f"n_iters: unknown method '{method}'{did_you_mean(method, _STUDENTS)}"
                )
            if n_iters < 1:
                raise VddError(f"n_iters.{method}: got {n_iters}, expected at least 1")
        if min(self.seeds) < 0 or self.episodes < 1:
            raise VddError(
                f"seeds {list(self.seeds)} and episodes {self.episodes}: expected seeds of at "
                "least 0 and at least 1 episode"
            )
        if not 0 <= self.forward_kl <= 1:
            raise VddError(f"forward_kl: got {self.forward_kl}, expected 0 to 1")


@dataclass(frozen=True)
class StudyRow:
    """One policy's figures."""

    level: str
    """Degree of realism."""
    method: Row
    """Which policy."""
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
    score: float
    """.8 success + .2 entropy."""
    training_cpu_s: float
    """Processor seconds of the training; for a student its teacher's is not included."""
    n_rollouts: int
    """Rollouts the figures rest on."""


def run_study(settings: StudySettings, data: str, out_dir: str | Path, *, jobs: int = 1) -> Path:
    """Compute every row that ``out_dir`` does not hold yet, and render the table.

    Args:
        settings: what to compare.
        data: `scripted` or the path of an .npz with demonstrations.
        out_dir: keeps run folders, ``results.jsonl``, ``settings.json`` and ``table.md``.
        jobs: (level, seed) pairs computed at a time, each in a process with one thread.

    Returns:
        The path of the table.

    Raises:
        VddError: unusable settings or data, or a folder that holds another study.
    """
    if jobs < 1:
        raise VddError(f"jobs: got {jobs}, expected at least 1")
    folder = Path(out_dir)
    described = {"data": data, "settings": to_dict(settings)}
    claim = folder / "study.json"
    # A folder that was only claimed, by a study that failed at once, is free.
    begun = claim.exists() and any(path.is_dir() for path in folder.iterdir())
    if begun and json.loads(claim.read_text(encoding="utf-8")) != described:
        raise VddError(
            f"{folder}: holds a study with other settings or data; choose another folder"
        )
    write_atomic(claim, json.dumps(described, indent=2))
    pairs = [(level, seed) for level in settings.levels for seed in settings.seeds]
    # Each pair has a file of its own: two processes never write to one.
    # Leaving the block, for whatever reason, ends the workers; a training loses what came after
    # its last checkpoint.
    with get_context("spawn").Pool(jobs) as pool:
        running = [pool.apply_async(_run_or_stop, (settings, data, folder, *p)) for p in pairs]
        for result in running:
            result.get()
    rows = list(read_rows(folder))
    write_atomic(folder / "results.jsonl", "".join(json.dumps(asdict(row)) + "\n" for row in rows))
    table = folder / "table.md"
    write_atomic(table, render(rows) + "\n")
    return table


def read_rows(folder: Path) -> Iterator[StudyRow]:
    """Yield the finished rows of a study.

    Raises:
        VddError: a line that is not a row.
    """
    for path in sorted(folder.glob("*/rows.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            yield load_json(StudyRow, line, where=f"{path}:{number}")


def render(rows: Iterable[StudyRow]) -> str:
    """Return a Markdown table: mean over seeds and 95 % interval of every figure."""
    lines = [
        "| level | policy | passes | success | entropy | modes of 24 | score | training CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, Row], list[StudyRow]] = {}
    for row in rows:
        groups.setdefault((row.level, row.method), []).append(row)
    order = list(_NAMES)
    for (level, method), group in sorted(
        groups.items(), key=lambda item: (item[0][0], order.index(item[0][1]))
    ):
        figures = [mean_and_interval([float(getattr(r, n)) for r in group]) for n in _FIGURES]
        cells = [
            f"{mean:.1f}" if name == "modes" else f"{mean:.3f} ± {half:.3f}"
            for name, (mean, half) in zip(_FIGURES, figures, strict=True)
        ]
        cpu = fmean(r.training_cpu_s for r in group)
        lines.append(
            f"| {level} | {_NAMES[method]} | {group[0].nfe} | {' | '.join(cells)} | {cpu:.0f} |"
        )
    return "\n".join(lines)


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % Student-t interval; NaN for one value."""
    if len(values) < 2:
        return fmean(values), math.nan
    quantile = _T975[min(len(values) - 1, len(_T975)) - 1]
    return fmean(values), quantile * stdev(values) / math.sqrt(len(values))


def _run_or_stop(settings: StudySettings, data: str, folder: Path, level: str, seed: int) -> None:
    """Run one pair; Ctrl-C crosses the process boundary as what it is."""
    from vdd_ros.distill.trainer import TrainingInterrupted

    try:
        _run_pair(settings, data, folder, level, seed)
    except TrainingInterrupted as stop:
        raise KeyboardInterrupt(str(stop)) from None


def _run_pair(settings: StudySettings, data: str, folder: Path, level: str, seed: int) -> None:
    """Train and judge everything of one level and seed; skip what is already there."""
    # torch is imported by the processes that train, not by the one that waits for them.
    from vdd_ros.data.npz import load_demonstrations
    from vdd_ros.distill.checkpoint import SETTINGS, load_teacher, training_cpu_s
    from vdd_ros.distill.evaluation import closed_loop, student_policy, teacher_policy
    from vdd_ros.distill.mixture_training import DistillSettings
    from vdd_ros.distill.pipeline import distill, train_teacher
    from vdd_ros.distill.teachers.edm import TeacherSettings

    here = folder / f"{level}-seed{seed}"
    rows_file = here / "rows.jsonl"
    done = {r.method for r in read_rows(folder) if (r.level, r.seed) == (level, seed)}
    demos = load_demonstrations(
        data, task=settings.task, level=level, n=settings.episodes, seed=seed
    )
    teacher_dir = here / "teacher"
    teacher_settings = load_yaml(TeacherSettings, shipped_file(settings.teacher))
    if {"teacher", "teacher-1"} - done or not (teacher_dir / SETTINGS).exists():
        train_teacher(
            demos,
            replace(teacher_settings, seed=seed),
            teacher_dir,
            resume=(teacher_dir / SETTINGS).exists(),
        )
    teacher = load_teacher(teacher_dir)
    base = load_yaml(DistillSettings, shipped_file(settings.distill))
    for method in settings.rows:
        if method in done:
            continue
        if method == "teacher" or method == "teacher-1":
            nfe = settings.nfe if method == "teacher" else 1
            policy, cpu_s = teacher_policy(teacher, nfe), training_cpu_s(teacher_dir)
        else:
            nfe, out = 1, here / method
            n_iters = settings.n_iters.get(method, base.n_iters)
            forward_kl = settings.forward_kl if method == "vdd-forward" else 0.0
            result = distill(
                teacher_dir,
                demos,
                replace(base, seed=seed, n_iters=n_iters, forward_kl=forward_kl),
                out_dir=out,
                method="vdd" if method == "vdd-forward" else method,
                resume=(out / SETTINGS).exists(),
            )
            policy, cpu_s = student_policy(result.student), result.training_cpu_s
        figures = closed_loop(
            policy,
            task=settings.task,
            level=level,
            rollouts=settings.rollouts,
            seed=1000 + seed,
            n_obs_steps=teacher.n_obs_steps,
        )
        row = StudyRow(
            level=level,
            method=method,
            seed=seed,
            nfe=nfe,
            success=figures["success"],
            entropy=figures["entropy"],
            modes=int(figures["modes"]),
            score=figures["score"],
            training_cpu_s=float(cpu_s),
            n_rollouts=settings.rollouts,
        )
        before = rows_file.read_text(encoding="utf-8") if rows_file.exists() else ""
        write_atomic(rows_file, before + json.dumps(asdict(row)) + "\n")
