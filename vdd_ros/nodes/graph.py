"""Questions to the ROS graph: who publishes what, and why does nothing arrive.

DDS connects silently or not at all: a publisher of another type, or one that offers less than a
subscription asks for, looks like no publisher. `GraphWatch` looks at the graph twice a second and
names topic, node and cause.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy

from vdd_ros.core.errors import VddError

WATCH_S = 0.5
"""Period of looking at the graph: with discovery a fault is named within two seconds."""
_POLL_S = 0.01
_INFINITE_NS = 9_223_372_036 * 10**9
"""From here on a middleware means for ever; what exactly it reports then differs."""


@dataclass(frozen=True)
class End:
    """A subscription or publisher of this node, whose other ends are watched."""

    topic: str
    """Resolved name."""
    type: str
    """Message type."""
    qos: QoSProfile
    """What this node asks for or offers."""
    publishes: bool
    """This node publishes; else it subscribes."""


@dataclass(frozen=True)
class Finding:
    """What the graph says about one end."""

    others: int
    """Fitting other ends: publishers heard, or subscribers that hear."""
    trouble: str
    """Who does not fit and why; empty while all do."""

    def why_silent(self, topic: str) -> str:
        """Explain why a subscription has no samples."""
        if self.trouble:
            return self.trouble
        if not self.others:
            return f"waiting, nobody publishes '{topic}'"
        return f"waiting, {self.others} publisher(s) of '{topic}' have not sent anything yet"


class GraphWatch:
    """Looks at the other ends of a node's topics; what is found is kept in ``findings``."""

    def __init__(self, node: Node, ends: Sequence[End], warn: Callable[[str, str], None]) -> None:
        """Watch nothing yet; `look` does.

        Args:
            node: whose graph it is.
            ends: what to watch.
            warn: told (topic, trouble) at every look; an empty trouble takes the last one back.
        """
        self._node = node
        self._warn = warn
        self._ends = tuple(ends)
        self.findings: dict[str, Finding] = {}
        """By topic."""

    def look(self) -> None:
        """Look at every end."""
        for end in self._ends:
            found = _find(self._node, end)
            self.findings[end.topic] = found
            self._warn(end.topic, found.trouble)


def _find(node: Node, end: End) -> Finding:
    if end.publishes:
        infos = node.get_subscriptions_info_by_topic(end.topic)
    else:
        infos = node.get_publishers_info_by_topic(end.topic)
    troubles, fitting = [], 0
    for info in infos:
        trouble = _misfit(end, info)
        if trouble:
            troubles.append(trouble)
        else:
            fitting += 1
    # Several processes may make the same mistake, and the order of the graph's answer is free.
    return Finding(fitting, "; ".join(sorted(set(troubles))))


def _misfit(end: End, info: Any) -> str:  # noqa: ANN401 - rclpy's TopicEndpointInfo
    """Return why this other end and ours exchange nothing; empty if they do."""
    verb, ours = (
        ("subscribed to", "this node publishes")
        if end.publishes
        else (
            "published",
            "the contract expects",
        )
    )
    if info.topic_type != end.type:
        return (
            f"topic '{end.topic}' is {verb} as {info.topic_type} by {_who(info)}, {ours} "
            f"{end.type}; remap the topic or correct the contract"
        )
    offered, asked = (end.qos, info.qos_profile) if end.publishes else (info.qos_profile, end.qos)
    causes = qos_misfits(offered, asked)
    if not causes:
        return ""
    return (
        f"topic '{end.topic}': QoS mismatch with {_who(info)}: {', '.join(causes)}; nothing is "
        "exchanged; change one side, here by the contract's 'qos' or by parameters qos_overrides"
    )


def qos_misfits(offered: QoSProfile, asked: QoSProfile) -> list[str]:
    """Return why a publisher and a subscription do not meet, by DDS' rule: offered >= asked.

    rclpy's own check takes a period that nobody set for one of zero, and finds misfits in pairs
    that talk to each other.
    """
    found = []
    reliability, durability = ReliabilityPolicy, DurabilityPolicy
    if (offered.reliability, asked.reliability) == (reliability.BEST_EFFORT, reliability.RELIABLE):
        found.append("the publisher is best effort, the subscription asks for reliable")
    if (offered.durability, asked.durability) == (durability.VOLATILE, durability.TRANSIENT_LOCAL):
        found.append("the publisher is volatile, the subscription asks for transient local")
    if _endless(offered.deadline) > _endless(asked.deadline):
        found.append("the publisher's deadline is longer than the subscription's")
    if _endless(offered.liveliness_lease_duration) > _endless(asked.liveliness_lease_duration):
        found.append("the publisher's liveliness lease is longer than the subscription's")
    manual = LivelinessPolicy.MANUAL_BY_TOPIC
    if asked.liveliness == manual and offered.liveliness != manual:
        found.append("the publisher's liveliness is automatic, the subscription asks for manual")
    return found


def _endless(period: Duration) -> float:
    """Return nanoseconds; a period that is not set, or the longest there is, is infinite."""
    ns = period.nanoseconds
    return float("inf") if ns == 0 or ns >= _INFINITE_NS else float(ns)


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


def _who(info: Any) -> str:  # noqa: ANN401 - rclpy's TopicEndpointInfo
    # The endpoint may be known before the node it belongs to.
    if "UNKNOWN" in info.node_name:
        return "a node that is still starting"
    return f"node '{info.node_namespace.rstrip('/')}/{info.node_name}'"


class ClockWatch:
    """Whether the simulation's clock, where a node follows it, is there and goes."""

    def __init__(self, node: Node) -> None:
        """Begin without having seen it."""
        self._node = node
        self._last_ns = 0

    def look(self) -> str:
        """Return what is wrong with ``/clock``; to be asked once a second."""
        if not self._node.get_parameter("use_sim_time").value:
            return ""
        before, self._last_ns = self._last_ns, self._node.get_clock().now().nanoseconds
        if not self._node.count_publishers("/clock"):
            return "use_sim_time is true, but nobody publishes '/clock': time stands still"
        if self._last_ns == before:
            return "'/clock' stands still: the simulation is paused, or publishes no time"
        return ""
