"""What a running node says about its graph, its experts and its teacher; real nodes over DDS."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PointStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray
from visualization_msgs.msg import Marker, MarkerArray

from tests.nodes import layouts
from tests.nodes.robot import DEFAULTS, START, Robot, start_policy
from tests.policy_files import DenoiserTwin, Graph, MoeTwin, save, tensors
from vdd_ros.core.config_io import dump_json
from vdd_ros.evaluation.audit import HeldOut, calibrate_file
from vdd_ros.nodes.audit import AUDIT_FIELDS
from vdd_ros.nodes.diagnostics import read_labelled
from vdd_ros.nodes.driver import Driver
from vdd_ros.runtime.density import calibrated
from vdd_ros.runtime.diffusion_policy import DiffusionPolicy
from vdd_ros.runtime.graph import with_metadata
from vdd_ros.runtime.policy_file import PolicyFile

pytestmark = pytest.mark.ros

NAMED_WITHIN_S = 2.0
REACH = 0.9
"""The student of the audit learnt from states up to this far (m) from the middle."""


class Monitor:
    """Keeps the newest status of every name on /diagnostics."""

    def __init__(self, robot: Robot) -> None:
        self.newest: dict[str, tuple[int, str, dict[str, str]]] = {}
        self.robot = robot
        robot.driver.node.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_array, QoSProfile(depth=10)
        )

    def _on_array(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {entry.key: entry.value for entry in status.values}
            self.newest[status.name] = (status.level[0], status.message, values)

    def said(self, name: str, text: str) -> bool:
        """Tell whether the newest status of this name says the text."""
        return text in self.newest.get(f"{self.robot.path}: {name}", (0, "", {}))[1]


@pytest.fixture
def robot(driver: Driver) -> Robot:
    """A robot that says nothing yet."""
    made = Robot(driver)
    driver.node.destroy_publisher(made._state)
    return made


def timed(robot: Robot, done: Callable[[], bool], what: str) -> float:
    """Wait, and return how long it took."""
    begin = time.monotonic()
    robot.until(done, what)
    return time.monotonic() - begin


def test_what_does_not_connect_is_named_within_two_seconds(robot: Robot, student: MoeTwin) -> None:
    """Nobody, another type, other QoS, a publisher that dies: each by name, none for ever.

    The subscription is made reliable, so that a best-effort driver does not fit.
    """
    driver, node = robot.driver, robot.driver.node
    start_policy(
        driver,
        student.path,
        **{"qos_overrides./robot_state.subscription.reliability": "reliable"},
    )
    monitor = Monitor(robot)
    robot.until_reason("nobody publishes '/robot_state'")
    took: dict[str, float] = {}

    wrong = node.create_publisher(Float64, "robot_state", 1)
    took["type"] = timed(
        robot,
        lambda: "published as std_msgs/msg/Float64 by node '/test'" in robot.reasons[-1],
        "a wrong type",
    )
    node.destroy_publisher(wrong)
    robot.until_reason("nobody publishes")

    timid = node.create_publisher(
        JointState,
        "robot_state",
        QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
    )
    took["qos"] = timed(
        robot,
        lambda: (
            "QoS mismatch with node '/test': the publisher is best effort" in robot.reasons[-1]
        ),
        "a QoS mismatch",
    )
    node.destroy_publisher(timid)

    robot._state = node.create_publisher(JointState, "robot_state", 10)
    robot.active()
    late = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    deaf = node.create_subscription(PointStamped, "command", lambda m: None, late)
    # Acting all the while: the command goes out, only this listener cannot hear it.
    took["listener"] = timed(
        robot,
        lambda: (
            robot.pulse(lambda: robot.publish(*START))
            or monitor.said("control", "the subscription asks for transient local")
        ),
        "a listener that hears nothing",
    )
    node.destroy_subscription(deaf)

    def recovered() -> bool:
        robot.pulse(lambda: robot.publish(*START))
        return monitor.said("observations", "ok") and not monitor.said("control", "QoS")

    robot.until(recovered, "the end of the warning")
    node.destroy_publisher(robot._state)
    took["death"] = timed(
        robot, lambda: "nobody publishes '/robot_state'" in robot.reasons[-1], "a dead publisher"
    )
    assert "stale" in robot.reasons[-1]
    # The status of diagnostics comes once a second on top of what the graph takes.
    limits = {**dict.fromkeys(took, NAMED_WITHIN_S), "listener": NAMED_WITHIN_S + 1.0}
    assert {k: v for k, v in took.items() if v > limits[k]} == {}


def test_every_proposal_is_drawn_for_who_looks(driver: Driver, student: MoeTwin) -> None:
    """A ball per expert where it would go, as opaque as its weight; the acting one stands out."""
    robot = Robot(driver)
    start_policy(driver, student.path, selection__rule="argmax", frame_id="table")
    monitor = Monitor(robot)
    robot.active()
    found: list[MarkerArray] = []
    driver.node.create_subscription(MarkerArray, "policy/experts", found.append, 1)
    robot.until(
        lambda: robot.pulse(lambda: robot.publish(*START)) or len(found) > 3, "markers of experts"
    )
    markers = found[-1].markers
    out = student.outputs(np.array([[[*START, *START]]], np.float32))
    gate = np.exp(out["gating_logits"][0]) / np.exp(out["gating_logits"][0]).sum()
    balls = sorted((m for m in markers if m.ns == "experts"), key=lambda m: m.id)
    assert {m.type for m in balls} == {Marker.SPHERE}
    assert {m.header.frame_id for m in markers} == {"table"}
    drawn = np.array([[m.pose.position.x, m.pose.position.y] for m in balls])
    np.testing.assert_allclose(drawn, START + out["expert_actions"][0, :, 0], atol=1e-4)
    weights = [m.color.a for m in balls]
    np.testing.assert_allclose(np.argsort(weights), np.argsort(gate))
    (active,) = [m for m in markers if m.ns == "active"]
    np.testing.assert_allclose(
        [active.pose.position.x, active.pose.position.y], drawn[int(np.argmax(gate))]
    )
    assert active.scale.x > max(m.scale.x for m in balls)

    def acting() -> str:
        robot.pulse(lambda: robot.publish(*START))
        newest = monitor.newest.get("/policy: experts")
        # No expert acts while the node holds, as it does where this process has just stalled.
        return str(newest[2]["active_expert"]) if newest else "-1"

    robot.until(lambda: acting() != "-1" and "/policy: audit" in monitor.newest, "diagnostics")
    assert "no density" in monitor.newest["/policy: audit"][1]
    robot.until(lambda: acting() == str(int(np.argmax(gate))), "the expert of the heaviest gate")
    assert monitor.newest["/policy: experts"][2]["drawn"] == "command"
    timing = monitor.newest["/policy: timing"][2]
    for stage in ("decode", "infer", "safety", "publish", "tick"):
        assert 0 < float(timing[f"{stage}_p50_us"]) <= float(timing[f"{stage}_p99_us"])


@pytest.fixture(scope="module")
def audited(files: Path, teacher: DenoiserTwin) -> Path:
    """A student that agrees with the teacher on the states it learnt from, and not beyond.

    Its experts know the teacher's mean up to `REACH` and continue with what they know there. Like
    a distilled student it is too sure of itself: its deviation is 0.7 times the teacher's.
    """
    contract = teacher.contract
    eye = np.eye(4, dtype=np.float32).reshape(4, 1, 4)
    slope = (teacher.mean(eye).reshape(4, 2) * teacher.scale).astype(np.float32)
    width = np.diag(0.7 * teacher.deviation * teacher.scale).astype(np.float32)
    graph = Graph()
    flat = graph.op("Reshape", "observation", np.array([0, -1]))
    known = graph.op("Clip", flat, np.float32(-REACH), np.float32(REACH))
    mean = graph.op("Add", graph.op("MatMul", known, slope), teacher.offset)
    one = graph.op("Unsqueeze", mean, np.array([1, 2]))
    graph.op("Concat", one, one, axis=1, out="expert_actions")
    zero = graph.op("Mul", mean, np.float32(0))
    graph.op("Identity", zero, out="gating_logits")
    column = graph.op("Unsqueeze", zero, np.array([2, 3]))
    graph.op("Add", column, np.stack([width, width]), out="expert_scale")
    shapes = {
        "gating_logits": ["B", 2],
        "expert_actions": ["B", 2, 1, 2],
        "expert_scale": ["B", 2, 2, 2],
    }
    model = graph.build({"observation": ["B", 1, 4]}, shapes)
    sample = np.array([[[0.5, -0.2, 0.5, -0.2]]], np.float32)
    answer = sample.reshape(1, 4) @ slope + teacher.offset
    golden = {
        "inputs": tensors({"observation": sample}),
        "outputs": tensors(
            {
                "gating_logits": np.zeros((1, 2)),
                "expert_actions": np.tile(answer.reshape(1, 1, 1, 2), (1, 2, 1, 1)),
                "expert_scale": np.stack([width, width])[None],
            }
        ),
        "atol": 1e-5,
    }
    provenance = {"format_version": 1, "kind": "moe", "n_experts": 2}
    path = files / "audited.onnx"
    save(path, model, contract=contract, provenance=provenance, golden=golden)
    file = PolicyFile.open(path)
    place = np.random.default_rng(0).uniform(-REACH, REACH, (1000, 1, 2)).astype(np.float32)
    held_out = HeldOut(
        observation=np.concatenate([place, place], axis=-1),
        action=np.zeros((1000, 1, 2), np.float32),
        episode=np.arange(1000),
        data_hash="0" * 64,
    )
    shadow = DiffusionPolicy(PolicyFile.open(teacher.path))
    calibration, scores = calibrate_file(file, held_out, teacher=shadow)
    assert np.mean(scores < calibration.threshold) <= calibration.level
    provenance = calibrated(file, calibration)
    path.write_bytes(with_metadata(file.model, "vdd_ros.provenance", dump_json(provenance)))
    return path


@pytest.fixture
def pair(driver: Driver, audited: Path, teacher: DenoiserTwin) -> Robot:
    """A robot commanded by the student, its teacher in shadow."""
    robot = Robot(driver)
    start_policy(driver, audited, audit__on_drop="hand_over", audit__samples_per_false_alarm=1e5)
    shadow = {"policy": str(teacher.path), "role": "shadow", "prediction_rate_hz": 100.0}
    driver.start("teacher_node", parameters={**DEFAULTS, **shadow})
    robot.active()
    return robot


def test_the_audit_is_silent_where_all_is_well_and_finds_a_displaced_sensor(
    pair: Robot,
) -> None:
    """No alarm over 80 samples on states it learnt from; one soon after a sensor moved.

    The alarm is a fault in the status, so that a standby teacher takes over, and it ends when the
    sensor is back. With both nodes up, every topic of the committed layouts exists.
    """
    rows: list[dict[str, float]] = []

    def on_row(message: Any) -> None:
        rows.append(read_labelled(message))

    pair.driver.node.create_subscription(
        Float64MultiArray, "policy/audit", on_row, QoSProfile(depth=100)
    )
    monitor = Monitor(pair)
    rng = np.random.default_rng(1)

    def move(offset: float) -> None:
        x, y = rng.uniform(-0.8, 0.8, 2)
        pair.pulse(lambda: pair.publish(x + offset, y + offset))

    def until(done: Callable[[], bool], what: str, *, offset: float = 0.0) -> None:
        pair.until(lambda: move(offset) or done(), what)

    until(lambda: len(rows) >= 80, "80 nominal samples")
    assert set(rows[0]) == set(AUDIT_FIELDS)
    assert [r for r in rows if r["alarm"]] == []
    assert np.mean([r["drop"] for r in rows]) < 0.3
    assert all(np.isfinite(r["log_likelihood"]) for r in rows)
    nominal = len(rows)
    until(lambda: bool(rows[-1]["alarm"]), "an alarm", offset=2.5)
    late = len(rows) - nominal
    # Seven drops are enough. One may have come before, and nominal samples may be on their way.
    assert 5 <= late <= 20, f"{late} samples to the alarm"
    until(lambda: pair.status[max(pair.status)]["fault"] == 1, "a fault", offset=2.5)
    until(
        lambda: monitor.said("audit", "have become unlikely under the student"),
        "the alarm in diagnostics",
        offset=2.5,
    )
    level, _, values = monitor.newest["/policy: audit"]
    assert level == 2
    assert values["on_drop"] == "hand_over"
    until(lambda: not rows[-1]["alarm"], "the end of the alarm")
    topics = dict(pair.driver.node.get_topic_names_and_types())
    for topic, kind in layouts.rviz().items():
        assert topics.get(topic) == [kind], f"RViz layout: {topic}"
    in_layouts = {topic for topic, _, _ in layouts.plotjuggler()} | layouts.foxglove()[0]
    assert in_layouts - set(topics) == set(), "topics that no node has"
    until(lambda: pair.status[max(pair.status)]["fault"] == 0, "the end of the fault")
