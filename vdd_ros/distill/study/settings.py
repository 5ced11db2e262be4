"""What a study compares: tasks, rows, seeds and budgets, as its YAML file says it.

Nothing here needs torch: a finished study is printed without it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.core.samplers import SamplerKind
from vdd_ros.distill.study import published

StudyMethod = Literal["teacher", "vdd", "em", "em-teacher", "imc", "cd", "ctm"]
Judge = Literal["score", "success", "reward"]

_ODD = re.compile(r"[^A-Za-z0-9._=+-]+")


def _check_budget(**budgets: float | None) -> None:
    for name, value in budgets.items():
        if value is not None and value <= 0:
            raise VddError(f"{name}: got {value:g}, expected a positive number of seconds")


@dataclass(frozen=True)
class Variant:
    """How a row of the table comes about. Everything may be left out for a row known by name."""

    method: StudyMethod | None = None
    """teacher, or how the student is trained; left out, the row's name says it."""
    nfe: int | None = None
    """Network passes per action; the study's for a teacher, 1 for a student."""
    sampler: SamplerKind = "euler"
    """Sampler of a teacher."""
    start_sigma: float | None = None
    """Sigma at which the sampling of a teacher starts; left out, its largest. One step from the
    largest ends at the mean of all actions, whatever the noise."""
    teacher: str | None = None
    """Settings file of the teacher instead of the task's."""
    teacher_overrides: dict[str, Any] = field(default_factory=dict)
    """Settings of the teacher that differ from its file, by dotted name. Rows with the same file
    and overrides share their teacher."""
    distill: str | None = None
    """Settings file of the student instead of the task's."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Settings of the student that differ from its file, by dotted name."""
    cpu_s: float | None = None
    """Processor seconds of the student's training; left out, the task's or the study's."""
    published: str | None = None
    """Method of the paper's table that this row stands beside; left out, the plain methods find
    theirs and rows with overrides have none."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.nfe is not None and self.nfe < 1:
            raise VddError(f"nfe: got {self.nfe}, expected at least 1")
        if self.start_sigma is not None and not self.start_sigma > 0:
            raise VddError(f"start_sigma: got {self.start_sigma}, expected above 0")
        _check_budget(cpu_s=self.cpu_s)
        if self.published and self.published not in published.METHODS:
            near = did_you_mean(self.published, published.METHODS)
            raise VddError(f"published: unknown method '{self.published}'{near}")


KNOWN_ROWS: Mapping[str, tuple[str, Variant]] = {
    "teacher": ("teacher", Variant(method="teacher")),
    "teacher-1": ("teacher, one step", Variant(method="teacher", nfe=1)),
    "vdd": ("VDD", Variant(method="vdd")),
    "vdd-forward": (
        "VDD + forward KL",
        Variant(method="vdd", overrides={"forward_kl": 0.5}, published=""),
    ),
    "vdd-reverse": (
        "VDD, reverse KL only",
        Variant(method="vdd", overrides={"forward_kl": 0.0}, published="VDD"),
    ),
    "em": ("EM on data", Variant(method="em")),
    "em-teacher": ("EM on teacher samples", Variant(method="em-teacher")),
    "imc": ("IMC on data", Variant(method="imc")),
    "cd": ("consistency distillation", Variant(method="cd")),
    "ctm": ("consistency trajectory model", Variant(method="ctm")),
}
"""Rows that need no text but their name, with what the table calls them."""


@dataclass(frozen=True)
class Row:
    """A row with nothing left out."""

    name: str
    """As the table prints it."""
    method: StudyMethod
    """teacher, or how the student is trained."""
    nfe: int
    """Network passes per action."""
    variant: Variant
    """The rest."""

    @property
    def teacher(self) -> tuple[str | None, dict[str, Any]]:
        """Settings file and overrides of the teacher: rows with the same ones share it."""
        return self.variant.teacher, self.variant.teacher_overrides

    @property
    def is_teacher(self) -> bool:
        """Whether the row rolls out a teacher."""
        return self.method == "teacher"

    def published_method(self, family: str) -> str | None:
        """Return the paper's method this row stands beside, given the family of its teacher."""
        variant = self.variant
        asked = variant.published
        if asked == "" or (asked is None and (variant.overrides or variant.distill)):
            return None
        return published.method_name(asked or self.method, nfe=self.nfe, family=family)


