"""The black box: the last seconds of everything a node heard, sent and thought, kept for a fault.

A ring in memory, written as an MCAP bag when something goes wrong: observations as they came in,
commands as they went out, the status row of every tick, and every reason. `vdd dry-run` replays
such a bag. Measured on two cores at 100 Hz with one joint state of 26 joints: 7 us per tick (see
`BlackBox.observed` for what is kept how, and why).

Writing takes a thread, which hands the snapshot over in small portions, and a process
(`black_box_writer`), which knows the library for bags: no tick waits for either.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import serialize_message
from std_msgs.msg import Float64MultiArray, String

from vdd_ros.core.config_io import dump_json
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.nodes.black_box_writer import FRAME, Order
from vdd_ros.nodes.commands import Sink, make_sinks

MAX_BYTES = 64 * 2**20
"""Most the ring may hold: a burst of large messages must not take the memory."""
_ENTRY_BYTES = 120
"""What an entry of the ring costs beside its payload."""
_PORTION_S = 0.0002
"""Pause between two messages handed over: a tick meanwhile waits for one, not for all."""
_WRITER_S = 60.0
"""Longest a writer may take; a disk slower than that is reported as a failure."""
_GOODBYE_S = 5.0
"""Longest a node that ends waits for its last bag."""
_CONTRACT, _WHY, _REASON, _STATUS = range(4)
"""Channels of every black box; observations follow, then commands."""


@dataclass(frozen=True)
class BlackBoxSettings:
    """How much is kept, and where it is written."""

    seconds: float = 10.0
    """Length of the ring; 0 keeps and writes nothing."""
    folder: Path = Path()
    """Where the bags go."""
    max_dumps: int = 20
    """Bags kept in the folder; the oldest are removed."""
    max_mb: float = 500.0
    """Megabytes kept in the folder; the oldest bags are removed."""


Entry = tuple[int, int, int, Any, int]
"""Steady time (ns), time of the node's clock (ns), channel, payload, bytes."""


