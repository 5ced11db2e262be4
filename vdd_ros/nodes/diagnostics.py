"""What a node tells about itself: every tick, every second, and whenever something changes.

Standard messages only, so that any viewer shows them:

- ``~/status`` (``std_msgs/Float64MultiArray``): one row per tick, sent AFTER the command. The
  names of its values stand in ``layout.dim[0].label``, separated by commas.
- ``~/reason`` (``std_msgs/String``, latched): level and reason, whenever they change; for a
  limited command whenever another limit or component comes in, and once a second while it lasts.
- ``~/latency`` (``std_msgs/Float64MultiArray``): percentiles, once a second, labelled likewise.
- ``/diagnostics`` (``diagnostic_msgs/DiagnosticArray``): for people and their monitors, once a
  second: a status about control and one for each of `NodeReport.sections`. This name is absolute
  because every ROS tool looks for it there.
"""

from __future__ import annotations

import array
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray, MultiArrayDimension, String

from vdd_ros.core.health import Health
from vdd_ros.core.news import ReasonNews
from vdd_ros.core.pace import PaceWatch
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.nodes.control_loop import ControlLoop, Tick

STATUS_FIELDS = (
    "stamp_sec",
    "stamp_nanosec",
    "level",
    "expert",
    "gate_entropy",
    "age_ms",
    "decode_us",
    "infer_us",
    "safety_us",
    "publish_us",
    "tick_us",
    "ticks",
    "held",
    "missed",
    "nfe",
    "commanding",
    "fault",
    "ready",
    "paused",
    "term",
    "sent_us",
    "heard_us",
    "received",
    "plan_age",
    "queued",
    "expired",
)
"""Values of ``~/status`` in order; ``expert`` and ``gate_entropy`` are -1 where there are none.

``commanding`` to ``heard_us`` say who commands (see `vdd_ros.nodes.roles`). Nodes with a partner
send a row between two ticks as well, where only those values are new. ``received`` counts the
observation messages the node was handed: who counts those sent knows which it never saw.
``plan_age`` are the control steps since the observation that the action was planned from (-1: no
action), ``queued`` the actions planned for later steps, ``expired`` those dropped as too late.
"""
_STANDING = STATUS_FIELDS.index("commanding")
_RECEIVED = STATUS_FIELDS.index("received")

