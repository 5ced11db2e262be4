"""How predictions and observations find each other, and where an action can be drawn."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray, MultiArrayDimension

from tests.policy_files import MoeTwin, make_contract, make_moe_file
from vdd_ros.control.tick import Tick
from vdd_ros.core.config_io import load_yaml
from vdd_ros.core.contract import ActionField, PolicyContract
from vdd_ros.core.health import Health
from vdd_ros.core.shipped import shipped_file
from vdd_ros.nodes.audit import AuditSettings, TeacherAudit, read_prediction
from vdd_ros.nodes.experts import places
from vdd_ros.nodes.graph import qos_misfits
from vdd_ros.runtime.density import Calibration, Density, calibrate
from vdd_ros.runtime.policy_file import PolicyFile

STEP_NS = 10_000_000


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> MoeTwin:
    """A student of two-step chunks with its density."""
    return make_moe_file(tmp_path_factory.mktemp("dense") / "dense.onnx", density=True)


def calibration(**changes: Any) -> Calibration:
    """Scores from -100 to 0 are nominal."""
    made = calibrate(
        np.linspace(-100.0, 0.0, 200),
        actions="teacher",
        n_episodes=10,
        steps_apart=3,
        horizon=2,
        data_hash="ab",
    )
    return dataclasses.replace(made, **changes)


def auditor(dense: MoeTwin, **changes: Any) -> TeacherAudit:
    """An audit at 100 Hz."""
    return TeacherAudit(
        AuditSettings(hand_over=changes.pop("hand_over", False)),
        contract=dense.contract,
        rate_hz=100.0,
        density=Density(PolicyFile.open(dense.path)),
        calibration=calibration(**changes),
    )


def observed(audit: TeacherAudit, step: int) -> np.ndarray:
    """Let the student see the observation of a step; return its window."""
    window = np.random.default_rng(step).standard_normal((2, 3)).astype(np.float32)
    audit.on_tick(Tick(window=window, observed_ns=step * STEP_NS))
    return window


def prediction(step: int, chunk: np.ndarray) -> Any:
    """The message a teacher sends."""
    message = Float64MultiArray()
    message.layout.dim = [MultiArrayDimension(size=n) for n in chunk.shape]
    message.layout.data_offset = 2
    stamp = divmod(step * STEP_NS, 10**9)
    message.data = [*map(float, stamp), *chunk.ravel().tolist()]
    return message


def test_a_prediction_is_scored_at_the_observation_it_answers(dense: MoeTwin) -> None:
    """Not at the newest: the student saw other things since."""
    audit = auditor(dense)
    windows = {step: observed(audit, step) for step in range(100, 120)}
    chunk = np.full((2, 2), 0.3)
    assert audit.on_prediction(prediction(105, chunk))
    expected = Density(PolicyFile.open(dense.path)).log_prob(windows[105], chunk)
    assert audit.score == pytest.approx(expected, rel=1e-6)
    assert audit.detector.samples == 1


def test_samples_are_taken_as_far_apart_as_calibrated(dense: MoeTwin) -> None:
    """A quick teacher is heard every third step, and again at once when the clock is set back."""
    audit = auditor(dense)
    for step in range(100, 130):
        observed(audit, step)
    scored = [
        step for step in range(100, 130) if audit.on_prediction(prediction(step, np.ones((2, 2))))
    ]
    assert scored == list(range(100, 130, 3))
    observed(audit, 5)
    assert audit.on_prediction(prediction(5, np.ones((2, 2))))


def test_a_quick_teacher_waits_for_the_student_and_lost_ones_are_counted(dense: MoeTwin) -> None:
    """A prediction may come before the student's own tick; one of an unseen state is no drop."""
    audit = auditor(dense)
    observed(audit, 100)
    assert not audit.on_prediction(prediction(101, np.ones((2, 2))))
    observed(audit, 101)
    assert audit.look_again()
    assert not audit.on_prediction(prediction(500, np.ones((2, 2))))
    assert not audit.look_again()
    assert not audit.look_again()
    assert (audit.detector.samples, audit.unmatched) == (1, 1)


def test_what_is_no_prediction_is_refused_by_name(dense: MoeTwin) -> None:
    """A teacher of another robot, a short chunk, a foreign message: said, not scored."""
    audit = auditor(dense)
    observed(audit, 100)
    for chunk, said in [
        (np.ones((2, 5)), "2 actions of 5 values"),
        (np.ones((1, 2)), "1 actions of 2 values"),
    ]:
        assert not audit.on_prediction(prediction(100, chunk))
        assert said in audit.verdict()[1]
        assert audit.verdict()[0] == Health.WARN
    assert not audit.on_prediction(Float64MultiArray(data=[1.0, 2.0]))
    assert "not a prediction" in audit.verdict()[1]
    broken = prediction(100, np.ones((2, 2)))
    broken.data[0] = float("nan")
    with pytest.raises(ValueError, match="not a prediction"):
        read_prediction(broken)
    assert audit.on_prediction(prediction(100, np.ones((2, 2))))
    assert audit.detector.samples == 1


