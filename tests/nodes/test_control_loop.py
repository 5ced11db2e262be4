"""The control loop with a clock and publishers of the test's own: every rule, exactly."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("rclpy")

from geometry_msgs.msg import PointStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64

from vdd_ros.control import loop
from vdd_ros.control.observations import ObservationCollector
from vdd_ros.core.contract import (
    ActionField,
    Limits,
    ObservationField,
    PolicyContract,
    Safety,
)
from vdd_ros.core.errors import VddError
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.nodes.commands import make_sinks
from vdd_ros.nodes.control_loop import ControlLoop, Tick
from vdd_ros.runtime.policy import PolicyOutput

MS = 1_000_000
PERIOD = 10 * MS


def contract(**changes: Any) -> PolicyContract:
    """A point robot at 100 Hz, at most 0.1 per step, commanded by increments."""
    state = "sensor_msgs/msg/JointState"
    fields: dict[str, Any] = {
        "name": "point",
        "rate_hz": 100.0,
        "observations": (
            ObservationField(
                "at", 2, topic="state", type=state, select=("position.x", "position.y")
            ),
        ),
        "actions": (
            ActionField(
                "step",
                2,
                topic="command",
                type="geometry_msgs/msg/PointStamped",
                select=("point.x", "point.y"),
                relative_to="at",
                measured="at",
                limits=Limits(min=(-1.0, -1.0), max=(1.0, 1.0), max_rate=(10.0, 10.0)),
            ),
        ),
        "safety": Safety(max_hold_s=0.03),
    }
    return PolicyContract(**(fields | changes))


@pytest.fixture(autouse=True)
def unstalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock takes a microsecond: a stall of the machine makes no tick late."""
    looks = itertools.count(1000, 1000)
    monkeypatch.setattr(loop.time, "perf_counter_ns", lambda: next(looks))


@dataclass
class Script:
    """A policy that plays back actions and remembers what it was asked."""

    answer: Callable[[NDArray[np.float32]], Any]
    windows: list[NDArray[np.float32]] = field(default_factory=list)
    resets: int = 0

    def act(self, window: NDArray[np.float32]) -> PolicyOutput:
        self.windows.append(window.copy())
        action = np.asarray(self.answer(window), dtype=np.float32)
        gate = np.array([0.25, 0.75])
        return PolicyOutput(action, 1, gate, np.zeros((2, *action.shape), np.float32))

    def reset(self) -> None:
        self.resets += 1


class Rig:
    """A loop, its clock, and what it published."""

    def __init__(self, answer: Callable[[Any], Any], **changes: Any) -> None:
        self.now = 1_000_000 * MS
        self.sent: list[tuple[int, list[float]]] = []
        self.plans: list[Any] = []
        self.ticks: list[tuple[SafetyLevel, str]] = []
        self.policy = Script(answer)
        made = contract(**changes)
        sinks = make_sinks(made, step_s=made.step_s)
        self.loop = ControlLoop(
            made,
            self.policy,
            rate_hz=made.rate_hz,
            sinks=sinks,
            publishers=[self] * len(sinks),
            now_ns=lambda: self.now,
            on_tick=self.on_tick,
        )
        self.loop.start()

    def publish(self, message: Any) -> None:
        if isinstance(message, PointStamped):
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            self.sent.append((stamp, [message.point.x, message.point.y]))
        else:
            self.plans.append([list(p.positions) for p in message.points])

    def on_tick(self, tick: Tick) -> None:
        self.ticks.append((tick.level, tick.reason))

    def state(self, x: float, y: float, *, stamp: int | None = None, source: int = 0) -> None:
        message = JointState(name=["y", "x"], position=[y, x])
        at = self.now if stamp is None else stamp
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(at, 10**9)
        self.loop.on_message(self.loop.collector.sources[source], message)

    def step(self, x: float = 0.0, y: float = 0.0) -> None:
        self.now += PERIOD
        self.state(x, y)


def still(window: Any) -> Any:
    del window
    return [[0.0, 0.0]]


def test_a_command_answers_its_observation_and_carries_its_stamp() -> None:
    """The command is observation plus action, under the stamp of that observation."""
    rig = Rig(lambda w: [[0.01, -0.02]])
    rig.step(0.5, 0.25)
    ((stamp, command),) = rig.sent
    assert stamp == rig.now
    np.testing.assert_allclose(command, [0.51, 0.23], atol=1e-7)
    assert rig.loop.tick.expert == 1
    assert rig.ticks == [(SafetyLevel.ACT, "")]


