"""Ticks that come faster than limits are counted for are told from stalls made up for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vdd_ros.core.pace import PaceWatch

SECOND = 10**9


@given(rate_hz=st.floats(1.0, 1000.0), share=st.floats(0.0, 1.15))
def test_a_pace_up_to_the_nominal_one_is_no_trouble(rate_hz: float, share: float) -> None:
    """With one tick more or less than due, as a second's window has it by chance."""
    watch = PaceWatch(rate_hz)
    for k in range(6):
        count = max(int(k * rate_hz * share), 0)
        assert watch.look(count, k * SECOND) == "" or rate_hz * share < 20.0


@given(rate_hz=st.floats(5.0, 1000.0), times=st.floats(1.5, 20.0))
def test_a_faster_pace_is_said_with_the_second_look(rate_hz: float, times: float) -> None:
    """And no more once it is over."""
    watch = PaceWatch(rate_hz)
    said = [watch.look(int(k * rate_hz * times), k * SECOND) for k in range(4)]
    assert said[:2] == ["", ""]
    assert all("times as fast as rate_hz" in text for text in said[2:])
    count = int(3 * rate_hz * times)
    assert watch.look(count + int(rate_hz), 4 * SECOND) == ""


def test_a_stall_that_is_made_up_for_is_no_trouble() -> None:
    """Nor a new count, a clock that stands still, or one that jumps."""
    watch = PaceWatch(10.0)
    counts = [0, 10, 10, 40, 50, 3, 13, 23]
    assert [watch.look(c, k * SECOND) for k, c in enumerate(counts)] == [""] * len(counts)
    assert watch.look(90, 7 * SECOND) == ""
    assert watch.look(190, 6 * SECOND) == ""
    assert watch.look(290, 7 * SECOND) == ""
