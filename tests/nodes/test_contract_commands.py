"""`vdd contract` beside a living robot, and bags against what the node saw; over real DDS."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PointStamped, PoseStamped, TwistStamped, WrenchStamped
from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu, JointState, Joy
from std_msgs.msg import Bool, Float32, Float64, Float64MultiArray
from std_srvs.srv import Trigger

pytest.importorskip("rosbags.rosbag2", reason="bags need the extra [bags]")

from tests.nodes.anyrobot import AnyRobot, linear_policy
from tests.nodes.robot import start_policy, write_contract
from vdd_ros.core.config_io import load_yaml
from vdd_ros.core.contract import ActionField, ObservationField, PolicyContract, Qos
from vdd_ros.data.bag_rows import Alignment
from vdd_ros.data.rosbag import load_bags
from vdd_ros.nodes.driver import Driver

pytestmark = pytest.mark.ros

AGE_MS = 2000.0
ROUNDS = 12
TRIES = 10
"""Times a question is asked again: on a machine that stalls, an answer may say what was then."""


def observed(
    key: str, dim: int, type_name: str, select: tuple[str, ...] = (), **more: Any
) -> ObservationField:
    return ObservationField(key, dim, f"robot/{key}", type_name, select, max_age_ms=AGE_MS, **more)


OBSERVATIONS = (
    observed(
        "joints",
        3,
        "sensor_msgs/msg/JointState",
        ("position.b", "velocity.a", "effort.a"),
        apply=("rad2deg", "offset 1 2 3"),
    ),
    observed("odom", 2, "nav_msgs/msg/Odometry", ("twist.twist.linear.x", "pose.covariance.7")),
    observed("imu", 2, "sensor_msgs/msg/Imu", ("angular_velocity.z", "orientation_covariance.8")),
    observed("joy", 2, "sensor_msgs/msg/Joy", ("buttons.1", "axes.0"), apply=("negate",)),
    observed("wrench", 1, "geometry_msgs/msg/WrenchStamped", ("wrench.force.z",)),
    observed("point", 3, "geometry_msgs/msg/PointStamped", apply=("scale 0.001 1 1000",)),
    observed("pose", 7, "geometry_msgs/msg/PoseStamped"),
    observed("twist", 1, "geometry_msgs/msg/TwistStamped", ("twist.angular.y",)),
    observed(
        "array", 2, "std_msgs/msg/Float64MultiArray", ("data.3", "data.1"), apply=("clamp -1 1",)
    ),
    observed("single", 1, "std_msgs/msg/Float32"),
    observed("switch", 1, "std_msgs/msg/Bool"),
)
DIM = sum(o.dim for o in OBSERVATIONS)
CONTRACT = PolicyContract(
    "everything observed",
    20.0,
    OBSERVATIONS,
    (
        ActionField(
            "echo",
            DIM,
            "robot/command",
            "sensor_msgs/msg/JointState",
            tuple(f"position.o{i}" for i in range(DIM)),
        ),
    ),
)
"""Commands are what was observed, so that a recording holds both."""


def messages(values: NDArray[np.float64]) -> dict[str, Any]:
    """Spread numbers [DIM] over messages of every type."""
    v = iter(values.tolist())
    b, va, ea = next(v), next(v), next(v)
    joints = JointState(name=["a", "b"], position=[7.0, b], velocity=[va, 8.0], effort=[ea, 9.0])
    odom, imu, wrench = Odometry(), Imu(), WrenchStamped()
    odom.twist.twist.linear.x, odom.pose.covariance[7] = next(v), next(v)
    imu.angular_velocity.z, imu.orientation_covariance[8] = next(v), next(v)
    joy = Joy(buttons=[0, round(10 * next(v))], axes=[next(v), 0.0])
    wrench.wrench.force.z = next(v)
    point, pose, twist = PointStamped(), PoseStamped(), TwistStamped()
    point.point.x, point.point.y, point.point.z = next(v), next(v), next(v)
    p, q = pose.pose.position, pose.pose.orientation
    p.x, p.y, p.z, q.x, q.y, q.z, q.w = (next(v) for _ in range(7))
    twist.twist.angular.y = next(v)
    three, one = next(v), next(v)
    array = Float64MultiArray(data=[0.0, one, 0.0, three])
    single, switch = Float32(data=next(v)), Bool(data=next(v) > 0)
    parts = (joints, odom, imu, joy, wrench, point, pose, twist, array, single, switch)
    return {o.topic: part for o, part in zip(OBSERVATIONS, parts, strict=True)}


def twin(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the observation [DIM] that those messages make, by numpy alone."""
    v = values.copy()
    v[0:3] = np.degrees(v[0:3]) + np.array([1.0, 2.0, 3.0])
    v[7], v[8] = -round(10 * v[7]), -np.float32(v[8])
    v[10:13] *= [0.001, 1.0, 1000.0]
    v[21:23] = np.clip(v[21:23], -1.0, 1.0)
    v[23], v[24] = np.float32(v[23]), float(v[24] > 0)
    return v.astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contract")


