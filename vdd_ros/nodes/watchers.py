"""What looks at a running policy without being asked, and what ``/diagnostics`` says of it.

Graph, timing, observations, experts and the teacher audit. A tick pays for adding its durations
to a ring and, where there is an audit, for copying its window to another; everything else happens
on timers of the steady clock, which go on when the simulation's clock stands still.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Float64MultiArray

from vdd_ros.control.observations import Source
from vdd_ros.control.tick import NEVER, Tick
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.health import Health, HealthSettings, TickHealth
from vdd_ros.nodes.audit import PREDICTION_QOS, AuditSettings, PredictionTopic, TeacherAudit
from vdd_ros.nodes.control_loop import ControlLoop
from vdd_ros.nodes.diagnostics import NodeReport, Section, gate_entropy
from vdd_ros.nodes.experts import ExpertMarkers
from vdd_ros.nodes.graph import WATCH_S, End, GraphWatch
from vdd_ros.runtime.density import Calibration, Density


@dataclass(frozen=True, eq=False)
class Auditing:
    """What a policy brings to its audit."""

    density: Density | None = None
    """Its density; None where the audit is impossible or switched off."""
    calibration: Calibration | None = None
    """What is nominal; given wherever the density is."""
    why_not: str = "audit: this node runs no mixture of experts"
    """Why there is no audit; empty where there is."""


@dataclass(frozen=True)
class WatchSettings:
    """What is watched, and when it is worth a warning."""

    health: HealthSettings = field(default_factory=HealthSettings)
    """When ticks are late."""
    audit: AuditSettings = field(default_factory=AuditSettings)
    """The teacher audit."""
    prediction_rate_hz: float = 2.0
    """Predictions per second on ``~/prediction``, while somebody subscribes."""
    experts_rate_hz: float = 10.0
    """Marker arrays per second on ``~/experts``, while somebody subscribes."""
    expert_size_m: float = 0.01
    """Diameter of the marker of an expert that is certain to act."""


class Watchers:
    """All of the above for one configured policy."""

    def __init__(
        self,
        node: LifecycleNode,
        settings: WatchSettings,
        *,
        loop: ControlLoop,
        report: NodeReport,
        contract: PolicyContract,
        auditing: Auditing,
        rate_hz: float,
        frame_id: str,
        observed: Sequence[tuple[Source, Any]],
        publishers: Sequence[Any],
        command_types: Sequence[str],
    ) -> None:
        """Create what watches, and hook it to loop and report.

        Args:
            node: owns topics and timers.
            settings: see there.
            loop: what is watched.
            report: where it is said.
            contract: of the policy.
            auditing: density and calibration, where there are any.
            rate_hz: control rate.
            frame_id: of the markers.
            observed: every source with its subscription.
            publishers: of the commands.
            command_types: message type of every publisher.
        """
        self._node, self._loop, self._report, self._auditing = node, loop, report, auditing
        self._undo: list[Callable[[], Any]] = []
        self._health = TickHealth(settings.health, period_s=1.0 / rate_hz)
        self._sources = [(source, subscription.topic_name) for source, subscription in observed]
        self._predictions = PredictionTopic(node, contract, rate_hz=settings.prediction_rate_hz)
        self._undo.append(self._predictions.destroy)
        self._markers = ExpertMarkers(
            node, contract, frame_id=frame_id, size_m=settings.expert_size_m
        )
        self._undo.append(self._markers.destroy)
        self._settings, self._contract, self._rate_hz = settings, contract, rate_hz
        self._rows: Any = None
        self._audit = self._make_audit(auditing)
        ends = [
            End(subscription.topic_name, source.type, subscription.qos_profile, publishes=False)
            for source, subscription in observed
        ]
        ends += [
            End(publisher.topic_name, kind, publisher.qos_profile, publishes=True)
            for publisher, kind in zip(publishers, command_types, strict=True)
        ]
        self._graph = GraphWatch(node, ends, report.warn)
        report.listeners.append(self._on_tick)
        sections = [self._timing, self._observations, self._experts, self._audited]
        report.sections.extend(sections if loop_has_experts(auditing) else sections[:2])
        self._drawing = self.every(1.0 / settings.experts_rate_hz, self._draw)
        self._drawing.cancel()
        self.every(WATCH_S, self.look)

    def destroy(self) -> None:
        """Remove topics and timers."""
        while self._undo:
            self._undo.pop()()

    def start(self) -> None:
        """Begin anew: the node was activated."""
        if self._audit is not None:
            self._audit.forget()

    def replace(self, auditing: Auditing) -> None:
        """Audit another policy from now on: the loop was given one."""
        self._auditing = auditing
        self._audit = self._make_audit(auditing)
        self._report.warn("teacher audit", "")

    @property
    def fault(self) -> str:
        """Why another node should command, as far as the audit knows; empty where none should."""
        return self._audit.fault if self._audit is not None else ""

    def look(self) -> None:
        """Look at the graph now: who is there, who does not fit, who listens."""
        self._graph.look()
        now_ns = self._node.get_clock().now().nanoseconds
        for source, topic in self._sources:
            finding = self._graph.findings[topic]
            source.waiting = finding.why_silent(topic)
            # What the graph says is the cause only where samples are overdue by now.
            overdue = source.stamp_ns != NEVER and now_ns - source.stamp_ns > source.max_age_ns
            gone = finding.trouble or (f"nobody publishes '{topic}'" if not finding.others else "")
            source.lost = gone if overdue else ""
        self._predictions.look()
        if self._audit is not None and self._audit.look_again():
            self._say_audit()
        if self._markers.wanted():
            self._drawing.reset()
        else:
            self._drawing.cancel()

    def waiting(self) -> str:
        """Return why there is no observation yet; empty where there is one of every topic."""
        return "; ".join(s.waiting for s, _ in self._sources if s.stamp_ns == NEVER)

    def _make_audit(self, auditing: Auditing) -> TeacherAudit | None:
        if auditing.density is None or auditing.calibration is None:
            return None
        audit = TeacherAudit(
            self._settings.audit,
            contract=self._contract,
            rate_hz=self._rate_hz,
            density=auditing.density,
            calibration=auditing.calibration,
        )
        if self._rows is None:
            node = self._node
            subscription = node.create_subscription(
                Float64MultiArray, self._settings.audit.topic, self._on_prediction, PREDICTION_QOS
            )
            self._undo.append(partial(node.destroy_subscription, subscription))
            self._rows = node.create_publisher(Float64MultiArray, "~/audit", 10)
            self._undo.append(partial(node.destroy_publisher, self._rows))
        return audit

    def every(self, period_s: float, callback: Callable[[], None]) -> Any:  # noqa: ANN401
        """Call back by the steady clock, which goes on when the simulation's stands still."""
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        timer = self._node.create_timer(period_s, callback, clock=clock)
        self._undo.append(partial(self._node.destroy_timer, timer))
        return timer

    def _on_tick(self, tick: Tick) -> None:
        self._health.add(
            tick.decode_ns, tick.infer_ns, tick.safety_ns, tick.publish_ns, tick.total_ns
        )
        if self._audit is not None:
            self._audit.on_tick(tick)
        self._predictions.on_tick(tick)

    def _on_prediction(self, message: Float64MultiArray) -> None:
        audit = self._audit
        if audit is not None and self._loop.active and audit.on_prediction(message):
            self._say_audit()

    def _say_audit(self) -> None:
        audit = self._audit
        if audit is not None:
            self._rows.publish(audit.message)
            self._report.warn("teacher audit", audit.finding)

    def _draw(self) -> None:
        if self._markers.wanted():
            self._markers.publish(self._loop.tick, self._loop.collector.row)
        else:
            self._drawing.cancel()

    def _timing(self) -> Section:
        tick, health = self._loop.tick, self._health
        in_a_row, worst = health.late_in_a_row, health.worst
        level, message = health.verdict(ticks=tick.count, missed=tick.missed)
        values: dict[str, object] = {
            key: f"{value:.1f}" for key, value in health.percentiles_us().items()
        }
        values |= {
            "max_tick_ms": f"{health.limit_ns / 1e6:g}",
            "consecutive_delays": in_a_row,
            "worst_consecutive_delays": worst,
            "delays_warn": health.settings.delays_warn,
            "delays_error": health.settings.delays_error,
            "missed": tick.missed,
            "ticks": tick.count,
        }
        return self._section("timing", level, message, values)

    def _observations(self) -> Section:
        now_ns = self._node.get_clock().now().nanoseconds
        level, troubles = Health.OK, []
        values: dict[str, object] = {}
        for source, topic in self._sources:
            finding = self._graph.findings.get(topic)
            age_ms = (now_ns - source.stamp_ns) / 1e6
            seen = source.stamp_ns != NEVER
            state = _state(source, age_ms if seen else None)
            if state or (finding and finding.trouble):
                level = max(level, Health.ERROR if state else Health.WARN)
                troubles.append(state or (finding.trouble if finding else ""))
            values[f"age_ms: {source.topic}"] = f"{age_ms:.1f}" if seen else "n/a"
            values[f"max_age_ms: {source.topic}"] = f"{source.max_age_ns / 1e6:g}"
            values[f"state: {source.topic}"] = state or "ok"
            values[f"publishers: {source.topic}"] = finding.others if finding else "n/a"
        for topic, finding in self._graph.findings.items():
            if all(topic != observed for _, observed in self._sources):
                values[f"listeners: {topic}"] = finding.others
        return self._section("observations", level, "; ".join(troubles), values)

    def _experts(self) -> Section:
        tick = self._loop.tick
        gate = tick.gate
        values: dict[str, object] = {"active_expert": tick.expert}
        values["gate_entropy"] = f"{gate_entropy(gate):.3f}" if len(gate) else "n/a"
        for k in sorted(range(len(gate)), key=lambda k: -gate[k])[:5]:
            values[f"gate: {k}"] = f"{gate[k]:.3f}"
        places = ", ".join(place.topic for place in self._markers.places)
        values["drawn"] = places or "nothing: no action is a place (unit m and x, y; Point, Pose)"
        return self._section("experts", Health.OK, "", values)

    def _audited(self) -> Section:
        if self._audit is None:
            return self._section("audit", Health.OK, self._auditing.why_not, {})
        level, message = self._audit.verdict()
        return self._section("audit", level, message, self._audit.values())

    def _section(
        self, name: str, level: Health, message: str, values: dict[str, object]
    ) -> Section:
        if not self._loop.active:
            return Section(name, Health.STALE, "not active", values)
        return Section(name, level, message or "ok", values)


def loop_has_experts(auditing: Auditing) -> bool:
    """Tell whether the policy is one that has experts and may be audited."""
    return auditing.why_not != Auditing().why_not


def _state(source: Source, age_ms: float | None) -> str:
    """Return what is wrong with the samples of a source; empty if nothing is."""
    if source.fault:
        return source.fault
    if age_ms is None:
        return f"{source.topic}: {source.waiting}"
    if age_ms * 1e6 > source.max_age_ns:
        text = f"{source.topic}: older than {source.max_age_ns / 1e6:g} ms"
        return f"{text}: {source.lost}" if source.lost else text
    return ""
