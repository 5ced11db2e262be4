"""policy_node as a process over real DDS: one running node serves most questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import QoSProfile

from tests.nodes.robot import START, Robot, avoiding, start_policy, write_contract
from tests.policy_files import MoeTwin, make_denoiser_file
from vdd_ros.core.contract import Limits, Safety
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.nodes.driver import Driver

pytestmark = pytest.mark.ros

RATE_HZ = 50.0
MAX_RATE = 0.7


@pytest.fixture(scope="module")
def robot(student: MoeTwin, files: Path) -> Iterator[Robot]:
    """A robot whose policy node is up; the tests of this module leave it active."""
    with Driver("test", own_domain=True) as driver:
        robot = Robot(driver)
        contract = dataclasses.replace(avoiding(), safety=Safety(max_hold_s=0.2))
        start_policy(
            driver,
            student.path,
            rate_hz=RATE_HZ,
            contract=write_contract(files / "impatient.yaml", contract),
            selection__rule="argmax",
        )
        robot.active()
        yield robot


@pytest.fixture
def fresh(robot: Robot) -> Robot:
    """The same robot at its start, its node acting."""
    robot.until(lambda: robot.status_of(*START)["level"] <= SafetyLevel.CLAMP, "an acting policy")
    return robot


def expected(student: MoeTwin, x: float, y: float) -> tuple[int, np.ndarray]:
    """The likeliest expert and its wish, by the numpy twin of the file."""
    row = np.array([[[x, y, x, y]]], np.float32)
    out = student.outputs(row)
    expert = int(np.argmax(out["gating_logits"][0]))
    return expert, np.array([x, y]) + out["expert_actions"][0, expert, 0]


def test_the_command_is_the_policys_within_the_limits(fresh: Robot, student: MoeTwin) -> None:
    """The likeliest expert acts; its wish is reached step by step and clipped to the limits."""
    expert, wish = expected(student, 0.5, 0.0)
    assert fresh.status_of(0.5, 0.0)["expert"] == expert
    limits = avoiding().actions[0].limits
    reachable = np.clip(wish, limits.min, limits.max)
    steps = np.abs(np.array(limits.max) - limits.min).max() / (MAX_RATE / RATE_HZ)
    for _ in range(int(np.ceil(steps))):
        command = np.array(fresh.ask(0.5, 0.0))
    np.testing.assert_allclose(command, reachable, atol=1e-5)


def test_a_transition_that_the_state_does_not_allow_is_answered_with_no(fresh: Robot) -> None:
    """By number, by name, and of a kind that nobody knows; the node stays active and acts."""
    wrong = (
        Transition(id=Transition.TRANSITION_CONFIGURE),
        Transition(id=Transition.TRANSITION_ACTIVATE),
        Transition(id=Transition.TRANSITION_CLEANUP),
        Transition(id=Transition.TRANSITION_INACTIVE_SHUTDOWN),
        Transition(id=200),
        Transition(label="configure"),
        Transition(label="nonsense"),
    )
    for transition in wrong:
        request = ChangeState.Request(transition=transition)
        assert not fresh.call(ChangeState, "change_state", request).success, transition
        assert fresh.state() == "active"
    assert fresh.status_of(*START)["level"] <= SafetyLevel.CLAMP


def test_consecutive_commands_obey_the_rate_limit(fresh: Robot) -> None:
    """However far the robot seems to have jumped, commands move by at most one step."""
    begin = len(fresh.commands)
    for x, y in [START, (0.3, 0.3), (0.7, -0.3), (0.5, 0.0)]:
        fresh.ask(x, y)
    points = np.array([c for _, c in fresh.commands[begin:]])
    assert np.abs(np.diff(points, axis=0)).max() <= MAX_RATE / RATE_HZ + 1e-9


def test_status_tells_what_a_tick_was_made_of(fresh: Robot) -> None:
    """The stages of a tick add up to the tick, and ages and counters are plausible."""
    row = fresh.status_of(*START)
    stages = sum(row[f"{stage}_us"] for stage in ("decode", "infer", "safety", "publish"))
    assert 0 < row["infer_us"] < stages <= row["tick_us"] * 1.001
    assert 0 <= row["age_ms"] < 1000 * 20
    assert 0 <= row["gate_entropy"] <= 1
    assert row["nfe"] == 1
    assert row["ticks"] >= 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_observation_never_reaches_the_command(fresh: Robot, bad: float) -> None:
    """The answer to NaN is the last command; the reason names the components."""
    before = fresh.ask(*START)
    answer = fresh.ask(bad, 0.0)
    assert answer == before
    assert fresh.until_reason("non-finite") == (
        "HOLD: non-finite observation desired[0], measured[0]"
    )
    assert np.isfinite([c for _, c in fresh.commands]).all()


def test_a_missing_joint_is_named(fresh: Robot) -> None:
    """A driver that stops reporting a joint is told which one, and heard when it is back."""
    fresh.until(lambda: bool(fresh.publish(*START, names=("x", "y", "x_desired"))), "a state")
    reason = fresh.until_reason("no joint")
    assert "robot_state: no joint 'y_desired'" in reason
    assert "x, y, x_desired" in reason
    fresh.ask(*START)
    fresh.until_reason("")
    assert fresh.status_of(*START)["level"] <= SafetyLevel.CLAMP


def test_silence_is_held_then_safe_with_a_reason(fresh: Robot) -> None:
    """When states stop coming the last command is repeated, first as HOLD, then as SAFE."""
    last = fresh.ask(*START)
    fresh.reasons.clear()
    begin = len(fresh.commands)
    fresh.until_reason("SAFE")
    stale = "robot_state: stale, the last sample is older than 150 ms"
    assert fresh.reasons == [f"HOLD: {stale}", f"SAFE: {stale}"]
    fresh.until(lambda: len(fresh.commands) > begin + 3, "repeated holds")
    assert {c for _, c in fresh.commands[begin:]} == {last}
    fresh.ask(*START)
    assert fresh.status_of(*START)["level"] <= SafetyLevel.CLAMP


def test_the_choice_of_experts_follows_its_parameters(fresh: Robot) -> None:
    """A pinned expert acts from the next tick on."""
    for pinned in (2, 0):
        ok, reason = fresh.set(selection__pinned_expert=pinned)
        assert ok, reason
        ok, reason = fresh.set(selection__rule="pinned")
        assert ok, reason
        assert fresh.status_of(*START)["expert"] == pinned
    assert fresh.set(selection__rule="argmax")[0]


def test_bad_parameters_are_refused_with_a_reason(fresh: Robot) -> None:
    """The reason says what is allowed, and what was set before stays."""
    assert fresh.set(selection__rule="stiky") == (
        False,
        "selection.rule: got 'stiky'; did you mean 'sticky'?",
    )
    assert fresh.set(selection__rule="pinned")[0]
    ok, reason = fresh.set(selection__pinned_expert=7)
    assert not ok
    assert "got 7, the policy has experts 0 to 3" in reason
    assert not fresh.set(selection__temperature=-1.0)[0]
    ok, reason = fresh.set(role="shadow")
    assert not ok
    assert "clean up first" in reason
    assert fresh.set(selection__rule="argmax")[0]


def test_every_parameter_describes_itself(fresh: Robot) -> None:
    """Descriptions and choices of the table reach `ros2 param describe`."""
    rule, rate = fresh.describe("selection.rule", "rate_hz")
    assert "argmax" in rule.description
    assert rule.additional_constraints == "one of: sample, argmax, sticky, pinned"
    assert rate.additional_constraints == "read at configure"
    assert rate.floating_point_range[0].to_value > 1000


def test_deactivate_holds_last_and_activate_starts_anew(fresh: Robot) -> None:
    """After the stop command there is silence; a restart cannot jump from an old command."""
    fresh.ask(0.5, 0.0)
    assert fresh.transition(Transition.TRANSITION_DEACTIVATE)
    assert fresh.until_reason("STOP") == "STOP: deactivated"
    assert fresh.state() == "inactive"
    count = len(fresh.commands)
    sentinel = fresh.publish(0.3, 0.3)
    assert fresh.transition(Transition.TRANSITION_ACTIVATE)
    command = fresh.ask(0.3, -0.2)
    assert sentinel not in [s for s, _ in fresh.commands[count:]]
    assert np.abs(np.array(command) - [0.3, -0.2]).max() <= MAX_RATE / RATE_HZ * 20
    first = np.array(fresh.commands[count][1])
    assert np.abs(first - [0.3, -0.2]).max() <= MAX_RATE / RATE_HZ + 1e-6


def test_configure_and_cleanup_can_be_repeated(fresh: Robot) -> None:
    """Every state is reached again and again; the node ends where it began: acting."""
    assert fresh.transition(Transition.TRANSITION_DEACTIVATE)
    assert fresh.transition(Transition.TRANSITION_CLEANUP)
    assert fresh.state() == "unconfigured"
    assert fresh.driver.node.count_publishers("command") == 0
    assert fresh.transition(Transition.TRANSITION_CONFIGURE)
    assert fresh.transition(Transition.TRANSITION_ACTIVATE)
    fresh.ask(*START)


def test_a_transition_the_state_does_not_allow_leaves_the_node_alive(fresh: Robot) -> None:
    """An impatient operator cannot kill the node."""
    from lifecycle_msgs.srv import ChangeState

    client = fresh.driver.node.create_client(ChangeState, "/policy/change_state")
    fresh.until(client.service_is_ready, "service")
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVATE))
    client.call_async(request)
    fresh.ask(*START)
    assert fresh.state() == "active"
    fresh.driver.node.destroy_client(client)


def test_diagnostics_are_where_every_tool_looks(fresh: Robot) -> None:
    """One status with named keys on the standard topic, once a second."""
    found: list[DiagnosticArray] = []
    subscription = fresh.driver.node.create_subscription(
        DiagnosticArray, "/diagnostics", found.append, QoSProfile(depth=10)
    )

    fresh.ask(float("nan"), 0.0)

    def told() -> bool:
        fresh.pulse(lambda: fresh.publish(*START))
        return any(m.status[0].message == "" or "limit" in m.status[0].message for m in found)

    fresh.until(told, "diagnostics of an acting node")
    fresh.driver.node.destroy_subscription(subscription)
    status = found[-1].status[0]
    values = {e.key: e.value for status in found[-1].status for e in status.values}
    assert status.name == "/policy: control"
    for key in ("infer_p50_us", "tick_p99_us", "missed", "provider", "sha256", "role"):
        assert values[key]
    assert values["role"] == "command"
    assert float(values["age_ms: robot_state"]) >= 0
    assert int(values["held: non-finite observation desired[0], measured[0]"]) >= 1


def test_limits_without_numbers_bind_nothing(driver: Driver, student: MoeTwin) -> None:
    """With a contract that limits nothing, the command is observation plus action exactly."""
    contract = avoiding()
    free = dataclasses.replace(contract.actions[0], limits=Limits())
    path = student.path.with_name("free.yaml")
    write_contract(path, dataclasses.replace(contract, actions=(free,)))
    robot = Robot(driver)
    start_policy(driver, student.path, contract=str(path), selection__rule="argmax")
    for x, y in [START, (0.4, 0.1)]:
        _, wish = expected(student, x, y)
        np.testing.assert_allclose(robot.ask(x, y), wish, atol=1e-5)
    row = robot.status_of(*START)
    assert row["level"] == SafetyLevel.ACT


def test_a_consistency_model_acts_in_the_students_place(driver: Driver, files: Path) -> None:
    """A file made for one step is run with it; there is no expert to name or to choose."""
    contract = avoiding()
    free = dataclasses.replace(contract.actions[0], limits=Limits())
    path = files / "free_one_step.yaml"
    write_contract(path, dataclasses.replace(contract, actions=(free,)))
    # So narrow that every noise leads to the mean.
    twin = make_denoiser_file(files / "narrow.onnx", contract=contract, deviation=1e-4)
    policy = twin.save_as(files / "one_step.onnx", provenance={**twin.provenance, "n_steps": 1})
    robot = Robot(driver)
    start_policy(driver, policy, contract=str(path))
    for x, y in [START, (0.4, 0.1)]:
        row = np.array([[[x, y, x, y]]], np.float32)
        step = (twin.mean(row) * twin.scale + twin.offset)[0, 0]
        np.testing.assert_allclose(robot.ask(x, y), np.array([x, y]) + step, atol=1e-4)
    assert robot.status_of(*START)["expert"] == -1
