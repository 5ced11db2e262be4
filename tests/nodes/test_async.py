"""Planning beside the ticks, with real nodes: every command is that of its step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray

from tests.nodes.robot import PULSE_S, START, Robot, avoiding, start_policy
from tests.nodes.test_observability import Monitor
from tests.policy_files import MoeTwin, make_moe_file
from vdd_ros.core.contract import Limits, PolicyContract
from vdd_ros.core.gating import SelectionSettings
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.nodes.audit import read_prediction
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.executor import EXIT_USER_ERROR
from vdd_ros.runtime.moe_policy import MoePolicy
from vdd_ros.runtime.policy_file import PolicyFile

pytestmark = pytest.mark.ros

_PLANS = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
HORIZON = 30
PERIOD_NS = round(PULSE_S * 1e9)
ASKED = {
    "inference": "async",
    "rate_hz": 1.0 / PULSE_S,
    "selection__rule": "argmax",
    "prediction_rate_hz": 1000.0,
}
"""The robot's pace is the control rate; every prediction is published."""


def chunks(horizon: int = HORIZON) -> PolicyContract:
    """The robot's contract for chunks of positions, sent as they are."""
    made = avoiding()
    (action,) = made.actions
    bare = dataclasses.replace(action, relative_to="", limits=Limits())
    (state,) = {o.max_age_ms for o in made.observations}
    return dataclasses.replace(
        made,
        actions=(bare,),
        horizon=horizon,
        n_action_steps=min(4, horizon),
        observations=tuple(
            dataclasses.replace(o, max_age_ms=max(state, 1000.0)) for o in made.observations
        ),
    )


@pytest.fixture(scope="module")
def slow(files: Path) -> MoeTwin:
    """A student that takes longer than a control period, of many passes."""
    return make_moe_file(
        files / "slow.onnx", contract=chunks(), n_experts=3, width=1024, passes=400
    )


class Planned(Robot):
    """A robot that wanders, so that no two observations are alike, and hears every plan."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.seen: dict[int, tuple[float, float]] = {}
        self.plans: dict[int, NDArray[np.float64]] = {}
        driver.node.create_subscription(
            Float64MultiArray, f"{self.path}/prediction", self._on_plan, _PLANS
        )

    def _on_plan(self, message: Any) -> None:
        stamp, chunk = read_prediction(message)
        self.plans[stamp] = chunk

    def wander(self) -> None:
        # Stamped on the grid of its pace: then steps are exact, however late this process is.
        now = time.time_ns() // PERIOD_NS * PERIOD_NS
        if now in self.seen:
            return
        at = START[0] + 1e-4 * (len(self.seen) % 1000), START[1] + 1e-4 * (len(self.seen) % 77)
        self.seen[self.publish(*at, stamp_ns=now)] = at

    def go(self, done: Callable[[], bool], what: str) -> None:
        """Wander at the robot's pace until ``done``."""

        def moved() -> bool:
            self.pulse(self.wander)
            return done()

        self.until(moved, what)

    def rows(self) -> list[dict[str, float]]:
        """The status of every tick that answered an observation, in order."""
        return [self.status[s] for s in sorted(self.status) if s in self.seen]

    def acting(self) -> list[tuple[int, int, tuple[float, float]]]:
        """Stamp, age of the plan and command of every tick that acted, as far as all is known."""
        sent = dict(self.commands)
        return [
            (s, int(self.status[s]["plan_age"]), sent[s])
            for s in sorted(self.status)
            if s in sent and s in self.seen and self.status[s]["level"] <= SafetyLevel.CLAMP
        ]

    def source(self, stamp: int, age: int, command: tuple[float, float]) -> int | None:
        """Return the stamp of the plan whose ``age``-th action a command is; None: of none."""
        for asked, chunk in self.plans.items():
            if tuple(chunk[age]) == command and asked < stamp:
                return asked
        return None


def offline(path: Path, plans: dict[int, Any], seen: dict[int, tuple[float, float]]) -> int:
    """Hold plans against the policy asked here with the same observations; return how many."""
    policy = MoePolicy(PolicyFile.open(path), selection=SelectionSettings("argmax"))
    known = [stamp for stamp in plans if stamp in seen]
    for stamp in known:
        x, y = seen[stamp]
        window = np.array([[x, y, x, y]], np.float32)
        np.testing.assert_array_equal(plans[stamp], policy.act(window).action)
    return len(known)