class BlackBox:
    """The ring of one configured node, and the writing of it."""

    def __init__(
        self,
        settings: BlackBoxSettings,
        contract: PolicyContract,
        *,
        path: str,
        observed: Sequence[tuple[str, str]],
        commanded: Sequence[str],
        step_s: float,
        status_layout: Any,  # noqa: ANN401 - std_msgs/MultiArrayLayout
        say: Callable[[str], None],
    ) -> None:
        """Lay the channels out; nothing is started before the first dump.

        Args:
            settings: how much, and where.
            contract: goes into every bag, and rebuilds the commands.
            path: fully qualified name of the node.
            observed: resolved topic and message type of every observed topic.
            commanded: resolved topic of every command, in the contract's order.
            step_s: seconds between two commands.
            status_layout: the layout of ``~/status``.
            say: told in words that a bag was written; called from another thread.
        """
        self.enabled = settings.seconds > 0
        self.policy = "unknown"
        """Which policy acts; written into every bag."""
        self.trouble = ""
        """Why there is no box or the last bag was not written; empty while all is well."""
        self._settings = settings
        self._contract = dump_json(contract)
        self._node = re.sub(r"\W+", "_", path).strip("_") or "node"
        sinks = make_sinks(contract, step_s=step_s)
        text, row = "std_msgs/msg/String", "std_msgs/msg/Float64MultiArray"
        self._channels = (
            (f"{path}/contract", text),
            (f"{path}/black_box", text),
            (f"{path}/reason", text),
            (f"{path}/status", row),
            *observed,
            *((topic, sink.type) for topic, sink in zip(commanded, sinks, strict=True)),
        )
        self._first_observed = _STATUS + 1
        self._sinks: dict[int, Sink] = {
            self._first_observed + len(observed) + i: sink for i, sink in enumerate(sinks)
        }
        self._status_layout = status_layout
        labels = status_layout.dim[0].label.split(",")
        self._flags = [labels.index(n) for n in ("commanding", "fault", "term") if n in labels]
        self._standing: list[float] = []
        self._say = say
        self._span_ns = round(settings.seconds * 1e9)
        self._ring: deque[Entry] = deque()
        self._bytes = 0
        self._level = SafetyLevel.STOP
        self._acted = False
        self._reason: tuple[SafetyLevel, str] | None = None
        self._next_ns = 0
        self._missed = ""
        self._worker: threading.Thread | None = None
        if self.enabled and importlib.util.find_spec("rosbags") is None:
            self.enabled = False
            self.trouble = (
                "the black box is off: the Python package rosbags is not installed; install it "
                "(extra [bags]), or set black_box.seconds to 0"
            )

    def __len__(self) -> int:
        """Number of entries in the ring."""
        return len(self._ring)

    def observed(self, index: int, message: Any, now_ns: int) -> None:  # noqa: ANN401
        """Keep a message of observed topic ``index``, received at ``now_ns``.

        Serialized at once: 4 to 5 us for 7 to 26 joints, against 0.1 us for a reference. A
        reference would keep thousands of objects alive for the garbage collector to visit, and
        nobody could tell how large they are.
        """
        if self.enabled:
            body = serialize_message(message)
            self._keep(now_ns, self._first_observed + index, body, len(body))

    def commanded(self, rows: NDArray[np.float64], stamp_ns: int, now_ns: int) -> None:
        """Keep the commands [T, D_act] that were just sent; copied, and made messages later."""
        if self.enabled:
            self._keep(now_ns, -1, (rows.copy(), stamp_ns), rows.nbytes)

    def ticked(
        self, level: SafetyLevel, reason: str, status: NDArray[np.float64], now_ns: int
    ) -> None:
        """Keep the status row of a tick and its reason where it is news; dump on a fault."""
        if not self.enabled:
            return
        self._keep(now_ns, _STATUS, status.tobytes(), status.nbytes)
        if (level, reason) != self._reason:
            self._reason = (level, reason)
            text = f"{level.name}: {reason}" if reason else level.name
            self._keep(now_ns, _REASON, text, len(text))
        before, self._level = self._level, level
        # A robot that has not begun to publish is waited for: that is no fault.
        self._acted |= level <= SafetyLevel.CLAMP
        if self._missed and not self._writing:
            why, self._missed = self._missed, ""
            self.dump(why, now_ns)
        standing, self._standing = self._standing, [float(status[i]) for i in self._flags]
        if level == SafetyLevel.SAFE and before != SafetyLevel.SAFE and self._acted:
            self.fault(f"SAFE: {reason}", now_ns)
        elif (
            self._standing != standing
            and len(standing) == 3
            and SafetyLevel.STOP not in {before, level}
        ):
            self._stands(standing, level, now_ns)

    def _stands(self, before: list[float], level: SafetyLevel, now_ns: int) -> None:
        """Dump when another node takes the command or gives it back, or a fault is raised."""
        commanding, fault, term = self._standing
        if commanding > before[0] and term <= 1:
            return  # the first taking of all: the robot starts
        if commanding != before[0]:
            self.fault("took the command over" if commanding else "lost the command", now_ns)
        elif fault > before[1] and level <= SafetyLevel.CLAMP:  # a hold has a reason of its own
            self.fault("a fault was raised while acting", now_ns)

    def fault(self, why: str, now_ns: int) -> None:
        """Dump, unless the ring was dumped a moment ago: one fault, one bag."""
        if time.monotonic_ns() >= self._next_ns:
            self._next_ns = time.monotonic_ns() + self._span_ns
            if self._writing:
                self._missed = why
            else:
                self.dump(why, now_ns)

    def dump(self, why: str, now_ns: int) -> str:
        """Start to write what is in the ring; return what will happen, in words."""
        if not self.enabled:
            return self.trouble or "the black box is off: black_box.seconds is 0"
        if self._writing:
            return "the black box is being written already"
        entries = list(self._ring)
        began_ns = entries[0][1] if entries else now_ns
        self._worker = threading.Thread(
            target=self._write, args=(entries, why, began_ns, now_ns), name="black_box"
        )
        self._worker.start()
        return f"writing the last {len(entries)} messages to {self._settings.folder}"

    @property
    def _writing(self) -> bool:
        return self._worker is not None and self._worker.is_alive()

    def close(self) -> None:
        """Wait for a bag that is being written."""
        if self._worker is not None:
            self._worker.join(_GOODBYE_S)

    def _keep(self, now_ns: int, channel: int, payload: Any, size: int) -> None:  # noqa: ANN401
        ring, steady_ns = self._ring, time.monotonic_ns()
        size += _ENTRY_BYTES
        ring.append((steady_ns, now_ns, channel, payload, size))
        self._bytes += size
        oldest_ns = steady_ns - self._span_ns
        while ring[0][0] < oldest_ns or self._bytes > MAX_BYTES:
            self._bytes -= ring.popleft()[4]
            if not ring:
                break

    def _write(self, entries: list[Entry], why: str, began_ns: int, now_ns: int) -> None:
        """Run the writer on a snapshot; in a thread of its own."""
        try:
            problem, path = self._hand_over(entries, why, began_ns, now_ns)
        except Exception as error:  # whatever happens to the box, the robot goes on
            problem, path = f"{type(error).__name__}: {error}", ""
        if problem:
            folder = self._settings.folder
            self.trouble = f"the black box could not be written to {folder}: {problem}"
        else:
            self.trouble = ""
            self._say(f"the black box was written to {path} ({why})")

    def _hand_over(
        self, entries: list[Entry], why: str, began_ns: int, now_ns: int
    ) -> tuple[str, str]:
        order = Order(
            folder=str(self._settings.folder),
            node=self._node,
            channels=self._channels,
            max_dumps=self._settings.max_dumps,
            max_bytes=round(self._settings.max_mb * 1e6),
        )
        with subprocess.Popen(
            [sys.executable, "-m", "vdd_ros.nodes.black_box_writer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A Ctrl-C in the terminal ends the node, which waits for its last bag.
            start_new_session=True,
        ) as writer:
            assert writer.stdin is not None
            # A writer that ends early breaks the pipe; what it has to say is read below.
            with contextlib.suppress(BrokenPipeError):
                writer.stdin.write(order.line())
                self._frame(writer.stdin, began_ns, _CONTRACT, _text(self._contract))
                self._frame(writer.stdin, began_ns, _WHY, _text(f"policy: {self.policy}"))
                for _, at_ns, channel, payload, _ in entries:
                    self._message(writer.stdin, at_ns, channel, payload)
                    time.sleep(_PORTION_S)
                self._frame(writer.stdin, now_ns, _WHY, _text(why))
            try:
                said, failed = writer.communicate(timeout=_WRITER_S)
            except subprocess.TimeoutExpired:
                writer.kill()
                return f"it took longer than {_WRITER_S:g} s", ""
        answer = said.decode(errors="replace").strip()
        if writer.returncode == 0:
            return "", answer
        lines = failed.decode(errors="replace").strip().splitlines()
        return answer or (lines[-1] if lines else f"exit code {writer.returncode}"), ""

    def _message(self, pipe: Any, at_ns: int, channel: int, payload: Any) -> None:  # noqa: ANN401
        if channel == _STATUS:
            row = Float64MultiArray(layout=self._status_layout)
            row.data.frombytes(payload)
            self._frame(pipe, at_ns, channel, serialize_message(row))
        elif channel == _REASON:
            self._frame(pipe, at_ns, channel, _text(payload))
        elif channel < 0:
            rows, stamp_ns = payload
            for number, sink in self._sinks.items():
                self._frame(pipe, at_ns, number, serialize_message(sink.write(rows, stamp_ns)))
        else:
            self._frame(pipe, at_ns, channel, payload)

    @staticmethod
    def _frame(pipe: Any, at_ns: int, channel: int, body: bytes) -> None:  # noqa: ANN401
        pipe.write(FRAME.pack(at_ns, channel, len(body)) + body)


def _text(text: str) -> bytes:
    body: bytes = serialize_message(String(data=text))
    return body
