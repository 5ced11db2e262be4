"""What a study compares: tasks, rows, seeds and budgets, as its YAML file says it.

Nothing here needs torch: a finished study is printed without it.
"""

from __future__ import annotations

import re
from dataclasses import Field, dataclass, fields
from typing import Any, Literal

from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.distill.study import published
from vdd_ros.distill.study.variants import Row, Variant, check_budget, resolve

HELD_OUT = "held-out"
"""The task that has no simulator."""
Judge = Literal["", "score", "success", "reward", "energy_score"]

_ODD = re.compile(r"[^A-Za-z0-9._=+-]+")


@dataclass(frozen=True)
class StudyTask:
    """A task at one level, with its demonstrations and its settings files."""

    teacher: str
    """Settings file of the teacher: a path, or relative to the shipped files."""
    distill: str
    """Settings file of every student, likewise."""
    task: str = "avoiding"
    """The simulated robots; or `held-out`, where there is no simulator: a share of the episodes is
    kept from training, another one for every seed, and what was done in them is predicted."""
    level: str = "ideal"
    """Degree of realism; demonstrations and rollouts are of the same one."""
    name: str = ""
    """How table and options call it; TASK-LEVEL by default, to be given where it is held out."""
    data: str | None = "scripted"
    """`scripted`, the path of an .npz with demonstrations, or null: to be given with --data."""
    held_out: float = 0.2
    """held-out: share of the episodes that is judged on."""
    relative: bool = False
    """held-out: actions are differences from the observation of the same row, and observations
    get their change since the row before (`data.relative`)."""
    windows: int = 1024
    """held-out: windows judged, evenly spread over the episodes; 0 for all."""
    samples: int = 32
    """held-out: chunks drawn per window."""
    episodes: int = 480
    """Scripted demonstrations, where the data is `scripted`."""
    n_action_steps: int = 1
    """Actions of a chunk that are executed before the next prediction."""
    rollouts: int = 480
    """Rollouts per policy; the entropy of fewer is biased low."""
    judge: Judge = ""
    """Figure that says which row is best: score (.8 success + .2 entropy), success or reward;
    energy_score, that of drawn chunks, where nothing is rolled out. By default score or
    energy_score."""
    published: str | None = None
    """Task of the paper's tables that this one can be held against; null for none."""
    teacher_cpu_s: float | None = None
    """Processor seconds of the teacher's training; null takes the study's."""
    cpu_s: float | None = None
    """Processor seconds of every student's training; null takes the study's."""

    def __post_init__(self) -> None:
        """Check the ranges and settle name and judge."""
        if not self.name:
            if self.is_held_out:
                raise VddError(
                    "name: a task without a simulator needs one; 'held-out' says little"
                )
            object.__setattr__(self, "name", f"{self.task}-{self.level}")
        if not self.judge:
            object.__setattr__(self, "judge", "energy_score" if self.is_held_out else "score")
        for name in ("episodes", "n_action_steps", "rollouts"):
            if getattr(self, name) < 1:
                raise VddError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if self.published is not None and self.published not in published.TASKS:
            near = did_you_mean(self.published, published.TASKS)
            raise VddError(f"published: unknown task '{self.published}'{near}")
        check_budget(teacher_cpu_s=self.teacher_cpu_s, cpu_s=self.cpu_s)
        self._check_kind()

    @property
    def is_held_out(self) -> bool:
        """Whether nothing is rolled out."""
        return self.task == HELD_OUT

    def _check_kind(self) -> None:
        """Refuse what would be ignored: it was meant to do something."""
        if not 0 < self.held_out < 1 or self.windows < 0 or self.samples < 2:
            raise VddError(
                f"held_out {self.held_out:g}, windows {self.windows} and samples {self.samples}: "
                "expected a share between 0 and 1, 0 or more windows, at least 2 samples"
            )
        mine = ("level", "episodes", "n_action_steps", "rollouts", "published")
        theirs = ("held_out", "relative", "windows", "samples")
        idle = mine if self.is_held_out else theirs
        given = [f.name for f in fields(self) if f.name in idle and self._differs(f)]
        if given:
            with_or_without = "without" if self.is_held_out else "with"
            raise VddError(
                f"task '{self.name}': {', '.join(given)} would change nothing for a task "
                f"{with_or_without} a simulator; leave out"
            )
        if (self.judge == "energy_score") != self.is_held_out:
            raise VddError(
                f"task '{self.name}': judge '{self.judge}'; expected energy_score without a "
                "simulator, score, success or reward with one"
            )
        if self.is_held_out and self.data == "scripted":
            raise VddError(
                f"task '{self.name}': nothing can be scripted without a simulator; write data: "
                "null and give recordings with --data, or write their path"
            )

    def _differs(self, setting: Field[Any]) -> bool:
        return bool(getattr(self, setting.name) != setting.default)


@dataclass(frozen=True)
class StudySettings:
    """What is compared, on what, how often, for how long."""

    tasks: tuple[StudyTask, ...]
    """One table each."""
    rows: dict[str, Variant | None]
    """Rows of every table by the name it prints, in its order; what is left out of a known one
    (teacher, teacher-1, vdd, vdd-forward, vdd-reverse, em, em-teacher, imc, cd, ctm, persistence,
    climatology, linear) is known."""
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
    """Evaluations along every training; 0 for no learning curves."""
    curve_rollouts: int = 240
    """Rollouts, or held-out windows, of each of them."""

    def __post_init__(self) -> None:
        """Check the ranges and the names."""
        if not self.seeds or not self.tasks or not self.rows:
            raise VddError("a study needs at least one seed, one task and one row")
        if min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise VddError(f"seeds {list(self.seeds)}: expected different numbers of at least 0")
        if self.nfe < 1 or self.curve_rollouts < 1 or self.curve_points < 0:
            raise VddError("expected nfe and curve_rollouts of at least 1, curve_points of 0")
        check_budget(teacher_cpu_s=self.teacher_cpu_s, cpu_s=self.cpu_s)
        _check_different("tasks", [task.name for task in self.tasks])
        _check_different("rows", [row.name for row in self.resolved()])
        references = [row.name for row in self.resolved() if row.is_reference]
        simulated = [task.name for task in self.tasks if not task.is_held_out]
        if references and simulated:
            raise VddError(
                f"row '{references[0]}' is for tasks without a simulator, but '{simulated[0]}' "
                "has one; put it into another study"
            )

    def resolved(self) -> tuple[Row, ...]:
        """Return the rows with nothing left out, in the table's order.

        Raises:
            VddError: a row without a method that is not known by its name.
        """
        return tuple(resolve(name, given, self.nfe) for name, given in self.rows.items())


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
