"""Message codecs: where the numbers of a contract stand inside ROS messages.

A contract field names a message type and, with ``select``, the values it wants by path and NAME:
``position.elbow`` is the entry of ``position`` whose ``name`` is ``elbow``, wherever the driver
put it today.

To add a message type, add one line to `CODECS`; a new family of types is one decoder and one
encoder class like those in `codec_families`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.nodes.codec_families import (
    Decoder,
    Encoder,
    IndexedDecoder,
    IndexedEncoder,
    JointStateEncoder,
    JointTrajectoryEncoder,
    NamedDecoder,
    PathDecoder,
    PathEncoder,
)


@dataclass(frozen=True)
class Codec:
    """How one message type is read and written."""

    decoder: Callable[[type, tuple[str, ...]], Decoder]
    encoder: Callable[[type, tuple[str, ...], int, float], Encoder] | None
    """From message class, select, horizon and step (s); None where the type is only observed."""
    default: tuple[str, ...] = ()
    """Paths taken when a field selects nothing."""


_XYZ = ("x", "y", "z")
_POSE = tuple(f"position.{a}" for a in _XYZ) + tuple(f"orientation.{a}" for a in (*_XYZ, "w"))
_TWIST = tuple(f"linear.{a}" for a in _XYZ) + tuple(f"angular.{a}" for a in _XYZ)
_WRENCH = tuple(f"force.{a}" for a in _XYZ) + tuple(f"torque.{a}" for a in _XYZ)


def _scalars(*paths: str, inside: str = "") -> Codec:
    return Codec(PathDecoder, PathEncoder, tuple(inside + p for p in paths))


CODECS: dict[str, Codec] = {
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
    "sensor_msgs/msg/JointState": Codec(NamedDecoder, JointStateEncoder),
    "sensor_msgs/msg/Joy": Codec(IndexedDecoder, IndexedEncoder),
    "std_msgs/msg/Float32": _scalars("data"),
    "std_msgs/msg/Float64": _scalars("data"),
    "std_msgs/msg/Float32MultiArray": Codec(IndexedDecoder, IndexedEncoder),
    "std_msgs/msg/Float64MultiArray": Codec(IndexedDecoder, IndexedEncoder),
    "trajectory_msgs/msg/JointTrajectory": Codec(NamedDecoder, JointTrajectoryEncoder),
}
"""Every message type a contract may name."""


def message_class(type_name: str) -> type:
    """Return the Python class of a message type such as ``sensor_msgs/msg/JointState``.

    Raises:
        VddError: no codec knows the type, or its package is not installed.
    """
    if type_name not in CODECS:
        raise VddError(f"no codec for message type '{type_name}'{did_you_mean(type_name, CODECS)}")
    package, _, name = type_name.split("/")
    try:
        module = importlib.import_module(f"{package}.msg")
    except ImportError as error:
        raise VddError(f"message package '{package}' is not installed ({error})") from None
    found: type = getattr(module, name)
    return found


def make_decoder(type_name: str, select: tuple[str, ...], dim: int) -> Decoder:
    """Build the decoder of ``dim`` values of a message type.

    Raises:
        VddError: unknown type, or paths that the type does not have.
    """
    message_type = message_class(type_name)
    chosen = _selection(type_name, select, dim)
    return CODECS[type_name].decoder(message_type, chosen)


def make_encoder(
    type_name: str, select: tuple[str, ...], dim: int, *, horizon: int = 1, step_s: float = 1.0
) -> Encoder:
    """Build the encoder of ``dim`` values of a message type, with its message.

    Raises:
        VddError: unknown type, or paths that the type does not have.
    """
    message_type = message_class(type_name)
    chosen = _selection(type_name, select, dim)
    encoder = CODECS[type_name].encoder
    if encoder is None:
        raise VddError(f"message type '{type_name}' can be observed but not commanded")
    return encoder(message_type, chosen, horizon, step_s)


def has_header(type_name: str) -> bool:
    """Tell whether messages of this type carry a ``header`` with a time stamp."""
    return hasattr(message_class(type_name), "header")


def _selection(type_name: str, select: tuple[str, ...], dim: int) -> tuple[str, ...]:
    codec = CODECS[type_name]
    if select:
        return select
    if codec.default:
        if len(codec.default) < dim:
            raise VddError(
                f"'{type_name}' has {len(codec.default)} values, the field wants {dim}; "
                "give 'select'"
            )
        return codec.default[:dim]
    if codec.decoder is IndexedDecoder:
        attribute = "axes" if type_name.endswith("Joy") else "data"
        return tuple(f"{attribute}.{i}" for i in range(dim))
    raise VddError(
        f"'{type_name}' is read by joint name; give 'select', for example [position.joint1]"
    )
