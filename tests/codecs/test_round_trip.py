"""What is encoded is decoded again, for every type, selection and chain of operators."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vdd_ros.codecs.check import PLAIN
from vdd_ros.codecs.schemas import SCHEMAS, array_of
from vdd_ros.codecs.table import CODECS, make_decoder, make_encoder
from vdd_ros.codecs.topics import topic_readers, topic_writers
from vdd_ros.core.contract import ActionField, ObservationField, TopicField
from vdd_ros.core.errors import VddError
from vdd_ros.core.operators import parse_operators

NUMBER = st.floats(-1e3, 1e3)
FACTOR = st.floats(0.01, 100).flatmap(lambda v: st.sampled_from((v, -v)))
INVERTIBLE = st.one_of(
    st.sampled_from(("deg2rad", "rad2deg", "negate")),
    FACTOR.map(lambda v: f"scale {v!r}"),
    NUMBER.map(lambda v: f"offset {v!r}"),
)
WIDE = {
    "nav_msgs/msg/Odometry": (
        "pose.pose.position.x",
        "twist.twist.angular.z",
        "pose.covariance.7",
    ),
    "sensor_msgs/msg/Imu": ("orientation.w", "linear_acceleration.z", "orientation_covariance.8"),
    "sensor_msgs/msg/Joy": ("axes.3", "buttons.1", "axes.0", "buttons.5"),
}
"""Selections that mix scalars, arrays and whole numbers."""


def selections(type_name: str) -> st.SearchStrategy[tuple[str, ...]]:
    codec = CODECS[type_name]
    if codec.family == "path":
        own = codec.default or tuple(f"{codec.array}.{i}" for i in range(6))
        pool = sorted({*own, *WIDE.get(type_name, ())})
    elif codec.family == "joints":
        pool = [f"{a}.{j}" for a in ("position", "velocity") for j in ("a", "b.c", "d/e")]
    else:
        pool = [f"positions.{j}" for j in ("a", "b.c", "d/e", "f")]
    return st.lists(st.sampled_from(pool), min_size=1, unique=True).map(tuple)


def values_for(type_name: str, select: tuple[str, ...]) -> st.SearchStrategy[list[float]]:
    if type_name.endswith("/Bool"):
        return st.lists(st.sampled_from((0.0, 1.0)), min_size=1, max_size=1)
    whole = [path.startswith("buttons") for path in select]
    narrow = "Float32" in type_name or type_name.endswith("/Joy")
    return st.tuples(
        *(
            st.integers(-5, 5).map(float)
            if w
            else st.floats(-1e6, 1e6, width=32 if narrow else 64)
            for w in whole
        )
    ).map(list)


@pytest.mark.parametrize("type_name", CODECS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_decoding_undoes_encoding_for_any_selection(type_name: str, data: st.DataObject) -> None:
    """Whatever is selected in whatever order, the numbers come back as they were written."""
    select = data.draw(selections(type_name))
    encoder = make_encoder(type_name, select, len(select), empty=PLAIN.empty, horizon=2)
    decoder = make_decoder(type_name, select, len(select))
    for _ in range(2):
        values = data.draw(values_for(type_name, select))
        encoder.write(np.array([values]))
        assert list(decoder.read(encoder.message)) == values


@given(st.lists(INVERTIBLE, max_size=4), st.lists(NUMBER, min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_commands_go_back_through_their_operators(chain: list[str], values: list[float]) -> None:
    """A command read as a policy would observe it is the command, whatever the chain."""
    try:
        operators = parse_operators(chain, 3)
    except VddError:
        assume(False)
    field = ActionField("a", 3, topic="t", type="geometry_msgs/msg/Point", apply=tuple(chain))
    (writer,) = topic_writers([field], empty=PLAIN.empty)
    (reader,) = topic_readers([field])
    message = writer.write(np.array([values]), 0)
    # Rounding is in proportion to the largest number on the way.
    scale = 1 + float(np.max(np.abs(operators.offset))) + max(map(abs, values))
    np.testing.assert_allclose(reader.read(message), values, atol=1e-11 * scale, rtol=0)


@given(st.lists(INVERTIBLE, max_size=4), st.lists(NUMBER, min_size=2, max_size=2))
@settings(max_examples=100, deadline=None)
def test_a_chain_is_its_operators_one_after_the_other(
    chain: list[str], values: list[float]
) -> None:
    """Folding a chain, clamps included, changes nothing but rounding."""
    texts = [*chain, "clamp -3 4", *chain]
    try:
        folded = parse_operators(texts, 2)
    except VddError:
        assume(False)
    expected = np.array(values)
    largest = 1.0
    for text in texts:
        expected = parse_operators([text], 2).forward(expected)
        largest = max(largest, float(np.abs(expected).max()))
    # What is clamped is rounded as the chain's own numbers are, in front of the clamp and behind.
    span = largest * max(1.0, float(np.abs(folded.scale).max())) + np.abs(folded.offset).max()
    np.testing.assert_allclose(folded.forward(values), expected, atol=1e-9 * span, rtol=1e-9)


def test_a_clamp_does_not_make_a_number_of_what_is_none() -> None:
    """An infinite reading stays visible to the guard instead of looking like a limit."""
    clamp = parse_operators(["clamp -1 1"], 2)
    assert clamp.forward([5.0, -0.5]).tolist() == [1.0, -0.5]
    assert np.isinf(clamp.forward([np.inf, 0.0])[0])
    assert np.isnan(clamp.forward([np.nan, 0.0])[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deg2rads", "did you mean 'deg2rad'"),
        ("scale", "0 numbers for 3 values"),
        ("scale 0", "neither zero"),
        ("scale 1e-40", "neither zero"),
        ("scale 1 2", "2 numbers for 3 values"),
        ("offset nan", "finite"),
        ("clamp 1 -1", "not below"),
        ("scale x", "not numbers"),
        ("", "no operator ''"),
    ],
)
def test_a_wrong_operator_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(VddError, match=message):
        ObservationField("o", 3, apply=(text,))


def test_a_command_cannot_be_clamped_in_the_message() -> None:
    with pytest.raises(VddError, match=r"limits\.min and limits\.max"):
        ActionField("a", 1, apply=("clamp 0 1",))


@given(st.permutations(["a", "b", "c", "d", "e"]), st.sampled_from(["JointState", "Trajectory"]))
@settings(max_examples=60, deadline=None)
def test_the_order_of_joints_never_changes_the_vector(order: list[str], kind: str) -> None:
    """Drivers name joints in any order and change it; the vector is by name."""
    value = dict(zip("abcde", range(5), strict=True))
    select = ("c", "a", "e")
    if kind == "JointState":
        type_name, array = "sensor_msgs/msg/JointState", "position"
        message = PLAIN.empty(type_name)
        owner = message
    else:
        type_name, array = "trajectory_msgs/msg/JointTrajectory", "positions"
        message = PLAIN.empty(type_name)
        owner = PLAIN.empty("trajectory_msgs/msg/JointTrajectoryPoint")
        message.points = [owner]
    decoder = make_decoder(type_name, tuple(f"{array}.{j}" for j in select), 3)
    for names in (list("abcde"), order):
        setattr(message, "name" if kind == "JointState" else "joint_names", names)
        setattr(owner, array, np.array([float(value[n]) for n in names]))
        assert list(decoder.read(message)) == [2.0, 0.0, 4.0]


def test_a_joint_that_stands_twice_is_refused_by_name() -> None:
    """Two values for one joint: which of them is right cannot be told."""
    decoder = make_decoder("sensor_msgs/msg/JointState", ("position.a",), 1)
    message = PLAIN.empty("sensor_msgs/msg/JointState")
    message.name, message.position = ["a", "b", "a"], np.zeros(3)
    with pytest.raises(VddError, match="'a' stands twice"):
        decoder.read(message)


@pytest.mark.parametrize(("threshold", "expected"), [(0.5, True), (0.7, False)])
def test_a_switch_is_commanded_from_its_threshold_on(threshold: float, expected: bool) -> None:
    field = ActionField("g", 1, topic="t", type="std_msgs/msg/Bool", threshold=threshold)
    (writer,) = topic_writers([field], empty=PLAIN.empty)
    assert writer.write(np.array([[0.6]]), 0).data is expected
    assert writer.write(np.array([[threshold]]), 0).data is True


def test_fields_of_one_topic_each_keep_their_operators() -> None:
    """A shared message is decoded once; every value has its own field's unit."""
    fields: list[TopicField] = [
        ObservationField("a", 1, topic="t", type="geometry_msgs/msg/Point", select=("z",)),
        ObservationField("other", 1, topic="u", type="std_msgs/msg/Float64"),
        ObservationField(
            "b", 2, topic="t", type="geometry_msgs/msg/Point", select=("x", "y"), apply=("negate",)
        ),
    ]
    reader, _ = topic_readers(fields)
    message = PLAIN.empty("geometry_msgs/msg/Point")
    message.x, message.y, message.z = 1.0, 2.0, 3.0
    row = np.zeros(4)
    row[reader.columns] = reader.read(message)
    assert row.tolist() == [3.0, 0.0, -1.0, -2.0]


