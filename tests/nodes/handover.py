"""Two real nodes that share a command, a robot at control rate, and what can happen to them.

``python -m tests.nodes.handover --kills 20`` kills the commanding node again and again and prints
how long the robot was without a command.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String

from tests.nodes.robot import START, TIMEOUT_S, avoiding, small_policy
from tests.policy_files import make_denoiser_file
from vdd_ros.nodes.diagnostics import LATCHED, read_labelled
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.process import NodeProcess

RATE_HZ = 50.0
PERIOD_S = 1.0 / RATE_HZ
HEALTHY_S = 0.5
NAMES = ("policy", "teacher")


class Pair:
    """`policy` in command, `teacher` in standby, and a robot that publishes at control rate."""

    def __init__(self, driver: Driver, student: Path, teacher: Path, **parameters: object) -> None:
        self.driver = driver
        self.files = {"policy": student, "teacher": teacher}
        self.parameters = parameters
        self.commands: list[tuple[float, int, tuple[float, float]]] = []
        """Receipt (s), stamp (ns) and value of every command."""
        self.rows: dict[str, list[tuple[float, dict[str, float]]]] = {n: [] for n in NAMES}
        """Receipt (s) and values of every status row."""
        self.roles: dict[str, list[str]] = {n: [] for n in NAMES}
        self.stopped_observing = False
        self.at = START
        self.follows = True
        self.publish_s: list[float] = []
        """How long every publication of the robot's own took (s): the middleware may block it."""
        ros, many = driver.node, QoSProfile(depth=200)
        self._state = ros.create_publisher(JointState, "robot_state", QoSProfile(depth=1))
        self._due = time.monotonic()
        ros.create_subscription(PointStamped, "command", self._on_command, many)
        for name in NAMES:
            ros.create_subscription(Float64MultiArray, f"{name}/status", self._row_of(name), many)
            ros.create_subscription(String, f"{name}/role", self._role_of(name), LATCHED)
        self.nodes: dict[str, NodeProcess] = {}

    def begin(self) -> None:
        """Start both and wait until the one commands and the other watches."""
        for name in NAMES:
            self.start(name)
        self.until(self.in_order, "commanding policy and ready standby")

    def start(self, name: str) -> None:
        """Start a node, again where it was killed."""
        if name in self.nodes:
            self.nodes[name].wait(5.0)
            self.rows[name].clear()
        values: dict[str, object] = {
            "policy": str(self.files[name]),
            "autostart": True,
            "rate_hz": RATE_HZ,
            "role": "command" if name == "policy" else "standby",
            "partner": "teacher" if name == "policy" else "policy",
            "healthy_s": HEALTHY_S,
            "discovery_s": 1.0,
            **({"nfe": 4} if name == "teacher" else {"selection.rule": "argmax"}),
            **self.parameters,
        }
        self.nodes[name] = self.driver.start(f"{name}_node", parameters=values, ends=True)

    def kill(self, name: str) -> float:
        """Kill a node outright; return when (s)."""
        # Its death is nobody's surprise; it is waited for when it is started again.
        self.driver.processes.remove(self.nodes[name])
        at = time.monotonic()
        self.nodes[name].send(signal.SIGKILL)
        return at

    def says(self, name: str, field: str) -> float:
        """What a node said last."""
        rows = self.rows[name]
        return rows[-1][1][field] if rows else -1.0

    def in_order(self) -> bool:
        """The policy commands, the standby is ready and quiet."""
        quiet = self.says("teacher", "ready") == 1 and self.says("teacher", "commanding") == 0
        return quiet and self.says("policy", "commanding") == 1

    def turn(self) -> None:
        """Publish what is due, handle one event."""
        now = time.monotonic()
        if now >= self._due:
            self._due += PERIOD_S * (1 + int((now - self._due) / PERIOD_S))
            if not self.stopped_observing:
                self._publish()
        self.driver.spin(min(max(self._due - time.monotonic(), 0.0), 0.005))

    def until(self, done: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
        """Be the robot until ``done``."""
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, f"no {what}; {self.driver.tails()}"
            self.turn()

    def run(self, seconds: float) -> None:
        """Be the robot for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()

    def twice_answered(self) -> dict[int, int]:
        """Observations that got more than one command, which is what two commanders would do."""
        return {s: n for s, n in Counter(s for _, s, _ in self.commands).items() if n > 1}

    def largest_step(self) -> float:
        """Largest difference between two commands in a row, in either coordinate."""
        points = np.array([c for _, _, c in self.commands])
        return float(np.abs(np.diff(points, axis=0)).max())

    def jumps(self, limit: float) -> list[float]:
        """Steps longer than ``limit`` for every period between the observations they answer.

        Of commands that come while the robot's process stalls, it may get the newest alone.
        """
        stamps = np.array([s for _, s, _ in self.commands])
        steps = np.abs(np.diff([c for _, _, c in self.commands], axis=0)).max(axis=1)
        periods = np.ceil(np.abs(np.diff(stamps)) / (PERIOD_S * 1e9) - 0.1).clip(min=1)
        return [float(s) for s in steps[steps > limit * periods + 1e-9]]

    def _publish(self) -> None:
        x, y = self.at
        message = JointState(name=["x", "y", "x_desired", "y_desired"], position=[x, y, x, y])
        stamp = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        began = time.monotonic()
        self._state.publish(message)
        self.publish_s.append(time.monotonic() - began)

    def _on_command(self, message: PointStamped) -> None:
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        point = (message.point.x, message.point.y)
        self.commands.append((time.monotonic(), stamp, point))
        if self.follows:
            self.at = point

    def _row_of(self, name: str) -> Callable[[Any], None]:
        return lambda m: self.rows[name].append((time.monotonic(), read_labelled(m)))

    def _role_of(self, name: str) -> Callable[[Any], None]:
        return lambda m: self.roles[name].append(m.data)


def kill_and_measure(pair: Pair, phase: float) -> dict[str, float]:
    """Kill the commander ``phase`` periods after a command; wait until it is back in command.

    Returns:
        Seconds from the last row, from the last command and from the kill to the first command
        of the standby, and from the last row to the standby's first commanding row.
    """
    count = len(pair.commands)
    pair.until(lambda: len(pair.commands) > count, "command")
    pair.run(phase * PERIOD_S)
    killed = pair.kill("policy")
    own = pair.rows["teacher"]
    # Only rows from here on: a look at all of them at every turn costs the robot its rate.
    known = len(own)

    def takings() -> list[float]:
        return [t for t, row in own[known:] if row["commanding"] and t > killed]

    pair.until(lambda: bool(takings()), "standby in command")
    dead_row, took = pair.rows["policy"][-1], takings()[0]
    before = [t for t, _, _ in pair.commands if t <= dead_row[0] + 0.2 * PERIOD_S]
    pair.until(lambda: pair.commands[-1][0] > before[-1], "command of the standby")
    pair.run(5 * PERIOD_S)
    first = next(t for t, _, _ in pair.commands if t > before[-1])
    pair.start("policy")
    pair.until(pair.in_order, "return of the commander")
    pair.run(5 * PERIOD_S)
    return {
        "from_row_s": first - dead_row[0],
        "from_command_s": first - before[-1],
        "from_kill_s": first - killed,
        "row_s": took - dead_row[0],
    }


def _burn() -> None:
    os.nice(10)
    while True:
        sum(range(1000))


def main() -> int:
    """Print a table as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--burners", type=int, default=1)
    parser.add_argument("--transports", choices=("UDPv4", "DEFAULT"), default="UDPv4")
    given = parser.parse_args()
    shared_memory = given.transports == "DEFAULT"
    burners = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(given.burners)]
    rng = np.random.default_rng(0)
    with (
        tempfile.TemporaryDirectory() as folder,
        Driver("robot", own_domain=True, shared_memory=shared_memory) as driver,
    ):
        student = small_policy(Path(folder) / "student.onnx")
        teacher = make_denoiser_file(Path(folder) / "teacher.onnx", contract=avoiding())
        pair = Pair(driver, student.path, teacher.path)
        pair.begin()
        for burner in burners:
            burner.start()
        rows = []
        for _ in range(given.kills):
            rows.append(kill_and_measure(pair, rng.uniform()))
            print(json.dumps(rows[-1]), flush=True)  # noqa: T201
        summary: dict[str, object] = {
            key: {
                name: round(float(np.percentile([r[key] for r in rows], q)) / PERIOD_S, 3)
                for name, q in (("p50", 50), ("p99", 99), ("max", 100))
            }
            for key in rows[0]
        }
        summary["unit"] = "control periods"
        summary["transports"] = given.transports
        summary["twice_answered"] = len(pair.twice_answered())
        summary["largest_step"] = pair.largest_step()
        summary["commands"] = len(pair.commands)
        summary["within_two"] = sum(r["from_row_s"] <= 2 * PERIOD_S for r in rows) / len(rows)
        blocked = [t for t in pair.publish_s if t > PERIOD_S]
        summary["robot_blocked_s"] = [round(t, 3) for t in blocked]
        print(json.dumps(summary))  # noqa: T201
    for burner in burners:
        burner.terminate()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
