"""What the campaign and the long run found, in words: tables for people."""

from __future__ import annotations

from typing import Any

from vdd_ros.nodes.torture.campaign import Report, Row
from vdd_ros.nodes.torture.registry import FAULTS
from vdd_ros.nodes.torture.soak import CALL_S, GROWTH_KB, RELOAD_S, Soak, Trend

SOAK_TITLE, LOAD_TITLE = "## A long run", "## A run at full load"
"""First lines of the sections about a run without and with processes that compute beside it."""


def as_markdown(report: Report, command: str) -> str:
    """Return the table of a report with the definitions of its kinds."""
    lines = [
        "# What `vdd torture` found",
        "",
        f"`{command}`: {report.injected} injections of {len(report.rows)} kinds in "
        f"{report.seconds / 60:.1f} minutes at {report.rate_hz:g} Hz, {report.commands} commands "
        f"checked. **{'PASS' if report.passed else 'FAIL'}**",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|---" + "|---:" * (len(HEADER) - 1) + "|",
        *("| " + " | ".join(cells(row)) + " |" for row in report.rows),
        "",
        "| fault | what is injected | what counts as detected | what counts as recovered |",
        "|---|---|---|---|",
    ]
    for row in report.rows:
        fault = FAULTS[row.fault]
        texts = (fault.name, fault.injects, fault.detection, fault.recovery)
        lines.append("| " + " | ".join(texts) + " |")
    wrong = [row for row in report.rows if row.examples]
    if wrong:
        lines += ["", "What was wrong, the first few of each:", ""]
        lines += [f"- {row.fault}: {' '.join(row.examples[0].split())}" for row in wrong]
    return "\n".join(lines) + "\n"


HEADER = (
    "fault",
    "injected",
    "detected",
    "p50 ms",
    "max ms",
    "out of limits",
    "lost",
    "unseen",
    "twice",
    "silent holds",
    "crashes",
    "recovered",
    "",
)
"""Columns of the table."""


def cells(row: Row) -> list[str]:
    """Return a row of the table in words."""

    def figure(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    counts: tuple[Any, ...] = (
        row.outside,
        row.lost,
        row.unseen,
        row.twice,
        row.silent,
        row.crashes,
        row.recovered,
    )
    return [
        row.fault,
        str(row.injected),
        str(row.detected),
        figure(row.detect_p50_ms),
        figure(row.detect_max_ms),
        *map(str, counts),
        "pass" if row.passed else "FAIL",
    ]


def soak_rows(soak: Soak) -> list[tuple[str, str]]:
    """Return what a long run measured: names and figures."""
    return [
        ("minutes, of which warm-up", f"{soak.seconds / 60:.1f}, {soak.warm_up_s / 60:.1f}"),
        *_memory_rows("resident memory", soak.resident),
        *_memory_rows("memory of its own", soak.dirty),
        ("services called, of which reloads", f"{soak.calls}, {soak.reloads}"),
        ("replies missed", f"{soak.missed_replies}"),
        ("replies that said no", f"{soak.refused}"),
        ("slowest reply; reload", f"{soak.slowest_ms:.1f} ms; {soak.slowest_reload_ms:.0f} ms"),
        ("commands checked, out of limits", f"{soak.commands}, {soak.outside}"),
        ("observations lost, unseen", f"{soak.lost}, {soak.unseen}"),
        ("ticks missed", f"{soak.missed_ticks}"),
        ("ticks held, in silence", f"{soak.holds}, {soak.silent}"),
    ]


def _memory_rows(what: str, trend: Trend) -> list[tuple[str, str]]:
    ends = f"{trend.start_kb:.0f}, {trend.end_kb:.0f} kB"
    return [
        (f"{what} after the warm-up, at the end", ends),
        (f"its growth (at most {GROWTH_KB:.0f} kB)", f"{trend.growth_kb:.0f} kB"),
        ("its slope", f"{trend.slope_kb_per_hour:.0f} kB/h"),
    ]


def soak_markdown(soak: Soak, command: str, *, burners: int = 0) -> str:
    """Return the section about a long run; ``burners``: processes that computed beside it."""
    verdict = "PASS" if soak.passed else "FAIL"
    beside = f"{burners} processes that compute beside it, " if burners else ""
    cut = " It was interrupted before its time." if soak.interrupted else ""
    lines = [
        LOAD_TITLE if burners else SOAK_TITLE,
        "",
        f"`{command}`: the shipped student at {soak.rate_hz:g} Hz, {beside}a service called every "
        f"{CALL_S:g} s, the policy loaded anew every {RELOAD_S:g} s. **{verdict}**{cut}",
        "",
        "| | |",
        "|---|---:|",
        *(f"| {name} | {figure} |" for name, figure in soak_rows(soak)),
    ]
    if soak.examples:
        lines += ["", *(f"- {' '.join(text.split())}" for text in soak.examples[:3])]
    return "\n".join(lines) + "\n"


def with_section(page: str, section: str) -> str:
    """Return a page with a section put in, instead of the one of the same title that it had."""
    title = section.partition("\n")[0]
    before, found, rest = page.partition(f"{title}\n")
    _, more, after = rest.partition("\n## ") if found else ("", "", "")
    parts = [before.rstrip(), section.rstrip(), f"## {after}".rstrip() if more else ""]
    return "\n\n".join(part for part in parts if part) + "\n"


def soak_sections(page: str) -> list[str]:
    """Return the sections about long runs that a page holds."""
    sections = []
    for title in (SOAK_TITLE, LOAD_TITLE):
        _, found, rest = page.partition(f"{title}\n")
        if found:
            sections.append(found + rest.partition("\n## ")[0].rstrip() + "\n")
    return sections
