"""Quality of service: what a role asks for, unless the contract knows better."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from vdd_ros.core.contract import Qos

# A best-effort subscription hears reliable publishers too; a reliable one would hear nothing of a
# best-effort driver. Depth 1: only the newest observation is worth an answer.
OBSERVATION_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# Never latched: an old command must not move a robot that was just started.
COMMAND_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


def profile(role: QoSProfile, wanted: Qos) -> QoSProfile:
    """Return a role's profile with what the contract says of the topic."""
    reliability, durability = role.reliability, role.durability
    if wanted.reliability:
        reliability = ReliabilityPolicy[wanted.reliability.upper()]
    if wanted.durability:
        durability = DurabilityPolicy[wanted.durability.upper()]
    return QoSProfile(
        depth=wanted.depth or role.depth, reliability=reliability, durability=durability
    )