@dataclass(frozen=True)
class StudyTask:
    """A task at one level, with its demonstrations and its settings files."""

    teacher: str
    """Settings file of the teacher: a path, or relative to the shipped files."""
    distill: str
    """Settings file of every student, likewise."""
    task: str = "avoiding"
    """The simulated robots."""
    level: str = "ideal"
    """Degree of realism; demonstrations and rollouts are of the same one."""
    name: str = ""
    """How table and options call it; TASK-LEVEL by default."""
    data: str | None = "scripted"
    """`scripted`, the path of an .npz with demonstrations, or null: to be given with --data."""
    episodes: int = 480
    """Scripted demonstrations, where the data is `scripted`."""
    n_action_steps: int = 1
    """Actions of a chunk that are executed before the next prediction."""
    rollouts: int = 480
    """Rollouts per policy; the entropy of fewer is biased low."""
    judge: Judge = "score"
    """Figure that says which row is best: score (.8 success + .2 entropy), success or reward."""
    published: str | None = None
    """Task of the paper's tables that this one can be held against; null for none."""
    teacher_cpu_s: float | None = None
    """Processor seconds of the teacher's training; null takes the study's."""
    cpu_s: float | None = None
    """Processor seconds of every student's training; null takes the study's."""

    def __post_init__(self) -> None:
        """Check the ranges and settle the name."""
        if not self.name:
            object.__setattr__(self, "name", f"{self.task}-{self.level}")
        for name in ("episodes", "n_action_steps", "rollouts"):
            if getattr(self, name) < 1:
                raise VddError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if self.published is not None and self.published not in published.TASKS:
            near = did_you_mean(self.published, published.TASKS)
            raise VddError(f"published: unknown task '{self.published}'{near}")
        _check_budget(teacher_cpu_s=self.teacher_cpu_s, cpu_s=self.cpu_s)


@dataclass(frozen=True)
class StudySettings:
    """What is compared, on what, how often, for how long."""

    tasks: tuple[StudyTask, ...]
    """One table each."""
    rows: dict[str, Variant | None]
    """Rows of every table by the name it prints, in its order; what is left out of a known one
    (teacher, teacher-1, vdd, vdd-forward, vdd-reverse, em, em-teacher, imc, cd, ctm) is known."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds; each trains its own teacher."""
    teacher_cpu_s: float | None = None
    """Processor seconds of a teacher's training; null trains for its file's iterations."""
    cpu_s: float | None = None
    """Processor seconds of a student's training, its preparation included; null trains for its
    file's iterations. Iterations named in a row's overrides win over any budget."""
    nfe: int = 16
    """Denoiser calls per action of a teacher."""
    curve_points: int = 8
    """Closed-loop evaluations along every training; 0 for no learning curves."""
    curve_rollouts: int = 240
    """Rollouts of each of them."""

    def __post_init__(self) -> None:
        """Check the ranges and the names."""
        if not self.seeds or not self.tasks or not self.rows:
            raise VddError("a study needs at least one seed, one task and one row")
        if min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise VddError(f"seeds {list(self.seeds)}: expected different numbers of at least 0")
        if self.nfe < 1 or self.curve_rollouts < 1 or self.curve_points < 0:
            raise VddError("expected nfe and curve_rollouts of at least 1, curve_points of 0")
        _check_budget(teacher_cpu_s=self.teacher_cpu_s, cpu_s=self.cpu_s)
        _check_different("tasks", [task.name for task in self.tasks])
        _check_different("rows", [row.name for row in self.resolved()])

    def resolved(self) -> tuple[Row, ...]:
        """Return the rows with nothing left out, in the table's order.

        Raises:
            VddError: a row without a method that is not known by its name.
        """
        return tuple(_resolve(name, given, self.nfe) for name, given in self.rows.items())


def _resolve(name: str, given: Variant | None, nfe: int) -> Row:
    variant, label = given or Variant(), name
    if name in KNOWN_ROWS and variant.method in (None, KNOWN_ROWS[name][1].method):
        label, known = KNOWN_ROWS[name]
        overrides = known.overrides | variant.overrides
        variant = replace(
            variant,
            method=known.method,
            nfe=variant.nfe or known.nfe,
            overrides=overrides,
            published=known.published if variant.published is None else variant.published,
        )
    if variant.method is None:
        raise VddError(
            f"row '{name}': not a known row and without a method{did_you_mean(name, KNOWN_ROWS)}; "
            f"for one of your own write '{name}: {{method: vdd, overrides: ...}}'"
        )
    if variant.method == "teacher" and (variant.overrides or variant.distill):
        raise VddError(f"row '{name}': a teacher has no student; write teacher_overrides, teacher")
    passes = variant.nfe or (nfe if variant.method == "teacher" else 1)
    if passes > 1 and variant.method != "teacher":
        raise VddError(f"row '{name}': nfe {passes}, but a student acts in one pass; leave it out")
    return Row(name=label, method=variant.method, nfe=passes, variant=variant)


def folder_name(text: str) -> str:
    """Return a name for a folder, without spaces and the like."""
    return _ODD.sub("-", text).strip("-.") or "row"


def _check_different(what: str, names: list[str]) -> None:
    """Refuse names that two folders, on some systems, would share."""
    seen: dict[str, str] = {}
    for name in names:
        key = folder_name(name).lower()
        if key in seen:
            raise VddError(f"{what}: '{seen[key]}' and '{name}' cannot be told apart; rename one")
        seen[key] = name
