"""Running a node from start to a clean end.

rclpy's own signal handlers shut the context before any code of ours runs, so that no stop command
could be sent any more. Here a signal only asks for the end; the node then says goodbye while it
can still publish, and the process exits with code 0.
"""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Protocol

import rclpy
from rclpy.context import Context
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import ok, try_shutdown

from vdd_ros.core.errors import VddError

SPIN_TIMEOUT_S = 0.1
"""Longest time a signal waits. Finite on purpose: without a timeout the EventsExecutor of some
rclpy builds never returns and never calls anything back."""

EXIT_USER_ERROR = 2
"""Something the user can fix: a wrong file, parameter or contract."""


class RunnableNode(Protocol):
    """What `run_node` asks of a node beyond being one."""

    exit_code: int | None
    """Set by the node to end the process; None while it wants to go on."""

    def begin(self) -> None:
        """Called once when the executor is about to spin."""
        ...

    def pace(self) -> float:
        """Called between any two callbacks; returns the longest time (s) until the next call."""
        ...

    def goodbye(self, reason: str) -> None:
        """Called once before the node is destroyed, while it can still publish."""
        ...


class StopRequest:
    """SIGINT and SIGTERM as a flag; from the first on, further ones are ignored.

    Ctrl-C reaches a node twice, from the terminal and from launch: the second must not kill it
    while it says goodbye.
    """

    def __init__(self) -> None:
        """Take both signals over (only possible in the main thread)."""
        self._event = threading.Event()
        self.signal_name = ""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def __bool__(self) -> bool:
        """Tell whether the end was asked for."""
        return self._event.is_set()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_IGN)
        self.signal_name = signal.Signals(number).name
        self._event.set()


def make_executor(kind: str, context: Context | None = None) -> tuple[Any, str]:
    """Return an executor and one line on the choice.

    Args:
        kind: ``events``, ``single``, or ``auto``: events where this rclpy has it.
        context: the ROS context; rclpy's default one when None.

    Raises:
        VddError: ``events`` was asked for and is not there.
    """
    if kind in ("events", "auto"):
        try:
            from rclpy.experimental.events_executor import EventsExecutor

            return EventsExecutor(context=context), "EventsExecutor"
        except (ImportError, AttributeError) as error:
            if kind == "events":
                raise VddError(
                    f"executor: this rclpy has no EventsExecutor ({error}); use executor single"
                ) from None
            return SingleThreadedExecutor(
                context=context
            ), f"SingleThreadedExecutor (no EventsExecutor: {error})"
    return SingleThreadedExecutor(context=context), "SingleThreadedExecutor"


def run_node(make: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Run a `RunnableNode` until it ends by itself or a signal asks; return the exit code.

    Args:
        make: builds the node; an ``executor`` parameter on it chooses the executor.
        args: command line, ``sys.argv`` by default.
    """
    stop = StopRequest()
    node: Any = None
    try:
        node = _start(make, args)
        return _spin(node, stop)
    except VddError as error:
        logger = node.get_logger() if node is not None else get_logger("vdd_ros")
        logger.fatal(str(error))
        return EXIT_USER_ERROR
    finally:
        if node is not None:
            _end(node, stop)
        try_shutdown()


def _start(make: Callable[[], Node], args: Sequence[str] | None) -> Node:
    try:
        rclpy.init(
            args=None if args is None else list(args),
            signal_handler_options=SignalHandlerOptions.NO,
        )
        return make()
    except (rclpy_implementation.RCLError, InvalidParameterTypeException) as error:
        # rcl adds where in its own sources it noticed; the user needs what was wrong.
        what = str(error).partition(", at /")[0]
        raise VddError(f"{what}; correct the arguments after --ros-args") from None


def _spin(node: Any, stop: StopRequest) -> int:  # noqa: ANN401 - a Node that is a RunnableNode
    kind = node.get_parameter("executor").value if node.has_parameter("executor") else "auto"
    executor, chosen = make_executor(kind)
    node.get_logger().info(f"executor: {chosen}")
    executor.add_node(node)
    try:
        node.begin()
        while not stop and node.exit_code is None and ok():
            try:
                executor.spin_once(timeout_sec=min(node.pace(), SPIN_TIMEOUT_S))
            except ExternalShutdownException:
                break
            except rclpy_implementation.RCLError as error:
                # As for a reply to somebody who has gone: no reason to end a node.
                node.get_logger().error(f"refused: {error}")
    finally:
        executor.remove_node(node)
    return int(node.exit_code or 0)


def _end(node: Any, stop: StopRequest) -> None:  # noqa: ANN401
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        node.goodbye(stop.signal_name or "the node ended")
    except Exception:  # the process must end whatever a goodbye runs into
        node.get_logger().error(f"while ending:\n{traceback.format_exc()}")
    node.destroy_node()
