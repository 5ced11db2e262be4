"""Nodes as child processes: started clean, watched, and ended for certain."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import vdd_ros
from vdd_ros.core.errors import VddError

_GRACE_S = 5.0
_LIBC = ctypes.CDLL(None)  # loaded here: nothing may be loaded between fork and exec
_PR_SET_PDEATHSIG = 1
# What the ROS wheels' start-up code sets for one interpreter and must not reach another one's.
_WHEEL_VARIABLES = ("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "LD_LIBRARY_PATH", "PYTHONPATH")


class NodeProcess:
    """One node module as a process of its own, its output in a file."""

    def __init__(
        self,
        module: str,
        *,
        parameters: Mapping[str, object] | None = None,
        namespace: str = "",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
        ends: bool = False,
        grace_s: float = _GRACE_S,
    ) -> None:
        """Start ``python -m module``.

        Args:
            module: for example ``vdd_ros.nodes.policy_node``.
            parameters: ROS parameters.
            namespace: ROS namespace, empty for none.
            arguments: further arguments after ``--ros-args``.
            environment: variables to set on top of this process's.
            python: interpreter, this one by default.
            ends: it ends by itself; exit code 0 then is not a death.
            grace_s: time it has for each of SIGINT and SIGTERM before the next, harder signal.
        """
        self._grace_s = grace_s
        self.ends = ends
        self.name = f"{namespace}/{module.rpartition('.')[2]}".lstrip("/")
        ros = [*arguments]
        if namespace:
            ros += ["-r", f"__ns:=/{namespace.strip('/')}"]
        for key, value in (parameters or {}).items():
            ros += ["-p", f"{key}:={_yaml(value)}"]
        # A file, not a pipe: a pipe that nobody reads blocks the node when it is full.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, "-m", module, "--ros-args", *ros],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=node_environment(python) | dict(environment or {}),
            # A Ctrl-C in the terminal is for the parent; it ends its nodes in order.
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def __enter__(self) -> NodeProcess:
        """Return the running process."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.stop()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that killed it."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.exit_code is None:
            self._process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Wait for its end; return the exit code.

        Raises:
            VddError: it did not end in time; the message holds its last lines.
        """
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise VddError(
                f"{self.name} did not end within {timeout_s:g} s; its last lines:\n{self.tail()}"
            ) from None

    def stop(self) -> int:
        """End it: SIGINT, then SIGTERM, then SIGKILL; return the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.exit_code is not None:
                break
            self.send(number)
            try:
                self._process.wait(self._grace_s)
            except subprocess.TimeoutExpired:
                continue
        return self._process.wait()

    def log(self) -> str:
        """Return everything it has written."""
        # pread: seeking would move the place where the child writes, which it shares.
        descriptor = self._log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def tail(self, lines: int = 12) -> str:
        """Return its last lines."""
        return "\n".join(self.log().splitlines()[-lines:])


def check_alive(processes: Sequence[NodeProcess]) -> None:
    """Raise a `VddError` that names the first node that has died, with its last words."""
    for process in processes:
        if process.exit_code is not None and not (process.ends and process.exit_code == 0):
            raise VddError(
                f"{process.name} ended with exit code {process.exit_code}; its last lines:\n"
                f"{process.tail()}"
            )


def node_environment(python: str = sys.executable) -> dict[str, str]:
    """Return the environment a node process of ``python`` needs."""
    environment = dict(os.environ)
    marked = "_ROS_WHEELS_BOOTSTRAP_COMPLETE" in environment
    if marked and Path(python).parent != Path(sys.executable).parent:
        for name in _WHEEL_VARIABLES:
            environment.pop(name, None)
    # The node runs this very package, installed or not.
    root = str(Path(vdd_ros.__file__).resolve().parent.parent)
    paths = [root, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    # Quoted, so that a path like "1e3" or "on" stays a text; YAML doubles a single quote.
    return "'" + str(value).replace("'", "''") + "'"


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends; called between fork and exec."""
    # If this process is killed outright, its nodes must not go on commanding a robot.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
