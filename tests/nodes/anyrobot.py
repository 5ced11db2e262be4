"""A robot of any contract: raw messages out and back; and a policy that is one matrix."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile
from std_msgs.msg import String

from tests.nodes.robot import ANSWER_S, PULSE_S, TIMEOUT_S
from tests.policy_files import Graph, save, tensors
from vdd_ros.core.contract import PolicyContract
from vdd_ros.nodes.codecs import message_class
from vdd_ros.nodes.diagnostics import LATCHED
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.process import node_environment

KEPT = 500
"""Messages kept of every topic."""


def linear_policy(
    path: Path,
    contract: PolicyContract,
    weights: NDArray[np.floating],
    bias: NDArray[np.floating] | float = 0.0,
) -> Path:
    """Write a student whose two experts both answer ``observation @ weights + bias``.

    Args:
        path: where it is written.
        contract: of one observed step.
        weights: [D_obs, horizon * D_act].
        bias: [horizon * D_act].
    """
    h, a = contract.horizon, contract.dim_act
    weights = weights.astype(np.float32)
    bias = np.broadcast_to(np.asarray(bias, np.float32), (h * a,)).copy()
    graph = Graph()
    flat = graph.op("Reshape", "observation", np.array([0, -1]))
    one = graph.op("Add", graph.op("MatMul", flat, weights), bias)
    shaped = graph.op("Reshape", one, np.array([0, 1, h, a]))
    graph.op("Concat", shaped, shaped, axis=1, out="expert_actions")
    nothing = np.zeros((contract.dim_obs, 2), np.float32)
    graph.op("MatMul", flat, nothing, out="gating_logits")
    shapes = {"gating_logits": ["B", 2], "expert_actions": ["B", 2, h, a]}
    model = graph.build({"observation": ["B", 1, contract.dim_obs]}, shapes)
    sample = np.random.default_rng(0).uniform(-1, 1, (2, 1, contract.dim_obs))
    sample = sample.astype(np.float32)
    answer = (sample[:, 0] @ weights + bias).reshape(2, 1, h, a)
    golden = {
        "inputs": tensors({"observation": sample}),
        "outputs": tensors(
            {"gating_logits": np.zeros((2, 2)), "expert_actions": np.tile(answer, (1, 2, 1, 1))}
        ),
        "atol": 1e-4,
    }
    provenance = {"format_version": 1, "kind": "moe", "n_experts": 2}
    return save(path, model, contract=contract, provenance=provenance, golden=golden)


class AnyRobot:
    """Publishes what a contract observes and keeps what it commands."""

    def __init__(
        self,
        driver: Driver,
        contract: PolicyContract,
        *,
        offers: Mapping[str, QoSProfile] | None = None,
        asks: Mapping[str, QoSProfile] | None = None,
    ) -> None:
        """Join all topics of the contract.

        Args:
            driver: whose node publishes and listens.
            contract: names topics and types.
            offers: quality of service by observed topic; reliable, ten deep by default.
            asks: by commanded topic; reliable, a hundred deep by default.
        """
        self.driver = driver
        self.heard: dict[str, deque[Any]] = defaultdict(lambda: deque(maxlen=KEPT))
        """Messages by commanded topic, the newest last."""
        self.reasons: list[str] = []
        """Everything on the node's ~/reason."""
        self._last_stamp_ns = 0
        self._last_pulse = 0.0
        node = driver.node
        offers, asks = offers or {}, asks or {}
        self.publishers: dict[str, Any] = {}
        """By observed topic."""
        for entry in contract.observations:
            if entry.topic not in self.publishers:
                qos = offers.get(entry.topic, QoSProfile(depth=10))
                kind = message_class(entry.type)
                self.publishers[entry.topic] = node.create_publisher(kind, entry.topic, qos)
        for topic, type_name in {a.topic: a.type for a in contract.actions}.items():
            qos = asks.get(topic, QoSProfile(depth=100))
            keep = partial(self._keep, topic)
            node.create_subscription(message_class(type_name), topic, keep, qos)
        node.create_subscription(String, "policy/reason", self._on_reason, LATCHED)

    def send(
        self, messages: Mapping[str, Any], *, old_s: Mapping[str, float] | None = None
    ) -> int:
        """Publish a message per topic, stamped now or ``old_s`` seconds ago; return the stamp."""
        now_ns = max(time.time_ns(), self._last_stamp_ns + 1)
        self._last_stamp_ns = now_ns
        for topic, message in messages.items():
            if hasattr(message, "header"):
                stamp_ns = now_ns - round(1e9 * (old_s or {}).get(topic, 0.0))
                stamp = message.header.stamp
                stamp.sec, stamp.nanosec = divmod(stamp_ns, 10**9)
            self.publishers[topic].publish(message)
        return now_ns

    def send_until(
        self,
        messages: Mapping[str, Any],
        done: Callable[[], bool],
        what: str,
        *,
        old_s: Mapping[str, float] | None = None,
    ) -> None:
        """Publish the same messages at a robot's pace, newly stamped, until ``done``."""

        def pulsed() -> bool:
            if done():
                return True
            self.pulse(lambda: self.send(messages, old_s=old_s))
            return False

        self.until(pulsed, what)

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Handle events until ``done``."""
        self.driver.spin_until(done, timeout_s=TIMEOUT_S, what=what)

    def pulse(self, send: Callable[[], Any]) -> None:
        """Send at a robot's pace however often this is called."""
        now = time.monotonic()
        if now - self._last_pulse >= PULSE_S:
            self._last_pulse = now
            send()

    def ask_until(
        self, kind: Any, name: str, done: Callable[[], bool], *, meanwhile: Callable[[], Any]
    ) -> None:
        """Call a service without arguments, again and again, until ``done``."""
        client = self.driver.node.create_client(kind, name)
        due = 0.0

        def asked() -> bool:
            nonlocal due
            self.pulse(meanwhile)
            if time.monotonic() >= due:
                due = time.monotonic() + ANSWER_S
                client.call_async(kind.Request())
            return done()

        try:
            self.until(client.service_is_ready, f"service {name}")
            self.until(asked, f"what {name} is asked for")
        finally:
            self.driver.node.destroy_client(client)

    def run(self, *words: str, meanwhile: Callable[[], Any]) -> tuple[int, dict[str, Any]]:
        """Run ``vdd`` in the same domain while the robot goes on; return exit code and answer."""
        environment = node_environment() | self.driver._environment
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "vdd_ros", *words, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=said,
                env=environment,
            )
            try:

                def ended() -> bool:
                    self.pulse(meanwhile)
                    return process.poll() is not None

                self.driver.spin_until(ended, timeout_s=3 * TIMEOUT_S, what=f"end of vdd {words}")
            finally:
                process.kill()
                process.wait()
            for file in (out, said):
                file.seek(0)
            text, log = out.read().decode(), said.read().decode()
        assert text, f"vdd {words} said nothing: {log}"
        answer: dict[str, Any] = json.loads(text)
        return process.returncode, answer

    def _keep(self, topic: str, message: Any) -> None:
        self.heard[topic].append(message)

    def _on_reason(self, message: String) -> None:
        self.reasons.append(message.data)


def stamp_of(message: Any) -> int:
    """Return the header's stamp in ns."""
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)
