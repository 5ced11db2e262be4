"""Every message type gives back the numbers that were written, wherever joints stand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")

from trajectory_msgs.msg import JointTrajectoryPoint

from vdd_ros.codecs.schemas import has_header
from vdd_ros.codecs.table import CODECS, make_decoder
from vdd_ros.core.errors import VddError
from vdd_ros.nodes.codecs import make_encoder, message_class

JOINTS = ("elbow", "wrist", "shoulder.pan")
FINITE = st.floats(-1e6, 1e6, width=32)


def selection(type_name: str) -> tuple[str, ...]:
    if type_name.endswith("JointState"):
        return ("position.elbow", "velocity.wrist", "position.shoulder.pan")
    if type_name.endswith("JointTrajectory"):
        return tuple(f"positions.{j}" for j in JOINTS)
    if type_name.endswith("Joy"):
        return ("axes.2", "axes.0", "axes.4")
    if type_name.endswith("MultiArray"):
        return ("data.3", "data.0", "data.1")
    return CODECS[type_name].default


@pytest.mark.parametrize("type_name", CODECS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_what_is_written_is_read(type_name: str, data: st.DataObject) -> None:
    """Decoding an encoded message gives the same numbers, again and again in one message."""
    select = selection(type_name)
    encoder = make_encoder(type_name, select, len(select), horizon=2, step_s=0.1)
    decoder = make_decoder(type_name, select, len(select))
    for _ in range(2):
        numbers = st.sampled_from((0.0, 1.0)) if type_name.endswith("Bool") else FINITE
        values = data.draw(st.lists(numbers, min_size=len(select), max_size=len(select)))
        encoder.write(np.array([values]))
        assert list(decoder.read(encoder.message)) == values


@pytest.mark.parametrize("type_name", CODECS)
def test_messages_are_valid_for_ros(type_name: str) -> None:
    """What an encoder makes is serialised by the middleware, which checks every field."""
    from rclpy.serialization import deserialize_message, serialize_message

    select = selection(type_name)
    encoder = make_encoder(type_name, select, len(select), horizon=2, step_s=0.1)
    encoder.write(np.arange(2.0 * len(select)).reshape(2, -1))
    sent = deserialize_message(serialize_message(encoder.message), message_class(type_name))
    assert list(make_decoder(type_name, select, len(select)).read(sent)) == list(
        range(len(select))
    )


@given(st.permutations(["a", "b", "c", "d"]))
@settings(deadline=None)
def test_joints_are_found_by_name_in_any_order(order: list[str]) -> None:
    """A driver may report joints in any order, and change it between two messages."""
    decoder = make_decoder("sensor_msgs/msg/JointState", ("position.c", "position.a"), 2)
    value = dict(zip("abcd", (1.0, 2.0, 3.0, 4.0), strict=True))
    message = message_class("sensor_msgs/msg/JointState")()
    for names in (["a", "b", "c", "d"], order):
        message.name = names
        message.position = [value[n] for n in names]
        assert list(decoder.read(message)) == [3.0, 1.0]


def test_a_missing_joint_is_named_and_comes_back() -> None:
    """The error names the joint that is missing and those that are there; a later one is read."""
    decoder = make_decoder("sensor_msgs/msg/JointState", ("position.gripper",), 1)
    message = message_class("sensor_msgs/msg/JointState")(name=["a", "b"], position=[1.0, 2.0])
    with pytest.raises(VddError, match=r"no joint 'gripper'.*names a, b"):
        decoder.read(message)
    message.name = ["gripper", "b"]
    assert list(decoder.read(message)) == [1.0]


def test_an_array_shorter_than_its_names_is_refused() -> None:
    """Drivers leave velocity empty: that is an error with a reason, not an index crash."""
    decoder = make_decoder("sensor_msgs/msg/JointState", ("velocity.a",), 1)
    message = message_class("sensor_msgs/msg/JointState")(name=["a"], position=[1.0])
    with pytest.raises(VddError, match="'velocity' holds 0 values for 1 names"):
        decoder.read(message)
    with pytest.raises(VddError, match="holds 0 values"):
        make_decoder("std_msgs/msg/Float64MultiArray", (), 2).read(
            message_class("std_msgs/msg/Float64MultiArray")()
        )


def test_a_trajectory_carries_the_plan_with_its_times() -> None:
    """Point i is due i + 1 steps from now; a shorter plan leaves no stale point behind."""
    select = tuple(f"positions.{j}" for j in JOINTS)
    encoder = make_encoder(
        "trajectory_msgs/msg/JointTrajectory", select, 3, horizon=30, step_s=0.05
    )
    plan = np.random.default_rng(0).normal(size=(30, 3))
    encoder.write(plan)
    assert encoder.message.joint_names == list(JOINTS)
    assert [list(p.positions) for p in encoder.message.points] == plan.tolist()
    due = [
        p.time_from_start.sec + p.time_from_start.nanosec * 1e-9 for p in encoder.message.points
    ]
    np.testing.assert_allclose(due, 0.05 * np.arange(1, 31))
    encoder.write(plan[:1])
    assert len(encoder.message.points) == 1
    encoder.write(plan)
    assert len(encoder.message.points) == 30
    assert isinstance(encoder.message.points[0], JointTrajectoryPoint)


@pytest.mark.parametrize(
    ("type_name", "select", "expected"),
    [
        ("sensor_msgs/msg/JointStat", (), "did you mean 'sensor_msgs/msg/JointState'"),
        ("sensor_msgs/msg/JointState", (), "by joint name; give 'select'"),
        ("sensor_msgs/msg/JointState", ("positon.a",), "'<array>.<joint name>'"),
        ("sensor_msgs/msg/JointState", ("position",), "'<array>.<joint name>'"),
        ("geometry_msgs/msg/PointStamped", ("point.w",), "'point.w' does not exist"),
        ("geometry_msgs/msg/PointStamped", ("pont.x",), "'pont.x' does not exist"),
        ("geometry_msgs/msg/PointStamped", ("point",), "is a Point, not a number"),
        ("std_msgs/msg/Float64MultiArray", ("data.x",), "'<array>.<index>'"),
        ("std_msgs/msg/Float64MultiArray", ("dat.0",), "did you mean 'data'"),
    ],
)
def test_wrong_selections_are_refused_by_name(
    type_name: str, select: tuple[str, ...], expected: str
) -> None:
    """A selection that a type does not have is found when the codec is built, not at a tick."""
    with pytest.raises(VddError, match=expected):
        make_decoder(type_name, select, len(select) or 1)


def test_a_field_cannot_want_more_than_a_type_has() -> None:
    """Without a selection the values of the type are taken in order, as far as there are any."""
    assert list(
        make_decoder("geometry_msgs/msg/Point", (), 2).read(
            message_class("geometry_msgs/msg/Point")(x=1.0, y=2.0, z=3.0)
        )
    ) == [1.0, 2.0]
    with pytest.raises(VddError, match="has 3 values, the field wants 4"):
        make_decoder("geometry_msgs/msg/Point", (), 4)


def test_velocity_commands_of_a_trajectory_are_refused() -> None:
    """A trajectory is commanded by positions."""
    with pytest.raises(VddError, match=r"expected 'positions\.<joint>'"):
        make_encoder("trajectory_msgs/msg/JointTrajectory", ("velocities.a",), 1)


def test_an_unselected_kind_of_value_is_not_commanded() -> None:
    """In a JointState with mixed kinds, what nobody set is NaN: 'not commanded' in ROS."""
    encoder = make_encoder("sensor_msgs/msg/JointState", ("position.a", "velocity.b"), 2)
    encoder.write(np.array([[1.0, 2.0]]))
    assert encoder.message.name == ["a", "b"]
    np.testing.assert_array_equal(encoder.message.position, [1.0, np.nan])
    np.testing.assert_array_equal(encoder.message.velocity, [np.nan, 2.0])


def test_headers_are_known() -> None:
    """Only stamped types carry the time of the observation they answer."""
    stamped = {name for name in CODECS if has_header(name)}
    assert "sensor_msgs/msg/JointState" in stamped
    assert "geometry_msgs/msg/PointStamped" in stamped
    assert "geometry_msgs/msg/Point" not in stamped
