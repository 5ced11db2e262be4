"""Which reasons are said: every limit that changes a command, and none of them all the time."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vdd_ros.core.contract import ActionField, Limits, ObservationField, PolicyContract
from vdd_ros.core.news import REPEAT_S, ReasonNews, changes_in
from vdd_ros.core.safety import SafetyGuard, SafetyLevel

CONTRACT = PolicyContract(
    "arm",
    50.0,
    (ObservationField("joint", 3),),
    (
        ActionField("a", 2, limits=Limits((-1.0,) * 2, (1.0,) * 2, (5.0,) * 2)),
        ActionField("b", 1, limits=Limits((-1.0,), (1.0,), (5.0,), (20.0,), (900.0,))),
    ),
)
wish = st.floats(-2.0, 2.0)
tick = st.tuples(
    st.sampled_from(["act"] * 8 + ["hold"]),
    st.tuples(wish, wish, wish),
    st.integers(1, 20),
    st.floats(0.0, 0.4),
)


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(tick, min_size=1, max_size=25))
def test_every_change_of_a_command_was_said_within_a_second(
    parts: list[tuple[str, tuple[float, float, float], int, float]],
) -> None:
    """By limit and component, whatever is wanted and however ticks come."""
    guard, news = SafetyGuard(CONTRACT), ReasonNews()
    now, level_said = 100.0, None
    last: dict[tuple[str, str], float] = {}
    for kind, wanted, times, pause in parts:
        for _ in range(times):
            now += pause
            row = np.zeros(3)
            if kind == "hold":
                decision = guard.hold(row, "test")
            else:
                decision = guard.act(row, np.array(wanted))
            level, reason = decision.level, decision.reason
            new = news.is_news(level, reason, now)
            changes = changes_in(reason) if level is SafetyLevel.CLAMP else []
            due = [c for c in changes if now - last.get(c, -REPEAT_S) >= REPEAT_S]
            assert new == (level is not level_said or bool(due)), (level, reason, last)
            if new:
                level_said = level
                last.update(dict.fromkeys(changes, now))


def test_changes_are_read_from_the_limiters_own_words() -> None:
    """Limit and component of each, in the order of the reason, numbers of any form left out."""
    guard = SafetyGuard(CONTRACT)
    guard.act(np.zeros(3), np.zeros(3))
    reason = guard.act(np.zeros(3), np.array([1e300, -0.5, 0.9])).reason
    assert changes_in(reason) == [
        ("position limit", "a[0]"),
        ("rate limit", "a[0]"),
        ("rate limit", "a[1]"),
        ("rate limit", "b[0]"),
    ]
    assert "1e+300 -> 1" in reason


def test_a_limit_that_comes_in_later_is_said_at_once() -> None:
    """The level stays CLAMP; only what was said before is kept back, and not for ever."""
    news, says = ReasonNews(), []
    limits = ["rate limit a[0] 1 -> 2", "rate limit a[0] 3 -> 4; ramp b[0] 1 -> 2"]
    for i, at in enumerate(np.arange(0.0, 3.0, 0.25)):
        text = limits[0] if i < 2 else limits[1]
        if news.is_news(SafetyLevel.CLAMP, text, float(at)):
            says.append(float(at))
    assert says == [0.0, 0.5, 1.5, 2.5]


def test_holds_are_said_when_their_reason_changes() -> None:
    """And the way back to acting is, as well."""
    news = ReasonNews()
    said = [
        news.is_news(level, reason, 0.0)
        for (level, reason), _ in itertools.product(
            [
                (SafetyLevel.HOLD, "stale"),
                (SafetyLevel.HOLD, "non-finite"),
                (SafetyLevel.SAFE, "non-finite"),
                (SafetyLevel.ACT, ""),
            ],
            range(3),
        )
    ]
    assert said == [True, False, False] * 4
