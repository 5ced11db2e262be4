"""Nodes as processes: how they start, refuse, run beside each other and end."""

from __future__ import annotations

import dataclasses
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSProfile
from std_msgs.msg import Empty, Float64

from tests.nodes.robot import (
    DEFAULTS,
    START,
    TIMEOUT_S,
    Robot,
    avoiding,
    driving_policy,
    start_policy,
    write_contract,
)
from tests.policy_files import DenoiserTwin, MoeTwin
from vdd_ros.core.contract import ObservationField
from vdd_ros.core.errors import VddError
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.nodes.diagnostics import LATCHED
from vdd_ros.nodes.driver import Driver

pytestmark = pytest.mark.ros


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_node_cleanly_with_the_hold_sent_last(
    driver: Driver, student: MoeTwin, number: signal.Signals
) -> None:
    """Exit code 0, and the last command a robot hears holds it where it was measured."""
    robot = Robot(driver)
    # A rate at which the limiter lets the hold reach the measured position in one step.
    process = start_policy(driver, student.path, rate_hz=1.0)
    robot.active()
    wanted = robot.ask(0.5, 0.0)
    assert np.abs(np.array(wanted) - [0.5, 0.0]).max() > 0.01
    count = len(robot.commands)
    process.ends = True
    process.send(number)
    # The second one is what a terminal and a launch file add to Ctrl-C.
    process.send(number)
    robot.until(lambda: process.exit_code is not None, "end of the node")
    assert process.exit_code == 0, process.tail()
    robot.until(lambda: len(robot.commands) > count, "a last command")
    np.testing.assert_allclose(robot.commands[-1][1], [0.5, 0.0], atol=1e-6)
    assert len(robot.commands) == count + 1
    assert robot.reasons[-1] == "STOP: shut down"


def test_a_node_that_is_not_configured_ends_cleanly_too(driver: Driver, student: MoeTwin) -> None:
    """Without autostart the node waits for a manager, and leaves with exit code 0."""
    robot = Robot(driver)
    process = start_policy(driver, student.path, autostart=False)
    assert robot.state() == "unconfigured"
    process.ends = True
    process.send(signal.SIGTERM)
    assert process.wait(TIMEOUT_S) == 0


def refused(driver: Driver, *expected: str, node: str = "policy_node", **values: object) -> None:
    """Start a node that has to end with exit code 2 and one message that says all of this."""
    process = driver.start(node, parameters={**DEFAULTS, **values})
    assert process.wait(TIMEOUT_S) == 2, process.tail()
    for text in expected:
        assert text in process.log()
    assert "Traceback" not in process.log()


def test_wrong_files_and_contracts_end_with_exit_code_2(
    driver: Driver, student: MoeTwin, teacher: DenoiserTwin, tmp_path: Path
) -> None:
    """What came, what was expected, what to do, for every file a user can get wrong."""
    refused(driver, "nowhere.onnx: no such file", policy=str(tmp_path / "nowhere.onnx"))
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(student.path.read_bytes()[:-200])
    refused(driver, "cut.onnx", policy=str(cut))
    refused(driver, "holds a denoiser", "as a teacher", policy=str(teacher.path))
    refused(driver, "holds a moe", node="teacher_node", policy=str(student.path))
    longer = dataclasses.replace(avoiding(), n_obs_steps=5)
    refused(
        driver,
        "n_obs_steps = 5, the policy was made for 1",
        policy=str(student.path),
        contract=write_contract(tmp_path / "longer.yaml", longer),
    )
    typo = tmp_path / "typo.yaml"
    typo.write_text("name: a\nrate: 10.0\n")
    refused(
        driver, "unknown key 'rate'", "'rate_hz'", policy=str(student.path), contract=str(typo)
    )
    nothing = dataclasses.replace(avoiding().observations[0], type="sensor_msgs/msg/JointStates")
    wrong = dataclasses.replace(avoiding(), observations=(nothing, avoiding().observations[1]))
    wrong = dataclasses.replace(
        wrong, observations=(nothing, dataclasses.replace(wrong.observations[1], topic="b"))
    )
    refused(
        driver,
        "did you mean 'sensor_msgs/msg/JointState'",
        policy=str(student.path),
        contract=write_contract(tmp_path / "type.yaml", wrong),
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"role": "comand"}, "did you mean 'command'"),
        ({"rate_hz": 60}, "as a decimal like 60.0"),
        ({"rate_hz": -1.0}, "rate_hz"),
        ({"rolle": "shadow"}, "did you mean 'role'"),
        ({"use_sim_time": 3}, "correct the arguments after --ros-args"),
        ({"selection.rule": "pinned", "selection.pinned_expert": 9}, "experts 0 to 3"),
    ],
)
def test_wrong_parameters_end_with_exit_code_2(
    driver: Driver, student: MoeTwin, values: dict[str, object], expected: str
) -> None:
    """A parameter that cannot be meant is refused before anything moves."""
    refused(driver, expected, policy=str(student.path), **values)


