"""`vdd bench`: what one decision costs, student against teacher, on one engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from vdd_ros.cli.command import Answer, Shipped, microseconds, say, table, whole_numbers


@dataclass(frozen=True)
class Bench:
    """Measure inference without ROS: the student beside its teacher in every variant.

    All are measured in turns in one process, back to back and paced at the control rate: a core
    that slept between two ticks answers later than a busy one.
    """

    student: tyro.conf.Positional[Annotated[Shipped, tyro.conf.arg(metavar="[FILE]")]] = None
    """Policy file of the student."""
    teacher: Shipped = None
    """Policy file of the teacher."""
    nfe: str = "4,16"
    """Sampler steps of the teacher to measure, with commas between them."""
    rate: float = 100.0
    """Control rate of the paced measurement in hertz."""
    seconds: float = 12.0
    """How long the paced measurement takes, all candidates in turns."""
    json: bool = False
    """Print one JSON object: student, teacher [...], ratio [...], parity_max_abs."""

    def run(self) -> Answer:
        """Measure."""
        from vdd_ros.core.shipped import STUDENT, TEACHER, shipped_file
        from vdd_ros.evaluation.bench import bench

        steps = whole_numbers(self.nfe, option="--nfe")
        student = self.student or shipped_file(STUDENT)
        teacher = self.teacher or shipped_file(TEACHER)
        say(f"measuring {student} beside {teacher}, NFE {self.nfe}, {self.rate:g} Hz ...")
        data = bench(student, teacher, nfe=steps, rate_hz=self.rate, paced_s=self.seconds)
        return Answer(data=data, text=_describe(data), next_commands=("vdd compare",))


def _describe(data: dict[str, Any]) -> str:
    rows = [_row("student, one pass", data["student"])]
    rows += [_row(f"teacher, {t['nfe']} steps, {t['variant']}", t) for t in data["teacher"]]
    lines = [
        table(rows, header=("per action", "p50", "p99", "max", "paced p50", "paced p99")),
        "",
        *(
            f"{r['nfe']} teacher steps ({r['best_variant']}, its best) take {r['p50']:.1f} times "
            "as long as one student pass (p50, back to back)"
            for r in data["ratio"]
        ),
        f"golden samples reproduced within {data['parity_max_abs']:.1e}",
    ]
    return "\n".join(lines)


def _row(name: str, cost: dict[str, Any]) -> tuple[str, ...]:
    paced = cost.get("paced", {})
    figures = [cost.get(k) for k in ("p50_us", "p99_us", "max_us")]
    figures += [paced.get(k) for k in ("p50_us", "p99_us")]
    return (name, *(microseconds(f) for f in figures))
