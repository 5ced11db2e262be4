"""Hold and reload with real nodes: what an operator asks for, and what is answered."""

from __future__ import annotations

import dataclasses
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from tests.nodes.robot import ANSWER_S, START, Robot, avoiding, start_policy
from tests.policy_files import MoeTwin, make_denoiser_file, make_moe_file
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.reload import incompatible


class Operator(Robot):
    """The robot, and the operator beside it."""

    def __init__(self, driver: Driver, **where: str) -> None:
        super().__init__(driver, **where)
        self.facts: dict[str, str] = {}
        driver.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def hold(self, on: bool) -> Any:
        """Ask to hold, or to go on."""
        return self.call(SetBool, "hold", SetBool.Request(data=on))

    def reload(self) -> Any:
        """Ask to reload; a second question finds a policy being loaded, and waits."""
        answer = self.call(Trigger, "reload", Trigger.Request())
        while "loaded already" in answer.message:
            answer = self.call(Trigger, "reload", Trigger.Request())
        return answer

    def set(self, **values: Any) -> tuple[bool, str]:
        """Set parameters; see `reload` about being asked twice."""
        done, why = super().set(**values)
        while "loaded already" in why:
            done, why = super().set(**values)
        return done, why

    def policy(self) -> str:
        """Return what the parameter says."""
        answer = self.call(
            GetParameters, "get_parameters", GetParameters.Request(names=["policy"])
        )
        return str(answer.values[0].string_value)

    def atomically(self, **values: Any) -> tuple[bool, str]:
        """Set parameters, all or none."""
        given = [Parameter(n.replace("__", "."), value=v) for n, v in values.items()]
        request = SetParametersAtomically.Request(
            parameters=[parameter.to_parameter_msg() for parameter in given]
        )
        result = self.call(SetParametersAtomically, "set_parameters_atomically", request).result
        while "loaded already" in result.reason:
            result = self.call(
                SetParametersAtomically, "set_parameters_atomically", request
            ).result
        return result.successful, result.reason

    def holding(self) -> bool:
        """Ask once more what the robot is told, and whether that is a pause."""
        return self.status_of(*START)["paused"] == 1.0

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == f"{self.path}: control":
                self.facts = {v.key: v.value for v in status.values}


