"""The rows a study can have: a method, and what differs from the task's settings files.

Nothing here needs torch: a finished study is printed without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.core.samplers import SamplerKind
from vdd_ros.distill.study import published

StudyMethod = Literal[
    "teacher",
    "vdd",
    "em",
    "em-teacher",
    "imc",
    "cd",
    "ctm",
    "persistence",
    "climatology",
    "linear",
]
REFERENCES: tuple[StudyMethod, ...] = ("persistence", "climatology", "linear")
"""What needs no training to speak of, and any model must beat on held-out episodes."""


def check_budget(**budgets: float | None) -> None:
    """Refuse a time that is none."""
    for name, value in budgets.items():
        if value is not None and value <= 0:
            raise VddError(f"{name}: got {value:g}, expected a positive number of seconds")


@dataclass(frozen=True)
class Variant:
    """How a row of the table comes about. Everything may be left out for a row known by name."""

    method: StudyMethod | None = None
    """teacher, how the student is trained, or a reference of `held-out` tasks: persistence (stay
    put), climatology (any training chunk), linear (regression on the window); left out, the row's
    name says it."""
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
        check_budget(cpu_s=self.cpu_s)
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
    "persistence": ("staying put", Variant(method="persistence")),
    "climatology": ("random training chunk", Variant(method="climatology")),
    "linear": ("linear regression", Variant(method="linear")),
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
    """Network passes per action; 0 for a reference."""
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

    @property
    def is_reference(self) -> bool:
        """Whether nothing is trained for the row."""
        return self.method in REFERENCES

    def published_method(self, family: str) -> str | None:
        """Return the paper's method this row stands beside, given the family of its teacher."""
        variant = self.variant
        asked = variant.published
        if asked == "" or (asked is None and (variant.overrides or variant.distill)):
            return None
        return published.method_name(asked or self.method, nfe=self.nfe, family=family)


def resolve(name: str, given: Variant | None, nfe: int) -> Row:
    """Return a row with nothing left out, given its name in the settings and a teacher's passes.

    Raises:
        VddError: a row without a method that is not known by its name, or settings that its method
            does not have.
    """
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
    if variant.method in REFERENCES:
        _check_reference(name, variant)
        return Row(name=label, method=variant.method, nfe=0, variant=variant)
    passes = variant.nfe or (nfe if variant.method == "teacher" else 1)
    if passes > 1 and variant.method != "teacher":
        raise VddError(f"row '{name}': nfe {passes}, but a student acts in one pass; leave it out")
    return Row(name=label, method=variant.method, nfe=passes, variant=variant)


def _check_reference(name: str, variant: Variant) -> None:
    """Refuse settings of a network where there is none; the teacher's say how long chunks are."""
    if variant.nfe or variant.overrides or variant.distill or variant.cpu_s:
        raise VddError(
            f"row '{name}': nothing is trained for it; leave out nfe, overrides, distill and cpu_s"
        )
