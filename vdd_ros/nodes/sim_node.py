"""sim_node: the simulated robot of a task, for everyone without a real one.

It behaves as a robot does: state comes at a fixed rate whether or not anybody listens, a command
is applied at the next control step, and without a new command the robot stays where it was told to
be. Commands answer observations; those that answer an observation of an earlier episode are
ignored, since nothing else could tell a late command from a new one. What its topics carry is
said in `sim_bodies.py`, for each task.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import PointStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty

from vdd_ros.core.errors import VddError
from vdd_ros.nodes.declaration import declare
from vdd_ros.nodes.diagnostics import LATCHED
from vdd_ros.nodes.executor import run_node
from vdd_ros.nodes.parameters import SIM
from vdd_ros.nodes.sim_bodies import BODIES
from vdd_ros.tasks.protocol import make_task

SETTLE_PERIODS = 3
SETTLE_S = 0.1
"""At the start of an episode the robot stands still and obeys nobody for so many periods and, in
wall time, for at least so long: every node hears of the new episode before its answers count."""

_NS = 1_000_000_000


class SimNode(Node):
    """One simulated robot, episode after episode."""

    def __init__(self) -> None:
        """Declare the parameters and create the topics.

        Raises:
            VddError: a parameter given at start is refused, or the task's simulator is missing.
        """
        super().__init__("sim")
        self.exit_code: int | None = None
        try:
            declare(self, SIM)
            name: str = self.get_parameter("task").value
            self._body = BODIES[name]
            self._task = make_task(
                name,
                level=self.get_parameter("level").value,
                lag=self.get_parameter("lag").value,
            )
        except VddError:
            self.destroy_node()
            raise
        self._episodes: int = self.get_parameter("episodes").value
        self._speed: float = self.get_parameter("speed").value
        self._rng = np.random.default_rng(self.get_parameter("seed").value)
        self._dt_ns = round(self._task.dt_s * _NS)
        self._period_s = self._task.dt_s / self._speed
        # Reliable publishers reach both kinds of subscribers, and recorders lose nothing.
        reliable = QoSProfile(depth=10)
        self._state = self.create_publisher(JointState, "robot_state", reliable)
        self._start = self.create_publisher(Empty, "episode_start", reliable)
        self._outcome = self.create_publisher(DiagnosticStatus, "~/outcome", QoSProfile(depth=100))
        simulated = self._speed != 1.0 or self.get_parameter("publish_clock").value
        self._clock_publisher = (
            self.create_publisher(Clock, "/clock", reliable) if simulated else None
        )
        self.create_subscription(PointStamped, "command", self._on_command, QoSProfile(depth=1))
        self.create_subscription(Empty, "~/start", self._on_start, LATCHED)
        self._message: Any = JointState(name=list(self._body.joints))
        self._wall_ns = time.time_ns()
        self._episode = 0
        self._waiting: bool = self.get_parameter("wait_for_start").value
        self._deadline_s = time.monotonic()

    def begin(self) -> None:
        """Start the first episode."""
        self.get_logger().info(
            f"{self._task.name}, level {self._task.level}, {1.0 / self._task.dt_s:.2f} Hz at "
            f"speed {self._speed:g}, {self._episodes or 'endless'} episodes"
        )
        self._reset()
        self._deadline_s = time.monotonic()

    def pace(self) -> float:
        """Run the control step that is due; return the time until the next."""
        now_s = time.monotonic()
        if now_s < self._deadline_s:
            return self._deadline_s - now_s
        self._advance()
        self._deadline_s += self._period_s
        if self._deadline_s < now_s:
            # The machine stalled: go on from here, a burst of steps would starve the policy.
            self._deadline_s = now_s + self._period_s
        return max(0.0, self._deadline_s - time.monotonic())

    def goodbye(self, reason: str) -> None:
        """Say how far it came."""
        self.get_logger().info(f"ending: {reason}, after {self._episode} episodes")
        self._outcome.wait_for_all_acked(Duration(seconds=1.0))

    def _reset(self) -> None:
        self._task.reset(1, self._rng)
        self._command: tuple[float, float] | None = None
        self._target: tuple[float, float] | None = None
        self._settle = max(SETTLE_PERIODS, math.ceil(SETTLE_S / self._period_s))
        self._accept_from_ns = self._begin_ns = self._last_ns = -1
        self._steps = 0
        self._missed = 0
        self._start.publish(Empty())

    def _advance(self) -> None:
        """One control step: apply the command, move, tell where the robot is."""
        now_ns = self._tick_clock()
        if self._settle > 0:
            self._settle -= not self._waiting
            if self._settle == 0:
                self._accept_from_ns = now_ns
        else:
            self._step()
        if self._steps <= 1:
            self._begin_ns = self._last_ns
        self._last_ns = now_ns
        self._publish_state(now_ns)
        if self._task.done[0]:
            self._finish()

    def _tick_clock(self) -> int:
        if self._clock_publisher is None:
            return int(self.get_clock().now().nanoseconds)
        self._wall_ns += self._dt_ns
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(self._wall_ns, _NS)
        self._clock_publisher.publish(message)
        return self._wall_ns

    def _step(self) -> None:
        if self._command is not None:
            self._target = self._command
        elif self._target is not None:
            self._missed += 1
        else:
            # An episode begins with its first command: until then the robot just stands there.
            return
        self._command = None
        # Without a new command the robot stays where it was told to be.
        self._task.step(self._body.action(self._task.observe()[0], self._target)[None])
        self._steps += 1

    def _publish_state(self, now_ns: int) -> None:
        stamp = self._message.header.stamp
        stamp.sec, stamp.nanosec = divmod(now_ns, _NS)
        self._message.position = self._body.state(self._task.observe()[0])
        self._state.publish(self._message)

    def _finish(self) -> None:
        outcome = self._task.outcome()
        success, mode = bool(outcome.success[0]), int(outcome.mode[0])
        name = self._body.mode_name(mode) if mode >= 0 else "undecided"
        values = {
            "episode": self._episode,
            "success": int(success),
            "mode": mode,
            "mode_name": name,
            **self._body.figures(self._task),
            "steps": self._steps,
            "missed": self._missed,
            # Stamps of the first and the last state of the episode, for recorders.
            "begin_ns": self._begin_ns,
            "end_ns": self._last_ns,
        }
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK if success else DiagnosticStatus.WARN,
            name=self._task.name,
            message=f"{'reached the goal' if success else 'failed'}: {name}",
            values=[KeyValue(key=k, value=str(v)) for k, v in values.items()],
        )
        self._outcome.publish(status)
        self.get_logger().info(
            f"episode {self._episode}: {status.message}, {self._steps} steps, "
            f"{self._missed} without a command"
        )
        self._episode += 1
        if self._episodes and self._episode >= self._episodes:
            self.exit_code = 0
        else:
            self._reset()

    def _on_start(self, message: Empty) -> None:
        del message
        if self._waiting:
            self._waiting = False
            self._reset()

    def _on_command(self, message: PointStamped) -> None:
        stamp_ns = message.header.stamp.sec * _NS + message.header.stamp.nanosec
        if self._settle > 0 or stamp_ns < self._accept_from_ns:
            return
        if not (math.isfinite(message.point.x) and math.isfinite(message.point.y)):
            self.get_logger().warning(
                f"ignored a command that is not finite: {message.point.x}, {message.point.y}",
                throttle_duration_sec=1.0,
            )
            return
        self._command = (message.point.x, message.point.y)


def main() -> int:
    """Run the node; the return value is the exit code."""
    return run_node(SimNode)


if __name__ == "__main__":
    raise SystemExit(main())
