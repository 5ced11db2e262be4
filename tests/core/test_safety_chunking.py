"""The limiter holds for every input sequence; the queue never executes an expired action."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdd_ros.core.chunking import ActionChunk, ActionQueue
from vdd_ros.core.contract import (
    ActionField,
    Limits,
    ObservationField,
    PolicyContract,
    Safety,
)
from vdd_ros.core.errors import VddError
from vdd_ros.core.safety import SafetyGuard, SafetyLevel

LOW, HIGH, RATE_HZ, MAX_RATE = -1.0, 1.0, 10.0, 2.0
MAX_STEP = MAX_RATE / RATE_HZ


def contract(*, relative=False, safety=None, limits=None):
    return PolicyContract(
        name="arm",
        rate_hz=RATE_HZ,
        observations=(ObservationField("position", 2), ObservationField("other", 1)),
        actions=(
            ActionField(
                "target",
                2,
                relative_to="position" if relative else "",
                measured="position",
                limits=limits or Limits((LOW, LOW), (HIGH, HIGH), (MAX_RATE, MAX_RATE)),
            ),
        ),
        safety=safety or Safety(),
    )


def observation(x=0.0, y=0.0):
    return np.array([x, y, 7.0], dtype=np.float32)


anything = st.floats(allow_nan=True, allow_infinity=True, width=32)


@settings(max_examples=300, deadline=None)
@given(
    relative=st.booleans(),
    start=st.tuples(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9)),
    steps=st.lists(
        st.tuples(st.sampled_from(["act", "hold", "stop"]), anything, anything, anything),
        max_size=25,
    ),
)
def test_no_input_sequence_ever_leaves_the_limits_or_jumps(relative, start, steps):
    guard = SafetyGuard(contract(relative=relative))
    guard.seed(observation(*start))
    last = np.array(start)
    for kind, a, b, o in steps:
        if kind == "act":
            decision = guard.act(observation(o, 0.0), np.array([a, b], dtype=np.float32))
        elif kind == "hold":
            decision = guard.hold(observation(o, a), "test")
        else:
            decision = guard.stop(observation(o, b), "test")
        command = decision.command
        assert command is not None
        assert np.isfinite(command).all()
        assert (command >= LOW).all()
        assert (command <= HIGH).all()
        assert (np.abs(command - last) <= MAX_STEP + 1e-6).all()
        last = command


def test_a_command_inside_the_limits_passes_unchanged_and_without_a_reason():
    guard = SafetyGuard(contract())
    guard.seed(observation())
    decision = guard.act(observation(), np.array([0.1, -0.1]))
    assert decision.level is SafetyLevel.ACT
    assert decision.reason == ""
    np.testing.assert_array_equal(decision.command, [0.1, -0.1])


def test_a_relative_action_is_added_to_the_observation():
    guard = SafetyGuard(contract(relative=True))
    guard.seed(observation(0.5, 0.25))
    decision = guard.act(observation(0.5, 0.25), np.array([0.125, 0.0]))
    np.testing.assert_allclose(decision.command, [0.625, 0.25])


def test_every_clamp_names_the_component_and_both_values():
    guard = SafetyGuard(contract())
    guard.seed(observation(0.9, 0.0))
    decision = guard.act(observation(0.9, 0.0), np.array([5.0, 0.5]))
    assert decision.level is SafetyLevel.CLAMP
    assert "position limit target[0] 5 -> 1" in decision.reason
    assert "rate limit target[1] 0.5 -> 0.2" in decision.reason


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_actions_hold_the_measured_position_and_say_where(bad):
    guard = SafetyGuard(contract())
    guard.seed(observation(0.1, 0.2))
    decision = guard.act(observation(0.15, 0.2), np.array([0.0, bad]))
    assert decision.level is SafetyLevel.HOLD
    assert "non-finite action target[1]" in decision.reason
    np.testing.assert_allclose(decision.command, [0.15, 0.2], atol=1e-6)


def test_non_finite_observations_hold_the_last_command():
    guard = SafetyGuard(contract())
    guard.seed(observation(0.1, 0.2))
    decision = guard.act(observation(np.nan, 0.2), np.array([0.0, 0.0]))
    assert decision.level is SafetyLevel.HOLD
    assert "non-finite observation position[0]" in decision.reason
    np.testing.assert_allclose(decision.command, [0.1, 0.2], atol=1e-6)


def test_holding_too_long_raises_the_level_and_acting_lowers_it():
    guard = SafetyGuard(contract(safety=Safety(max_hold_s=0.3)))
    guard.seed(observation())
    levels = [guard.hold(observation(), "stale").level for _ in range(5)]
    assert levels == [SafetyLevel.HOLD] * 3 + [SafetyLevel.SAFE] * 2
    assert guard.act(observation(), np.zeros(2)).level is SafetyLevel.ACT
    assert guard.hold(observation(), "stale").level is SafetyLevel.HOLD


def test_stop_sends_what_the_contract_declares():
    for declared, expected in (("hold", [0.1, 0.1]), ("zeros", [0.0, 0.0]), ("none", None)):
        guard = SafetyGuard(contract(safety=Safety(on_stop=declared)))
        guard.seed(observation(0.1, 0.1))
        decision = guard.stop(observation(0.1, 0.1), "shutdown")
        assert decision.level is SafetyLevel.STOP
        if expected is None:
            assert decision.command is None
        else:
            np.testing.assert_allclose(decision.command, expected, atol=1e-6)


def test_with_nothing_measured_and_nothing_sent_there_is_no_command():
    free = PolicyContract(
        name="x",
        rate_hz=10,
        observations=(ObservationField("o", 1),),
        actions=(ActionField("a", 1),),
    )
    decision = SafetyGuard(free).hold(None, "no observation")
    assert decision.command is None
    assert "nothing measured or sent to hold" in decision.reason


def test_the_rate_limit_follows_the_rate_commands_are_really_sent_at():
    guard = SafetyGuard(contract(), rate_hz=100.0)
    guard.seed(observation())
    np.testing.assert_allclose(guard.act(observation(), np.ones(2)).command, MAX_RATE / 100)
    with pytest.raises(VddError, match="positive number"):
        SafetyGuard(contract(), rate_hz=float("nan"))


def chunk(first, values):
    return ActionChunk(first, np.array(values, dtype=float)[:, None])


def test_actions_come_out_at_their_step_and_expired_ones_are_dropped():
    queue = ActionQueue()
    queue.put(chunk(10, [0, 1, 2, 3]))
    assert queue.pop(9) is None  # not due yet
    assert queue.pop(10) == [0]
    assert queue.pop(12) == [2]  # 11 expired
    assert queue.pop(11) is None  # never backwards
    assert queue.pop(13) == [3]
    assert queue.pop(14) is None
    assert len(queue) == 0


@pytest.mark.parametrize(
    ("execution", "expected"),
    [
        ("latest_only", [10.0, 10.0]),
        ("average", [5.0, 10.0]),
        ("weighted_average", [7.0, 10.0]),
        ("conservative", [3.0, 10.0]),
    ],
)
def test_overlaps_are_merged_by_the_named_rule(execution, expected):
    queue = ActionQueue(execution)
    queue.put(chunk(0, [0, 0]))
    queue.pop(0)
    queue.put(chunk(1, [10, 10]))
    assert [float(queue.pop(step)[0]) for step in (1, 2)] == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(
    puts=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), min_size=1, max_size=8),
    execution=st.sampled_from(["latest_only", "average", "weighted_average", "conservative"]),
)
def test_merged_actions_stay_within_the_values_that_were_put(puts, execution):
    queue = ActionQueue(execution)
    for step, (start, length) in enumerate(puts):
        queue.put(chunk(step + start % 3, [start] * length))
        action = queue.pop(step)
        if action is not None:
            assert 0 <= action[0] <= 20


def test_reset_empties_and_unknown_rules_are_refused():
    queue = ActionQueue()
    queue.put(chunk(0, [1]))
    queue.reset()
    assert queue.pop(0) is None
    with pytest.raises(VddError, match="latest_only"):
        ActionQueue("newest")
