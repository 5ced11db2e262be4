"""Everything a contract can say, proved on a real node: units, ages, skew, QoS, action types."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray

from tests.nodes.anyrobot import AnyRobot, linear_policy, stamp_of
from tests.nodes.robot import start_policy
from vdd_ros.core.contract import (
    ActionField,
    Limits,
    ObservationField,
    PolicyContract,
    Qos,
)
from vdd_ros.core.news import changes_in
from vdd_ros.nodes.driver import Driver

pytestmark = pytest.mark.ros

HORIZON = 4
GOAL_MM = (700.0, 250.0)
"""The goal as it is published, once, before the node is there."""
CONTRACT = PolicyContract(
    "everything",
    20.0,
    observations=(
        # Named in another order than the driver's, in degrees.
        ObservationField(
            "joints",
            2,
            "joint_states",
            "sensor_msgs/msg/JointState",
            ("position.b", "position.a"),
            unit="rad",
            apply=("deg2rad",),
            max_age_ms=300.0,
        ),
        ObservationField(
            "speed",
            1,
            "odom",
            "nav_msgs/msg/Odometry",
            ("twist.twist.linear.x",),
            apply=("clamp -1 1",),
            max_age_ms=5000.0,
            max_skew_ms=1000.0,
        ),
        ObservationField(
            "goal",
            2,
            "goal",
            "std_msgs/msg/Float64MultiArray",
            unit="m",
            apply=("scale 0.001", "offset -0.5"),
            max_age_ms=0.0,
            qos=Qos("reliable", "transient_local", 1),
        ),
        ObservationField("closed", 1, "closed", "std_msgs/msg/Bool", max_age_ms=5000.0),
    ),
    actions=(
        ActionField(
            "arm",
            2,
            "arm/joint_trajectory",
            "trajectory_msgs/msg/JointTrajectory",
            ("positions.a", "positions.b"),
            unit="rad",
            apply=("deg2rad",),
            limits=Limits((-1.0, -1.0), (1.0, 1.0)),
        ),
        ActionField(
            "forward",
            2,
            "forward/commands",
            "std_msgs/msg/Float64MultiArray",
            apply=("scale 0.001",),
        ),
        ActionField(
            "servo", 2, "servo", "sensor_msgs/msg/JointState", ("position.a", "velocity.b")
        ),
        ActionField(
            "base",
            2,
            "cmd_vel",
            "geometry_msgs/msg/Twist",
            ("linear.x", "angular.z"),
            apply=("negate",),
            qos=Qos("best_effort"),
        ),
        ActionField(
            "slide",
            1,
            "cmd_vel_stamped",
            "geometry_msgs/msg/TwistStamped",
            ("twist.linear.y",),
            apply=("offset 0.5",),
        ),
        ActionField(
            "pose",
            3,
            "target_pose",
            "geometry_msgs/msg/PoseStamped",
            ("pose.position.x", "pose.position.y", "pose.position.z"),
            apply=("scale 2 4 8",),
        ),
        ActionField("grip", 1, "grip", "std_msgs/msg/Bool", threshold=0.3),
    ),
    horizon=HORIZON,
    n_action_steps=1,
)
RNG = np.random.default_rng(0)
WEIGHTS = RNG.uniform(-0.3, 0.3, (6, HORIZON, 13))
WEIGHTS[:, :, :2] = 0.0
WEIGHTS[1, :, 0] = WEIGHTS[0, :, 1] = 1.0  # the arm goes where it is: joint a, then joint b
WEIGHTS[:, :, 12] = 0.0
WEIGHTS[5, :, 12] = 1.0  # the grip follows the switch
BIAS = np.repeat(0.01 * np.arange(HORIZON)[:, None], 13, axis=1)
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
TIMID = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)


def messages(
    a_deg: float, b_deg: float, speed: float = 0.2, *, closed: bool = False
) -> dict[str, Any]:
    """What the robot says; its driver knows a third joint and has an order of its own."""
    joints = JointState(name=["other", "a", "b"], position=[9.0, a_deg, b_deg])
    odom = Odometry()
    odom.twist.twist.linear.x = speed
    return {"joint_states": joints, "odom": odom, "closed": Bool(data=closed)}


def twin(
    a_deg: float,
    b_deg: float,
    speed: float = 0.2,
    *,
    closed: bool = False,
    goal_mm: tuple[float, float] = GOAL_MM,
) -> NDArray[np.float64]:
    """Return the actions [HORIZON, 13] in the policy's units, by numpy alone."""
    observation = np.array(
        [
            math.radians(b_deg),
            math.radians(a_deg),
            min(max(speed, -1.0), 1.0),
            goal_mm[0] / 1000.0 - 0.5,
            goal_mm[1] / 1000.0 - 0.5,
            float(closed),
        ]
    )
    action = np.einsum("o,oha->ha", observation, WEIGHTS) + BIAS
    action[:, :2] = np.clip(action[:, :2], -1.0, 1.0)
    return action


