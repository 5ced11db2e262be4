"""Which message type is read and written by what.

A contract field names a message type and, with ``select``, the values it wants by path and NAME:
``position.elbow`` is the entry of ``position`` whose ``name`` is ``elbow``, wherever the driver
put it today.

To add a message type, add one line to `CODECS` and its fields to `schemas`; a new family of types
is one decoder and one encoder like those of `decoders` and `encoders`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from vdd_ros.codecs.decoders import Decoder, NamedDecoder, path_decoder
from vdd_ros.codecs.encoders import (
    Empty,
    Encoder,
    JointStateEncoder,
    JointTrajectoryEncoder,
    path_encoder,
)
from vdd_ros.core.errors import VddError, did_you_mean


@dataclass(frozen=True)
class Codec:
    """How the values of one message type are found."""

    family: Literal["path", "joints", "trajectory"]
    """By path, or by the names of joints that stand in the message."""
    default: tuple[str, ...] = ()
    """Paths taken in this order when a field selects nothing."""
    array: str = ""
    """Array whose entries are taken in order when a field selects nothing."""


_XYZ = ("x", "y", "z")
_POSE = tuple(f"position.{a}" for a in _XYZ) + tuple(f"orientation.{a}" for a in (*_XYZ, "w"))
_TWIST = tuple(f"linear.{a}" for a in _XYZ) + tuple(f"angular.{a}" for a in _XYZ)
_WRENCH = tuple(f"force.{a}" for a in _XYZ) + tuple(f"torque.{a}" for a in _XYZ)


def _scalars(*paths: str, inside: str = "") -> Codec:
    return Codec("path", tuple(inside + p for p in paths))


CODECS: Mapping[str, Codec] = MappingProxyType(
    {
        "geometry_msgs/msg/Point": _scalars(*_XYZ),
        "geometry_msgs/msg/PointStamped": _scalars(*_XYZ, inside="point."),
        "geometry_msgs/msg/Pose": _scalars(*_POSE),
        "geometry_msgs/msg/PoseStamped": _scalars(*_POSE, inside="pose."),
        "geometry_msgs/msg/Twist": _scalars(*_TWIST),
        "geometry_msgs/msg/TwistStamped": _scalars(*_TWIST, inside="twist."),
        "geometry_msgs/msg/Vector3": _scalars(*_XYZ),
        "geometry_msgs/msg/Vector3Stamped": _scalars(*_XYZ, inside="vector."),
        "geometry_msgs/msg/Wrench": _scalars(*_WRENCH),
        "geometry_msgs/msg/WrenchStamped": _scalars(*_WRENCH, inside="wrench."),
        "nav_msgs/msg/Odometry": _scalars(*_POSE, inside="pose.pose."),
        "sensor_msgs/msg/Imu": _scalars(
            *(f"{part}.{a}" for part in ("angular_velocity", "linear_acceleration") for a in _XYZ)
        ),
        "sensor_msgs/msg/JointState": Codec("joints"),
        "sensor_msgs/msg/Joy": Codec("path", array="axes"),
        "std_msgs/msg/Bool": _scalars("data"),
        "std_msgs/msg/Float32": _scalars("data"),
        "std_msgs/msg/Float64": _scalars("data"),
        "std_msgs/msg/Float32MultiArray": Codec("path", array="data"),
        "std_msgs/msg/Float64MultiArray": Codec("path", array="data"),
        "trajectory_msgs/msg/JointTrajectory": Codec("trajectory"),
    }
)
"""Every message type a contract may name."""


def make_decoder(type_name: str, select: tuple[str, ...], dim: int) -> Decoder:
    """Build the decoder of ``dim`` values of a message type.

    Raises:
        VddError: unknown type, or paths that the type does not have.
    """
    chosen = selection(type_name, select, dim)
    if CODECS[type_name].family == "path":
        return path_decoder(type_name, chosen)
    return NamedDecoder(type_name, chosen)


def make_encoder(
    type_name: str,
    select: tuple[str, ...],
    dim: int,
    *,
    empty: Empty,
    horizon: int = 1,
    step_s: float = 1.0,
    threshold: float = 0.5,
) -> Encoder:
    """Build the encoder of ``dim`` values of a message type, with its message.

    Args:
        type_name: for example ``trajectory_msgs/msg/JointTrajectory``.
        select: paths of the values; empty for the type's own order.
        dim: number of values.
        empty: makes an empty message of a type.
        horizon: points of a trajectory.
        step_s: seconds between two points.
        threshold: a ``Bool`` is true from this value on.

    Raises:
        VddError: unknown type, or paths that the type does not have.
    """
    chosen = selection(type_name, select, dim)
    family = CODECS[type_name].family
    if family == "path":
        return path_encoder(type_name, chosen, empty=empty, threshold=threshold)
    if family == "joints":
        return JointStateEncoder(type_name, chosen, empty=empty)
    return JointTrajectoryEncoder(type_name, chosen, empty=empty, horizon=horizon, step_s=step_s)


def selection(type_name: str, select: tuple[str, ...], dim: int) -> tuple[str, ...]:
    """Return the paths of ``dim`` values: ``select``, or the type's own order.

    Raises:
        VddError: unknown type, or one whose values have no order.
    """
    if type_name not in CODECS:
        raise VddError(f"no codec for message type '{type_name}'{did_you_mean(type_name, CODECS)}")
    codec = CODECS[type_name]
    if select:
        return select
    if codec.array:
        return tuple(f"{codec.array}.{i}" for i in range(dim))
    if not codec.default:
        array = "position" if codec.family == "joints" else "positions"
        raise VddError(
            f"'{type_name}' is read by joint name; give 'select', for example [{array}.joint1]"
        )
    if len(codec.default) < dim:
        raise VddError(
            f"'{type_name}' has {len(codec.default)} values, the field wants {dim}; give 'select'"
        )
    return codec.default[:dim]
