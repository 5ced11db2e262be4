"""The demo: simulated robot, policy in command and teacher in shadow, as processes over DDS.

This process only watches: it records where the robot went, which expert acted, how episodes
ended and what every tick cost, and returns that. It uses a ROS domain of its own, so that it
neither hears nor moves anything else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from numpy.typing import NDArray
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty, Float64MultiArray

from vdd_ros.core.errors import VddError
from vdd_ros.core.latency import LatencySummary, summarize
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.core.shipped import STUDENT, TEACHER, shipped_file
from vdd_ros.nodes.diagnostics import LATCHED, read_labelled
from vdd_ros.nodes.driver import Driver

SPEED = 3.5
"""Times real time: one control step every 10 ms, the 100 Hz both policies are meant for."""

_START_S = 30.0
"""Longest wait for the nodes to load, verify and hear each other."""
_LONGEST_EPISODE_S = 250 * 0.035 + 1.0
"""An episode that runs out of steps, in simulated time."""
_RECORD_QOS = QoSProfile(depth=1000)


@dataclasses.dataclass(frozen=True)
class EpisodeOutcome:
    """How one episode ended."""

    success: bool
    """The goal was reached without contact."""
    mode: int
    """Which way was taken; -1 where it stayed undecided."""
    mode_name: str
    """The same in words."""
    steps: int
    """Control steps it took."""
    missed: int
    """Control steps for which no new command had come in time."""


@dataclasses.dataclass(frozen=True, eq=False)
class Latency:
    """What one node's ticks cost."""

    infer_us: NDArray[np.float64]
    """[ticks] the policy alone."""
    tick_us: NDArray[np.float64]
    """[ticks] from the observation's receipt to the published command."""
    infer: LatencySummary
    """Percentiles of ``infer_us``."""
    tick: LatencySummary
    """Percentiles of ``tick_us``."""
    nfe: int
    """Network passes per action."""


@dataclasses.dataclass(frozen=True, eq=False)
class DemoResult:
    """Everything the demo's table and picture are made of."""

    outcomes: tuple[EpisodeOutcome, ...]
    """One per episode, in order."""
    trajectories: tuple[NDArray[np.float64], ...]
    """Per episode measured positions [T, 2] in metres, first to last."""
    experts: tuple[NDArray[np.int64], ...]
    """Per episode the expert [T] that answered each position; -1 where none did."""
    policy: Latency
    """The student, in command."""
    teacher: Latency
    """The diffusion teacher, in shadow, on the same observations."""
    ratio_p50: float
    """Teacher's median inference time over the student's."""
    student_path: str
    """Policy file that drove."""
    teacher_path: str
    """Policy file in shadow."""


def run_demo(
    *,
    episodes: int = 48,
    student: str | Path | None = None,
    teacher: str | Path | None = None,
    nfe: int = 16,
    level: str = "ideal",
    seed: int = 0,
    speed: float = SPEED,
    progress: Callable[[int, EpisodeOutcome], None] | None = None,
) -> DemoResult:
    """Run the demo and return what was recorded.

    Args:
        episodes: closed-loop episodes.
        student: policy file to drive with; the shipped one by default.
        teacher: policy file in shadow; the shipped one by default.
        nfe: sampler steps of the teacher.
        level: realism of the simulated robot.
        seed: of the expert choice and of the teacher's noise.
        speed: times real time.
        progress: called after every episode with its number and outcome.

    Raises:
        VddError: a wrong file, a node that died (with its last lines), or no end in time.
    """
    if episodes < 1:
        raise VddError(f"episodes: got {episodes}, expected at least 1")
    files = {
        "policy": str(Path(student or shipped_file(STUDENT)).resolve()),
        "teacher": str(Path(teacher or shipped_file(TEACHER)).resolve()),
    }
    # The robot comes last, so there is nothing to wait for when the policies configure.
    common: dict[str, object] = {"autostart": True, "use_sim_time": True, "discovery_s": 0.0}
    with Driver("vdd_demo", own_domain=True) as driver:
        recorder = _Recorder(driver, progress)
        driver.start(
            "policy_node",
            parameters={**common, "policy": files["policy"], "selection.seed": seed},
        )
        driver.start(
            "teacher_node",
            parameters={
                **common,
                "policy": files["teacher"],
                "role": "shadow",
                "nfe": nfe,
                "seed": seed,
            },
        )
        # The robot comes last: every episode is then seen from its first step by everyone.
        driver.spin_until(
            recorder.nodes_ready, timeout_s=_START_S, what="active policy and teacher"
        )
        robot = driver.start(
            "sim_node",
            parameters={
                "episodes": episodes,
                "speed": float(speed),
                "level": level,
                "seed": seed,
                "wait_for_start": True,
            },
            ends=True,
        )
        driver.spin_until(recorder.hears_robot, timeout_s=_START_S, what="robot that is heard")
        recorder.start_robot()
        limit_s = _START_S + episodes * _LONGEST_EPISODE_S / speed
        driver.spin_until(
            lambda: len(recorder.outcomes) >= episodes,
            timeout_s=limit_s,
            what=f"{episodes} episodes",
        )
        robot.wait(_START_S)
        driver.discover()  # the last ticks are still on their way
    return recorder.result(files)


