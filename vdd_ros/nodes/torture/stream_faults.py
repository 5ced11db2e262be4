"""Faults of the stream: single messages are good, but not when, how often, or from whom."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from geometry_msgs.msg import PointStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64

from vdd_ros.nodes.torture.faults import DETECT_S, Fault, Outcome, diagnosed, told
from vdd_ros.nodes.torture.rig import Rig
from vdd_ros.nodes.torture.robot import stamp_of

_BURST = 100
_RESETS = 30
_SLOW_S = 0.2
_NAMED_S = 8.0
"""Longest wait for a stranger to be named: discovery, a look at the graph, a summary."""


@dataclass(frozen=True)
class Gap(Fault):
    """States stop, or come too slowly; the node must hold and say that they are stale."""

    slow: bool = False
    """A state now and then, instead of none."""

    def inject(self, rig: Rig) -> Outcome:
        """Keep quiet until the node says so, then for a while longer."""
        rig.ticks(3)
        rig.settle_commands()
        begun = time.monotonic()
        if self.slow:
            for _ in range(3):
                rig.rest(_SLOW_S, sending=False)
                rig.send(rig.message(), due=False)
        detected_s = told(rig, begun, "stale", sending=False)
        rig.rest(float(rig.rng.uniform(0.0, 0.3)), sending=False)
        return Outcome(detected_s, self.recovered(rig))


@dataclass(frozen=True)
class Burst(Fault):
    """Many states at once: the newest counts."""

    def inject(self, rig: Rig) -> Outcome:
        """Send them without a pause; all but the last may be replaced before they are seen."""
        rig.ticks(3)
        rig.settle_commands()
        begun = time.monotonic()
        message: Any = None
        for _ in range(_BURST):
            message = rig.message()
            rig.send(message, due=False)
        last = stamp_of(message)
        seen = rig.pace(lambda: rig.judge.answered(last), timeout_s=DETECT_S, sending=False)
        return Outcome(time.monotonic() - begun if seen else None, self.recovered(rig))


@dataclass(frozen=True)
class Resets(Fault):
    """New episodes in the middle of everything."""

    times: int = 1
    """How many, a state apart."""

    def inject(self, rig: Rig) -> Outcome:
        """Announce them between states."""
        rig.ticks(int(rig.rng.integers(1, 4)))
        begun = time.monotonic()
        for _ in range(self.times):
            rig.reset()
            goal = rig.sent + 1
            rig.pace(lambda goal=goal: rig.sent >= goal, timeout_s=1.0, due=False)  # type: ignore[misc]
        back = rig.pace(lambda: rig.judge.acted_since(begun), timeout_s=DETECT_S, due=False)
        took_s = time.monotonic() - begun
        return Outcome(took_s if back else None, self.recovered(rig))


@dataclass(frozen=True)
class Stranger(Fault):
    """Somebody else on a topic; must be named in ``/diagnostics`` while nothing is lost."""

    what: str = "command"
    """``command``: publishes commands, too; ``qos``: asks for commands that are kept for late
    joiners; ``type``: publishes the states' topic with another type; ``weak``: publishes states
    best effort; ``state``: publishes states, too, of a robot that is somewhere else."""
    says: str = ""
    """Expression that the summary must contain."""

    def inject(self, rig: Rig) -> Outcome:
        """Let it join, wait until it is named, let it go and wait until it is forgotten."""
        begun = time.monotonic()
        with rig.driver.neighbour("stranger") as node:
            publisher = self._join(rig, node)
            if self.what == "state":
                detected_s = self._both(rig, publisher, begun)
            else:
                detected_s = diagnosed(rig, begun, self.says, timeout_s=_NAMED_S)
        gone = time.monotonic()
        rig.judge.excuse()
        forgotten = rig.pace(
            lambda: rig.diagnosed_s > gone and not _found(self.says, rig), timeout_s=_NAMED_S
        )
        return Outcome(detected_s, forgotten and self.recovered(rig))

    def _join(self, rig: Rig, node: Any) -> Any:  # noqa: ANN401
        command, state = f"{rig.prefix}/command", f"{rig.prefix}/robot_state"
        if self.what == "command":
            return node.create_publisher(PointStamped, command, 10)
        if self.what == "weak":
            qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
            return node.create_publisher(JointState, state, qos)
        if self.what == "qos":
            qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            return node.create_subscription(PointStamped, command, lambda message: None, qos)
        return node.create_publisher(Float64 if self.what == "type" else JointState, state, 10)

    def _both(self, rig: Rig, publisher: Any, begun: float) -> float | None:  # noqa: ANN401
        rig.judge.excuse()

        sent = 0.0

        def found() -> bool:
            nonlocal sent
            if time.monotonic() - sent >= 1.0 / rig.settings.rate_hz:
                sent = time.monotonic()
                message = rig.message()
                message.position = [v + 0.05 for v in message.position]
                rig.send(message, due=False, publisher=publisher)
            return rig.diagnosed_s >= begun and _found(self.says, rig)

        seen = rig.pace(found, timeout_s=_NAMED_S, due=False)
        return time.monotonic() - begun if seen else None


def _found(says: str, rig: Rig) -> bool:
    return re.search(says, rig.diagnostics) is not None


STREAM_FAULTS: tuple[Fault, ...] = (
    Gap(
        "publisher-stops",
        "no states for up to half a second",
        "the reason says that they are stale",
        count=30,
        cost_s=0.5,
    ),
    Gap(
        "slow-rate",
        "three states 200 ms apart, more than what counts as stale",
        "the reason says that they are stale",
        slow=True,
        count=15,
        cost_s=0.9,
    ),
    Burst("burst", f"{_BURST} states at once", "the newest of them is answered", count=40),
    Resets("episode-reset", "a new episode", "the node acts in it", count=40),
    Resets(
        "reset-storm",
        f"{_RESETS} new episodes, a state apart",
        "the node acts in the last one",
        times=_RESETS,
        count=8,
        cost_s=0.5,
    ),
    Stranger(
        "second-commander",
        "another node that publishes the command topic",
        "/diagnostics counts it",
        "its going is noticed, and the next good observation is answered freely",
        what="command",
        says="other node",
        count=5,
        cost_s=3.0,
    ),
    Stranger(
        "command-qos",
        "a subscriber that asks for latched commands",
        "/diagnostics names the QoS mismatch",
        "its going is noticed, and the next good observation is answered freely",
        what="qos",
        says="QoS",
        count=5,
        cost_s=3.0,
    ),
    Stranger(
        "state-qos",
        "a publisher of states that offers less than the node asks for",
        "/diagnostics names the QoS mismatch",
        "its going is noticed, and the next good observation is answered freely",
        what="weak",
        says="QoS",
        count=5,
        cost_s=3.0,
    ),
    Stranger(
        "other-type",
        "another publisher of the states' topic, with another type",
        "/diagnostics names the type",
        "its going is noticed, and the next good observation is answered freely",
        what="type",
        says="std_msgs/msg/Float64",
        count=5,
        cost_s=3.0,
    ),
    Stranger(
        "two-robots",
        "another publisher of states, 0.05 m away, in turn with the first",
        "/diagnostics counts two publishers",
        "its going is noticed, and the next good observation is answered freely",
        what="state",
        says="publishers: robot_state: 2",
        count=5,
        cost_s=3.0,
    ),
)
"""Kinds made of when and from whom messages come."""