def test_the_first_command_cannot_jump() -> None:
    """The limiter starts from the measured state: the first step is one allowed step."""
    rig = Rig(lambda w: [[0.9, 0.0]])
    rig.step(-0.5, 0.0)
    np.testing.assert_allclose(rig.sent[0][1], [-0.4, 0.0])
    assert rig.ticks[0][0] == SafetyLevel.CLAMP


def test_a_new_episode_is_limited_from_its_own_start() -> None:
    """After a reset neither history nor the old command binds the new episode."""
    rig = Rig(still, n_obs_steps=2)
    rig.step(0.9, 0.9)
    rig.loop.restart_episode()
    rig.step(-0.9, -0.9)
    np.testing.assert_allclose(rig.sent[-1][1], [-0.9, -0.9])
    assert (rig.policy.windows[-1] == np.float32(-0.9)).all()
    assert rig.policy.resets == 2


@pytest.mark.parametrize("timed", [False, True])
def test_an_observation_of_the_old_episode_that_comes_late_is_ignored(timed: bool) -> None:
    """Topics overtake each other; the new episode must not be limited from the old one's end."""
    rig = Rig(still)
    rig.step(0.9, 0.9)
    late = rig.now + PERIOD
    rig.now += PERIOD + MS
    rig.loop.restart_episode(rig.now)
    if timed:
        rig.loop.on_timer()
    rig.state(0.9, 0.9, stamp=late)
    assert len(rig.sent) == 1
    rig.step(-0.9, -0.9)
    np.testing.assert_allclose(rig.sent[-1][1], [-0.9, -0.9])


def test_an_observation_is_answered_once() -> None:
    """A duplicate, or one that was overtaken, causes no second command."""
    rig = Rig(still)
    rig.step()
    rig.state(0.0, 0.0)
    rig.state(0.0, 0.0, stamp=rig.now - PERIOD)
    assert len(rig.sent) == 1


def test_a_copy_that_comes_late_is_held_but_answers_nothing() -> None:
    """Regressions pinned: the hold bore the stamp of an observation that was answered freely."""
    rig = Rig(still)
    rig.step()
    first = rig.now
    assert [stamp for stamp, _ in rig.sent] == [first]
    rig.now += 300 * MS
    rig.state(0.0, 0.0, stamp=first)
    assert rig.ticks[-1][0] == SafetyLevel.HOLD
    assert [stamp for stamp, _ in rig.sent].count(first) == 1
    assert len(rig.sent) == 2, "what holds is sent all the same"


