"""The comparison: echo, policy and teacher as nodes, measured end to end in turns.

This process plays the robot. It publishes observations and measures until the command that answers
each of them is back: inbound transport, the whole node, outbound transport, as a robot sees it.
The three nodes take turns tick by tick, a third of a period apart, so that whatever else this
machine does meets all of them alike; each one sees a steady stream at the asked rate.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from vdd_ros.codecs.topics import TopicWriter, topic_writers
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.core.latency import summarize
from vdd_ros.nodes.codecs import empty, message_class
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.qos import COMMAND_QOS, profile
from vdd_ros.runtime.policy_file import PolicyFile

NAMES = ("echo", "policy", "teacher")
"""The nodes and their namespaces, in the order of their turns."""

_WARM_UP_TICKS = 30
"""Answers each node gives before measuring starts."""
_START_S = 30.0
"""Longest wait for three nodes to load, verify and answer."""
_NS = 1_000_000_000


@dataclasses.dataclass(eq=False)
class _Lane:
    """One node under test: where its observations go and its answers come back."""

    publishers: list[tuple[Any, TopicWriter]]
    observation: np.ndarray[Any, Any]
    sent_ns: int = 0
    stamp_ns: int = 0
    answered: bool = True
    answers: int = 0
    ticks: int = 0
    missed: int = 0
    latencies_ns: list[int] = dataclasses.field(default_factory=list)
    measuring: bool = False

    def send(self, stamp_ns: int) -> None:
        """Publish one observation; the clock starts when the message is ready."""
        if self.measuring:
            self.ticks += 1
            self.missed += 0 if self.answered or self.ticks == 1 else 1
        self.answered = False
        self.stamp_ns = stamp_ns
        messages = [(p, writer.write(self.observation, stamp_ns)) for p, writer in self.publishers]
        self.sent_ns = time.perf_counter_ns()
        for publisher, message in messages:
            publisher.publish(message)

    def on_command(self, message: Any) -> None:  # noqa: ANN401
        """Take an answer; only the first one to the newest observation counts."""
        now_ns = time.perf_counter_ns()
        header = getattr(message, "header", None)
        if header is not None:
            stamp_ns = header.stamp.sec * _NS + header.stamp.nanosec
            if stamp_ns != self.stamp_ns:
                return
        if self.answered:
            return
        self.answered = True
        self.answers += 1
        if self.measuring:
            self.latencies_ns.append(now_ns - self.sent_ns)

    def result(self) -> dict[str, float]:
        """Return the figures of `vdd compare`."""
        summary = summarize(np.array(self.latencies_ns, dtype=np.int64))
        return {
            "p50_us": summary.p50_us,
            "p99_us": summary.p99_us,
            "max_us": summary.max_us,
            "ticks": self.ticks,
            "missed": self.missed + (0 if self.answered else 1),
        }


def compare(
    seconds: float, rate_hz: float, student: str, teacher: str, nfe: int = 16
) -> dict[str, dict[str, float]]:
    """Measure three nodes end to end.

    Args:
        seconds: how long to measure.
        rate_hz: observations per second for each node.
        student: policy file of the policy node; echo uses its contract.
        teacher: policy file of the teacher node.
        nfe: sampler steps of the teacher.

    Returns:
        ``echo, policy, teacher`` each with ``p50_us, p99_us, max_us, ticks, missed``, and
        ``ratio`` with ``policy_over_echo_p50, teacher_over_policy_p50``.

    Raises:
        VddError: a wrong file, topics that are in use, or a node that died.
    """
    file = PolicyFile.open(student)
    observation = _inside(
        file.contract, np.asarray(file.golden.inputs["observation"][0, -1], dtype=np.float64)
    )
    parameters: dict[str, object] = {"autostart": True, "rate_hz": float(rate_hz)}
    files = {"echo": student, "policy": student, "teacher": teacher}
    with Driver("vdd_compare") as driver:
        lanes = {name: _lane(driver, file.contract, observation, name) for name in NAMES}
        _refuse_busy(driver, file.contract)
        for name in NAMES:
            extra: dict[str, object] = {"policy": str(Path(files[name]).resolve())}
            if name == "teacher":
                extra["nfe"] = int(nfe)
            driver.start(f"{name}_node", parameters=parameters | extra, namespace=name)
        turns = _Turns(driver, list(lanes.values()), rate_hz)
        turns.run_until(
            lambda: all(lane.answers >= _WARM_UP_TICKS for lane in lanes.values()),
            timeout_s=_START_S,
        )
        for lane in lanes.values():
            lane.measuring = True
        turns.run_for(round(seconds * rate_hz))
        driver.check()
    result = {name: lane.result() for name, lane in lanes.items()}
    result["ratio"] = {
        "policy_over_echo_p50": result["policy"]["p50_us"] / result["echo"]["p50_us"],
        "teacher_over_policy_p50": result["teacher"]["p50_us"] / result["policy"]["p50_us"],
    }
    return result


class _Turns:
    """Sends to the lanes in turn on absolute deadlines and handles answers in between."""

    def __init__(self, driver: Driver, lanes: list[_Lane], rate_hz: float) -> None:
        self._driver = driver
        self._lanes = lanes
        self._slot_s = 1.0 / (rate_hz * len(lanes))
        self._next_s = time.monotonic()

    def run_until(self, done: Any, *, timeout_s: float) -> None:  # noqa: ANN401
        """Go round until ``done``, giving up on dead nodes and after ``timeout_s``."""
        end_s = time.monotonic() + timeout_s
        while not done():
            self._driver.check()
            if time.monotonic() > end_s:
                missing = ", ".join(
                    name
                    for name, lane in zip(NAMES, self._lanes, strict=True)
                    if lane.answers < _WARM_UP_TICKS
                )
                raise VddError(
                    f"no answers from {missing} within {timeout_s:g} s; last lines:\n"
                    f"{self._driver.tails()}"
                )
            self._round()

    def run_for(self, rounds: int) -> None:
        """Send ``rounds`` observations to every lane and wait for the last answers."""
        for _ in range(rounds):
            self._round()

    def _round(self) -> None:
        for lane in self._lanes:
            lane.send(time.time_ns())
            self._next_s += self._slot_s
            late_s = time.monotonic() - self._next_s
            if late_s > self._slot_s:
                self._next_s += late_s  # after a stall go on, without a burst
            while (left_s := self._next_s - time.monotonic()) > 0:
                self._driver.spin(left_s)


def _inside(contract: PolicyContract, observation: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the observation with what is commanded moved inside its bounds.

    A node sends nothing to a robot that stands outside them, and a recorded sample may.
    """
    inside = observation.copy()
    for action in contract.actions:
        limits = action.limits
        for key in filter(None, (action.measured, action.relative_to)):
            place = contract.observation_slice(key)
            inside[place] = np.clip(inside[place], limits.min or -np.inf, limits.max or np.inf)
    return inside