LATENCY_FIELDS = tuple(
    f"{stage}_{figure}_us"
    for stage in ("infer", "tick")
    for figure in ("p50", "p99", "p999", "max")
)
"""Values of ``~/latency`` in order."""

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
"""For what late joiners must see at once: the reason, never a command."""
_REASONS = QoSProfile(
    depth=50, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
"""Deeper: of two reasons within a moment the first is still there to be sent again, and who joins
late with a deep history hears what was told meanwhile. With a depth of 1 it gets the newest."""

_LEVELS = {
    SafetyLevel.ACT: Health.OK,
    SafetyLevel.CLAMP: Health.OK,
    SafetyLevel.HOLD: Health.WARN,
    SafetyLevel.SAFE: Health.ERROR,
    SafetyLevel.STOP: Health.STALE,
}


@dataclass(frozen=True)
class Section:
    """One status in ``/diagnostics``."""

    name: str
    """What it is about; the node's name is put before it."""
    level: Health
    """How well that is."""
    message: str
    """What an operator should know first."""
    values: Mapping[str, object]
    """Figures and facts by name."""


class NodeReport:
    """The publishers above, for one node."""

    def __init__(
        self,
        node: Node,
        *,
        facts: dict[str, str],
        nfe: int,
        rate_hz: float,
        standing: Callable[[Tick], tuple[float, ...]],
    ) -> None:
        """Create the publishers.

        Args:
            node: owns them.
            facts: constant keys of ``/diagnostics``: policy, provider, role.
            nfe: network passes per action, reported with every tick.
            rate_hz: the rate that limits are counted for.
            standing: the values of ``~/status`` from ``commanding`` to ``heard_us``, now.
        """
        self._node = node
        self._facts = facts
        self._status_message, self._status_values = labelled(STATUS_FIELDS)
        self._status_values[STATUS_FIELDS.index("nfe")] = nfe
        self._standing = standing
        self._status = node.create_publisher(Float64MultiArray, "~/status", QoSProfile(depth=10))
        self._latency = node.create_publisher(Float64MultiArray, "~/latency", QoSProfile(depth=1))
        self._reason = node.create_publisher(String, "~/reason", _REASONS)
        self._diagnostics = node.create_publisher(
            DiagnosticArray, "/diagnostics", QoSProfile(depth=10)
        )
        self._news = ReasonNews()
        self._pace = PaceWatch(rate_hz)
        self._level: SafetyLevel | None = None
        self.warnings: dict[str, str] = {}
        """Lasting troubles by topic, for example a QoS mismatch; shown until they are removed."""
        self.listeners: list[Callable[[Tick], None]] = []
        """Called after every tick, when its row was published; on the hot path."""
        self.sections: list[Callable[[], Section]] = []
        """Asked once a second; every answer is a status of its own in ``/diagnostics``."""

    @property
    def status_row(self) -> tuple[Any, NDArray[np.float64]]:
        """The message of ``~/status`` and a view of its values, as they were last published."""
        return self._status_message, self._status_values

    def destroy(self) -> None:
        """Remove the publishers."""
        for publisher in (self._status, self._latency, self._reason, self._diagnostics):
            self._node.destroy_publisher(publisher)

    def renew(self, facts: dict[str, str], *, nfe: int) -> None:
        """Another policy acts from now on; see the constructor."""
        self._facts = facts
        self._status_values[STATUS_FIELDS.index("nfe")] = nfe

    def on_tick(self, tick: Tick) -> None:
        """Publish the row of one tick, and the reason where it is news."""
        gate = tick.gate
        self._status_values[: _STANDING - 1] = (
            tick.stamp_ns // 1_000_000_000,
            tick.stamp_ns % 1_000_000_000,
            tick.level,
            tick.expert,
            gate_entropy(gate) if len(gate) else -1.0,
            tick.age_ns * 1e-6,
            tick.decode_ns * 1e-3,
            tick.infer_ns * 1e-3,
            tick.safety_ns * 1e-3,
            tick.publish_ns * 1e-3,
            tick.total_ns * 1e-3,
            tick.count,
            tick.held,
            tick.missed,
        )
        self._status_values[_RECEIVED : _RECEIVED + 4] = (
            tick.received,
            tick.plan_age,
            tick.queued,
            tick.expired,
        )
        self.beat(tick)
        self.say(tick.level, tick.reason)
        for listen in self.listeners:
            listen(tick)

    def beat(self, tick: Tick) -> None:
        """Publish the row of the last tick again, with what this node stands for now."""
        self._status_values[_STANDING:_RECEIVED] = self._standing(tick)
        self._status.publish(self._status_message)

    def warn(self, topic: str, text: str) -> None:
        """Keep a lasting trouble of a topic and log it once; an empty text removes it."""
        if not text:
            self.warnings.pop(topic, None)
        elif self.warnings.get(topic) != text:
            self.warnings[topic] = text
            self._node.get_logger().warning(text)

    def say(self, level: SafetyLevel, reason: str) -> None:
        """Publish and log level and reason where they are news."""
        if not self._news.is_news(level, reason, time.monotonic()):
            return
        text = f"{level.name}: {reason}" if reason else level.name
        self._reason.publish(String(data=text))
        before, self._level = self._level, level
        if level is before and level is SafetyLevel.CLAMP:
            return  # the log tells when limits began and ceased to act
        first = before is None
        logger = self._node.get_logger()
        if level in (SafetyLevel.HOLD, SafetyLevel.SAFE) and not first:
            logger.warning(text)
        else:
            logger.info(text)

    def publish_summary(self, loop: ControlLoop, *, waiting: str = "") -> None:
        """Publish ``~/latency`` and ``/diagnostics``.

        Args:
            loop: where the figures come from.
            waiting: why there is no observation yet.
        """
        now_ns = self._node.get_clock().now().nanoseconds
        self.warn("pace", self._pace.look(loop.tick.count, now_ns))
        infer, tick = loop.infer_latency.summary(), loop.tick_latency.summary()
        figures = [
            getattr(summary, f"{figure}_us")
            for summary in (infer, tick)
            for figure in ("p50", "p99", "p999", "max")
        ]
        message, values = labelled(LATENCY_FIELDS)
        values[:] = figures
        self._latency.publish(message)
        self._diagnostics.publish(self._summary(loop, figures, waiting))

    def _summary(self, loop: ControlLoop, figures: list[float], waiting: str) -> DiagnosticArray:
        tick = loop.tick
        level = _LEVELS[tick.level] if loop.active else Health.STALE
        text = tick.reason or waiting or tick.level.name
        if self.warnings and level == Health.OK:
            level, text = Health.WARN, "; ".join(self.warnings.values())
        values: dict[str, object] = dict(self._facts)
        values["level"] = tick.level.name
        values["reason"] = tick.reason
        values |= {k: f"{v:.1f}" for k, v in zip(LATENCY_FIELDS, figures, strict=True)}
        values |= {"ticks": tick.count, "held": tick.held, "missed": tick.missed}
        values["received"] = tick.received
        values |= {f"held: {reason}": n for reason, n in loop.held_by.items()}
        values |= {f"warning: {topic}": trouble for topic, trouble in self.warnings.items()}
        sections = [Section("control", level, text, values)]
        sections += [describe() for describe in self.sections]
        message = DiagnosticArray(status=[self._status_of(section) for section in sections])
        message.header.stamp = self._node.get_clock().now().to_msg()
        return message

    def _status_of(self, section: Section) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=bytes([section.level]),
            name=f"{self._node.get_fully_qualified_name()}: {section.name}",
            message=section.message,
            hardware_id=self._facts.get("contract", ""),
            values=[KeyValue(key=k, value=str(v)) for k, v in section.values.items()],
        )


def gate_entropy(gate: NDArray[np.float64]) -> float:
    """Entropy of gate probabilities [K] over log K: 0 = one expert, 1 = all alike."""
    if len(gate) < 2:
        return 0.0
    return float(-(gate * np.log(np.maximum(gate, 1e-300))).sum() / np.log(len(gate)))


def labelled(fields: tuple[str, ...]) -> tuple[Any, NDArray[np.float64]]:
    """Make a Float64MultiArray with named entries; return it and a view to write them through."""
    message: Any = Float64MultiArray()
    size = len(fields)
    message.layout.dim = [MultiArrayDimension(label=",".join(fields), size=size, stride=size)]
    message.data = array.array("d", bytes(8 * size))
    return message, np.frombuffer(message.data, dtype=np.float64)


def read_labelled(message: Any) -> dict[str, float]:  # noqa: ANN401
    """Turn a message made by `labelled` back into names and values."""
    if not message.layout.dim:
        return {}
    return dict(zip(message.layout.dim[0].label.split(","), message.data, strict=False))
