"""`vdd compare`: real nodes over real DDS, end to end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vdd_ros.cli.command import Answer, Shipped, microseconds, require_at_least, say, table

MAX_RATE_HZ = 10_000.0  # of the nodes


@dataclass(frozen=True)
class Compare:
    """Measure the nodes end to end: echo, policy and teacher as processes over DDS.

    One process publishes observations and waits for the command that answers each: what is
    measured is what a robot would see. The echo node answers without inference: the floor.
    """

    seconds: float = 20.0
    """How long to measure, all three in turns."""
    rate: float = 100.0
    """Observations per second."""
    student: Shipped = None
    """Policy file of the student."""
    teacher: Shipped = None
    """Policy file of the teacher."""
    nfe: int = 16
    """Sampler steps of the teacher."""
    json: bool = False
    """Print one JSON object: echo, policy, teacher, ratio."""

    def run(self) -> Answer:
        """Start the nodes, measure, stop them."""
        from vdd_ros.cli.ros import require_policies, require_ros
        from vdd_ros.core.errors import VddError
        from vdd_ros.core.shipped import STUDENT, TEACHER, shipped_file

        require_ros("vdd compare")
        from vdd_ros.nodes.compare_driver import compare

        if not 0 < self.seconds < math.inf or not 0 < self.rate <= MAX_RATE_HZ:
            raise VddError(
                f"got --seconds {self.seconds:g} --rate {self.rate:g}; both must be positive, the "
                f"rate at most {MAX_RATE_HZ:g} Hz"
            )
        require_at_least(1, nfe=self.nfe)
        student = self.student or shipped_file(STUDENT)
        teacher = self.teacher or shipped_file(TEACHER)
        require_policies(student, teacher, self.nfe)
        say(f"measuring three nodes in turns for {self.seconds:g} s at {self.rate:g} Hz ...")
        data = compare(
            self.seconds,
            self.rate,
            str(student),
            str(teacher),
            self.nfe,
        )
        return Answer(data=data, text=_describe(data), next_commands=("vdd demo",))


def _describe(data: dict[str, Any]) -> str:
    rows = []
    for name in ("echo", "policy", "teacher"):
        cost = data[name]
        times = (microseconds(cost[key]) for key in ("p50_us", "p99_us", "max_us"))
        rows.append((name, *times, str(cost["ticks"]), str(cost["missed"])))
    ratio = data["ratio"]
    return "\n".join(
        [
            table(rows, header=("end to end", "p50", "p99", "max", "ticks", "missed")),
            "",
            f"policy / echo {ratio['policy_over_echo_p50']:.2f}, "
            f"teacher / policy {ratio['teacher_over_policy_p50']:.2f} (p50)",
        ]
    )