def test_every_command_is_the_action_of_its_step(driver: Driver, slow: MoeTwin) -> None:
    """Bit for bit that of the plan asked as many periods ago as its place in the plan says.

    The first ticks hold for the first plan, under that reason; after that the policy is asked
    less often than the robot ticks, and no tick waits for it.
    """
    robot = Planned(driver)
    monitor = Monitor(robot)
    start_policy(driver, slow.path, **ASKED)
    robot.go(lambda: len(robot.acting()) >= 30, "30 commands from plans")
    assert any("waiting for the first plan" in reason for reason in robot.reasons)
    robot.go(lambda: len(robot.plans) >= 5, "plans")
    assert offline(slow.path, robot.plans, robot.seen) >= 5
    matched = 0
    for stamp, age, command in robot.acting():
        assert 1 <= age < HORIZON, "an answer beside the ticks is at least a step late"
        asked = robot.source(stamp, age, command)
        if asked is None:
            continue  # the plan itself was lost on its way to this test: best effort
        assert stamp - asked == age * PERIOD_NS
        matched += 1
    assert matched >= 10
    assert len(robot.plans) < len(robot.acting())
    robot.go(lambda: monitor.said("planning", "ok"), "planning on /diagnostics")
    _, _, values = monitor.newest[f"{robot.path}: planning"]
    assert values["mode"] == "async"
    assert float(values["plan_p50_ms"]) > 0
    rows = robot.rows()
    assert rows[-1]["expired"] > 0, "what was late was counted"
    assert max(row["queued"] for row in rows) > 0


def test_a_new_episode_drops_the_plan_and_what_is_on_its_way(
    driver: Driver, slow: MoeTwin
) -> None:
    """After its first hold nothing is sent that was planned from an older observation."""
    robot = Planned(driver)
    start_policy(driver, slow.path, **ASKED)
    robot.go(lambda: len(robot.acting()) >= 5, "commands")
    announced = time.time_ns()
    robot.restart()

    def held() -> list[int]:
        waiting = SafetyLevel.HOLD
        return [s for s, row in robot.status.items() if s > announced and row["level"] >= waiting]

    robot.go(lambda: bool(held()), "a hold for the first plan of the episode")
    begin = min(held())
    robot.go(lambda: sum(s > begin for s, _, _ in robot.acting()) >= 20, "commands")
    found = [
        robot.source(stamp, age, command)
        for stamp, age, command in robot.acting()
        if stamp > begin
    ]
    known = [asked for asked in found if asked is not None]
    assert known
    assert min(known) >= begin


def test_an_exchanged_policy_plans_from_then_on(
    driver: Driver, files: Path, slow: MoeTwin
) -> None:
    """It is taken over while the old one is asked; from then on plans are its own."""
    other = make_moe_file(files / "other.onnx", contract=chunks(), n_experts=3, seed=9)
    robot = Planned(driver)
    start_policy(driver, slow.path, **ASKED)
    robot.go(lambda: len(robot.acting()) >= 5, "commands")
    done = robot.set(policy=str(other.path))
    assert done == (True, "")
    robot.go(lambda: True, "one more")
    changed = time.time_ns()
    robot.go(lambda: sum(s > changed for s in robot.plans) >= 5, "plans of the new policy")
    assert offline(other.path, {s: p for s, p in robot.plans.items() if s > changed}, robot.seen)


def test_what_cannot_be_planned_ahead_is_refused_when_configured(
    driver: Driver, student: MoeTwin, slow: MoeTwin
) -> None:
    """A policy of single actions, and a word that is no mode; both say what to do."""
    single = start_policy(driver, student.path, inference="async")
    assert single.wait(30.0) == EXIT_USER_ERROR
    assert "horizon = 1" in single.tail(20)
    assert "use inference inline" in single.tail(20)
    wrong = start_policy(driver, slow.path, inference="asynch")
    assert wrong.wait(30.0) == EXIT_USER_ERROR
    assert "did you mean 'async'" in wrong.tail(20)


@pytest.mark.parametrize("mode", ["inline", "async"])
def test_answers_over_the_limit_are_held_and_told(
    driver: Driver, slow: MoeTwin, mode: str
) -> None:
    """Whichever way the policy is asked."""
    robot = Planned(driver)
    monitor = Monitor(robot)
    start_policy(driver, slow.path, **{**ASKED, "inference": mode}, max_latency_ms=0.001)
    text = "inference took longer than max_latency_ms = 0.001"
    robot.go(lambda: any(text in reason for reason in robot.reasons), "that reason")
    robot.go(lambda: monitor.said("planning", "longer than max_latency_ms"), "diagnostics")
    assert robot.acting() == []


def test_a_node_ends_clean_while_its_policy_is_asked(driver: Driver, slow: MoeTwin) -> None:
    """Exit code 0, and the stop action is the last command."""
    robot = Planned(driver)
    node = start_policy(driver, slow.path, **ASKED)
    robot.go(lambda: len(robot.acting()) >= 3, "commands")
    assert node.stop() == 0