def sent(topic: str, message: Any) -> list[float]:
    """Return the numbers of one command message, row by row where it has several."""
    if topic == "arm/joint_trajectory":
        return [v for point in message.points for v in point.positions]
    if topic == "forward/commands":
        return list(message.data)
    if topic == "servo":
        return [message.position[0], message.velocity[1]]
    if topic == "cmd_vel":
        return [message.linear.x, message.angular.z]
    if topic == "cmd_vel_stamped":
        return [message.twist.linear.y]
    if topic == "target_pose":
        p = message.pose.position
        return [p.x, p.y, p.z]
    assert topic == "grip"
    return [float(message.data)]


def expected(action: NDArray[np.float64]) -> dict[str, list[float]]:
    """Return the numbers every topic has to carry: through the inverse of each operator."""
    now = action[0]
    return {
        "arm/joint_trajectory": np.degrees(action[:, :2]).ravel().tolist(),
        "forward/commands": (now[2:4] * 1000.0).tolist(),
        "servo": now[4:6].tolist(),
        "cmd_vel": (-now[6:8]).tolist(),
        "cmd_vel_stamped": [now[8] - 0.5],
        "target_pose": (now[9:12] / [2.0, 4.0, 8.0]).tolist(),
        "grip": [float(now[12] >= 0.3)],
    }


def carried(robot: AnyRobot, action: NDArray[np.float64]) -> Callable[[], bool]:
    """Tell whether every topic has carried its part of an action."""
    wanted = expected(action)

    def close(topic: str, message: Any) -> bool:
        got = sent(topic, message)
        scale = max(map(abs, wanted[topic]))
        return len(got) == len(wanted[topic]) and bool(
            np.allclose(got, wanted[topic], rtol=1e-5, atol=1e-5 * (1.0 + scale))
        )

    return lambda: all(any(close(t, m) for m in robot.heard[t]) for t in wanted)


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyRobot]:
    """A robot of this contract, and the node that commands it."""
    path = tmp_path_factory.mktemp("contract") / "linear.onnx"
    linear_policy(path, CONTRACT, WEIGHTS.reshape(6, -1), BIAS.ravel())
    with Driver("test", own_domain=True) as driver:
        made = AnyRobot(driver, CONTRACT, offers={"goal": LATCHED}, asks={"cmd_vel": TIMID})
        # Said once, before anybody is there to hear it.
        made.publishers["goal"].publish(Float64MultiArray(data=GOAL_MM))
        start_policy(driver, path, black_box__seconds=0.0)
        made.send_until(messages(1.0, 2.0), carried(made, twin(1.0, 2.0)), "a first answer")
        yield made


def test_every_action_type_carries_what_numpy_computes(robot: AnyRobot) -> None:
    """Joints by name, units there and back, a goal said once, a plan with its times."""
    for a, b, speed, closed in (
        (20.0, -30.0, 0.4, True),
        (-50.0, 10.0, -3.0, False),  # faster than the clamp lets through
        (5.0, 40.0, 0.9, True),
    ):
        action = twin(a, b, speed, closed=closed)
        said = messages(a, b, speed, closed=closed)
        robot.send_until(said, carried(robot, action), f"commands for {a}, {b}, {speed}, {closed}")
    trajectory = robot.heard["arm/joint_trajectory"][-1]
    assert trajectory.joint_names == ["a", "b"]
    assert [list(p.velocities) for p in trajectory.points] == [[]] * HORIZON
    due = [p.time_from_start.sec + p.time_from_start.nanosec * 1e-9 for p in trajectory.points]
    np.testing.assert_allclose(due, np.arange(1, HORIZON + 1) / CONTRACT.rate_hz, atol=1e-8)
    servo = robot.heard["servo"][-1]
    assert list(servo.name) == ["a", "b"]
    np.testing.assert_array_equal(np.isnan(servo.position), [False, True])
    np.testing.assert_array_equal(np.isnan(servo.velocity), [True, False])


def test_the_parts_of_a_command_bear_the_stamp_of_what_they_answer(robot: AnyRobot) -> None:
    """All stamped topics alike: that of the oldest observation that ages."""
    said = messages(-7.0, 8.0)
    stamps: set[int] = set()
    stamped = ("arm/joint_trajectory", "servo", "cmd_vel_stamped", "target_pose")

    def common() -> set[int]:
        robot.pulse(lambda: stamps.add(robot.send(said)))
        heard = [{stamp_of(m) for m in robot.heard[topic]} for topic in stamped]
        return stamps.intersection(*heard)

    robot.until(lambda: bool(common()), "one stamp on all topics")