def test_a_topic_of_another_type_is_refused_by_name(driver: Driver, student: MoeTwin) -> None:
    """The message names the topic, the node that publishes it and both types."""
    driver.node.create_publisher(Float64, "robot_state", QoSProfile(depth=1))
    refused(
        driver,
        "topic '/robot_state' is published as std_msgs/msg/Float64 by ",
        "expects sensor_msgs/msg/JointState",
        policy=str(student.path),
        discovery_s=15.0,
    )


def test_a_qos_that_cannot_be_heard_is_reported_by_name(driver: Driver, student: MoeTwin) -> None:
    """A subscription made reliable by override hears nothing of a best-effort driver: say so."""
    from rclpy.qos import ReliabilityPolicy
    from sensor_msgs.msg import JointState

    driver.node.create_publisher(
        JointState, "robot_state", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    )
    process = start_policy(
        driver,
        student.path,
        **{"qos_overrides./robot_state.subscription.reliability": "reliable"},
    )
    driver.spin_until(
        lambda: "does not offer this QoS (reliability)" in process.log(),
        timeout_s=TIMEOUT_S,
        what="a QoS warning",
    )
    assert "'/robot_state'" in process.log()


def test_a_shadow_never_commands(driver: Driver, student: MoeTwin) -> None:
    """It answers on its own topic; the command topic has not even a publisher."""
    robot = Robot(driver)
    process = start_policy(driver, student.path, role="shadow")

    def answered() -> bool:
        robot.pulse(lambda: robot.publish(*START))
        return len(robot.shadow) > 5

    robot.until(answered, "shadow actions")
    assert driver.node.count_publishers("command") == 0
    process.ends = True
    process.send(signal.SIGINT)
    assert process.wait(TIMEOUT_S) == 0
    assert robot.commands == []


def test_two_robots_in_two_namespaces(driver: Driver, student: MoeTwin) -> None:
    """Each node answers its own robot and nobody else's."""
    left, right = Robot(driver, namespace="left"), Robot(driver, namespace="right")
    for name in ("left", "right"):
        start_policy(driver, student.path, namespace=name)
    left.active()
    right.active()
    left.ask(*START)
    right.ask(*START)
    states = {name: {s for s, _ in r.commands} for name, r in (("l", left), ("r", right))}
    assert not states["l"] & states["r"]
    assert driver.node.count_publishers("/left/command") == 1
    assert driver.node.count_publishers("/command") == 0


def test_fields_from_two_topics(driver: Driver, student: MoeTwin, tmp_path: Path) -> None:
    """The command waits for both topics and carries the older stamp."""
    first, second = avoiding().observations
    moved = ObservationField(
        "measured", 2, topic="measured", type=second.type, select=second.select, max_age_ms=500.0
    )
    contract = dataclasses.replace(avoiding(), observations=(first, moved))
    robot = Robot(driver)
    from sensor_msgs.msg import JointState

    measured = driver.node.create_publisher(JointState, "measured", QoSProfile(depth=10))
    start_policy(driver, student.path, contract=write_contract(tmp_path / "two.yaml", contract))
    message = JointState(name=["y", "x"], position=[START[1], START[0]])
    newer: list[int] = []
    older: list[int] = []

    def send() -> None:
        # Clearly older than its partner, whichever two messages a busy machine brings together.
        older.append(time.time_ns() - 200_000_000)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(older[-1], 10**9)
        measured.publish(message)
        newer.append(robot.publish(*START))

    def answered() -> bool:
        robot.pulse(send)
        return any(stamp in dict(robot.commands) for stamp in older)

    robot.until(answered, "answer to both topics")

    def stale() -> bool:
        robot.pulse(lambda: newer.append(robot.publish(*START)))
        return any("measured: stale" in reason for reason in robot.reasons[-1:])

    robot.until(stale, "a stale second topic")
    assert not {s for s, _ in robot.commands} & set(newer)


