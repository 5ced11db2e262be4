"""What an operator and a partner may ask of the control loop: pause, exchange, silence."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("rclpy")

from tests.nodes.test_control_loop import MS, PERIOD, Rig, Script, contract, still
from vdd_ros.core.contract import Limits
from vdd_ros.core.safety import SafetyLevel


def test_a_pause_stays_where_it_began_and_a_resume_does_not_jump() -> None:
    """However the robot sags or is pushed, the held position is that of the pause."""
    rig = Rig(lambda w: [[0.05, 0.0]])
    rig.step(0.5, 0.5)
    rig.loop.pause()
    for x in (0.5, 0.4, 0.3):
        rig.step(x, 0.5)
    assert rig.ticks[1:] == [(SafetyLevel.HOLD, "paused")] * 3
    np.testing.assert_allclose([c for _, c in rig.sent[1:]], [[0.5, 0.5]] * 3, atol=1e-7)
    for _ in range(10):
        rig.step(0.3, 0.5)
    assert rig.ticks[-1] == (SafetyLevel.HOLD, "paused")
    asked = rig.policy.resets
    rig.loop.resume()
    rig.step(0.3, 0.5)
    np.testing.assert_allclose(rig.sent[-1][1], [0.4, 0.5], atol=1e-7)
    assert rig.ticks[-1][0] == SafetyLevel.CLAMP
    assert rig.policy.resets == asked + 1


def test_a_paused_robot_that_is_set_down_elsewhere_is_held_there() -> None:
    """A new episode begins at its own measured position; the pause lasts."""
    rig = Rig(still)
    rig.step(0.9, 0.9)
    rig.loop.pause()
    rig.step(0.9, 0.9)
    rig.loop.restart_episode()
    rig.step(-0.9, -0.9)
    np.testing.assert_allclose(rig.sent[-1][1], [-0.9, -0.9])
    assert rig.ticks[-1] == (SafetyLevel.HOLD, "paused")


def test_an_exchanged_policy_acts_from_the_next_tick_with_the_history_there_is() -> None:
    """No tick is lost, the limits count on, and the plan of the old policy is dropped."""
    rig = Rig(
        lambda w: [[0.01, 0.0], [0.02, 0.0], [0.03, 0.0]],
        horizon=3,
        n_action_steps=3,
        n_obs_steps=2,
    )
    rig.step(0.1, 0.0)
    rig.step(0.2, 0.0)
    other = Script(lambda w: [[-0.9, 0.0]] * 3)
    rig.loop.swap(other)
    rig.step(0.2, 0.0)
    assert len(rig.sent) == 3
    np.testing.assert_allclose(other.windows[0], [[0.2, 0.0], [0.2, 0.0]], atol=1e-7)
    np.testing.assert_allclose(rig.sent[-1][1][0], rig.sent[-2][1][0] - 0.1, atol=1e-7)
    assert len(rig.policy.windows) == 1


def test_who_may_not_send_decides_and_says_so_but_sends_nothing() -> None:
    """A standby is as warm as one can be: it asks its policy at every tick."""
    rig = Rig(still)
    rig.loop.may_send = lambda *_: False
    for _ in range(3):
        rig.step(0.5, 0.5)
    assert rig.sent == []
    assert len(rig.policy.windows) == 3
    assert len(rig.ticks) == 3
    rig.loop.stop("deactivated")
    assert rig.sent == []


def test_taking_over_continues_from_the_other_nodes_last_command() -> None:
    """The newest decision is sent at once, limited from the command that was seen last."""
    may = [False]
    rig = Rig(lambda w: [[0.5, 0.0]])
    rig.loop.may_send = lambda *_: may[0]
    rig.step(0.5, 0.0)
    stamp = rig.now
    rig.now += 5 * MS
    may[0] = True
    rig.loop.take_over(np.array([0.45, 0.02]))
    assert rig.sent[0][0] == stamp
    np.testing.assert_allclose(rig.sent[0][1], [0.55, 0.0], atol=1e-7)
    rig.step(0.5, 0.0)
    np.testing.assert_allclose(rig.sent[1][1], [0.65, 0.0], atol=1e-7)


def test_taking_over_goes_on_as_fast_as_the_other_node_was() -> None:
    """With its motion no acceleration is broken on the way from one node to the other.

    Without it the robot is taken to stand still, and starts anew from the last command.
    """
    limits = Limits(
        min=(-1.0, -1.0),
        max=(1.0, 1.0),
        max_rate=(10.0, 10.0),
        max_acceleration=(100.0, 100.0),
    )
    slow = dataclasses.replace(contract().actions[0], limits=limits)
    first, second, third = (Rig(lambda w: [[0.5, 0.0]], actions=(slow,)) for _ in range(3))
    for rig in (second, third):
        rig.loop.may_send = lambda *_: False
        rig.step(-0.9, 0.0)
        rig.loop.may_send = None
    at = -0.9
    for _ in range(5):
        first.step(at, 0.0)
        at = first.sent[-1][1][0]
    path = [sent[0] for _, sent in first.sent]
    second.loop.take_over(first.loop.last_command, first.loop.motion)
    third.loop.take_over(first.loop.last_command)
    rate = 100.0 / 100.0**2
    steps = np.diff([*path, second.sent[0][1][0]])
    assert steps[-2] > 3 * rate
    assert np.abs(np.diff(steps)).max() <= rate * (1 + 1e-6)
    np.testing.assert_allclose(third.sent[0][1][0] - path[-1], rate, atol=1e-7)


def test_taking_over_without_a_command_seen_starts_at_the_measured_state() -> None:
    """Where the last command is unknown or old, the robot is where it is measured."""
    may = [False]
    rig = Rig(lambda w: [[0.5, 0.0]])
    rig.loop.may_send = lambda *_: may[0]
    for x in (-0.5, -0.2):
        rig.step(x, 0.0)
    may[0] = True
    rig.loop.take_over(None)
    np.testing.assert_allclose(rig.sent[0][1], [-0.1, 0.0], atol=1e-7)


def test_taking_over_with_stale_observations_holds_the_command_seen_last() -> None:
    """A decision as old as the silence is not sent; the reason names the silent topic."""
    rig = Rig(lambda w: [[0.5, 0.0]])
    may = [False]
    rig.loop.may_send = lambda *_: may[0]
    rig.step(0.5, 0.0)
    rig.now += 100 * PERIOD
    may[0] = True
    rig.loop.take_over(np.array([0.3, 0.3]))
    np.testing.assert_allclose(rig.sent[0][1], [0.3, 0.3])
    level, reason = rig.ticks[-1]
    assert level == SafetyLevel.HOLD
    assert reason.startswith("state: stale")


def test_a_paused_robot_stays_whether_or_not_there_is_an_action() -> None:
    """A policy that fails or is late meanwhile is no reason to hold anything else."""
    rig = Rig(still)
    rig.step(0.5, 0.5)
    rig.loop.pause()
    rig.step(0.5, 0.5)

    def broken(window: object) -> object:
        raise RuntimeError("cable pulled")

    rig.policy.answer = broken
    for _ in range(10):
        rig.step(0.4, 0.4)
    assert rig.ticks[-1] == (SafetyLevel.HOLD, "paused")
    np.testing.assert_allclose(rig.sent[-1][1], [0.5, 0.5], atol=1e-7)


def test_what_was_decided_before_is_not_sent_for_an_observation_without_an_action() -> None:
    """A standby whose policy failed at the newest observation takes over with a hold."""
    may = [False]
    rig = Rig(lambda w: [[0.05, 0.0]])
    rig.loop.may_send = lambda *_: may[0]
    rig.step(0.5, 0.5)

    def broken(window: object) -> object:
        raise RuntimeError("cable pulled")

    rig.policy.answer = broken
    rig.step(0.5, 0.5)
    may[0] = True
    rig.loop.take_over(np.array([0.5, 0.5]))
    np.testing.assert_allclose(rig.sent[0][1], [0.5, 0.5], atol=1e-7)
    assert rig.ticks[-1][0] == SafetyLevel.HOLD