def test_schemas_are_those_of_the_installed_messages() -> None:
    """The table of fields says what the message packages say."""
    pytest.importorskip("rclpy")
    import importlib

    for type_name, fields in SCHEMAS.items():
        package, _, name = type_name.split("/")
        cls = getattr(importlib.import_module(f"{package}.msg"), name)
        theirs = cls.get_fields_and_field_types()
        assert {k: v.replace("/msg/", "/") for k, v in fields.items()} == theirs, type_name


@pytest.mark.parametrize("type_name", CODECS)
def test_bag_messages_are_serialized_and_read_alike(type_name: str) -> None:
    """A bag reader's classes are written and read by the codecs of the live ones."""
    typesys = pytest.importorskip("rosbags.typesys")
    from vdd_ros.codecs.instances import DataclassMessages

    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    codec = CODECS[type_name]
    select = {
        "path": codec.default or tuple(f"{codec.array}.{i}" for i in (2, 0)),
        "joints": ("position.b", "velocity.b", "position.a", "velocity.a"),
        "trajectory": ("positions.b", "positions.a"),
    }[codec.family]
    empty = DataclassMessages(store.types).empty
    encoder = make_encoder(type_name, select, len(select), empty=empty)
    values = [1.0] if type_name.endswith("Bool") else [i + 0.5 for i in range(len(select))]
    encoder.write(np.array([values]))
    raw = store.serialize_cdr(encoder.message, type_name)
    assert (
        list(
            make_decoder(type_name, select, len(select)).read(
                store.deserialize_cdr(raw, type_name)
            )
        )
        == values
    )


def test_arrays_know_their_element_and_length() -> None:
    assert array_of("double[36]") == ("double", 36)
    assert array_of("sequence<float>") == ("float", None)
    assert array_of("double") is None
