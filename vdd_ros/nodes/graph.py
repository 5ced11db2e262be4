"""Questions to the ROS graph: who publishes what, and why does nothing arrive."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from rclpy.node import Node

from vdd_ros.core.errors import VddError

_POLL_S = 0.01


def publisher_fault(node: Node, topic: str, type_name: str) -> str:
    """Return who publishes ``topic`` with another type than ``type_name``; empty if nobody."""
    resolved = node.resolve_topic_name(topic)
    for info in node.get_publishers_info_by_topic(resolved):
        if info.topic_type != type_name:
            return (
                f"topic '{resolved}' is published as {info.topic_type} by {_who(info)}, the "
                f"contract expects {type_name}; remap the topic or correct the contract"
            )
    return ""


def check_publishers(
    node: Node, topics: Iterable[tuple[str, str]], *, wait_s: float = 0.0
) -> None:
    """Compare every (topic, type) with its publishers, waiting ``wait_s`` for them to be found.

    Raises:
        VddError: a topic is published with another type; the message names topic and node.
    """
    wanted = list(topics)
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if all(node.count_publishers(node.resolve_topic_name(topic)) for topic, _ in wanted):
            break
        time.sleep(_POLL_S)
    for topic, type_name in wanted:
        fault = publisher_fault(node, topic, type_name)
        if fault:
            raise VddError(fault)


def why_silent(node: Node, topic: str, type_name: str) -> str:
    """Explain in words why a subscription has not received anything yet."""
    resolved = node.resolve_topic_name(topic)
    fault = publisher_fault(node, topic, type_name)
    if fault:
        return fault
    count = node.count_publishers(resolved)
    if not count:
        return f"waiting, nobody publishes '{resolved}'"
    return f"waiting, {count} publisher(s) of '{resolved}' have not sent anything yet"


def _who(info: Any) -> str:  # noqa: ANN401 - rclpy's TopicEndpointInfo
    # The endpoint may be known before the node it belongs to.
    if "UNKNOWN" in info.node_name:
        return "a node that is still starting"
    return f"node '{info.node_namespace.rstrip('/')}/{info.node_name}'"
