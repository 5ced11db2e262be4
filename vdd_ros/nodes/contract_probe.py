"""What a contract expects, compared with what is published now."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from vdd_ros.codecs.check import Report
from vdd_ros.control.observations import NEVER, ObservationCollector, Source
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.nodes.codecs import message_class
from vdd_ros.nodes.commands import Sink, make_sinks
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.graph import publisher_fault
from vdd_ros.nodes.qos import COMMAND_QOS, OBSERVATION_QOS, profile

_LOOK_S = 0.5
"""Messages are counted for at least this long: a rate is made of several."""


def probe(
    contract: PolicyContract, *, namespace: str = "", wait_s: float = 3.0
) -> tuple[Report, list[str]]:
    """Listen to every observed topic and look at every commanded one.

    Nothing is published. Returns as soon as every topic was heard and every value found, at the
    latest after ``wait_s``.

    Returns:
        what does not fit, by topic and name; and a line per topic on what is there.

    Raises:
        VddError: the contract does not fit its message types.
    """
    with Driver("vdd_contract_check") as driver:
        ears = _Ears(driver.node, contract, namespace)
        start_s = time.monotonic()
        while (spent_s := time.monotonic() - start_s) < wait_s:
            driver.spin(min(0.05, wait_s - spent_s))
            if spent_s >= _LOOK_S and ears.content():
                break
        return ears.report(time.monotonic() - start_s)


class _Ears:
    """Subscriptions to all observations, and what was heard."""

    def __init__(self, node: Node, contract: PolicyContract, namespace: str) -> None:
        self._node = node
        self._contract = contract
        self._prefix = f"{namespace.rstrip('/')}/" if namespace else ""
        self._collector = ObservationCollector(contract)
        self._sinks = make_sinks(contract, step_s=contract.step_s)
        self._heard: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        for source in self._collector.sources:
            topic = self._name(source.topic)
            node.create_subscription(
                message_class(source.type),
                topic,
                partial(self._hear, source),
                profile(OBSERVATION_QOS, source.qos),
                # Said by name below; without a callback rclpy warns in its own words.
                event_callbacks=SubscriptionEventCallbacks(incompatible_qos=_ignore),
            )

    def content(self) -> bool:
        """Tell whether every topic was heard and has every value."""
        sources = self._collector.sources
        return all(s.stamp_ns != NEVER and not s.fault for s in sources)

    def report(self, seconds: float) -> tuple[Report, list[str]]:
        """Say what was found."""
        misfits = [text for s in self._collector.sources for text in self._observed(s)]
        notes: list[str] = []
        for sink in self._sinks:
            wrong, remarks = self._commanded(sink)
            misfits += wrong
            notes += remarks
        if not misfits:
            notes += [
                f"{label} is not a finite number now"
                for label in (self._collector.non_finite(),)
                if label
            ]
        lines = [
            f"{self._name(s.topic)}: {self._heard.get(s.topic, 0)} messages in {seconds:.1f} s, "
            f"{s.type}"
            for s in self._collector.sources
        ]
        return Report(self._contract, tuple(misfits), tuple(notes)), lines

    def _hear(self, source: Source, message: Any) -> None:  # noqa: ANN401
        self._heard[source.topic] = self._heard.get(source.topic, 0) + 1
        now_ns = self._node.get_clock().now().nanoseconds
        try:
            self._collector.accept(source, message, now_ns)
        except VddError:
            return  # kept as the source's fault
        age_ns = now_ns - source.stamp_ns
        late = source.max_age_ns and abs(age_ns) > source.max_age_ns
        self._refused[source.topic] = (
            f"stamped {age_ns / 1e6:.0f} ms before it was heard, the contract allows "
            f"{source.max_age_ns / 1e6:g} ms: synchronise the clocks, or check use_sim_time"
            if late
            else ""
        )

    def _observed(self, source: Source) -> list[str]:
        topic = self._name(source.topic)
        fault = publisher_fault(self._node, topic, source.type)
        if fault:
            return [fault]
        if source.fault:
            # The fault names the topic as the contract does.
            return [f"topic '{self._resolved(topic)}': {source.fault.partition(': ')[2]}"]
        late = self._refused.get(source.topic, "")
        if late:
            return [f"topic '{self._resolved(topic)}': {late}"]
        if source.stamp_ns != NEVER:
            return []
        infos = self._node.get_publishers_info_by_topic(self._resolved(topic))
        if not infos:
            return [f"topic '{self._resolved(topic)}': nobody publishes it"]
        wanted = profile(OBSERVATION_QOS, source.qos)
        refused = [text for info in infos for text in _incompatible(info, wanted)]
        if refused:
            return [f"topic '{self._resolved(topic)}': {text}" for text in refused]
        return [f"topic '{self._resolved(topic)}': published, but no message came"]

    def _commanded(self, sink: Sink) -> tuple[list[str], list[str]]:
        topic = self._name(sink.topic)
        resolved = self._resolved(topic)
        infos = self._node.get_subscriptions_info_by_topic(resolved)
        if not infos:
            return [], [f"topic '{resolved}': nobody takes commands from it now"]
        offered = profile(COMMAND_QOS, sink.qos)
        misfits = []
        for info in infos:
            if info.topic_type != sink.type:
                misfits.append(
                    f"topic '{resolved}': {_who(info)} takes {info.topic_type}, "
                    f"the contract sends {sink.type}"
                )
            elif _asks_for_more(info.qos_profile, offered):
                misfits.append(
                    f"topic '{resolved}': {_who(info)} asks for "
                    f"{', '.join(_asks_for_more(info.qos_profile, offered))}, the contract sends "
                    "with less; set the field's qos"
                )
        others = self._node.get_publishers_info_by_topic(resolved)
        notes = [f"topic '{resolved}': {_who(info)} commands it now" for info in others]
        return misfits, notes

    def _name(self, topic: str) -> str:
        return f"{self._prefix}{topic}"

    def _resolved(self, topic: str) -> str:
        name: str = self._node.resolve_topic_name(topic)
        return name


def _incompatible(info: Any, wanted: Any) -> list[str]:  # noqa: ANN401 - rclpy's types
    more = _asks_for_more(wanted, info.qos_profile)
    return [
        f"the contract asks for {name}, {_who(info)} offers less; set the field's qos"
        for name in more
    ]


def _asks_for_more(asked: Any, offered: Any) -> list[str]:  # noqa: ANN401 - rclpy's types
    """Name what a subscription asks for beyond what a publisher offers."""
    more = []
    if (
        asked.reliability == ReliabilityPolicy.RELIABLE
        and offered.reliability == ReliabilityPolicy.BEST_EFFORT
    ):
        more.append("reliable delivery")
    if (
        asked.durability == DurabilityPolicy.TRANSIENT_LOCAL
        and offered.durability == DurabilityPolicy.VOLATILE
    ):
        more.append("transient_local durability")
    return more


def _who(info: Any) -> str:  # noqa: ANN401 - rclpy's TopicEndpointInfo
    return f"node '{info.node_namespace.rstrip('/')}/{info.node_name}'"


def _ignore(event: Any) -> None:  # noqa: ANN401 - rclpy's event
    del event