def test_a_clock_set_back_begins_a_new_episode() -> None:
    """When a bag loops, history and limiter of the last round mean nothing any more."""
    rig = Rig(still, n_obs_steps=2)
    rig.step(0.9, 0.9)
    rig.now -= 10_000 * MS
    rig.step(-0.9, 0.0)
    np.testing.assert_allclose(rig.sent[-1][1], [-0.9, 0.0])
    assert (rig.policy.windows[-1][:, 0] == np.float32(-0.9)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_observation_is_held_named_and_forgotten(bad: float) -> None:
    """The policy never sees it, the robot gets its last command, the history stays clean."""
    rig = Rig(lambda w: [[0.01, 0.0]], n_obs_steps=2)
    rig.step(0.1, 0.1)
    before = rig.sent[-1][1]
    rig.step(bad, 0.1)
    assert rig.sent[-1][1] == before
    assert rig.ticks[-1] == (SafetyLevel.HOLD, "non-finite observation at[0]")
    assert len(rig.policy.windows) == 1
    rig.step(0.1, 0.1)
    assert np.isfinite(rig.policy.windows[-1]).all()
    assert rig.ticks[-1][0] == SafetyLevel.ACT


def test_a_bad_action_is_held_at_what_was_measured() -> None:
    """A network that diverges stops the robot where it is."""
    rig = Rig(lambda w: [[np.nan, 0.0]])
    rig.step(0.3, 0.2)
    np.testing.assert_allclose(rig.sent[-1][1], [0.3, 0.2], atol=1e-7)
    assert rig.ticks[-1] == (SafetyLevel.HOLD, "non-finite action step[0]")


def test_a_policy_that_raises_is_a_hold_not_a_crash() -> None:
    """The loop survives its policy and says what happened."""

    def broken(window: Any) -> Any:
        raise RuntimeError("cable pulled")

    rig = Rig(broken)
    rig.step(0.3, 0.2)
    assert rig.ticks[-1] == (SafetyLevel.HOLD, "policy failed: RuntimeError: cable pulled")


def test_silence_is_held_then_made_safe_and_ends_with_the_next_observation() -> None:
    """Held at the last command, raised to SAFE after max_hold_s, and ACT again afterwards."""
    rig = Rig(lambda w: [[0.01, 0.0]])
    rig.step(0.1, 0.1)
    command = rig.sent[-1][1]
    rig.now += 150 * MS
    assert not rig.loop.on_watchdog()
    rig.now += 51 * MS
    levels = []
    for _ in range(5):
        assert rig.loop.on_watchdog()
        levels.append(rig.ticks[-1][0])
        assert rig.sent[-1][1] == command
    assert levels == [SafetyLevel.HOLD] * 3 + [SafetyLevel.SAFE] * 2
    assert rig.ticks[-1][1] == "state: stale, the last sample is older than 200 ms"
    rig.step(0.1, 0.1)
    assert rig.ticks[-1][0] == SafetyLevel.ACT
    assert rig.loop.tick.held == 5
    assert sum(rig.loop.held_by.values()) == 5


def test_nothing_is_sent_before_anything_was_measured() -> None:
    """There is no position to hold yet: silence is safer than zeros."""
    rig = Rig(still)
    assert rig.loop.on_watchdog()
    assert rig.sent == []
    assert rig.ticks[-1][1].startswith("state: waiting")


def test_an_observation_that_arrives_old_is_not_acted_on() -> None:
    """A delayed message is as stale as a missing one."""
    rig = Rig(still)
    rig.now += 500 * MS
    rig.state(0.1, 0.1, stamp=rig.now - 201 * MS)
    assert rig.ticks[-1][0] == SafetyLevel.HOLD
    assert "stale" in rig.ticks[-1][1]
    assert rig.policy.windows == []


def test_a_stamp_from_the_future_is_a_clock_that_is_wrong() -> None:
    """Ages computed from it would be meaningless, so the robot holds and says so."""
    rig = Rig(still)
    rig.state(0.1, 0.1, stamp=rig.now + 10_000 * MS)
    assert "synchronise the clocks" in rig.ticks[-1][1]


@pytest.mark.parametrize("ahead_ms", [-5_000, 5_000])
def test_one_stamp_off_the_clock_does_not_make_the_loop_forget(ahead_ms: int) -> None:
    """Only the robot's clock set back begins anew: the last command is held, limits count on."""
    rig = Rig(still)
    rig.step()
    rig.state(0.9, 0.9, stamp=rig.now + ahead_ms * MS)
    assert rig.sent[-1][1] == rig.sent[0][1]
    rig.step(0.9, 0.9)
    np.testing.assert_allclose(rig.sent[-1][1], [0.1, 0.1])
    assert [level for level, _ in rig.ticks][-2:] == [SafetyLevel.HOLD, SafetyLevel.CLAMP]


def test_a_sample_stamped_ahead_does_not_hide_those_after_it() -> None:
    """One stamp within the limits but ahead of its time costs no answer; order still counts."""
    rig = Rig(still)
    rig.step()
    rig.state(0.0, 0.0, stamp=rig.now + 8 * PERIOD)
    for _ in range(4):
        rig.step()
        rig.state(0.0, 0.0, stamp=rig.now - PERIOD // 2)
    assert len(rig.sent) == 6


def test_a_stamp_before_1970_is_stale() -> None:
    """Not even the one that stands for "no sample yet" inside."""
    rig = Rig(still)
    rig.step()
    rig.state(0.0, 0.0, stamp=-1)
    assert "stale" in rig.ticks[-1][1]


def test_a_missing_joint_is_named() -> None:
    """The reason says which joint is missing and which are there."""
    rig = Rig(still)
    source = rig.loop.collector.sources[0]
    rig.loop.on_message(source, JointState(name=["x"], position=[0.1]))
    assert rig.ticks[-1][0] == SafetyLevel.HOLD
    assert rig.ticks[-1][1].startswith("state: no joint 'y' in the message, which names x")
    rig.step(0.1, 0.1)
    assert rig.ticks[-1][0] == SafetyLevel.ACT


def test_stop_is_sent_last_and_nothing_after_it() -> None:
    """Stopping sends the hold; what arrives later is not answered."""
    rig = Rig(lambda w: [[0.05, 0.0]])
    rig.step(0.1, 0.1)
    rig.loop.stop("deactivated")
    np.testing.assert_allclose(rig.sent[-1][1], [0.1, 0.1], atol=1e-7)
    assert rig.ticks[-1] == (SafetyLevel.STOP, "deactivated")
    count = len(rig.sent)
    rig.step(0.2, 0.2)
    rig.loop.on_timer()
    rig.loop.on_watchdog()
    rig.loop.stop("again")
    assert len(rig.sent) == count


@pytest.mark.parametrize(("gap", "missed"), [(1.0, 0), (1.4, 0), (1.6, 1), (2.0, 1), (5.0, 4)])
def test_missed_ticks_are_counted_from_the_stamps(gap: float, missed: int) -> None:
    """Observations that never came are ticks that were missed."""
    rig = Rig(still)
    rig.step()
    rig.now += round(gap * PERIOD)
    rig.state(0.0, 0.0)
    assert rig.loop.tick.missed == missed


def test_every_message_is_counted_whether_it_is_used_or_not() -> None:
    """Good, bad and repeated ones: who sent them can tell what never arrived."""
    rig = Rig(still)
    rig.step()
    rig.state(0.0, 0.0)  # the same stamp again
    rig.step(float("nan"))
    with contextlib.suppress(VddError):
        rig.loop.on_message(rig.loop.collector.sources[0], JointState(name=["x"], position=[0.0]))
    rig.loop.collect(rig.loop.collector.sources[0], JointState(name=["x"], position=[0.0]))
    assert rig.loop.tick.received == 5
    rig.loop.stop("over")
    rig.state(0.0, 0.0)
    assert rig.loop.tick.received == 5
    rig.loop.start()
    assert rig.loop.tick.received == 0


def test_timed_ticks_use_the_newest_sample_and_count_their_own_rate() -> None:
    """With trigger timer the rate is the timer's, however fast observations come."""
    rig = Rig(lambda w: [[0.01, 0.0]])
    source = rig.loop.collector.sources[0]
    for i in range(4):
        rig.now += PERIOD
        if i % 2 == 0:
            message = JointState(name=["x", "y"], position=[0.1 * i, 0.0])
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(rig.now, 10**9)
            rig.loop.collect(source, message)
        rig.loop.on_timer()
    assert len(rig.sent) == 4
    assert rig.loop.tick.missed == 0
    rig.now += 3 * PERIOD
    rig.loop.on_timer()
    assert rig.loop.tick.missed == 2


def test_a_chunk_is_executed_before_the_policy_is_asked_again() -> None:
    """n_action_steps actions of each chunk are executed, one per tick."""
    calls = iter(range(100))

    def chunk(window: Any) -> Any:
        base = next(calls) * 0.01
        return [[base, 0.0], [base, 0.01], [base, 0.02], [base, 0.03]]

    rig = Rig(chunk, horizon=4, n_action_steps=3)
    for _ in range(7):
        rig.step()
    assert len(rig.policy.windows) == 3
    np.testing.assert_allclose(
        [command for _, command in rig.sent],
        [[0, 0], [0, 0.01], [0, 0.02], [0.01, 0], [0.01, 0.01], [0.01, 0.02], [0.02, 0]],
        atol=1e-7,
    )


def test_a_trajectory_command_carries_the_rest_of_the_chunk() -> None:
    """The plan adds the increments up from the command of now, inside the limits."""
    action = ActionField(
        "step",
        2,
        topic="trajectory",
        type="trajectory_msgs/msg/JointTrajectory",
        select=("positions.x", "positions.y"),
        relative_to="at",
        measured="at",
        limits=Limits(max=(0.12, 1.0)),
    )
    rig = Rig(
        lambda w: [[0.05, 0.0], [0.05, 0.1], [0.05, 0.1]],
        horizon=3,
        n_action_steps=2,
        actions=(action,),
    )
    rig.step()
    rig.step()
    np.testing.assert_allclose(rig.plans[0], [[0.05, 0], [0.1, 0.1], [0.12, 0.2]], atol=1e-7)
    np.testing.assert_allclose(rig.plans[1], [[0.05, 0.1], [0.1, 0.2]], atol=1e-7)
    rig.now += 300 * MS
    rig.loop.on_watchdog()
    assert len(rig.plans[-1]) == 1, "a hold has no plan"


def two_topics() -> PolicyContract:
    first = contract().observations[0]
    force = ObservationField(
        "force", 1, topic="force", type="std_msgs/msg/Float64", max_age_ms=50.0
    )
    return contract(observations=(force, first))


def test_two_topics_are_answered_together() -> None:
    """A tick needs something new from every topic and is as old as the oldest sample."""
    rig = Rig(still, observations=two_topics().observations)
    force, state = rig.loop.collector.sources
    rig.now += PERIOD
    rig.loop.on_message(force, Float64(data=5.0))
    early = rig.now
    assert rig.sent == []
    rig.now += 2 * MS
    rig.state(0.1, 0.2, source=1)
    assert [stamp for stamp, _ in rig.sent] == [early]
    np.testing.assert_allclose(rig.policy.windows[-1], [[5.0, 0.1, 0.2]], atol=1e-7)
    rig.now += PERIOD
    rig.state(0.1, 0.2, source=1)
    assert len(rig.sent) == 1
    rig.now += 45 * MS
    assert rig.loop.on_watchdog()
    assert rig.ticks[-1][1] == "force: stale, the last sample is older than 50 ms"
    assert state.fresh


def test_two_fields_of_one_topic_are_decoded_from_one_message() -> None:
    """One subscription fills both fields, in the order of the contract, not of the message."""
    kind = "sensor_msgs/msg/JointState"
    collector = ObservationCollector(
        contract(
            observations=(
                ObservationField("y", 1, topic="s", type=kind, select=("position.y",)),
                ObservationField("f", 1, topic="t", type="std_msgs/msg/Float64"),
                ObservationField("x", 1, topic="s", type=kind, select=("position.x",)),
            ),
            actions=(ActionField("a", 1, topic="c", type="std_msgs/msg/Float64"),),
        )
    )
    shared, single = collector.sources
    message = JointState(name=["x", "y"], position=[1.0, 2.0])
    assert not collector.accept(shared, message, 1)
    assert collector.accept(single, Float64(data=3.0), 1)
    assert collector.row.tolist() == [2.0, 3.0, 1.0]
    assert collector.labels == ["y[0]", "f[0]", "x[0]"]


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (ObservationField("b", 1), "has no topic"),
        (ObservationField("b", 1, topic="t"), "has no type"),
        (
            ObservationField("b", 1, topic="state", type="std_msgs/msg/Float64"),
            "a topic has one type",
        ),
        (
            ObservationField("b", 2, topic="state", type="sensor_msgs/msg/JointState"),
            "needs 'select'",
        ),
    ],
)
def test_contracts_that_do_not_fit_ros_are_refused(field: ObservationField, expected: str) -> None:
    """Whatever the contract leaves open for ROS is an error when the node configures."""
    with pytest.raises(VddError, match=expected):
        ObservationCollector(contract(observations=(contract().observations[0], field)))


