"""The nodes' control loop, run over a recording: without ROS, at the times of the recording.

Every recorded message goes through the loop when it was recorded: history, chunks, the safety
ladder and the timers behind it. What would have been sent is kept, and written beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vdd_ros.codecs.topics import topic_writers
from vdd_ros.control.loop import ControlLoop
from vdd_ros.control.observations import NEVER, ObservationCollector
from vdd_ros.control.tick import Tick
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.data.bag_files import BagWriter, empty_messages, message_types
from vdd_ros.data.command_log import CommandLog, Pair
from vdd_ros.data.recording import Heard
from vdd_ros.runtime.policy import Policy

_WATCH_S = 1.0
"""Beyond ``max_hold_s``, how long a pause of the recording is lived through tick by tick."""
_PREFIX = "/dry_run"
"""Before the topics of what the policy would have sent."""
_LABELS = "level,expert,age_ms"


@dataclass(frozen=True)
class DryRunSettings:
    """How the recording is replayed."""

    rate_hz: float | None = None
    """Control rate; the contract's when None."""
    trigger: Literal["observation", "timer"] = "observation"
    """Answer every complete observation, or tick at the control rate, as the node's parameter."""
    pair: Pair = "auto"
    """Which recorded command belongs to a tick, see `vdd_ros.data.rosbag.Alignment`."""

    def __post_init__(self) -> None:
        """Check the rate.

        Raises:
            VddError: it makes no sense.
        """
        if self.rate_hz is not None and not 0 < self.rate_hz < float("inf"):
            raise VddError(f"rate_hz: got {self.rate_hz}, expected a positive number of hertz")


@dataclass
class Replayed:
    """One tick."""

    stamp_ns: int
    """Stamp of the observation answered; 0 for a hold that answers none."""
    log_ns: int
    """When, on the clock of the recording."""
    level: SafetyLevel
    """What would have happened."""
    reason: str
    """Why not ACT."""
    command: NDArray[np.float64] | None
    """[D_act] what would have been sent; None for nothing."""
    expert: int
    """Who acted; -1 without experts, and for a hold."""
    window: NDArray[np.float32] | None
    """[n_obs_steps, D_obs] what the policy saw."""
    nearest: NDArray[np.float32]
    """[K, D_act] what every expert wanted now; [0, D_act] where no prediction was made."""


