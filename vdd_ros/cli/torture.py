"""`vdd torture`: real nodes under faults, watched from the outside."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdd_ros.cli.command import Answer, OptionalPath, as_typed, require_at_least, say, table
from vdd_ros.cli.ros import require_ros

if TYPE_CHECKING:
    from vdd_ros.nodes.torture.campaign import Report
    from vdd_ros.nodes.torture.soak import Soak

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
    soak: float = 0.0
    """Instead of faults: so many minutes of steady states and service calls, in which the memory
    must not grow by more than 1 MB and no reply may be missing."""
    burners: int = 0
    """So many processes compute beside the nodes all the time: as many as the machine has
    processors are full load."""
    markdown: OptionalPath = None
    """Also write the table to this file. The sections about long runs that it holds
    stay; with --soak only such a section is written."""
    list: bool = False
    """Only say which kinds of faults there are."""
    json: bool = False
    """Print one JSON object: passed, injected, commands, rows; with --soak what was measured."""

    def run(self) -> Answer:
        """Start the nodes, inject, judge, stop them.

        Raises:
            VddError: an unknown kind, or a node that does not start.
        """
        from vdd_ros.core.errors import VddError

        require_ros("vdd torture")
        from vdd_ros.nodes.torture.burners import burners
        from vdd_ros.nodes.torture.campaign import chosen, run_campaign
        from vdd_ros.nodes.torture.report import as_markdown, soak_sections, with_section

        kinds = chosen([name.strip() for name in self.faults.split(",") if name.strip()])
        if self.list:
            rows = [(fault.name, fault.injects) for fault in kinds]
            return Answer(
                data={"faults": dict(rows)}, text="\n".join(f"{n}: {t}" for n, t in rows)
            )
        require_at_least(0, seed=self.seed, burners=self.burners)
        if not 0 < self.minutes < math.inf or not 0 < self.rate <= _MAX_RATE_HZ:
            raise VddError(
                f"got --minutes {self.minutes:g} --rate {self.rate:g}; both must be positive, the "
                f"rate at most {_MAX_RATE_HZ:g} Hz"
            )
        if not 0 <= self.soak < math.inf:
            raise VddError(f"got --soak {self.soak:g}; expected minutes, or nothing")
        if self.soak:
            return self._soak()
        with burners(self.burners):
            report = run_campaign(
                kinds, minutes=self.minutes, seed=self.seed, rate_hz=self.rate, say=say
            )
        if self.markdown is not None:
            page = as_markdown(report, as_typed("torture", self))
            for kept in soak_sections(_read(self.markdown)):
                page = with_section(page, kept)
            _write(self.markdown, page)
        return _answer(report)

    def _soak(self) -> Answer:
        from vdd_ros.nodes.torture.burners import burners
        from vdd_ros.nodes.torture.report import soak_markdown, soak_rows, with_section
        from vdd_ros.nodes.torture.soak import run_soak

        with burners(self.burners):
            soak = run_soak(minutes=self.soak, seed=self.seed, rate_hz=self.rate, say=say)
        if self.markdown is not None:
            section = soak_markdown(soak, as_typed("torture", self), burners=self.burners)
            _write(self.markdown, with_section(_read(self.markdown), section))
        verdict = "PASS" if soak.passed else "FAIL"
        text = [table(soak_rows(soak)), "", *soak.examples[:3], verdict]
        code = 0 if soak.passed else 1
        return Answer(
            data=_soak_data(soak),
            text="\n".join(text),
            exit_code=130 if soak.interrupted else code,
        )


def _soak_data(soak: Soak) -> dict[str, Any]:
    trends: dict[str, dict[str, float | None]] = {}
    for name, trend in (("resident", soak.resident), ("dirty", soak.dirty)):
        figures = dataclasses.asdict(trend) | {"growth_kb": trend.growth_kb}
        # JSON has no NaN.
        trends[name] = {key: v if math.isfinite(v) else None for key, v in figures.items()}
    return {"passed": soak.passed} | trends | dataclasses.asdict(soak)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _write(path: Path, text: str) -> None:
    from vdd_ros.core.config_io import write_atomic

    write_atomic(path, text)


def _answer(report: Report) -> Answer:
    from vdd_ros.nodes.torture.report import HEADER, cells

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
