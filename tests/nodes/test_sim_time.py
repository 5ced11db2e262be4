"""A real node under a simulation's clock: absent, going, standing, jumping both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState

from tests.nodes.robot import START, Robot, start_policy
from tests.policy_files import MoeTwin
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.nodes.driver import Driver

PERIOD_NS = 35_000_000
SECOND = 10**9


class SimRobot(Robot):
    """A robot whose every state lies one period of simulated time after the one before."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.now_ns = 5000 * SECOND
        self.sections: dict[str, tuple[str, dict[str, str]]] = {}
        self.clock: Any = None
        many = QoSProfile(depth=100)
        self._states = driver.node.create_publisher(JointState, "/robot_state", many)
        driver.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnosed, 10)

    def publish(self, x: float, y: float, *, names: tuple[str, ...] = ()) -> int:
        """Let a period pass, then publish a state."""
        del names
        self.now_ns += PERIOD_NS
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = divmod(self.now_ns, SECOND)
        self.clock.publish(clock)
        message = JointState(name=["x", "y", "x_desired", "y_desired"], position=[x, y, x, y])
        message.header.stamp = clock.clock
        self._states.publish(message)
        return self.now_ns

    def acts(self) -> dict[str, float]:
        """Publish states until one is acted upon: clock and state may overtake each other."""
        return self.ask_until(
            lambda: {s: r for s, r in self.status.items() if r["level"] <= SafetyLevel.CLAMP},
            *START,
        )[0]

    def warned(self, text: str) -> Callable[[], bool]:
        """Whether the newest diagnostics warn of the clock with these words."""
        return lambda: text in self.sections.get("control", ("", {}))[1].get("warning: /clock", "")

    def _on_diagnosed(self, message: DiagnosticArray) -> None:
        for status in message.status:
            path, _, name = status.name.partition(": ")
            if path == self.path:
                self.sections[name] = status.message, {v.key: v.value for v in status.values}


def test_a_node_follows_a_clock_that_stops_and_jumps(driver: Driver, student: MoeTwin) -> None:
    """What is wrong with the clock has a name; after every jump the node acts, without a burst."""
    robot = SimRobot(driver)
    start_policy(driver, student.path, use_sim_time=True, selection__rule="argmax")
    robot.until(robot.warned("nobody publishes '/clock'"), "a warning that there is no clock")

    robot.clock = driver.node.create_publisher(Clock, "/clock", QoSProfile(depth=10))
    robot.ask(*START)
    assert robot.sections["role"][1]["role"] == "command"
    robot.until(robot.warned("stands still"), "a warning that the clock stands still")

    def going() -> bool:
        robot.pulse(lambda: robot.publish(*START))
        return not robot.warned("/clock")() and "control" in robot.sections

    robot.until(going, "an end of the warning")

    before = robot.acts()["missed"]
    commands = len(robot.commands)
    robot.now_ns += 3600 * SECOND
    missed = robot.acts()["missed"] - before
    assert missed > 3000 * SECOND / PERIOD_NS
    assert len(robot.commands) - commands < 1000, "ticks of an hour were made up for"

    robot.now_ns = 1000 * SECOND
    row = robot.acts()
    assert 1000 <= row["stamp_sec"] < 1100
