"""What the paper published, so that it can stand beside our figures and never among them.

Success rates (Relay Kitchen: return of at most 4) from the project page of Zhou et al.,
"Variational Distillation of Diffusion Policies into Mixture of Experts", NeurIPS 2024,
arXiv:2406.12538. Teachers are one seed; students are mean and standard deviation over seeds, not
a confidence interval. The tasks are D3IL's own simulations (Jia et al., ICLR 2024), Relay Kitchen
and Block Push: `avoiding` here has their geometry and recordings and a fitted robot instead of
the simulated one. The values of the task entropy are not on the page.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = (
    "Published success of the method's paper on its own simulation (Zhou et al., NeurIPS 2024, "
    "arXiv:2406.12538, project page; students: mean ± standard deviation over seeds, teachers: "
    "one seed). It was not measured here and is in none of our figures."
)


@dataclass(frozen=True)
class Published:
    """One cell of the paper's tables."""

    method: str
    """Column of the table."""
    value: float
    """Success rate; for `kitchen` the return, at most 4."""
    std: float | None
    """Standard deviation over seeds, where given."""

    def __str__(self) -> str:
        """Return the cell as a table prints it."""
        spread = "" if self.std is None else f" ± {self.std:.2f}"
        return f"{self.method} {self.value:.2f}{spread}"


METHODS = (
    "DDPM",
    "BESO",
    "DDPM-1",
    "BESO-1",
    "CD",
    "CTM",
    "VDD-DDPM",
    "VDD-BESO",
    "EM-GPT",
    "IMC-GPT",
    "VDD",
)
"""Columns of the two tables; `VDD` stands for that of the row's own teacher."""

_TEACHERS_AND_DISTILLED = """
kitchen     3.35  4.06   .22  4.02  3.87 .05  3.89 .11  3.24 .12  3.85 .10
block-push   .96   .96   .09   .94   .89 .05   .89 .04   .93 .03   .91 .03
avoiding     .94   .96   .09   .84   .82 .05   .93 .02   .92 .02   .95 .01
aligning     .85   .85   .00   .93   .94 .08   .81 .11   .70 .07   .86 .04
pushing      .74   .78   .00   .70   .66 .05   .80 .07   .61 .04   .85 .02
stacking-1   .89   .91   .00   .75   .69 .06   .54 .17   .81 .08   .85 .02
stacking-2   .68   .70   .00   .53   .46 .11   .30 .09   .60 .07   .57 .06
sorting-image   .69 .70 .20 .68 .71 .07 .70 .07 .80 .04 .76 .04
stacking-image  .58 .66 .00 .58 .63 .01 .59 .10 .78 .02 .60 .04
"""
_FROM_SCRATCH = """
kitchen    3.62 .10  3.67 .05
block-push  .88 .04   .89 .04
avoiding    .65 .18   .75 .08
aligning    .78 .04   .83 .02
pushing     .16 .07   .76 .04
stacking-1  .58 .06   .54 .05
stacking-2  .34 .07   .29 .07
sorting-image  .69 .02 .74 .04
stacking-image .04 .03 .39 .10
"""


def _tables() -> dict[str, dict[str, Published]]:
    cells: dict[str, dict[str, Published]] = {}
    for text, single, double in (
        (_TEACHERS_AND_DISTILLED, METHODS[:4], METHODS[4:8]),
        (_FROM_SCRATCH, (), METHODS[8:10]),
    ):
        for line in text.strip().splitlines():
            task, *words = line.split()
            numbers = [float(word) for word in words]
            row = cells.setdefault(task, {})
            row |= {name: Published(name, numbers.pop(0), None) for name in single}
            row |= {name: Published(name, numbers.pop(0), numbers.pop(0)) for name in double}
    return cells


TASKS = _tables()
"""Cells by task and method."""


def method_name(method: str, *, nfe: int, family: str) -> str | None:
    """Return the column of the paper that one of our methods stands beside.

    Args:
        method: ours (``teacher``, ``vdd``, ...) or a column of the paper.
        nfe: network passes per action.
        family: of the teacher: ``edm`` is the paper's BESO, ``ddpm`` its DDPM, others it lacks.
    """
    teacher = {"edm": "BESO", "ddpm": "DDPM"}.get(family)
    if method in ("vdd", "VDD"):
        return teacher and f"VDD-{teacher}"
    if method == "teacher":
        return teacher and (f"{teacher}-1" if nfe == 1 else teacher)
    if method in ("cd", "ctm") and nfe > 1:
        return None
    return {"em": "EM-GPT", "imc": "IMC-GPT", "cd": "CD", "ctm": "CTM"}.get(
        method, method if method in METHODS else None
    )


def cell(task: str | None, method: str | None) -> Published | None:
    """Return what was published for a task and a method, if anything was."""
    return TASKS[task].get(method) if task and method else None
