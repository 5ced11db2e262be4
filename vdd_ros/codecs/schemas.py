"""The message types a contract may name, field by field.

With the fields at hand a contract is checked in full on any machine, with ROS or without. What
stands here is the interface of the message packages, as ``ros2 interface show`` prints it; the
tests compare it with the installed packages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from vdd_ros.core.errors import VddError, did_you_mean

INTEGERS = frozenset({"int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"})
"""Whole numbers: a command is rounded to the nearest."""
NUMBERS = INTEGERS | {"boolean", "float", "double"}
"""What a value of a contract can be."""

_HEADER = {"header": "std_msgs/msg/Header"}
_XYZ = dict.fromkeys("xyz", "double")

SCHEMAS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "builtin_interfaces/msg/Duration": {"sec": "int32", "nanosec": "uint32"},
        "builtin_interfaces/msg/Time": {"sec": "int32", "nanosec": "uint32"},
        "geometry_msgs/msg/Point": _XYZ,
        "geometry_msgs/msg/PointStamped": {**_HEADER, "point": "geometry_msgs/msg/Point"},
        "geometry_msgs/msg/Pose": {
            "position": "geometry_msgs/msg/Point",
            "orientation": "geometry_msgs/msg/Quaternion",
        },
        "geometry_msgs/msg/PoseStamped": {**_HEADER, "pose": "geometry_msgs/msg/Pose"},
        "geometry_msgs/msg/PoseWithCovariance": {
            "pose": "geometry_msgs/msg/Pose",
            "covariance": "double[36]",
        },
        "geometry_msgs/msg/Quaternion": {**_XYZ, "w": "double"},
        "geometry_msgs/msg/Twist": {
            "linear": "geometry_msgs/msg/Vector3",
            "angular": "geometry_msgs/msg/Vector3",
        },
        "geometry_msgs/msg/TwistStamped": {**_HEADER, "twist": "geometry_msgs/msg/Twist"},
        "geometry_msgs/msg/TwistWithCovariance": {
            "twist": "geometry_msgs/msg/Twist",
            "covariance": "double[36]",
        },
        "geometry_msgs/msg/Vector3": _XYZ,
        "geometry_msgs/msg/Vector3Stamped": {**_HEADER, "vector": "geometry_msgs/msg/Vector3"},
        "geometry_msgs/msg/Wrench": {
            "force": "geometry_msgs/msg/Vector3",
            "torque": "geometry_msgs/msg/Vector3",
        },
        "geometry_msgs/msg/WrenchStamped": {**_HEADER, "wrench": "geometry_msgs/msg/Wrench"},
        "nav_msgs/msg/Odometry": {
            **_HEADER,
            "child_frame_id": "string",
            "pose": "geometry_msgs/msg/PoseWithCovariance",
            "twist": "geometry_msgs/msg/TwistWithCovariance",
        },
        "sensor_msgs/msg/Imu": {
            **_HEADER,
            "orientation": "geometry_msgs/msg/Quaternion",
            "orientation_covariance": "double[9]",
            "angular_velocity": "geometry_msgs/msg/Vector3",
            "angular_velocity_covariance": "double[9]",
            "linear_acceleration": "geometry_msgs/msg/Vector3",
            "linear_acceleration_covariance": "double[9]",
        },
        "sensor_msgs/msg/JointState": {
            **_HEADER,
            "name": "sequence<string>",
            "position": "sequence<double>",
            "velocity": "sequence<double>",
            "effort": "sequence<double>",
        },
        "sensor_msgs/msg/Joy": {
            **_HEADER,
            "axes": "sequence<float>",
            "buttons": "sequence<int32>",
        },
        "std_msgs/msg/Bool": {"data": "boolean"},
        "std_msgs/msg/Float32": {"data": "float"},
        "std_msgs/msg/Float64": {"data": "double"},
        "std_msgs/msg/Float32MultiArray": {
            "layout": "std_msgs/msg/MultiArrayLayout",
            "data": "sequence<float>",
        },
        "std_msgs/msg/Float64MultiArray": {
            "layout": "std_msgs/msg/MultiArrayLayout",
            "data": "sequence<double>",
        },
        "std_msgs/msg/Header": {"stamp": "builtin_interfaces/msg/Time", "frame_id": "string"},
        "std_msgs/msg/MultiArrayDimension": {
            "label": "string",
            "size": "uint32",
            "stride": "uint32",
        },
        "std_msgs/msg/MultiArrayLayout": {
            "dim": "sequence<std_msgs/msg/MultiArrayDimension>",
            "data_offset": "uint32",
        },
        "trajectory_msgs/msg/JointTrajectory": {
            **_HEADER,
            "joint_names": "sequence<string>",
            "points": "sequence<trajectory_msgs/msg/JointTrajectoryPoint>",
        },
        "trajectory_msgs/msg/JointTrajectoryPoint": {
            "positions": "sequence<double>",
            "velocities": "sequence<double>",
            "accelerations": "sequence<double>",
            "effort": "sequence<double>",
            "time_from_start": "builtin_interfaces/msg/Duration",
        },
    }
)
"""Field name -> field type of every message type, nested ones included."""

_ARRAY = re.compile(r"(?:sequence<(?P<open>.+)>|(?P<fixed>[^<>\[]+)\[(?P<size>\d+)\])$")


def array_of(kind: str) -> tuple[str, int | None] | None:
    """Return element type and fixed length (None: any) of an array type; None for no array."""
    match = _ARRAY.match(kind)
    if match is None:
        return None
    size = match["size"]
    return match["open"] or match["fixed"], int(size) if size else None


def leaf(type_name: str, path: str) -> tuple[str, str, int]:
    """Find the number behind a path such as ``pose.position.x`` or ``axes.2``.

    Returns:
        The attribute path, the type of the number, and its index in the array there, -1 for none.

    Raises:
        VddError: the type has no such path, or what is there is not a number.
    """
    kind, owner = type_name, ""
    names = path.split(".")
    for i, name in enumerate(names):
        array = array_of(kind)
        if array is not None:
            return owner, *_element(type_name, path, array, names[i:])
        fields = SCHEMAS.get(kind, {})
        if name not in fields:
            raise VddError(
                f"select '{path}' does not exist in {type_name.rpartition('/')[2]}"
                f"{did_you_mean(name, fields)}"
            )
        kind = fields[name]
        owner = f"{owner}.{name}" if owner else name
    if kind not in NUMBERS:
        what = f"one of an array, give its index: {path}.0" if array_of(kind) else "a number in it"
        raise VddError(
            f"select '{path}' of {type_name.rpartition('/')[2]} is a "
            f"{kind.rpartition('/')[2]}, not a number; select {what}"
        )
    return owner, kind, -1


def _element(
    type_name: str, path: str, array: tuple[str, int | None], rest: list[str]
) -> tuple[str, int]:
    kind, size = array
    short = type_name.rpartition("/")[2]
    if len(rest) != 1 or not (rest[0].isascii() and rest[0].isdecimal()) or kind not in NUMBERS:
        raise VddError(
            f"select '{path}' of {short}: expected '<array>.<index>' of an array of numbers, for "
            f"example {path[: -len('.'.join(rest))]}0"
        )
    index = int(rest[0])
    if index >= (LONGEST if size is None else size):
        raise VddError(f"select '{path}' of {short}: the array has {size or LONGEST} values")
    return kind, index


LONGEST = 4096
"""Longest array without names a contract may select from: more is a mistyped index."""


def has_header(type_name: str) -> bool:
    """Tell whether messages of this type carry a ``header`` with a time stamp."""
    return "header" in SCHEMAS.get(type_name, {})
