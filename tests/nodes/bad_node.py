"""A node that does what a judge must find; parameter ``habit`` says what, at any moment."""

from __future__ import annotations

from geometry_msgs.msg import PointStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String

from vdd_ros.nodes.diagnostics import LATCHED, STATUS_FIELDS, labelled
from vdd_ros.nodes.executor import run_node


class BadNode(Node):
    """Answers every state with the state itself, except for its habit."""

    def __init__(self) -> None:
        super().__init__("policy")
        self.exit_code: int | None = None
        self.declare_parameter("habit", "none")
        self._count = 0
        qos = QoSProfile(depth=10)
        self._command = self.create_publisher(PointStamped, "command", qos)
        self._status = self.create_publisher(Float64MultiArray, "~/status", qos)
        self._reason = self.create_publisher(String, "~/reason", LATCHED)
        self.create_subscription(JointState, "robot_state", self._on_state, qos)

    def begin(self) -> None:
        """Say that it acts, as every node does."""
        self._reason.publish(String(data="ACT"))

    def pace(self) -> float:
        """Only messages matter."""
        return 0.1

    def goodbye(self, reason: str) -> None:
        """Nothing to say."""

    def _on_state(self, state: JointState) -> None:
        self._count += 1
        habit: str = self.get_parameter("habit").value
        odd = self._count > 50 and self._count % 10 == 0
        if odd and habit == "loses":
            return
        command = PointStamped(header=state.header)
        command.point.x, command.point.y = state.position[0], state.position[1]
        if odd and habit == "jumps":
            command.point.y += 0.05
        if odd and habit == "leaves":
            command.point.x = 0.9
        if odd and habit == "nan":
            command.point.x = float("nan")
        self._command.publish(command)
        message, values = labelled(STATUS_FIELDS)
        stamp = state.header.stamp
        values[:2] = stamp.sec, stamp.nanosec
        values[2] = 2.0 if odd and habit.startswith("hold") else 0.0
        values[STATUS_FIELDS.index("commanding")] = 1.0
        values[STATUS_FIELDS.index("received")] = self._count
        self._status.publish(message)
        if odd and habit == "holds, with a reason":
            self._reason.publish(String(data="HOLD: there is one"))
        elif habit == "holds, with a reason":
            self._reason.publish(String(data="ACT"))


if __name__ == "__main__":
    raise SystemExit(run_node(BadNode))
