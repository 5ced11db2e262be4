"""When a node is said to be late: a few late ticks in a row, or too many missed ones."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdd_ros.core.errors import VddError
from vdd_ros.core.health import STAGES, Health, HealthSettings, TickHealth

MS = 1_000_000


def fed(durations_ms: list[float], **settings: float) -> TickHealth:
    """A judge that saw ticks of these durations at 100 Hz."""
    health = TickHealth(HealthSettings(**settings), period_s=0.01)  # type: ignore[arg-type]
    for duration in durations_ms:
        health.add(MS, MS, MS, MS, round(duration * MS))
    return health


@given(st.lists(st.booleans(), max_size=40))
def test_the_longest_row_of_late_ticks_decides(late: list[bool]) -> None:
    """OK below three in a row, WARN from three, ERROR from ten, whatever comes between."""
    longest = max(len(row) for row in "".join("x" if x else " " for x in late).split(" "))
    level, message = fed([20.0 if x else 1.0 for x in late]).verdict(ticks=len(late), missed=0)
    assert level == (Health.ERROR if longest >= 10 else Health(int(longest >= 3)))
    assert (f"{longest} ticks in a row took over 10 ms" in message) == (longest >= 3)


def test_a_burst_between_two_verdicts_is_not_missed_and_said_once() -> None:
    """Ticks in time after a burst do not hide it; the next verdict is about what came since."""
    health = fed([30.0] * 5 + [1.0] * 50)
    assert health.verdict(ticks=55, missed=0)[0] == Health.WARN
    assert health.verdict(ticks=55, missed=0) == (Health.OK, "")


@pytest.mark.parametrize(
    ("missed", "level"), [(1, Health.OK), (3, Health.WARN), (20, Health.ERROR)]
)
def test_missed_ticks_count_since_the_last_verdict(missed: int, level: Health) -> None:
    """Shares of a hundred ticks: old ones do not count for ever, nor does a restart below zero."""
    health = fed([])
    health.verdict(ticks=1000, missed=500)
    found, message = health.verdict(ticks=1100, missed=500 + missed)
    assert found == level
    assert bool(message) == (level > Health.OK)
    assert health.verdict(ticks=3, missed=0) == (Health.OK, "")


def test_stages_that_did_not_run_do_not_count() -> None:
    """A hold asks no policy: its zero is not a fast inference."""
    health = TickHealth(HealthSettings(), period_s=0.01, size=8)
    for _ in range(20):
        health.add(0, 0, 0, 0, 2 * MS)
        health.add(1000, 2000, 3000, 4000, 10_000)
    found = health.percentiles_us()
    assert [found[f"{stage}_p50_us"] for stage in STAGES[:4]] == [1.0, 2.0, 3.0, 4.0]
    assert found["tick_p99_us"] > found["tick_p50_us"]
    empty = TickHealth(HealthSettings(), period_s=0.01).percentiles_us()
    assert len(empty) == 2 * len(STAGES)
    assert all(math.isnan(value) for value in empty.values())


def test_an_own_limit_replaces_the_period() -> None:
    """A policy slower than its rate can be watched by what is normal for it."""
    assert fed([15.0] * 5, max_tick_ms=20.0).verdict(ticks=5, missed=0)[0] == Health.OK
    assert fed([25.0] * 5, max_tick_ms=20.0).verdict(ticks=5, missed=0)[0] == Health.WARN


@pytest.mark.parametrize(
    "wrong", [{"max_tick_ms": -1.0}, {"delays_warn": 0}, {"delays_warn": 5, "delays_error": 4}]
)
def test_thresholds_that_contradict_each_other_are_refused(wrong: dict[str, int]) -> None:
    """An error takes at least as many late ticks as a warning."""
    with pytest.raises(VddError, match="1 <= delays_warn <= delays_error"):
        HealthSettings(**wrong)  # type: ignore[arg-type]