def test_limits_hold_in_the_policys_unit_and_are_named_as_they_come(robot: AnyRobot) -> None:
    """One radian is 57 degrees in the message; a second joint beyond it is said, too."""
    one = math.degrees(1.0)
    robot.reasons.clear()
    robot.send_until(messages(80.0, 10.0), carried(robot, twin(80.0, 10.0)), "a limited command")
    assert any(
        m.points[0].positions[0] == pytest.approx(one) for m in robot.heard["arm/joint_trajectory"]
    )

    def said(name: str) -> bool:
        changes = [c for text in robot.reasons if "CLAMP" in text for c in changes_in(text)]
        return any(limit.endswith("position limit") and n == name for limit, n in changes)

    robot.send_until(messages(80.0, 10.0), lambda: said("arm[0]"), "a reason for joint a")
    assert not said("arm[1]")
    robot.send_until(messages(80.0, -90.0), lambda: said("arm[1]"), "a reason for joint b")
    robot.send_until(messages(1.0, 2.0), carried(robot, twin(1.0, 2.0)), "a free command")


def test_each_field_has_its_own_age_and_skew(robot: AnyRobot) -> None:
    """What is fresh enough for one is stale for another; the reason names the topic."""
    ages = (
        ({"odom": 0.7}, ""),  # allowed 5 s, and 1 s behind the others
        ({"odom": 2.0}, "odom: skewed, its sample is more than 1000 ms older"),
        ({"odom": 0.7}, ""),
        ({"joint_states": 0.7}, "joint_states: stale, the last sample is older than 300 ms"),
        ({"odom": 6.0}, "odom: stale, the last sample is older than 5000 ms"),
    )
    for i, (old_s, reason) in enumerate(ages):
        said = messages(30.0 + i, -20.0)
        robot.reasons.clear()
        if reason:
            robot.send_until(
                said, lambda r=reason: any(r in t for t in robot.reasons), reason, old_s=old_s
            )
        else:
            robot.send_until(
                said, carried(robot, twin(30.0 + i, -20.0)), f"commands at {old_s}", old_s=old_s
            )
    robot.send_until(messages(1.0, 2.0), carried(robot, twin(1.0, 2.0)), "commands again")


def test_a_goal_holds_until_it_is_said_anew(robot: AnyRobot) -> None:
    """It has no age; the next one counts from the next tick on."""
    goal = (-300.0, 900.0)
    action = twin(12.0, 3.0, goal_mm=goal)
    once = Float64MultiArray(data=goal)
    robot.publishers["goal"].publish(once)
    robot.send_until(messages(12.0, 3.0), carried(robot, action), "commands for another goal")
    robot.publishers["goal"].publish(Float64MultiArray(data=GOAL_MM))
    robot.send_until(
        messages(12.0, 3.0), carried(robot, twin(12.0, 3.0)), "commands for the goal before"
    )


def test_observations_that_come_too_fast_are_a_warning(robot: AnyRobot) -> None:
    """Limits are counted per period: at five times the rate the node says so, until it is over."""
    warned: list[str] = []

    def on_array(message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "/policy: control":
                values = {entry.key: entry.value for entry in status.values}
                warned.append(values.get("warning: pace", ""))

    node = robot.driver.node
    listener = node.create_subscription(DiagnosticArray, "/diagnostics", on_array, 10)
    fast = 0.2 / CONTRACT.rate_hz
    timers = [node.create_timer(fast, lambda: robot.send(messages(1.0, 2.0)))]
    try:
        text = "times as fast as rate_hz (20)"
        robot.until(lambda: bool(warned) and text in warned[-1], "a warning of the pace")
        node.destroy_timer(timers.pop())
        timers.append(node.create_timer(5 * fast, lambda: robot.send(messages(1.0, 2.0))))
        robot.until(lambda: not warned[-1], "no warning any more")
    finally:
        for timer in timers:
            node.destroy_timer(timer)
        node.destroy_subscription(listener)


def test_quality_of_service_is_the_contracts(robot: AnyRobot) -> None:
    """As the graph tells it: of the topics that say something, and of those that say nothing."""
    node = robot.driver.node

    def end(infos: list[Any]) -> tuple[Any, Any]:
        (info,) = [i for i in infos if i.node_name == "policy"]
        return info.qos_profile.reliability, info.qos_profile.durability

    reliable, timid = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
    kept, volatile = DurabilityPolicy.TRANSIENT_LOCAL, DurabilityPolicy.VOLATILE
    assert end(node.get_subscriptions_info_by_topic("/goal")) == (reliable, kept)
    assert end(node.get_subscriptions_info_by_topic("/odom")) == (timid, volatile)
    assert end(node.get_publishers_info_by_topic("/cmd_vel")) == (timid, volatile)
    assert end(node.get_publishers_info_by_topic("/target_pose")) == (reliable, volatile)
