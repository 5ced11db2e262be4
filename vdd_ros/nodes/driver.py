"""What the demo and the comparison share: a node of their own, child nodes, and deadlines."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from vdd_ros.core.errors import VddError
from vdd_ros.nodes.executor import make_executor
from vdd_ros.nodes.loopback import loopback_environment
from vdd_ros.nodes.process import NodeProcess, check_alive

_POLL_S = 0.1
"""How often a wait looks whether a child has died."""
_DOMAINS = range(1, 100)
"""Fast DDS derives port numbers from the domain; up to 101 they stay below the ephemeral ones."""
_DISCOVERY_S = 0.5
"""Discovery takes this long with the profile below."""


class Driver:
    """A context manager around a node, its executor and the node processes it started."""

    def __init__(self, name: str, *, own_domain: bool = False, shared_memory: bool = True) -> None:
        """Prepare; nothing happens before ``with``.

        Args:
            name: node name.
            own_domain: use a ROS domain that nobody else uses, instead of the present one.
            shared_memory: whether nodes may speak through it; whoever kills nodes says no.
        """
        self._name = name
        self._shared_memory = shared_memory
        self._own_domain = own_domain
        self.processes: list[NodeProcess] = []
        self._folder = tempfile.TemporaryDirectory(prefix="vdd_ros_")

    def __enter__(self) -> Driver:
        """Join the domain, on this machine only."""
        candidates: list[int | None] = [None]
        if self._own_domain:
            candidates = list(random.SystemRandom().sample(_DOMAINS, 5))
        for domain in candidates:
            self._join(domain)
            if domain is None or self._alone():
                return self
            self._leave()
        raise VddError(
            "five ROS domains chosen at random were all in use on this machine; end other ROS "
            "programs, or try again"
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the child nodes, the last one started first, then leave the domain."""
        try:
            for process in reversed(self.processes):
                process.stop()
        finally:
            self._leave()
            self._folder.cleanup()

    def start(
        self,
        module: str,
        *,
        parameters: Mapping[str, object],
        namespace: str = "",
        ends: bool = False,
    ) -> NodeProcess:
        """Start a node in the same domain; ``ends``: exit code 0 is expected.

        A module without a dot is one of this package's nodes.
        """
        process = NodeProcess(
            module if "." in module else f"vdd_ros.nodes.{module}",
            parameters=parameters,
            namespace=namespace,
            environment=self._environment,
            ends=ends,
        )
        self.processes.append(process)
        return process

    def spin(self, timeout_s: float) -> None:
        """Handle at most one event within ``timeout_s``."""
        self.executor.spin_once(timeout_sec=max(timeout_s, 0.0))

    def spin_until(self, done: Callable[[], bool], *, timeout_s: float, what: str) -> None:
        """Handle events until ``done``.

        Raises:
            VddError: a child node died, or the time is over; the message says what was awaited.
        """
        deadline = time.monotonic() + timeout_s
        while not done():
            self.check()
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise VddError(
                    f"no {what} within {timeout_s:g} s; the nodes' last lines:\n{self.tails()}"
                )
            self.spin(min(left_s, _POLL_S))

    def check(self) -> None:
        """Raise a `VddError` with its last words if a child node has died."""
        check_alive(self.processes)

    def tails(self) -> str:
        """Return the last lines of every child node."""
        return "\n".join(f"-- {p.name}:\n{p.tail(5)}" for p in self.processes)

    @contextmanager
    def neighbour(self, name: str) -> Iterator[Node]:
        """Another node in the same domain, as from a process of its own; it only publishes."""
        context = Context()
        with _variables(self._environment):
            rclpy.init(
                context=context,
                domain_id=self.context.get_domain_id(),
                signal_handler_options=SignalHandlerOptions.NO,
            )
            node = Node(name, context=context)
        try:
            yield node
        finally:
            node.destroy_node()
            context.try_shutdown()

    def discover(self) -> None:
        """Give local discovery the time it takes."""
        deadline = time.monotonic() + _DISCOVERY_S
        while (left_s := deadline - time.monotonic()) > 0:
            self.spin(left_s)

    def _join(self, domain: int | None) -> None:
        self._environment = loopback_environment(
            Path(self._folder.name), shared_memory=self._shared_memory
        )
        if domain is not None:
            self._environment["ROS_DOMAIN_ID"] = str(domain)
        self.context = Context()
        with _variables(self._environment):
            rclpy.init(
                context=self.context,
                domain_id=domain,
                signal_handler_options=SignalHandlerOptions.NO,
            )
            # The middleware starts with the first node, not with the context.
            self.node = Node(self._name, context=self.context)
        self.executor, _ = make_executor("auto", self.context)
        self.executor.add_node(self.node)

    def _alone(self) -> bool:
        self.discover()
        return len(self.node.get_node_names()) == 1

    def _leave(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


@contextmanager
def _variables(changes: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while: the middleware reads them when it starts."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
