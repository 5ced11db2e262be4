"""The codecs of `vdd_ros.codecs`, bound to the installed message classes of ROS."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

from vdd_ros.codecs.table import CODECS
from vdd_ros.codecs.table import make_encoder as _make_encoder
from vdd_ros.core.errors import VddError, did_you_mean

__all__ = ["empty", "make_encoder", "message_class"]


def message_class(type_name: str) -> type:
    """Return the Python class of a message type such as ``sensor_msgs/msg/JointState``.

    Raises:
        VddError: no codec knows the type, or its package is not installed.
    """
    if type_name not in CODECS:
        raise VddError(f"no codec for message type '{type_name}'{did_you_mean(type_name, CODECS)}")
    return _installed(type_name)


def empty(type_name: str) -> Any:  # noqa: ANN401
    """Return an empty message, as `vdd_ros.codecs.encoders.Empty` asks for."""
    return _installed(type_name)()


make_encoder = partial(_make_encoder, empty=empty)
"""`vdd_ros.codecs.table.make_encoder` for messages of rclpy."""


def _installed(type_name: str) -> type:
    package, _, name = type_name.split("/")
    try:
        module = importlib.import_module(f"{package}.msg")
    except ImportError as error:
        raise VddError(f"message package '{package}' is not installed ({error})") from None
    found: type = getattr(module, name)
    return found