@pytest.fixture(scope="module")
def robot(folder: Path) -> Iterator[AnyRobot]:
    """A robot of every observable message type, and a node that sends back what it sees."""
    policy = linear_policy(folder / "echo.onnx", CONTRACT, np.eye(DIM))
    with Driver("test", own_domain=True) as driver:
        made = AnyRobot(driver, CONTRACT)
        start_policy(driver, policy, black_box__folder=str(folder / "boxes"))
        first = messages(np.full(DIM, 0.5))
        made.send_until(first, lambda: bool(made.heard["robot/command"]), "a first answer")
        yield made


def values_of(index: int) -> NDArray[np.float64]:
    return np.random.default_rng(index).uniform(-1.5, 1.5, DIM)


@pytest.fixture(scope="module")
def bag(robot: AnyRobot, folder: Path) -> Path:
    """What the node recorded of some rounds, each of which it was seen to answer."""
    for _ in range(TRIES):
        found = dump(robot, folder)
        if found is not None:
            return found
    raise AssertionError(f"the machine stalled in each of {TRIES} short runs")


def dump(robot: AnyRobot, folder: Path) -> Path | None:
    """Run all rounds and have them written; None where the node wrote for another reason."""
    for index in range(ROUNDS):
        robot.send_until(messages(values_of(index)), answered(robot, index), f"answer {index}")
    before = written(folder)
    robot.ask_until(
        Trigger,
        "policy/dump",
        lambda: bool(written(folder) - before),
        meanwhile=lambda: robot.send(messages(values_of(0))),
    )
    made = max(written(folder) - before)
    demos, _ = load_bags([made], CONTRACT, Alignment(pair="stamp", min_rows=1))
    have = {row.tobytes() for row in demos.observation}
    return made if all(twin(values_of(i)).tobytes() in have for i in range(ROUNDS)) else None


def written(folder: Path) -> set[Path]:
    """Bags that are finished."""
    return set((folder / "boxes").glob("black_box_*Z"))


def answered(robot: AnyRobot, index: int) -> Callable[[], bool]:
    wanted = twin(values_of(index)).astype(np.float64).tolist()
    return lambda: any(list(m.position) == wanted for m in robot.heard["robot/command"])


def test_the_node_sees_what_numpy_computes_bit_for_bit(robot: AnyRobot) -> None:
    """Every observable message type, selected and converted, in single precision."""
    robot.send_until(messages(values_of(77)), answered(robot, 77), "an answer to every type")


def test_a_recording_is_read_as_the_node_saw_it_bit_for_bit(robot: AnyRobot, bag: Path) -> None:
    """Live codecs and those of bags: what was commanded is what is read as observed."""
    del robot
    demos, audit = load_bags([bag], CONTRACT, Alignment(pair="stamp", min_rows=1))
    assert len(demos.observation) >= ROUNDS
    np.testing.assert_array_equal(demos.action, demos.observation)
    assert audit.paired_by == "stamp"
    assert all(field.malformed == 0 for field in audit.fields)


def checked(
    robot: AnyRobot,
    path: str,
    done: Callable[[dict[str, Any]], bool],
    meanwhile: Callable[[], Any],
    *,
    seconds: int = 10,
) -> tuple[int, dict[str, Any]]:
    """Check a contract against the robot until the answer is what it has to be, or give up."""
    for _ in range(TRIES):
        words = ("contract", "check", path, "--live", "--seconds", str(seconds))
        code, answer = robot.run(*words, meanwhile=meanwhile)
        if done(answer):
            break
    return code, answer


