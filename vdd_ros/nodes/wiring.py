"""The ROS entities of a configured policy: subscriptions, publishers, timers, and the loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from std_msgs.msg import Empty
from std_srvs.srv import Trigger

from vdd_ros.control.observations import Source
from vdd_ros.control.planning import PlanSettings
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.health import Health
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.nodes.black_box import BlackBox, BlackBoxSettings
from vdd_ros.nodes.codecs import message_class
from vdd_ros.nodes.commands import Sink, make_sinks
from vdd_ros.nodes.control_loop import Actor, ControlLoop, Tick
from vdd_ros.nodes.diagnostics import NodeReport, Section
from vdd_ros.nodes.graph import ClockWatch, check_publishers
from vdd_ros.nodes.partner import PartnerLink, open_token
from vdd_ros.nodes.planning import PlanWatch
from vdd_ros.nodes.qos import COMMAND_QOS, OBSERVATION_QOS, profile
from vdd_ros.nodes.roles import Membership, Role, Standing
from vdd_ros.nodes.watchers import Auditing, Watchers, WatchSettings

_ACKNOWLEDGE = Duration(seconds=0.2)
"""Longest wait for the robot to have received the last command before the node goes."""
_SUMMARY_S = 1.0
"""Period of ``/diagnostics``, the customary one."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A policy, ready to act."""

    actor: Actor
    """Decides."""
    contract: PolicyContract
    """What it reads and writes."""
    facts: dict[str, str]
    """What ``/diagnostics`` says about it."""
    nfe: int = 1
    """Network passes per action."""
    auditing: Auditing = field(default_factory=Auditing)
    """What the teacher audit needs of it."""

    @property
    def summary(self) -> str:
        """Which policy this is, in a few words."""
        return f"{self.facts.get('policy', '?')} (sha256 {self.facts.get('sha256', '?')})"


@dataclass(frozen=True)
class RunSettings:
    """How a loaded policy is run."""

    rate_hz: float
    """Control rate."""
    role: str
    """command, shadow (publish ``~/shadow_action`` instead of the contract's topics), standby."""
    partner: str
    """Node to share the command with; empty for none."""
    healthy_s: float
    """How long the partner has to be well before a standby gives the command back."""
    listen_s: float
    """How long a commanding node listens for its partner before it believes it is alone."""
    timed: bool
    """Tick by a timer instead of by observations."""
    planning: PlanSettings
    """How the policy is asked."""
    frame_id: str
    """For the header of stamped commands."""
    discovery_s: float
    """Longest wait for publishers whose type can be compared."""
    black_box: BlackBoxSettings
    """What is kept for a fault."""
    watch: WatchSettings = field(default_factory=WatchSettings)
    """What is watched, and when it is worth a warning."""

    @property
    def shadow(self) -> bool:
        """Nothing goes to the robot."""
        return self.role == "shadow"


