"""The limiter: every limit holds for every input, and what is admissible is reached or passed."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vdd_ros.core.acceleration_axis import AccelerationAxis
from vdd_ros.core.axes import Axis, fastest_stop
from vdd_ros.core.contract import ActionField, Limits, ObservationField, PolicyContract, Safety
from vdd_ros.core.errors import VddError
from vdd_ros.core.jerk_axis import JerkAxis
from vdd_ros.core.limiter import Limiter
from vdd_ros.core.safety import SafetyGuard, SafetyLevel

RATE_HZ = 50.0
ROUNDING = 1e-7
"""Share of a limit that a test grants to rounding."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Limits of one component, per tick; 0 where there is none."""

    low: float
    high: float
    step: float
    acceleration: float
    jerk: float

    def limits(self) -> Limits:
        """The same per second."""
        return Limits(
            min=(self.low,),
            max=(self.high,),
            max_rate=(self.step * RATE_HZ,) if self.step else (),
            max_acceleration=(self.acceleration * RATE_HZ**2,) if self.acceleration else (),
            max_jerk=(self.jerk * RATE_HZ**3,) if self.jerk else (),
        )


def contract(limits: Limits, *, dim: int = 1, **safety: float) -> PolicyContract:
    return PolicyContract(
        "arm",
        RATE_HZ,
        (ObservationField("joint", dim),),
        (ActionField("target", dim, measured="joint", limits=limits),),
        safety=Safety(**safety),
    )


def limiter(bounds: Bounds, start: float) -> Limiter:
    made = Limiter(contract(bounds.limits()), RATE_HZ)
    made.start(np.array([start]))
    return made


def run(made: Limiter, wanted: list[float]) -> NDArray[np.float64]:
    return np.array([made.next(np.array([w]))[0][0] for w in wanted])


def assert_within(bounds: Bounds, start: float, commands: NDArray[np.float64]) -> None:
    """Check positions and their first three differences, from standing still at the start."""
    path = np.concatenate([[start] * 3, commands])
    assert (path >= bounds.low).all()
    assert (path <= bounds.high).all()
    grain = np.abs(path).max() * 1e-15
    for order, limit in ((1, bounds.step), (2, bounds.acceleration), (3, bounds.jerk)):
        if limit:
            largest = np.abs(np.diff(path, order)).max()
            assert largest <= limit * (1 + ROUNDING) + 8 * grain, (order, largest, limit)


magnitude = st.floats(-3.0, 0.5).map(lambda e: 10.0**e)


@st.composite
def all_bounds(draw: st.DrawFn, *, jerk: bool | None = None) -> Bounds:
    """Limits of very different sizes, some of them missing."""
    step = draw(st.sampled_from([0.0, 1.0])) * draw(magnitude)
    acceleration = draw(st.sampled_from([0.0, 1.0, 1.0])) * draw(magnitude)
    limited = draw(st.booleans()) if jerk is None else jerk
    return Bounds(
        low=draw(st.sampled_from([-1.0, -0.01, -100.0])),
        high=draw(st.sampled_from([1.0, 0.02, 30.0])),
        step=step,
        acceleration=acceleration,
        jerk=draw(magnitude) if limited else 0.0,
    )


number = st.one_of(st.floats(-1.2, 1.2), st.floats(-1e30, 1e30), st.sampled_from([-1.0, 1.0, 0.0]))


@st.composite
def wishes(draw: st.DrawFn) -> list[float]:
    """Numbers of any size, each wanted for some ticks, which is what brings speed up."""
    parts = draw(st.lists(st.tuples(number, st.integers(1, 30)), min_size=1, max_size=8))
    return [value for value, times in parts for _ in range(times)]


@settings(max_examples=400, deadline=None)
@example(Bounds(-100.0, 1.0, 0.0, 0.0, 0.2226672010351919), 0.0, [0.0] * 20)
@given(bounds=all_bounds(), where=st.floats(0.0, 1.0), wanted=wishes())
def test_no_wish_leads_out_of_any_limit(bounds: Bounds, where: float, wanted: list[float]) -> None:
    """Position, step, acceleration and jerk, for limits of any proportion."""
    start = min(bounds.low + where * (bounds.high - bounds.low), bounds.high)
    assert_within(bounds, start, run(limiter(bounds, start), wanted))