def test_action_fields_go_to_their_own_topics_and_may_share_one() -> None:
    """Each topic gets its part of the command vector, whatever the order of the fields."""
    arm, gripper = "sensor_msgs/msg/JointState", "std_msgs/msg/Float64"
    fields = (
        ActionField("b", 1, topic="arm", type=arm, select=("position.b",)),
        ActionField("grip", 1, topic="gripper", type=gripper),
        ActionField("a", 1, topic="arm", type=arm, select=("position.a",)),
    )
    joints, single = make_sinks(contract(actions=fields), step_s=0.01, frame_id="base")
    rows = np.array([[1.0, 2.0, 3.0]])
    message = joints.write(rows, 3_000_000_007)
    assert dict(zip(message.name, message.position, strict=True)) == {"b": 1.0, "a": 3.0}
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (3, 7)
    assert message.header.frame_id == "base"
    assert single.write(rows, 0).data == 2.0
    assert (joints.topic, single.topic) == ("arm", "gripper")


def test_a_plan_goes_by_stamps_not_by_ticks() -> None:
    """What a lost tick would have executed is dropped and counted, not executed late."""
    rig = Rig(
        lambda w: [[0.0, 0.0], [0.01, 0.0], [0.02, 0.0], [0.03, 0.0]], horizon=4, n_action_steps=4
    )
    rig.step()
    rig.now += 2 * PERIOD
    rig.step()
    np.testing.assert_allclose(rig.sent[-1][1], [0.03, 0.0], atol=1e-7)
    assert (rig.loop.tick.expired, rig.loop.tick.plan_age) == (2, 3)
    assert len(rig.policy.windows) == 1
    rig.now += 300 * MS
    rig.loop.on_watchdog()
    assert rig.loop.tick.plan_age == -1
    rig.step()
    assert len(rig.policy.windows) == 2
    assert rig.loop.tick.plan_age == 0


def test_a_plan_made_by_a_clock_that_was_ahead_is_dropped() -> None:
    """One stamp ahead of its time moves the plan; the next right one asks anew."""
    rig = Rig(lambda w: [[0.01 * i, 0.0] for i in range(16)], horizon=16, n_action_steps=16)
    rig.step()
    rig.state(0.0, 0.0, stamp=rig.now + 8 * PERIOD)
    np.testing.assert_allclose(rig.sent[-1][1], [0.08, 0.0], atol=1e-7)
    rig.step()
    np.testing.assert_allclose(rig.sent[-1][1], [0.0, 0.0], atol=1e-7)
    rig.step()
    np.testing.assert_allclose(rig.sent[-1][1], [0.01, 0.0], atol=1e-7)
    assert len(rig.policy.windows) == 2