def test_a_drafted_contract_fits_the_robot_it_was_recorded_from(
    robot: AnyRobot, bag: Path, folder: Path
) -> None:
    """From the bag to a contract, from the contract to the living robot, nothing by hand."""
    draft = folder / "drafted.yaml"

    def going_on() -> None:
        robot.send(messages(values_of(3)))

    words = ("contract", "from-bag", str(bag), "--out", str(draft), "--actions", "robot/command")
    code, answer = robot.run(*words, meanwhile=going_on)
    assert code == 0, answer
    assert answer["actions"] == ["/robot/command"]
    assert {f"/{o.topic}" for o in OBSERVATIONS} <= set(answer["observations"])
    drafted = load_yaml(PolicyContract, draft)
    types = {o.topic: o.type for o in drafted.observations}
    assert {o.topic: o.type for o in OBSERVATIONS}.items() <= types.items()
    code, answer = checked(robot, str(draft), lambda a: a["ok"], going_on)
    assert (code, answer["misfits"]) == (0, [])
    for entry in OBSERVATIONS:
        assert any(line.startswith(f"{entry.topic}: ") for line in answer["topics"])
    # Read through the draft, the bag still says what it says through the contract.
    through, _ = load_bags([bag], drafted, Alignment(min_rows=1))
    known, _ = load_bags([bag], CONTRACT, Alignment(min_rows=1))
    (pose,) = [o for o in drafted.observations if o.topic == "robot/pose"]
    rows = through.observation[:, drafted.observation_slice(pose.key)]
    mine = {row.tobytes() for row in known.observation[:, CONTRACT.observation_slice("pose")]}
    assert len(rows) > 1
    assert {np.ascontiguousarray(row).tobytes() for row in rows} <= mine


def test_a_robot_that_fits_passes_and_its_commander_is_named(
    robot: AnyRobot, folder: Path
) -> None:
    """Every topic with its messages; that somebody commands already is a note."""
    path = write_contract(folder / "fits.yaml", CONTRACT)
    note = "topic '/robot/command': node '/policy' commands it now"
    code, answer = checked(
        robot,
        path,
        lambda a: a["ok"] and note in a["notes"],
        lambda: robot.send(messages(values_of(4))),
    )
    assert code == 0
    assert answer["misfits"] == []
    assert note in answer["notes"]
    assert len(answer["topics"]) == len(OBSERVATIONS)


def test_everything_that_does_not_fit_the_robot_is_named_at_once(tmp_path: Path) -> None:
    """A joint, a type, a quality of service each way, a silent topic: by topic and node."""
    kept = Qos("reliable", "transient_local", 1)
    changes = {
        "joints": {"select": ("position.b", "velocity.a", "effort.gripper")},
        "point": {"qos": kept},
        "switch": {"topic": "robot/nobody"},
        "wrench": {"max_age_ms": 1.0},
    }
    wanted = dataclasses.replace(
        CONTRACT,
        observations=tuple(
            dataclasses.replace(o, **changes.get(o.key, {})) for o in CONTRACT.observations
        ),
        actions=(
            *CONTRACT.actions,
            ActionField("base", 1, "cmd_vel", "geometry_msgs/msg/Twist"),
            ActionField("grip", 1, "grip", "std_msgs/msg/Bool"),
        ),
    )
    path = write_contract(tmp_path / "misfits.yaml", wanted)
    with Driver("test", own_domain=True) as driver:
        node = driver.node
        robot = AnyRobot(driver, CONTRACT)
        node.destroy_publisher(robot.publishers.pop("robot/twist"))
        wrong = node.create_publisher(Float64, "robot/twist", 1)
        node.create_subscription(Float64, "cmd_vel", lambda m: None, 1)
        demanding = QoSProfile(
            depth=1,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )
        node.create_subscription(Bool, "grip", lambda m: None, demanding)
        said = {t: m for t, m in messages(values_of(5)).items() if t in robot.publishers}

        def going_on() -> None:
            robot.send(said, old_s={"robot/wrench": 0.5})
            wrong.publish(Float64())

        parts = (
            ("/robot/joints", "no joint 'gripper' in the message, which names a, b"),
            ("/robot/point", "asks for transient_local durability, node '/test' offers less"),
            ("/robot/nobody", "nobody publishes it"),
            ("/robot/wrench", "the contract allows 1 ms: synchronise the clocks"),
            ("/robot/twist", "std_msgs/msg/Float64 by node '/test'"),
            ("/cmd_vel", "node '/test' takes std_msgs/msg/Float64, the contract sends geometry"),
            ("/grip", "node '/test' asks for transient_local durability, the contract sends"),
        )

        def named(answer: dict[str, Any]) -> list[bool]:
            texts = answer["misfits"]
            return [any(topic in t and text in t for t in texts) for topic, text in parts]

        code, answer = checked(
            robot,
            path,
            lambda a: all(named(a)) and len(a["misfits"]) == len(parts),
            going_on,
            seconds=4,  # one topic says nothing: it is waited for in vain
        )
        assert code == 1
        assert all(named(answer)), answer["misfits"]
        assert len(answer["misfits"]) == len(parts)