@settings(max_examples=200, deadline=None)
@given(
    bounds=all_bounds(),
    where=st.floats(0.0, 1.0),
    wanted=wishes(),
    turns=st.lists(st.booleans(), min_size=1, max_size=12),
)
def test_two_limiters_that_take_turns_keep_every_limit(
    bounds: Bounds, where: float, wanted: list[float], turns: list[bool]
) -> None:
    """Command and motion are all that one needs to know of the other, in any state."""
    start = min(bounds.low + where * (bounds.high - bounds.low), bounds.high)
    sending, waiting = limiter(bounds, start), limiter(bounds, start)
    commands = []
    for i, wish in enumerate(wanted):
        if turns[i % len(turns)]:
            waiting.start(sending.last)
            waiting.resume(sending.motion)
            sending, waiting = waiting, sending
        commands.append(sending.next(np.array([wish]))[0][0])
    assert_within(bounds, start, np.array(commands))


@settings(max_examples=100, deadline=None)
@given(bounds=all_bounds(), wanted=wishes())
def test_a_resumed_motion_comes_to_rest_like_the_one_it_continues(
    bounds: Bounds, wanted: list[float]
) -> None:
    """Bit for bit: nothing of what decides on a stop is lost on the way."""
    first, second = limiter(bounds, 0.0), limiter(bounds, 0.0)
    run(first, wanted)
    second.start(first.last)
    second.resume(first.motion)
    goal = np.array([wanted[-1]])
    for _ in range(30):
        one, _ = first.next(goal, follow=False)
        other, _ = second.next(goal, follow=False)
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("motion", [np.zeros((2, 5)), np.zeros(5), np.full((1, 5), np.nan)])
def test_a_motion_of_something_else_is_refused(motion: NDArray[np.float64]) -> None:
    """Another number of components, or no numbers."""
    made = limiter(Bounds(-1.0, 1.0, 0.1, 0.01, 0.0), 0.0)
    with pytest.raises(ValueError, match="no motion"):
        made.resume(motion)


@settings(max_examples=150, deadline=None)
@given(
    bounds=all_bounds(),
    steps=st.lists(
        st.tuples(st.sampled_from(["act", "act", "act", "hold", "bad", "lost"]), number, number),
        min_size=1,
        max_size=80,
    ),
    ramp_s=st.sampled_from([0.0, 0.2]),
)
def test_the_ladder_never_leaves_the_limits(
    bounds: Bounds, steps: list[tuple[str, float, float]], ramp_s: float
) -> None:
    """Holds, bad actions and a measured state that lies change nothing about it."""
    guard = SafetyGuard(contract(bounds.limits(), max_hold_s=0.1, ramp_s=ramp_s))
    start = 0.5 * (bounds.low + bounds.high)
    assert guard.seed(np.array([start]))
    commands = []
    for kind, measured, action in steps:
        observation = np.array([measured])
        if kind == "hold":
            decision = guard.hold(observation, "test")
        elif kind == "lost":
            decision = guard.hold(None, "test")
        else:
            decision = guard.act(observation, np.array([np.nan if kind == "bad" else action]))
        assert decision.command is not None
        assert bool(decision.reason) == (decision.level > SafetyLevel.ACT)
        commands.append(decision.command[0])
    assert_within(bounds, start, np.array(commands))


@settings(max_examples=200, deadline=None)
@given(
    bounds=all_bounds(),
    start=st.floats(0.0, 1.0),
    end=st.floats(0.0, 1.0),
    before=wishes(),
)
def test_a_target_that_stays_is_reached_and_kept(
    bounds: Bounds, start: float, end: float, before: list[float]
) -> None:
    """From any motion, and without end-less swinging about it."""
    low, width = bounds.low, bounds.high - bounds.low
    made = limiter(bounds, low + start * width)
    run(made, before)
    target = low + end * width
    ticks = 5.0 + sum(
        (width / limit) ** (1 / order)
        for order, limit in enumerate((bounds.step, bounds.acceleration, bounds.jerk), 1)
        if limit
    )
    if bounds.step and bounds.acceleration:
        ticks += bounds.step / bounds.acceleration
    assume(ticks < 500)
    # The time it takes at full speed, and the time to get rid of what was before.
    path = run(made, [target] * int(8 * ticks))
    np.testing.assert_allclose(path[-5:], target, rtol=1e-9, atol=1e-9)


