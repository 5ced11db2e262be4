"""`vdd torture`: real nodes under faults, watched from the outside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vdd_ros.cli.command import Answer, OptionalPath, as_typed, require_at_least, say, table
from vdd_ros.cli.ros import require_ros

if TYPE_CHECKING:
    from vdd_ros.nodes.torture.campaign import Report

_MAX_RATE_HZ = 1000.0


@dataclass(frozen=True)
class Torture:
    """Run the nodes under faults, in a seeded order, and say what went wrong.

    The nodes are processes of their own over DDS on this machine only. A judge that uses nothing
    of their own safety checks every command against the contract. Exit status 1: something was
    not detected, not recovered from, or out of limits; 130: interrupted, and the table
    is of what was measured until then.
    """

    minutes: float = 20.0
    """It ends by then, whatever is left."""
    seed: int = 0
    """Decides the order and everything random in the faults."""
    faults: str = ""
    """Kinds of faults with commas between them; all of them where empty (see --list)."""
    rate: float = 100.0
    """Observations per second."""
    markdown: OptionalPath = None
    """Also write the table to this file."""
    list: bool = False
    """Only say which kinds of faults there are."""
    json: bool = False
    """Print one JSON object: passed, injected, commands, rows."""

    def run(self) -> Answer:
        """Start the nodes, inject, judge, stop them.

        Raises:
            VddError: an unknown kind, or a node that does not start.
        """
        from vdd_ros.core.errors import VddError

        require_ros("vdd torture")
        from vdd_ros.nodes.torture.campaign import as_markdown, chosen, run_campaign

        kinds = chosen([name.strip() for name in self.faults.split(",") if name.strip()])
        if self.list:
            rows = [(fault.name, fault.injects) for fault in kinds]
            return Answer(
                data={"faults": dict(rows)}, text="\n".join(f"{n}: {t}" for n, t in rows)
            )
        require_at_least(0, seed=self.seed)
        if not 0 < self.minutes < math.inf or not 0 < self.rate <= _MAX_RATE_HZ:
            raise VddError(
                f"got --minutes {self.minutes:g} --rate {self.rate:g}; both must be positive, the "
                f"rate at most {_MAX_RATE_HZ:g} Hz"
            )
        report = run_campaign(
            kinds, minutes=self.minutes, seed=self.seed, rate_hz=self.rate, say=say
        )
        if self.markdown is not None:
            _write(self.markdown, as_markdown(report, as_typed("torture", self)))
        return _answer(report)


def _write(path: Path, text: str) -> None:
    from vdd_ros.core.config_io import write_atomic

    write_atomic(path, text)


def _answer(report: Report) -> Answer:
    from vdd_ros.nodes.torture.campaign import HEADER, cells

    verdict = "PASS" if report.passed else "FAIL"
    text = [
        table([cells(row) for row in report.rows], header=HEADER),
        "",
        *(f"{row.fault}: {example}" for row in report.rows for example in row.examples[:1]),
        f"{verdict}: {report.injected} injections, {report.commands} commands checked",
    ]
    data = {
        "passed": report.passed,
        "injected": report.injected,
        "commands": report.commands,
        "seconds": report.seconds,
        "seed": report.seed,
        "rate_hz": report.rate_hz,
        "rows": report.rows,
    }
    code = 0 if report.passed else 1
    return Answer(data=data, text="\n".join(text), exit_code=130 if report.interrupted else code)
