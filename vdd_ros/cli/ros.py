"""Is ROS 2 here? Asked before anything that needs it starts."""

from __future__ import annotations

from pathlib import Path

from vdd_ros.core.errors import VddError


def require_ros(command: str) -> None:
    """Refuse to go on without rclpy.

    Args:
        command: what the user typed, for the message.

    Raises:
        VddError: rclpy cannot be imported; the message says how to get it.
    """
    try:
        import rclpy  # noqa: F401
    except (ImportError, OSError) as error:
        raise VddError(
            f"'{command}' talks to real ROS 2 nodes and rclpy cannot be imported ({error}); "
            "expected a sourced ROS 2 (source /opt/ros/jazzy/setup.bash) or its wheels (pip "
            "install ros-jazzy-rclpy ros-jazzy-common-interfaces ros-jazzy-rmw-fastrtps-cpp); "
            "'vdd doctor' checks the rest"
        ) from None


def require_policies(student: Path, teacher: Path, nfe: int) -> None:
    """Open both files as their nodes will, so that a wrong one is one message, not a dead node.

    Raises:
        VddError: a file that is refused, the two mixed up, or a sampler that cannot be.
    """
    from vdd_ros.runtime.diffusion_policy import DiffusionPolicy, DiffusionSettings
    from vdd_ros.runtime.moe_policy import MoePolicy
    from vdd_ros.runtime.policy_file import PolicyFile

    MoePolicy(PolicyFile.open(student))
    DiffusionPolicy(PolicyFile.open(teacher), DiffusionSettings(n_steps=nfe))
