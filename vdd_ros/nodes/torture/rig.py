"""The robot's side of a node under test: states at a steady pace, everything that comes back."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PointStamped
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty, Float64MultiArray, String

from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.nodes.diagnostics import read_labelled
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.process import NodeProcess
from vdd_ros.nodes.torture.judge import GRACE_S, HEARD_S, PATIENCE_S, Judge
from vdd_ros.nodes.torture.robot import NS, Robot, stamp_of
from vdd_ros.nodes.torture.settings import Companion, RigSettings

END_S = 10.0
"""Longest wait for a node to end."""
START_S = 30.0
"""Longest wait for a node to load, verify and answer."""
_MANY = QoSProfile(depth=200)
# Deeper than the node's own: two reasons in one instant must both be read.
_EVERY_REASON = QoSProfile(depth=200, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_SLICE_S = 0.02


class Rig(Robot):
    """Starts a node, keeps it fed, and hands all it publishes to the judge."""

    def __init__(
        self,
        driver: Driver,
        contract: PolicyContract,
        settings: RigSettings,
        rng: np.random.Generator,
    ) -> None:
        """Create the topics; the node is started by `start`."""
        super().__init__(settings.rate_hz)
        self.driver = driver
        self.settings = settings
        self.rng = rng
        self.judge = Judge(contract, rate_hz=settings.rate_hz)
        self.processes: dict[str, NodeProcess] = {}
        """By node name."""
        self.diagnostics = ""
        """The newest summary of the node, all its texts in lines."""
        self.diagnosed_s = 0.0
        self.rows: dict[str, dict[str, float]] = {}
        """The newest status row of every node."""
        self.heard_s: dict[str, float] = {}
        """When it came."""
        self.sent = 0
        """States sent."""
        self._next_s = 0.0
        self.prefix = f"/{settings.namespace}"
        self.path = f"{self.prefix}/{settings.node}"
        ros = driver.node
        self._state = ros.create_publisher(JointState, f"{self.prefix}/robot_state", 10)
        self._reset = ros.create_publisher(Empty, f"{self.prefix}/episode_start", 10)
        self._clock = ros.create_publisher(Clock, "/clock", 10) if settings.sim_time else None
        names = [settings.node, *(c.node for c in settings.companions)]
        topics: list[tuple[Any, str, Callable[[Any], None], QoSProfile]] = [
            (PointStamped, f"{self.prefix}/command", self._on_command, _MANY),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics, _MANY),
        ]
        for name in names:
            path = f"{self.prefix}/{name}"
            topics += [
                (String, f"{path}/reason", partial(self._on_reason, name), _EVERY_REASON),
                (Float64MultiArray, f"{path}/status", partial(self._on_status, name), _MANY),
            ]
        self._subscriptions = [
            ros.create_subscription(kind, topic, callback, qos)
            for kind, topic, callback, qos in topics
        ]

    # The node

    def start(self) -> None:
        """Start the node and wait until it answers.

        Raises:
            VddError: it does not; the message holds its last lines.
        """
        self.launch(self.settings.node)
        for companion in self.settings.companions:
            self.launch(companion.node)
        self.await_answer()

    def launch(self, name: str) -> None:
        """Start one of the nodes, without waiting for it."""
        settings = self.settings
        spec = next(
            (c for c in settings.companions if c.node == name),
            Companion(settings.module, settings.node, settings.parameters),
        )
        given: dict[str, object] = {
            "autostart": True,
            "discovery_s": 0.0,
            "rate_hz": settings.rate_hz,
            "use_sim_time": settings.sim_time,
        }
        self.rows.pop(name, None)
        self.judge.born(name)
        self.processes[name] = self.driver.start(
            spec.module, parameters=given | dict(spec.parameters), namespace=settings.namespace
        )

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """End a node by a signal; return its exit code."""
        process = self.processes.pop(name)
        process.send(number)
        self.driver.processes.remove(process)
        try:
            return process.wait(END_S)
        finally:
            process.stop()

    def await_answer(self) -> None:
        """Wait until the node acts; nothing is due before.

        Raises:
            VddError: it does not; the message holds its last lines.
        """
        begun = time.monotonic()
        self.judge.excuse()

        def answered() -> bool:
            self.judge.reborn(time.monotonic())
            return self.judge.acted_since(begun)

        if not self.pace(answered, timeout_s=START_S, due=False):
            raise VddError(f"no answer of {self.path}; last lines:\n{self.driver.tails()}")
        # A node that is ended before its reasons are heard would seem to have told none.
        self.pace(self.hears_all, timeout_s=HEARD_S, due=False)

    def hears_all(self) -> bool:
        """Tell whether every node that runs has told a reason since it was started."""
        return all(self.judge.hears(name) for name in self.processes)

    def end(self) -> None:
        """End the node, if it runs, and stop watching it."""
        self._drop()
        self.judge.settle(time.monotonic())
        ros = self.driver.node
        for subscription in self._subscriptions:
            ros.destroy_subscription(subscription)
        for publisher in (self._state, self._reset, *filter(None, [self._clock])):
            ros.destroy_publisher(publisher)

    def restart(self) -> None:
        """Start the nodes again after one ended or was ended, as a launch file would."""
        self._drop()
        self.start()

    def _drop(self) -> None:
        for process in self.processes.values():
            process.send(signal.SIGCONT)
            process.stop()
            self.driver.processes.remove(process)
        self.processes.clear()

    @property
    def process(self) -> NodeProcess | None:
        """The node under test."""
        return self.processes.get(self.settings.node)

    @property
    def row(self) -> dict[str, float]:
        """The newest status row of the node under test."""
        return self.rows.get(self.settings.node, {})

    @property
    def alive(self) -> bool:
        """Tell whether all processes run that should."""
        names = {self.settings.node, *(c.node for c in self.settings.companions)}
        return names == set(self.processes) and all(
            process.exit_code is None for process in self.processes.values()
        )

    # What is sent

    def send(self, message: Any, *, due: bool, publisher: Any = None) -> int:  # noqa: ANN401
        """Publish a state and return its number in the judge's ledger.

        Args:
            message: a JointState.
            due: it must be answered.
            publisher: another publisher of the same topic.
        """
        measured = [*message.position[:2]]
        stamp_ns = stamp_of(message)
        number = self.judge.sent(
            stamp_ns, measured if len(measured) == 2 else (), time.monotonic(), due=due
        )
        self.sent += 1
        (publisher or self._state).publish(message)
        # A message right behind it would take its place before the node has looked.
        self._next_s = max(self._next_s, time.monotonic() + 1.0 / self.settings.rate_hz)
        return number

    def reset(self) -> None:
        """Announce a new episode: what is on its way may be forgotten, and the last command."""
        self.judge.excuse()
        self.judge.reborn(time.monotonic())
        self._reset.publish(Empty())

    def tick_clock(self) -> None:
        """Publish the clock, where this rig has one."""
        if self._clock is not None:
            clock = Clock()
            clock.clock.sec, clock.clock.nanosec = divmod(self.now_ns(), NS)
            self._clock.publish(clock)

    # Time passes

    def pace(
        self,
        until: Callable[[], bool],
        *,
        timeout_s: float,
        due: bool = True,
        sending: bool = True,
    ) -> bool:
        """Send states at the control rate until something is so; return whether it became so."""
        period, deadline = 1.0 / self.settings.rate_hz, time.monotonic() + timeout_s
        clocked = self._clock is not None
        while not until():
            now = time.monotonic()
            if now >= deadline:
                return False
            if now >= self._next_s:
                self.judge.settle(now)
                self.tick_clock()
                late = now - self._next_s > period
                following = now + period if late else self._next_s + period
                if sending:
                    self.send(self.message(), due=due)
                self._next_s = following
            waits = self._next_s if sending or clocked else deadline
            self.driver.spin(min(waits - now, deadline - now, _SLICE_S))
        return True

    def ticks(self, number: int) -> None:
        """Send that many states."""
        goal = self.sent + number
        self.pace(lambda: self.sent >= goal, timeout_s=number / self.settings.rate_hz + 5.0)

    def settle_commands(self) -> None:
        """Wait until everything sent so far was answered, without sending more."""
        self.pace(lambda: not self.judge.waiting, timeout_s=0.5, sending=False)

    def rest(self, seconds: float, *, sending: bool = True, due: bool = True) -> None:
        """Let time pass."""
        self.pace(lambda: False, timeout_s=seconds, sending=sending, due=due)

    def conclude(self) -> None:
        """Go on until the judge has decided on everything that was before."""
        begun = time.monotonic()
        self.rest(GRACE_S + PATIENCE_S + 0.1)
        self.pace(lambda: not self.judge.wonders(begun), timeout_s=HEARD_S + 0.1)

    def call(
        self,
        kind: Any,  # noqa: ANN401 - a service type
        name: str,
        request: Any,  # noqa: ANN401
        *,
        timeout_s: float = 2.0,
        due: bool = True,
    ) -> Any:  # noqa: ANN401
        """Call a service of the node while the robot goes on; return None without an answer."""
        client = self.driver.node.create_client(kind, f"{self.path}/{name}")
        try:
            if not self.pace(client.service_is_ready, timeout_s=timeout_s, due=due):
                return None
            future = client.call_async(request)
            self.pace(future.done, timeout_s=timeout_s, due=due)
            return future.result() if future.done() else None
        finally:
            self.driver.node.destroy_client(client)

    # What comes back

    def _on_command(self, message: PointStamped) -> None:
        stamp = message.header.stamp
        values = (message.point.x, message.point.y)
        self.judge.command(stamp.sec * NS + stamp.nanosec, values, time.monotonic())

    def _on_reason(self, node: str, message: String) -> None:
        self.judge.reason(message.data, time.monotonic(), node=node)

    def _on_status(self, node: str, message: Float64MultiArray) -> None:
        row = self.rows[node] = read_labelled(message)
        now = self.heard_s[node] = time.monotonic()
        self.judge.status(
            int(row["stamp_sec"]) * NS + int(row["stamp_nanosec"]),
            int(row["level"]),
            now,
            received=int(row.get("received", -1)) if node == self.settings.node else -1,
            commanding=bool(row["commanding"]),
            node=node,
        )

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        lines: list[str] = []
        for status in message.status:
            if status.name.startswith(f"{self.path}: "):
                lines += [status.message, *(f"{v.key}: {v.value}" for v in status.values)]
        if lines:
            self.diagnostics = "\n".join(lines)
            self.diagnosed_s = time.monotonic()