@settings(max_examples=200, deadline=None)
@given(bounds=all_bounds(), start=st.floats(-1, 1), wanted=wishes())
def test_without_acceleration_and_jerk_it_is_plain_clipping(
    bounds: Bounds, start: float, wanted: list[float]
) -> None:
    """To the bounds, then to one step: bit for bit."""
    bounds = dataclasses.replace(bounds, acceleration=0.0, jerk=0.0)
    start = float(np.clip(start, bounds.low, bounds.high))
    step = bounds.step * RATE_HZ / RATE_HZ if bounds.step else np.inf
    last = start
    for got, wish in zip(run(limiter(bounds, start), wanted), wanted, strict=True):
        last = np.clip(np.clip(wish, bounds.low, bounds.high), last - step, last + step)
        assert got == last


def admissible(bounds: Bounds, pushes: list[float]) -> NDArray[np.float64]:
    """A path within the limits, made by another limiter of half their size."""
    half = dataclasses.replace(
        bounds,
        step=bounds.step * 0.5,
        acceleration=bounds.acceleration * 0.5,
        jerk=bounds.jerk * 0.5,
    )
    return run(limiter(half, 0.0), pushes)


WIDE = Bounds(-1.0, 1.0, 0.02, 0.002, 0.0005)


@settings(max_examples=100, deadline=None)
@given(wanted=wishes(), jerk=st.booleans())
def test_what_obeys_the_limits_passes_unchanged(wanted: list[float], jerk: bool) -> None:
    """A policy that moves as it may is not touched, and no reason is given."""
    bounds = WIDE if jerk else dataclasses.replace(WIDE, jerk=0.0)
    path = admissible(dataclasses.replace(bounds, low=-0.8, high=0.8), wanted)
    made = limiter(bounds, 0.0)
    for wish in path:
        command, reason = made.next(np.array([wish]))
        assert command[0] == wish
        assert reason == ""


@pytest.mark.parametrize("jerk", [0.0, 0.0005])
def test_a_moving_target_is_caught_up_with(jerk: float) -> None:
    """A stream that starts at full speed is met after a while, and followed without lag."""
    made = limiter(dataclasses.replace(WIDE, jerk=jerk), -0.9)
    stream = -0.9 + 0.015 * np.arange(1, 100)
    path = run(made, stream.tolist())
    np.testing.assert_array_equal(path[60:], stream[60:])


@pytest.mark.parametrize("jerk", [0.0, 0.0005])
def test_increments_reach_the_speed_they_ask_for(jerk: float) -> None:
    """A target that is always one allowed step ahead is no reason to crawl."""
    made = limiter(dataclasses.replace(WIDE, jerk=jerk), -0.9)
    at = -0.9
    steps = []
    for _ in range(60):
        after = float(made.next(np.array([at + 0.015]))[0][0])
        steps.append(after - at)
        at = after
    np.testing.assert_allclose(steps[-20:], 0.015, rtol=1e-9)


def test_a_start_outside_is_led_back_at_the_allowed_speed() -> None:
    """No jump, never further out, inside after the time it takes; further out nothing is sent."""
    for limits in (
        Limits((-1.0,), (1.0,), (2.0,)),
        Limits((-1.0,), (1.0,), (2.0,), (20.0,)),
        Limits((-1.0,), (1.0,), (2.0,), (20.0,), (400.0,)),
    ):
        guard = SafetyGuard(contract(limits))
        assert guard.seed(np.array([1.4]))
        path = [1.4]
        for _ in range(90):
            decision = guard.act(np.array([path[-1]]), np.array([5.0]))
            assert decision.level is SafetyLevel.CLAMP
            assert decision.command is not None
            path.append(float(decision.command[0]))
        steps = np.diff(path)
        assert steps.max() <= 1e-12
        assert steps.min() >= -2.0 / RATE_HZ * (1 + ROUNDING)
        assert path[-1] == pytest.approx(1.0)
        for far in (1.6, 1e30):
            assert not guard.seed(np.array([far]))
            decision = guard.act(np.array([far]), np.array([0.0]))
            assert decision.level is SafetyLevel.HOLD
            assert decision.command is None
            assert "target[0] is measured outside its bounds" in decision.reason
        assert guard.seed(np.array([0.5]))
        assert guard.act(np.array([0.5]), np.array([0.5])).level is SafetyLevel.ACT