class Wiring:
    """One configured policy on one node; made by configure, destroyed by cleanup."""

    def __init__(self, node: LifecycleNode, loaded: Loaded, settings: RunSettings) -> None:
        """Create everything, inactive, and compare topic types.

        Raises:
            VddError: the contract does not fit its message types or what is published.
        """
        self._node = node
        self._settings = settings
        self._undo: list[Callable[[], Any]] = []
        self._holding = False
        self._observed: list[tuple[Source, Any]] = []
        self._link: PartnerLink | None = None
        self.contract = loaded.contract
        """What this was built from; a policy with another one cannot be exchanged for it."""
        contract, rate_hz = loaded.contract, settings.rate_hz
        sinks = make_sinks(contract, step_s=1.0 / rate_hz, frame_id=settings.frame_id)
        self.report = NodeReport(
            node, facts=loaded.facts, nfe=loaded.nfe, rate_hz=rate_hz, standing=self._standing
        )
        self.report.sections.append(self._role)
        self._clock = ClockWatch(node)
        self._undo.append(self.report.destroy)
        try:
            self._publishers = [self._publish(sink, single=len(sinks) == 1) for sink in sinks]
            self.loop = ControlLoop(
                contract,
                loaded.actor,
                rate_hz=rate_hz,
                sinks=sinks,
                publishers=self._publishers,
                now_ns=self._now_ns,
                on_tick=self._on_tick,
                on_send=self._on_send,
                planning=settings.planning,
            )
            self._undo.append(self._close_loop)
            self.report.sections.append(PlanWatch(self.loop, contract, rate_hz=rate_hz).section)
            self.box = self._make_box(contract, rate_hz)
            self.box.policy = loaded.summary
            for index, source in enumerate(self.loop.collector.sources):
                self._observe(index, source)
            if contract.reset_topic:
                self._subscribe(
                    Empty, contract.reset_topic, self._on_reset, QoSProfile(depth=1), None
                )
            self._watchers = Watchers(
                node,
                settings.watch,
                loop=self.loop,
                report=self.report,
                contract=contract,
                auditing=loaded.auditing,
                rate_hz=rate_hz,
                frame_id=settings.frame_id,
                observed=self._observed,
                publishers=self._publishers,
                command_types=[sink.type for sink in sinks],
            )
            self._undo.append(self._watchers.destroy)
            if settings.partner and not settings.shadow:
                self._link = self._make_link(contract, sinks)
            self._make_timers()
            check_publishers(node, self._topics(), wait_s=settings.discovery_s)
        except BaseException:
            self.destroy()
            raise

    def start(self) -> None:
        """Activate the loop and its timers.

        Raises:
            VddError: a topic is published with another type by now.
        """
        check_publishers(self._node, self._topics())
        self._watchers.look()
        self._watchers.start()
        self.loop.start()
        self._holding = False
        self._beat.reset()
        if self._link is not None:
            self._link.start()

    def stop(self, reason: str) -> None:
        """Stop the timers and the loop, THEN send the stop action and see it delivered."""
        if not self.loop.active:
            return
        self._beat.cancel()
        self._hold.cancel()
        self.loop.stop(reason)
        if self._link is not None:
            self._link.stop()
        for publisher in self._publishers:
            publisher.wait_for_all_acked(_ACKNOWLEDGE)

    def exchange(self, loaded: Loaded, facts: dict[str, str]) -> None:
        """Let another policy of the same contract act from the next tick on."""
        self.loop.swap(loaded.actor)
        self.report.renew(facts, nfe=loaded.nfe)
        self._watchers.replace(loaded.auditing)
        self.box.policy = loaded.summary

    def destroy(self) -> None:
        """Remove all entities from the node."""
        while self._undo:
            self._undo.pop()()

    def _close_loop(self) -> None:
        if not self.loop.close():
            self._node.get_logger().warning(
                "the policy does not return: its thread is left behind"
            )

    def _standing(self, tick: Tick) -> tuple[float, ...]:
        if self._link is not None:
            return self._link.standing()
        active = self.loop.active
        commanding = active and not self._settings.shadow
        held = active and tick.level >= SafetyLevel.HOLD
        fault = (held and not self.loop.paused) or bool(self._watchers.fault)
        return Standing(
            commanding,
            fault,
            ready=active and not held,
            paused=self.loop.paused,
            sent_us=time.monotonic_ns() // 1000,
        )

    def _role(self) -> Section:
        active = self.loop.active
        if self._link is not None:
            return self._link.section(active=active)
        commanding = active and not self._settings.shadow
        values = {"role": self._settings.role, "commanding": commanding, "partner": "none"}
        level, message = (Health.OK, "no partner") if active else (Health.STALE, "not active")
        return Section("role", level, message, values)

    def _topics(self) -> list[tuple[str, str]]:
        heard = [(source.topic, source.type) for source in self.loop.collector.sources]
        if self._link is not None:
            heard.append((self._link.topic, "std_msgs/msg/Float64MultiArray"))
        return heard

    def _make_link(self, contract: PolicyContract, sinks: list[Sink]) -> PartnerLink:
        settings = self._settings
        role: Role = "standby" if settings.role == "standby" else "command"
        token = open_token(
            self._node,
            settings.partner,
            role=role,
            contract=contract,
            rate_hz=settings.rate_hz,
            motion=self.loop.motion.size,
        )
        part = Membership(
            role,
            rate_hz=settings.rate_hz,
            healthy_s=settings.healthy_s,
            listen_s=settings.listen_s,
            token=token,
        )
        link = PartnerLink(
            self._node,
            part,
            name=settings.partner,
            loop=self.loop,
            report=self.report,
            contract=contract,
            qos=[profile(COMMAND_QOS, sink.qos) for sink in sinks],
            token=token,
        )
        self._undo.append(link.destroy)
        return link

    def _now_ns(self) -> int:
        now: int = self._node.get_clock().now().nanoseconds
        return now

    def _publish(self, sink: Sink, *, single: bool) -> Any:  # noqa: ANN401
        topic = sink.topic
        if self._settings.shadow:
            topic = "~/shadow_action" if single else f"~/shadow_action/{topic}"
        publisher = self._node.create_lifecycle_publisher(
            message_class(sink.type),
            topic,
            profile(COMMAND_QOS, sink.qos),
            event_callbacks=PublisherEventCallbacks(
                incompatible_qos=partial(self._on_incompatible, topic, "a subscriber asks for")
            ),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._undo.append(partial(self._node.destroy_lifecycle_publisher, publisher))
        return publisher

    def _make_box(self, contract: PolicyContract, rate_hz: float) -> BlackBox:
        node, heard = self._node, self._topics()
        if contract.reset_topic:
            heard.append((contract.reset_topic, "std_msgs/msg/Empty"))
        box = BlackBox(
            self._settings.black_box,
            contract,
            path=node.get_fully_qualified_name(),
            observed=[(node.resolve_topic_name(t), kind) for t, kind in heard],
            commanded=[publisher.topic_name for publisher in self._publishers],
            step_s=1.0 / rate_hz,
            status_layout=self.report.status_row[0].layout,
            say=node.get_logger().info,
        )
        self._undo.append(box.close)
        service = node.create_service(Trigger, "~/dump", self._on_dump)
        self._undo.append(partial(node.destroy_service, service))
        return box

    def _observe(self, index: int, source: Source) -> None:
        events = SubscriptionEventCallbacks(
            incompatible_qos=partial(
                self._on_incompatible, source.topic, "a publisher does not offer"
            )
        )
        on_message = self._sampled if self._settings.timed else self._answered
        subscription = self._subscribe(
            message_class(source.type),
            source.topic,
            partial(on_message, index, source),
            profile(OBSERVATION_QOS, source.qos),
            events,
        )
        self._observed.append((source, subscription))

    def _subscribe(
        self,
        message_type: type,
        topic: str,
        callback: Callable[[Any], None],
        qos: QoSProfile,
        events: SubscriptionEventCallbacks | None,
    ) -> Any:  # noqa: ANN401
        subscription = self._node.create_subscription(
            message_type,
            topic,
            callback,
            qos,
            event_callbacks=events,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._undo.append(partial(self._node.destroy_subscription, subscription))
        return subscription

    def _make_timers(self) -> None:
        # What keeps the loop honest: the tick itself, or the watch over observations that tick.
        if self._settings.timed:
            self._beat = self._timer(1.0 / self._settings.rate_hz, self.loop.on_timer)
        else:
            self._beat = self._timer(self.loop.collector.max_age_ns * 1e-9, self._on_watchdog)
        self._hold = self._timer(1.0 / self._settings.rate_hz, self._on_hold)
        self._beat.cancel()
        self._hold.cancel()
        self._watchers.every(_SUMMARY_S, self._on_summary)

    def _timer(self, period_s: float, callback: Callable[[], None]) -> Any:  # noqa: ANN401
        timer = self._node.create_timer(period_s, callback)
        self._undo.append(partial(self._node.destroy_timer, timer))
        return timer

    def _answered(self, index: int, source: Source, message: Any) -> None:  # noqa: ANN401
        received_ns = self._now_ns()
        if self.loop.on_message(source, message):
            self._beat.reset()
            if self._holding:
                self._holding = False
                self._hold.cancel()
        # After the answer: what is kept for later must not delay it.
        self.box.observed(index, message, received_ns)

    def _sampled(self, index: int, source: Source, message: Any) -> None:  # noqa: ANN401
        self.loop.collect(source, message)
        self.box.observed(index, message, self._now_ns())

    def _on_send(self, rows: NDArray[np.float64], stamp_ns: int) -> None:
        self.box.commanded(rows, stamp_ns, self._now_ns())

    def _on_tick(self, tick: Tick) -> None:
        if self._link is not None:
            self._link.on_tick(tick, well=not self._watchers.fault)
        self.report.on_tick(tick)
        self.box.ticked(tick.level, tick.reason, self.report.status_row[1], self._now_ns())

    def _on_dump(self, request: Any, response: Any) -> Any:  # noqa: ANN401
        del request
        response.success = self.box.enabled
        response.message = self.box.dump("asked for", self._now_ns())
        return response

    def _on_watchdog(self) -> None:
        if self.loop.on_watchdog():
            # From here on the hold is repeated at control rate, as a driver may expect.
            self._holding = True
            self._beat.cancel()
            self._hold.reset()

    def _on_hold(self) -> None:
        self.loop.on_watchdog()

    def _on_reset(self, message: Empty) -> None:
        now_ns = self._now_ns()
        self.loop.restart_episode(now_ns)
        self.box.observed(len(self.loop.collector.sources), message, now_ns)

    def _on_summary(self) -> None:
        for publisher in () if self._settings.shadow else self._publishers:
            known = 2 if self._link is not None else 1
            others = max(0, self._node.count_publishers(publisher.topic_name) - known)
            self.report.warn(
                f"{publisher.topic_name} (others)",
                f"{others} other node(s) publish '{publisher.topic_name}' too" if others else "",
            )
        self.report.warn("black box", self.box.trouble)
        self.report.warn("/clock", self._clock.look())
        self.report.publish_summary(self.loop, waiting=self._watchers.waiting())

    def _on_incompatible(self, topic: str, who: str, event: Any) -> None:  # noqa: ANN401
        try:
            policy = QoSPolicyKind(event.last_policy_kind).name.lower()
        except ValueError:
            policy = f"policy {event.last_policy_kind}"
        resolved = self._node.resolve_topic_name(topic)
        self.report.warn(
            resolved, f"'{resolved}': {who} this QoS ({policy}); nothing is exchanged"
        )
