"""The fast components under limits do what the plain rules do, bit for bit."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from vdd_ros.core.acceleration_axis import AccelerationAxis
from vdd_ros.core.axes import Axis
from vdd_ros.core.jerk_axis import JerkAxis

_spec = importlib.util.spec_from_file_location(
    "plain_axes", Path(__file__).with_name("plain_axes.py")
)
assert _spec is not None
assert _spec.loader is not None
_plain = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_plain)

magnitude = st.floats(-3.0, 0.5).map(lambda e: 10.0**e)
wish = st.tuples(
    st.sampled_from(["stay", "drift", "follow"]), st.floats(0.0, 1.0), st.floats(-1.0, 1.0)
)


@settings(max_examples=400, deadline=None)
@given(
    bounds=st.tuples(st.sampled_from([-1.0, -0.01, -100.0]), st.sampled_from([1.0, 0.02, 30.0])),
    step=st.one_of(magnitude, st.just(math.inf)),
    acceleration=st.one_of(magnitude, st.just(math.inf)),
    jerk=st.one_of(magnitude, st.just(math.inf)),
    start=st.floats(-0.1, 1.1),
    wishes=st.lists(st.tuples(wish, st.integers(1, 30)), min_size=1, max_size=8),
    share=st.sampled_from([1.0, 1.0, 0.3]),
    resting=st.integers(0, 60),
)
def test_it_agrees_with_the_plain_rule(
    bounds: tuple[float, float],
    step: float,
    acceleration: float,
    jerk: float,
    start: float,
    wishes: list[tuple[tuple[str, float, float], int]],
    share: float,
    resting: int,
) -> None:
    """Command and cause, for targets that stay, move or run ahead, ramped and led to rest."""
    low, high = bounds
    fast: Axis
    if math.isfinite(jerk):
        fast = JerkAxis(low, high, step=step, acceleration=acceleration, jerk=jerk)
        plain = _plain.PlainJerkAxis(low, high, step=step, acceleration=acceleration, jerk=jerk)
    else:
        fast = AccelerationAxis(low, high, step=step, acceleration=acceleration)
        plain = _plain.PlainAccelerationAxis(low, high, step=step, acceleration=acceleration)
    for axis in (fast, plain):
        axis.start(low + start * (high - low))
    pace = step if math.isfinite(step) else 0.1
    tick = 0
    for (kind, where, speed), times in wishes:
        place = low + where * (high - low)
        for k in range(times):
            target = {"stay": place, "drift": place + k * speed * pace}.get(
                kind, plain.at + speed * pace
            )
            target = min(max(target, low), high)
            tick += 1
            follow = tick != resting
            expected = plain.next(target, share, follow=follow)
            assert fast.next(target, share, follow=follow) == expected
            assert fast.cause == plain.cause
