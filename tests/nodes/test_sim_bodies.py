"""Simulated robots on their topics: what is published is what the contract reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty

from tests.nodes.robot import TIMEOUT_S, Robot, chasing_policy, start_policy
from tests.nodes.test_processes import sim_outcomes
from vdd_ros.core.config_io import load_yaml
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.core.shipped import shipped_file
from vdd_ros.nodes.diagnostics import LATCHED
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.parameters import SIM
from vdd_ros.nodes.sim_bodies import BODIES
from vdd_ros.tasks.protocol import TASKS, Task, make_task


def simulated(name: str) -> Task:
    """The task, where its simulator is installed."""
    try:
        return make_task(name)
    except VddError as error:
        pytest.skip(str(error))


def test_every_robot_on_offer_is_a_task_with_a_body() -> None:
    """The parameter's choices are the bodies, and each is in the table of tasks."""
    (choices,) = (spec.choices for spec in SIM if spec.name == "task")
    assert set(choices) == set(BODIES) <= set(TASKS)


@pytest.mark.parametrize("name", BODIES)
def test_the_contract_reads_the_observation_that_the_task_made(name: str) -> None:
    """Every selected name is published, and what is read is the observation in its order."""
    task, body = simulated(name), BODIES[name]
    contract = load_yaml(PolicyContract, shipped_file(f"config/contracts/{name}.yaml"))
    observation = task.reset(1, np.random.default_rng(3))[0]
    published = dict(zip(body.joints, body.state(observation), strict=True))
    selected = [
        s.removeprefix("position.") for field in contract.observations for s in field.select
    ]
    np.testing.assert_allclose([published[s] for s in selected], observation)
    assert contract.rate_hz == pytest.approx(1.0 / task.dt_s)
    assert (contract.dim_obs, contract.dim_act) == (task.dim_obs, task.dim_act)


@pytest.mark.parametrize("name", BODIES)
def test_a_command_is_where_the_robot_is_led(name: str) -> None:
    """After enough steps towards one point, the robot's position is that point."""
    task, body = simulated(name), BODIES[name]
    observation = task.reset(1, np.random.default_rng(3))[0]
    target = task.position[0] + (0.004, 0.006)
    for _ in range(20):
        task.step(body.action(observation, target)[None])
        observation = task.observe()[0]
    np.testing.assert_allclose(task.position[0], target, atol=1e-3)


def test_the_finger_is_driven_to_the_block(driver: Driver, tmp_path: Path) -> None:
    """A Push-T robot and a policy of chunks close the loop: the finger comes and pushes."""
    pytest.importorskip("gym_pusht", reason="gym-pusht is not installed")
    outcomes = sim_outcomes(driver)
    states: list[JointState] = []
    driver.node.create_subscription(
        JointState, "robot_state", states.append, QoSProfile(depth=1000)
    )
    start_policy(driver, chasing_policy(tmp_path / "chasing.onnx"), use_sim_time=True)
    robot = Robot(driver)
    start = driver.node.create_publisher(Empty, "sim/start", LATCHED)
    robot.until(lambda: "STOP: configured, not active" in robot.reasons, "a configured policy")
    sim = driver.start(
        "sim_node",
        parameters={"task": "pusht", "episodes": 1, "speed": 10.0, "wait_for_start": True},
        ends=True,
    )
    robot.until(lambda: driver.node.count_publishers("sim/outcome") > 0, "a robot")
    start.publish(Empty())
    robot.until(lambda: len(outcomes) == 1, "an episode")
    assert sim.wait(TIMEOUT_S) == 0
    (outcome,) = outcomes
    assert outcome["mode_name"].startswith("first contact in sector"), (outcome, driver.tails())
    assert 0.0 <= float(outcome["reward"]) <= 1.0
    acted = [row for row in robot.status.values() if row["level"] <= SafetyLevel.CLAMP]
    assert len(acted) >= 100
    assert set(states[-1].name) == set(BODIES["pusht"].joints)
    first, last = (np.array(state.position) for state in (states[0], states[-1]))
    gap = [np.linalg.norm(at[:2] - at[2:4]) for at in (first, last)]
    # The block's position is on its edge: it is pushed ahead of the finger, which stays at it.
    assert gap[1] < 60.0 < gap[0]


def test_a_level_the_task_does_not_have_ends_with_exit_code_2(driver: Driver) -> None:
    """Refused before anything is published, with the levels there are."""
    pytest.importorskip("gym_pusht", reason="gym-pusht is not installed")
    sim = driver.start("sim_node", parameters={"task": "pusht", "level": "panda"}, ends=True)
    assert sim.wait(TIMEOUT_S) == 2
    assert "known levels: ideal" in driver.tails()