@pytest.fixture
def wrong(files: Path, student: MoeTwin) -> dict[str, Path]:
    """Files that are no policy for this node, each for another reason."""
    whole = student.path.read_bytes()
    paths = {name: files / f"wrong_{name}.onnx" for name in ("cut", "foreign", "empty", "golden")}
    paths["cut"].write_bytes(whole[: len(whole) // 2])
    paths["foreign"].write_bytes(np.random.default_rng(0).bytes(5000))
    paths["empty"].write_bytes(b"")
    golden = dict(student.golden)
    outputs = {k: dict(v) for k, v in golden["outputs"].items()}
    actions = outputs["expert_actions"]
    actions["data"] = [value + 0.5 for value in actions["data"]]
    student.save_as(paths["golden"], golden=golden | {"outputs": outputs})
    changed = dataclasses.replace(student.contract, rate_hz=17.0)
    paths["contract"] = student.save_as(files / "wrong_contract.onnx", contract=changed)
    paths["missing"] = files / "nowhere.onnx"
    paths["denoiser"] = make_denoiser_file(files / "d.onnx", contract=student.contract).path
    return paths


def test_an_operator_holds_and_reloads_a_running_policy(
    driver: Driver, student: MoeTwin, files: Path, wrong: dict[str, Path]
) -> None:
    """Hold is idempotent; a refused file changes nothing; a good one acts, and is what is said."""
    robot = Operator(driver)
    start_policy(driver, student.path, selection__rule="argmax")
    robot.active()

    for _ in range(2):
        answer = robot.hold(True)
        assert answer.success, answer.message
    assert robot.holding()
    robot.until_reason("HOLD: paused")
    answer = robot.reload()
    assert answer.success, answer.message
    assert robot.holding(), "a reload must not end a pause"
    for _ in range(2):
        assert robot.hold(False).success
    assert not robot.holding()

    for name, reason in (
        ("cut", "policy file"),
        ("foreign", "policy file"),
        ("empty", "empty"),
        ("golden", "golden sample"),
        ("contract", "rate_hz is 17"),
        ("missing", "no such file"),
        ("denoiser", "denoiser"),
    ):
        done, why = robot.set(policy=str(wrong[name]))
        assert not done
        assert reason in why, (name, why)
        assert robot.policy() == str(student.path)
    robot.ask(*START)
    robot.until(
        lambda: "denoiser" in robot.facts.get("warning: reload", ""), "the refusal in /diagnostics"
    )
    assert robot.facts["policy"] == str(student.path)

    other = make_moe_file(files / "other.onnx", contract=avoiding(), n_experts=3, seed=7)
    done, why = robot.set(policy=str(other.path))
    assert done, why
    assert robot.policy() == str(other.path)
    robot.until(lambda: robot.facts.get("policy") == str(other.path), "the new facts")
    robot.until(lambda: "warning: reload" not in robot.facts, "an end of the warning")
    robot.ask(*START)

    # Of experts that only one of the two files has, none may be pinned under the other.
    done, why = robot.atomically(
        policy=str(student.path), selection__rule="pinned", selection__pinned_expert=9
    )
    assert not done
    assert "got 9" in why, why
    assert robot.policy() == str(other.path)
    done, why = robot.atomically(
        policy=str(student.path), selection__rule="pinned", selection__pinned_expert=3
    )
    assert done, why
    assert robot.status_of(*START)["expert"] == 3
    done, why = robot.set(policy=str(other.path))
    assert not done, "the pinned expert is not in the other file"
    assert robot.policy() == str(student.path)
    done, why = robot.set(role="shadow")
    assert not done
    assert "clean up first" in why
    done, why = robot.set(executor="single")
    assert not done
    assert "-p executor:=VALUE" in why

    assert robot.transition(Transition.TRANSITION_DEACTIVATE)
    answer = robot.hold(True)
    assert not answer.success
    assert "not active" in answer.message
    assert robot.set(policy=str(other.path), selection__rule="argmax")[0] is False
    assert robot.set(selection__rule="argmax")[0]
    assert robot.set(policy=str(other.path))[0]
    assert robot.transition(Transition.TRANSITION_ACTIVATE)
    assert robot.status_of(*START)["expert"] in (0, 1, 2)
    assert robot.transition(Transition.TRANSITION_DEACTIVATE)
    assert robot.transition(Transition.TRANSITION_CLEANUP)
    answer = robot.reload()
    assert not answer.success
    assert "not configured" in answer.message
    assert robot.set(role="shadow")[0]


def test_a_teacher_is_reloaded_once_at_a_time_and_ends_while_it_loads(driver: Driver) -> None:
    """The second of two questions is refused or comes later; a signal ends the node cleanly."""
    robot = Operator(driver, node="teacher")
    process = driver.start(
        "teacher_node", parameters={"autostart": True, "discovery_s": 0.0, "nfe": 2}, ends=True
    )
    robot.active()
    client = driver.node.create_client(Trigger, "/teacher/reload")
    robot.until(client.service_is_ready, "service")
    answers: list[Any] = []
    due = 0.0

    def answered() -> bool:
        nonlocal due
        if time.monotonic() >= due:  # asked again, as an answer may be lost
            due = time.monotonic() + ANSWER_S
            answers.extend(client.call_async(Trigger.Request()) for _ in range(3))
        done = [future.result() for future in answers if future.done()]
        assert all(a.success or "loaded already" in a.message for a in done), done
        return any(a.success for a in done)

    robot.until(answered, "a reload among several questions")
    robot.ask(*START)
    client.call_async(Trigger.Request())
    process.send(signal.SIGINT)
    assert process.wait(20.0) == 0, process.tail()
    assert "Traceback" not in process.log()


def test_a_difference_of_contracts_is_named() -> None:
    """What a running node was built from may not differ; the name may."""
    running = avoiding()
    assert incompatible(running, dataclasses.replace(running, name="other")) == []
    other = dataclasses.replace(running.actions[0], topic="elsewhere")
    found = incompatible(running, dataclasses.replace(running, actions=(other,)))
    assert found == [f"actions.{other.key}.topic is 'elsewhere', runs with 'command'"]
    more = (*running.observations, dataclasses.replace(running.observations[0], key="more"))
    found = incompatible(running, dataclasses.replace(running, observations=more))
    assert len(found) == 1
    assert found[0].startswith("observations is [")
    assert "more" in found[0]