def _lane(
    driver: Driver, contract: PolicyContract, observation: np.ndarray[Any, Any], name: str
) -> _Lane:
    node = driver.node
    qos = {o.topic: profile(COMMAND_QOS, o.qos) for o in contract.observations}
    publishers = [
        (
            node.create_publisher(
                message_class(writer.type), f"{name}/{writer.topic}", qos[writer.topic]
            ),
            writer,
        )
        for writer in topic_writers(contract.observations, empty=empty)
    ]
    lane = _Lane(publishers, observation[None])
    # One answer suffices: the commands of one tick are sent together.
    action = contract.actions[-1]
    node.create_subscription(
        message_class(action.type),
        f"{name}/{action.topic}",
        lane.on_command,
        profile(COMMAND_QOS, action.qos),
    )
    return lane


def _refuse_busy(driver: Driver, contract: PolicyContract) -> None:
    driver.discover()
    for name in NAMES:
        names = {o.topic for o in contract.observations} | {a.topic for a in contract.actions}
        for topic in (driver.node.resolve_topic_name(f"{name}/{n}") for n in sorted(names)):
            own = driver.node.get_fully_qualified_name()
            others = [
                f"{info.node_namespace.rstrip('/')}/{info.node_name}"
                for info in (
                    *driver.node.get_publishers_info_by_topic(topic),
                    *driver.node.get_subscriptions_info_by_topic(topic),
                )
                if f"{info.node_namespace.rstrip('/')}/{info.node_name}" != own
            ]
            if others:
                raise VddError(
                    f"topic '{topic}' is already used by {', '.join(sorted(set(others)))}; end "
                    "that node, or measure in another domain: ROS_DOMAIN_ID=77 vdd compare"
                )