def test_a_policy_that_breaks_on_the_way_is_held(driver: Driver, files: Path) -> None:
    """A network that answers NaN in a corner of its input stops the robot there, and says why."""
    policy = driving_policy(files / "broken.onnx", nan_below_y=0.0)
    robot = Robot(driver)
    start_policy(driver, policy)
    robot.ask(0.5, 0.1)
    command = robot.ask(0.5, -0.1)
    assert robot.until_reason("non-finite") == "HOLD: non-finite action step[0], step[1]"
    assert np.isfinite(command).all()
    assert np.isfinite([c for _, c in robot.commands]).all()


def sim_outcomes(driver: Driver) -> list[dict[str, str]]:
    """Record what the simulated robot says about its episodes."""
    outcomes: list[dict[str, str]] = []
    driver.node.create_subscription(
        DiagnosticStatus,
        "sim/outcome",
        lambda m: outcomes.append({e.key: e.value for e in m.values}),
        QoSProfile(depth=100),
    )
    return outcomes


@pytest.mark.parametrize("trigger", ["observation", "timer"])
def test_the_simulated_robot_is_driven_to_the_goal(
    driver: Driver, driving: Path, trigger: str
) -> None:
    """Robot and policy close the loop in simulated time; the robot ends by itself, exit code 0."""
    outcomes = sim_outcomes(driver)
    start_policy(driver, driving, use_sim_time=True, trigger=trigger, selection__rule="pinned")
    robot = Robot(driver)
    start = driver.node.create_publisher(Empty, "sim/start", LATCHED)
    robot.until(lambda: "STOP: configured, not active" in robot.reasons, "a configured policy")
    sim = driver.start(
        "sim_node",
        parameters={
            "episodes": 2,
            "speed": 3.0 if trigger == "timer" else 5.0,
            "wait_for_start": True,
        },
        ends=True,
    )
    robot.until(lambda: driver.node.count_publishers("sim/outcome") > 0, "a robot")
    start.publish(Empty())
    robot.until(lambda: len(outcomes) == 2, "two episodes")
    assert sim.wait(TIMEOUT_S) == 0
    assert [o["success"] for o in outcomes] == ["1", "1"], (outcomes, driver.tails())
    assert [o["episode"] for o in outcomes] == ["0", "1"]
    assert {o["mode_name"] for o in outcomes} == {"left / middle / left"}
    acted = [row for row in robot.status.values() if row["level"] <= SafetyLevel.CLAMP]
    assert len(acted) >= 100
    assert {row["expert"] for row in acted} == {0.0}


def test_the_simulated_robot_obeys_only_answers_to_this_episode(driver: Driver) -> None:
    """A late command, a NaN and a silence move nothing."""
    robot = Robot(driver)
    from geometry_msgs.msg import PointStamped
    from sensor_msgs.msg import JointState

    states: list[JointState] = []
    driver.node.create_subscription(
        JointState, "robot_state", states.append, QoSProfile(depth=100)
    )
    publisher = driver.node.create_publisher(PointStamped, "command", QoSProfile(depth=10))
    driver.start("sim_node", parameters={"speed": 4.0})
    robot.until(lambda: len(states) > 8, "states")

    def command(late_s: int, x: float) -> None:
        message = PointStamped()
        message.header.stamp = states[-1].header.stamp
        message.header.stamp.sec -= late_s
        message.point.x, message.point.y = x, START[1] + 0.01
        publisher.publish(message)
        seen = len(states)
        robot.until(lambda: len(states) > seen + 5, "states after a command")

    command(60, 0.4)
    command(0, float("nan"))
    command(0, START[0] + 0.01)
    there = np.tile([START[0] + 0.01, START[1] + 0.01], 2)
    robot.until(lambda: np.allclose(states[-1].position, there), "the one good command's effect")
    stood = np.tile(START, 2)
    elsewhere = [s for s in states if not np.allclose(s.position, stood, atol=1e-9)]
    assert all(np.allclose(state.position, there) for state in elsewhere)
    assert states[-1].name == ["x", "y", "x_desired", "y_desired"]


def test_a_child_that_dies_is_reported_with_its_last_words(driver: Driver) -> None:
    """Whoever waits for it learns at once, not when the time is over."""
    driver.start("policy_node", parameters={"autostart": True, "policy": "/nowhere.onnx"})
    begin = time.monotonic()
    with pytest.raises(VddError, match=r"(?s)policy_node ended with exit code 2.*no such file"):
        driver.spin_until(lambda: False, timeout_s=60.0, what="nothing")
    assert time.monotonic() - begin < 30.0