class _Recorder:
    """Subscribes to everything worth keeping."""

    def __init__(
        self, driver: Driver, progress: Callable[[int, EpisodeOutcome], None] | None
    ) -> None:
        self._progress = progress
        self._node = node = driver.node
        self.outcomes: list[EpisodeOutcome] = []
        self._spans: list[tuple[int, int]] = []
        self._position_at: dict[int, tuple[float, float]] = {}
        self._expert_at: dict[int, int] = {}
        self._ticks: dict[str, list[dict[str, float]]] = {"policy": [], "teacher": []}
        node.create_subscription(JointState, "robot_state", self._on_state, _RECORD_QOS)
        node.create_subscription(DiagnosticStatus, "sim/outcome", self._on_outcome, _RECORD_QOS)
        self._start = node.create_publisher(Empty, "sim/start", LATCHED)
        for name in self._ticks:
            node.create_subscription(
                Float64MultiArray, f"{name}/status", partial(self._on_status, name), _RECORD_QOS
            )

    def nodes_ready(self) -> bool:
        """Tell whether both policies are configured and their status will be heard."""
        count = self._node.count_publishers
        return self._node.count_subscribers("robot_state") >= 3 and all(
            count(f"{name}/status") for name in self._ticks
        )

    def hears_robot(self) -> bool:
        """Tell whether nothing the robot says from now on can be lost.

        Discovery has two directions, which may be seconds apart: only a message that arrived
        proves that this side knows the robot.
        """
        return bool(self._position_at) and self._node.count_publishers("sim/outcome") > 0

    def start_robot(self) -> None:
        """Let the first episode begin."""
        self._start.publish(Empty())

    def result(self, files: dict[str, str]) -> DemoResult:
        """Put together what was recorded."""
        # By stamp, not by order of arrival: different topics overtake each other.
        stamps = np.array(sorted(self._position_at), dtype=np.int64)
        episodes = [stamps[(stamps >= a) & (stamps <= b)].tolist() for a, b in self._spans]
        policy, teacher = (_latency(name, self._ticks[name]) for name in ("policy", "teacher"))
        return DemoResult(
            outcomes=tuple(self.outcomes),
            trajectories=tuple(
                np.array([self._position_at[t] for t in e]).reshape(-1, 2) for e in episodes
            ),
            experts=tuple(
                np.array([self._expert_at.get(t, -1) for t in e], dtype=np.int64) for e in episodes
            ),
            policy=policy,
            teacher=teacher,
            ratio_p50=teacher.infer.p50_us / policy.infer.p50_us,
            student_path=files["policy"],
            teacher_path=files["teacher"],
        )

    def _on_state(self, message: JointState) -> None:
        stamp = message.header.stamp
        at = dict(zip(message.name, message.position, strict=True))
        self._position_at[stamp.sec * 1_000_000_000 + stamp.nanosec] = at["x"], at["y"]

    def _on_outcome(self, message: DiagnosticStatus) -> None:
        values = {entry.key: entry.value for entry in message.values}
        outcome = EpisodeOutcome(
            success=values["success"] == "1",
            mode=int(values["mode"]),
            mode_name=values["mode_name"],
            steps=int(values["steps"]),
            missed=int(values["missed"]),
        )
        self.outcomes.append(outcome)
        self._spans.append((int(values["begin_ns"]), int(values["end_ns"])))
        if self._progress is not None:
            self._progress(len(self.outcomes), outcome)

    def _on_status(self, name: str, message: Any) -> None:  # noqa: ANN401
        row = read_labelled(message)
        if row["level"] > SafetyLevel.CLAMP:
            return
        self._ticks[name].append(row)
        if name == "policy":
            stamp_ns = int(row["stamp_sec"]) * 1_000_000_000 + int(row["stamp_nanosec"])
            self._expert_at[stamp_ns] = int(row["expert"])


def _latency(name: str, ticks: list[dict[str, float]]) -> Latency:
    if not ticks:
        raise VddError(
            f"the {name} node has not answered a single observation; run `vdd doctor` to check "
            "this machine's DDS"
        )
    infer, total = (np.array([row[key] for row in ticks]) for key in ("infer_us", "tick_us"))
    return Latency(
        infer_us=infer,
        tick_us=total,
        infer=summarize((infer * 1e3).astype(np.int64)),
        tick=summarize((total * 1e3).astype(np.int64)),
        nfe=int(ticks[-1]["nfe"]),
    )