@pytest.mark.parametrize("hand_over", [False, True])
def test_a_lasting_drop_is_a_warning_or_a_fault(dense: MoeTwin, hand_over: bool) -> None:
    """Actions that the student finds impossible, NaN among them: an alarm, asked for or not."""
    audit = auditor(dense, hand_over=hand_over)
    assert audit.verdict()[0] == (Health.WARN if hand_over else Health.OK)
    step = 100
    while not audit.detector.alarm:
        observed(audit, step)
        wild = np.full((2, 2), np.nan if step % 2 else 1e6)
        assert audit.on_prediction(prediction(step, wild))
        step += 3
    assert audit.detector.samples == audit.detector.fewest_samples
    level, message = audit.verdict()
    assert level == (Health.ERROR if hand_over else Health.WARN)
    assert "unlikely under the student" in message
    assert bool(audit.fault) == hand_over
    audit.forget()
    assert not audit.fault


def test_old_observations_are_forgotten(dense: MoeTwin) -> None:
    """The ring holds two seconds: a teacher slower than that is told so by the count."""
    audit = auditor(dense)
    for step in range(1, 300):
        observed(audit, step)
    assert not audit.on_prediction(prediction(90, np.ones((2, 2))))
    audit.look_again()
    assert audit.unmatched == 1
    assert audit.on_prediction(prediction(110, np.ones((2, 2))))


def drawn(*actions: ActionField) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Places of a contract with these actions."""
    contract = dataclasses.replace(make_contract(), actions=actions)
    return [(p.topic, p.columns, p.axes) for p in places(contract)]


def test_only_places_are_drawn() -> None:
    """Points and poses, or values named x and y in metres; no velocities, joints or forces."""
    point, pose = "geometry_msgs/msg/PointStamped", "geometry_msgs/msg/PoseStamped"
    twist, joints = "geometry_msgs/msg/TwistStamped", "sensor_msgs/msg/JointState"
    assert drawn(ActionField(key="p", dim=2, topic="a", type=point)) == [("a", (0, 1), (0, 1))]
    assert drawn(ActionField(key="p", dim=7, topic="a", type=pose)) == [
        ("a", (0, 1, 2), (0, 1, 2))
    ]
    named = ("position.q", "position.y", "position.x")
    assert drawn(ActionField(key="p", dim=3, topic="a", type=joints, select=named, unit="m")) == [
        ("a", (1, 2), (1, 0))
    ]
    assert drawn(
        ActionField(key="gap", dim=1, topic="b", type="std_msgs/msg/Float64", unit="rad"),
        ActionField(key="x", dim=1, topic="a", type=point, select=("point.x",)),
        ActionField(key="y", dim=1, topic="a", type=point, select=("point.y",)),
    ) == [("a", (1, 2), (0, 1))]
    for kind, unit in ((twist, "m/s"), (joints, "rad")):
        assert drawn(ActionField(key="p", dim=3, topic="a", type=kind, unit=unit)) == []


def test_increments_are_drawn_from_where_they_start() -> None:
    """A chunk of steps is a path that begins at the observation it is relative to."""
    contract = load_yaml(PolicyContract, shipped_file("config/contracts/avoiding.yaml"))
    (place,) = places(contract)
    row = np.array([0.5, -0.2, 9.0, 9.0], np.float32)
    base = contract.observation_slice(contract.actions[0].relative_to)
    steps = np.tile([0.1, 0.2], (3, 4, 1))
    path = place.points(steps, row)
    assert path.shape == (3, 4, 3)
    np.testing.assert_allclose(path[1, 0, :2], row[base] + [0.1, 0.2], atol=1e-6)
    np.testing.assert_allclose(path[2, 3, :2], row[base] + [0.4, 0.8], atol=1e-6)


def test_qos_that_nobody_set_fits_and_every_real_misfit_is_found() -> None:
    """Offered must be at least asked: reliability, durability, deadline, liveliness."""
    plain = QoSProfile(depth=1)
    assert qos_misfits(plain, plain) == []
    endless = QoSProfile(depth=1, deadline=Duration(nanoseconds=2**63 - 1))
    assert qos_misfits(endless, plain) == qos_misfits(plain, endless) == []
    timid = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    assert qos_misfits(plain, timid) == []
    assert ["best effort" in t for t in qos_misfits(timid, plain)] == [True]
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    assert qos_misfits(latched, plain) == []
    assert ["volatile" in t for t in qos_misfits(plain, latched)] == [True]
    quick = QoSProfile(depth=1, deadline=Duration(seconds=0.1))
    assert qos_misfits(quick, plain) == []
    assert ["deadline" in t for t in qos_misfits(plain, quick)] == [True]
    strict = QoSProfile(
        depth=1,
        liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
        liveliness_lease_duration=Duration(seconds=1),
    )
    assert qos_misfits(strict, plain) == []
    assert len(qos_misfits(plain, strict)) == 2


def test_shipped_contracts_are_drawn() -> None:
    """The simulated robots' commands are points: both have something to show in RViz."""
    for name in ("avoiding", "pusht"):
        contract = load_yaml(PolicyContract, shipped_file(f"config/contracts/{name}.yaml"))
        assert places(contract), name