def test_the_ramp_lets_the_step_grow_after_a_start_and_after_a_hold() -> None:
    """From a share to the whole, each time anew, with its own reason."""
    for limits in (Limits(max_rate=(1.0,)), Limits(max_rate=(1.0,), max_acceleration=(50.0,))):
        guard = SafetyGuard(contract(limits, ramp_s=0.2))
        guard.seed(np.array([0.0]))
        at = 0.0
        for _ in range(2):
            steps = []
            for i in range(14):
                decision = guard.act(np.array([at]), np.array([at + 1.0]))
                assert decision.command is not None
                assert ("ramp" in decision.reason) == (i < 9), decision.reason
                steps.append(float(decision.command[0]) - at)
                at = float(decision.command[0])
            expected = np.minimum(np.arange(1, 15) / 10, 1.0) / RATE_HZ
            np.testing.assert_allclose(steps, expected, rtol=1e-6)
            for _ in range(10):
                held = guard.hold(np.array([at]), "test")
                assert held.command is not None
                at = float(held.command[0])


def test_every_limit_that_changes_a_command_is_named() -> None:
    """With its component, what was wanted and what is sent."""
    limits = Limits(
        (-1.0, -1.0, -1.0, -1.0),
        (1.0, 1.0, 1.0, 1.0),
        (10.0, 1.0, 10.0, 10.0),
        (1e6, 1e6, 5.0, 1e6),
        (1e9, 1e9, 1e9, 1000.0),
    )
    guard = SafetyGuard(contract(limits, dim=4))
    at = np.array([0.9, 0.0, 0.0, 0.0])
    guard.seed(at)
    reason = guard.act(at, np.array([5.0, 0.5, 0.1, 0.1])).reason
    for part in (
        "position limit target[0] 5 -> 1",
        "rate limit target[1] 0.5 -> 0.02",
        "acceleration limit target[2] 0.1 -> 0.002",
        "jerk limit target[3] 0.1 -> ",
    ):
        assert part in reason
    fast = SafetyGuard(contract(Limits((-1.0,), (1.0,), (1.0,), (0.5,))))
    fast.seed(np.array([0.5]))
    reasons = [fast.act(np.array([0.5]), np.array([w])).reason for w in np.arange(0.5, 2.0, 0.02)]
    assert any("stopping distance target[0]" in r or "acceleration" in r for r in reasons)


def test_components_nobody_measures_take_their_first_command_as_it_is() -> None:
    """They are only limited in position until there is a command to count from."""
    made = PolicyContract(
        "arm",
        RATE_HZ,
        (ObservationField("joint", 1),),
        (
            ActionField("a", 1, measured="joint", limits=Limits(max_rate=(1.0,))),
            ActionField("b", 1, limits=Limits((0.0,), (1.0,), (1.0,), (50.0,))),
        ),
    )
    guard = SafetyGuard(made)
    guard.seed(np.array([0.0]))
    assert guard.hold(np.array([0.0]), "early").command is None
    first = guard.act(np.array([0.0]), np.array([1.0, 0.7])).command
    np.testing.assert_allclose(first, [0.02, 0.7])
    second = guard.act(np.array([0.0]), np.array([1.0, 0.0])).command
    np.testing.assert_allclose(second, [0.04, 0.68])
    held = guard.hold(np.array([0.5]), "later").command
    assert held is not None
    assert held[0] == pytest.approx(0.06)


positive = st.floats(min_value=0.0, exclude_min=True, allow_infinity=False)


