"""Two nodes share a command, as processes over real DDS: deaths, stalls, and the way back."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy")

from tests.nodes.handover import PERIOD_S, Pair, kill_and_measure
from tests.nodes.robot import avoiding
from tests.policy_files import DenoiserTwin, MoeTwin
from vdd_ros.nodes.driver import Driver

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def pair(student: MoeTwin, teacher: DenoiserTwin) -> Iterator[Pair]:
    """A policy in command and a teacher in standby; the tests of this module leave them so."""
    with Driver("robot", own_domain=True, shared_memory=False) as driver:
        made = Pair(driver, student.path, teacher.path)
        made.begin()
        yield made


def in_limits(pair: Pair) -> bool:
    limits = avoiding().actions[0].limits
    return all(
        low - 1e-9 <= value <= high + 1e-9
        for _, _, point in pair.commands
        for value, low, high in zip(point, limits.min, limits.max, strict=True)
    )


def test_a_killed_commander_is_replaced_and_comes_back(pair: Pair) -> None:
    """Nobody commands twice, no command is further from the last one than the limit allows."""
    for phase in (0.1, 0.7):
        kill_and_measure(pair, phase)
    assert in_limits(pair)
    assert pair.jumps(avoiding().actions[0].limits.max_rate[0] * PERIOD_S) == []
    assert pair.twice_answered() == {}
    assert any("has ended" in text for text in pair.roles["teacher"])


def test_a_node_that_wakes_up_does_not_command_before_it_is_given_the_command(pair: Pair) -> None:
    """Half a second asleep: no command older than the standby's, then the way back."""
    pair.until(pair.in_order, "policy in command")
    pair.nodes["policy"].send(signal.SIGSTOP)
    pair.until(lambda: pair.says("teacher", "commanding") == 1, "standby in command")
    pair.run(0.5)
    begin, rows = len(pair.commands), len(pair.rows["policy"])
    pair.nodes["policy"].send(signal.SIGCONT)
    woken = time.time_ns()
    pair.until(lambda: len(pair.rows["policy"]) > rows + 4, "rows of the policy")
    assert pair.says("policy", "commanding") == 0
    stamps = [stamp for _, stamp, _ in pair.commands[begin:]]
    assert all(stamp > woken - 10 * PERIOD_S * 1e9 for stamp in stamps)
    assert stamps == sorted(stamps)
    pair.until(pair.in_order, "way back")
    assert in_limits(pair)


def test_when_observations_stop_the_hand_over_still_works(pair: Pair) -> None:
    """Timers stand behind the ticks: a standby that sees nothing holds instead."""
    pair.until(pair.in_order, "policy in command")
    pair.stopped_observing = True
    pair.run(15 * PERIOD_S)
    assert pair.says("policy", "commanding") == 1
    held = pair.commands[-1][2]
    pair.kill("policy")
    pair.until(lambda: pair.says("teacher", "commanding") == 1, "standby in command")
    count = len(pair.commands)
    pair.until(lambda: len(pair.commands) > count + 2, "holds")
    assert {c for _, _, c in pair.commands[count:]} == {held}
    pair.stopped_observing = False
    pair.start("policy")
    pair.until(pair.in_order, "way back")