class Replay:
    """The loop, its clock, and what it did."""

    def __init__(
        self,
        policy: Policy,
        contract: PolicyContract,
        settings: DryRunSettings,
        out: BagWriter | None,
    ) -> None:
        self.rate_hz = settings.rate_hz or contract.rate_hz
        self.now_ns = 0
        self.rows: list[Replayed] = []
        self.commands = CommandLog(contract)
        self.damaged = 0
        self._timed = settings.trigger == "timer"
        self._sent: NDArray[np.float64] | None = None
        self._predicted_ns = NEVER
        self._out = out
        self._period_ns = round(1e9 / self.rate_hz)
        self._cap = round((contract.safety.max_hold_s + _WATCH_S) * self.rate_hz) + 1
        self._due_ns = NEVER
        writers = topic_writers(
            contract.actions,
            empty=empty_messages().empty,
            horizon=contract.horizon,
            step_s=1.0 / self.rate_hz,
        )
        self.loop = ControlLoop(
            contract,
            policy,
            collector=ObservationCollector(contract),
            rate_hz=self.rate_hz,
            sinks=writers,
            publishers=[_Publisher(self, writer.topic, writer.type) for writer in writers],
            now_ns=lambda: self.now_ns,
            on_tick=self._on_tick,
            on_send=self._on_send,
        )
        self._sources = {source.topic: source for source in self.loop.collector.sources}
        self.loop.start()

    def hear(self, heard: Heard) -> None:
        """Live through the time up to a message, then take it."""
        log_ns = heard.entry.log_ns
        self._pass_time(log_ns)
        self.now_ns = log_ns
        if self._due_ns == NEVER:
            self._due_ns = log_ns + (self._period_ns if self._timed else self._watch_ns)
        if self._out is not None:
            self._out.write(heard.entry.topic, heard.entry.type, log_ns, heard.entry.raw)
        if heard.role == "reset":
            self.loop.restart_episode(log_ns)
        elif heard.entry.message is None:
            self.damaged += 1  # the middleware of a node throws such bytes away
        elif heard.role == "action":
            try:
                self.commands.hear(heard.topic, heard.entry.message, log_ns)
            except VddError:
                self.damaged += 1
        elif self._timed:
            self.loop.collect(self._sources[heard.topic], heard.entry.message)
        elif self.loop.on_message(self._sources[heard.topic], heard.entry.message):
            self._due_ns = log_ns + self._watch_ns

    def write(self, topic: str, kind: str, message: Any) -> None:  # noqa: ANN401
        """Put a message into the output, beside the recorded ones."""
        if self._out is not None:
            self._out.write(f"{_PREFIX}/{topic}", kind, self.now_ns, message)

    @property
    def _watch_ns(self) -> int:
        return self.loop.collector.max_age_ns

    def _pass_time(self, log_ns: int) -> None:
        """Fire the timers of the node that are due before the next message."""
        if self._due_ns == NEVER:
            return
        if log_ns < self.now_ns:  # the clock was set back: timers count on from there
            self._due_ns = log_ns + (self._period_ns if self._timed else self._watch_ns)
        for _ in range(self._cap):
            if self._due_ns >= log_ns:
                return
            self.now_ns = self._due_ns
            if self._timed:
                self.loop.on_timer()
                self._due_ns += self._period_ns
            else:
                holding = self.loop.on_watchdog()
                self._due_ns += self._period_ns if holding else self._watch_ns
        self._due_ns = log_ns

    def _on_send(self, rows: NDArray[np.float64], stamp_ns: int) -> None:
        del stamp_ns
        self._sent = rows[0].copy()

    def _on_tick(self, tick: Tick) -> None:
        acted = tick.level <= SafetyLevel.CLAMP
        output = tick.output if acted and tick.predicted_ns != self._predicted_ns else None
        if output is not None:
            self._predicted_ns = tick.predicted_ns
        nearest = output.proposals[:, 0] if output is not None else None
        self.rows.append(
            Replayed(
                stamp_ns=tick.stamp_ns,
                log_ns=self.now_ns,
                level=tick.level,
                reason=tick.reason,
                command=self._sent,
                expert=tick.expert,
                window=None if tick.window is None or not acted else tick.window.copy(),
                nearest=np.zeros((0, 0), np.float32) if nearest is None else nearest.copy(),
            )
        )
        self._sent = None
        self._write_status(tick)

    def _write_status(self, tick: Tick) -> None:
        if self._out is None:
            return
        messages = empty_messages()
        status = messages.empty("std_msgs/msg/Float64MultiArray")
        dimension = messages.empty("std_msgs/msg/MultiArrayDimension")
        dimension.label, dimension.size, dimension.stride = _LABELS, 3, 3
        status.layout.dim = [dimension]
        status.data = np.array([tick.level, tick.expert, tick.age_ns * 1e-6])
        self.write("status", "std_msgs/msg/Float64MultiArray", status)
        before = self.rows[-2] if len(self.rows) > 1 else None
        if before is None or (before.level, before.reason) != (tick.level, tick.reason):
            said = f"{tick.level.name}: {tick.reason}" if tick.reason else tick.level.name
            text = message_types().types["std_msgs/msg/String"](data=said)
            self.write("reason", "std_msgs/msg/String", text)


@dataclass(frozen=True, eq=False)
class _Publisher:
    """Stands where a ROS publisher would."""

    replay: Replay
    topic: str
    type: str

    def publish(self, message: Any) -> None:  # noqa: ANN401
        """Write the message down."""
        self.replay.write(self.topic, self.type, message)