@settings(max_examples=500, deadline=None)
@example(2.2e307, 1.0)
@example(1.7e308, 1.7e308)
@example(5e-324, 1.7e308)
@example(1.7e308, 5e-324)
@given(distance=positive, rate=positive)
def test_the_stopping_step_uses_the_distance_up(distance: float, rate: float) -> None:
    """Slowing down from it by the rate covers exactly the distance, for all numbers there are."""
    v = fastest_stop(distance, rate)
    assert 0.0 <= v <= distance * (1 + 1e-15)
    # In exact arithmetic: the sums are far beyond what floating point holds.
    step, slowing = Fraction(v), Fraction(rate)
    n = int(step / slowing)
    covered = (n + 1) * step - slowing * n * (n + 1) / 2
    grain = (n + 1) * Fraction(1e-323)
    assert abs(covered - Fraction(distance)) <= Fraction(distance) / 10**12 + grain


def test_no_stop_is_needed_where_nothing_is_left() -> None:
    """Nor is there one where nothing can be slowed down; what can be at once takes one step."""
    assert fastest_stop(0.0, 1.0) == fastest_stop(-1.0, 1.0) == fastest_stop(1.0, 0.0) == 0.0
    assert fastest_stop(3.0, math.inf) == 3.0
    assert fastest_stop(math.inf, 3.0) == math.inf


any_number = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1.0, 1.0),
    st.sampled_from([1.7e308, -1.7e308, 1e300, -1e300]),
)
per_tick = st.one_of(st.floats(1e-6, 1e6), st.floats(1e-24, 1e15), st.sampled_from([1e-24, 1e15]))


@settings(max_examples=400, deadline=None)
@example((0.0, -0.0625), 1.0, 0.03125, 31250000.0, 0.0, [(-1.0, 1), (0.0, 1)], 1.0)
@given(
    bounds=st.one_of(st.none(), st.tuples(any_number, any_number)),
    step=st.one_of(per_tick, st.just(math.inf)),
    acceleration=per_tick,
    jerk=st.one_of(per_tick, st.just(math.inf)),
    start=any_number,
    wanted=st.lists(st.tuples(any_number, st.integers(1, 10)), min_size=1, max_size=8),
    share=st.sampled_from([1.0, 0.3]),
)
def test_numbers_of_any_size_are_limited_like_others(
    bounds: tuple[float, float] | None,
    step: float,
    acceleration: float,
    jerk: float,
    start: float,
    wanted: list[tuple[float, int]],
    share: float,
) -> None:
    """Up to the largest there are, for every limit a contract may give; nothing raises."""
    low, high = (-math.inf, math.inf) if bounds is None else sorted(bounds)
    axis: Axis
    if math.isfinite(jerk):
        axis = JerkAxis(low, high, step=step, acceleration=acceleration, jerk=jerk)
    else:
        axis = AccelerationAxis(low, high, step=step, acceleration=acceleration)
    start = min(max(start, low), high)
    axis.start(start)
    path = [start] * 3
    for wish, times in wanted:
        target = min(max(wish, low), high)
        path += [axis.next(target, share, follow=True) for _ in range(times)]
    commands = np.array(path)
    assert np.isfinite(commands).all()
    assert ((low <= commands) & (commands <= high)).all()
    grain = 8e-15 * np.abs(commands).max()
    with np.errstate(all="ignore"):
        for order, limit in ((1, step), (2, acceleration), (3, jerk)):
            largest = np.abs(np.diff(commands, order)).max()
            # A difference of differences may be beyond all numbers where the numbers are not.
            if order == 1 or math.isfinite(largest):
                assert largest <= limit * (1 + ROUNDING) + grain, (order, largest, limit)


@pytest.mark.parametrize("name", ["max_rate", "max_acceleration", "max_jerk"])
@pytest.mark.parametrize("value", [5e-324, 1e16])
def test_limits_that_cannot_be_counted_with_are_refused(name: str, value: float) -> None:
    """When the contract is made, with the field and the limit."""
    with pytest.raises(VddError, match=rf"'target': limits\.{name} is .*leave out"):
        contract(dataclasses.replace(Limits(), **{name: (value,)}))
