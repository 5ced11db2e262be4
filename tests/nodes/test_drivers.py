"""Demo and comparison with real nodes, and the processes they are made of."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import numpy as np
import pytest
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState

from tests.nodes.robot import START, TIMEOUT_S
from tests.policy_files import DenoiserTwin, MoeTwin
from vdd_ros.core.errors import VddError
from vdd_ros.nodes.compare_driver import compare
from vdd_ros.nodes.demo_driver import run_demo
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.process import NodeProcess, check_alive, node_environment

pytestmark = pytest.mark.ros


def test_the_demo_records_whole_episodes(driving: Path, teacher: DenoiserTwin) -> None:
    """Every episode comes with its path, its experts, its outcome and what both nodes cost."""
    numbers: list[int] = []
    result = run_demo(
        episodes=2,
        student=driving,
        teacher=teacher.path,
        nfe=4,
        speed=3.0,
        progress=lambda number, outcome: numbers.append(number),
    )
    assert numbers == [1, 2]
    assert [o.success for o in result.outcomes] == [True, True]
    for outcome, path, experts in zip(
        result.outcomes, result.trajectories, result.experts, strict=True
    ):
        assert outcome.mode_name == "left / middle / left"
        assert len(path) == len(experts) == outcome.steps + 1
        np.testing.assert_allclose(path[0], START, atol=1e-9)
        assert path[-1, 1] > 0.35
        steps = np.abs(np.diff(path, axis=0)).max(axis=1)
        assert steps.max() < 0.03, "no state is missing"
        assert np.isin(experts, [-1, 0, 1]).all()
        assert (experts >= 0).mean() > 0.8
    assert (result.policy.nfe, result.teacher.nfe) == (1, 4)
    for cost in (result.policy, result.teacher):
        assert cost.infer.n > 50
        assert 0 < cost.infer.p50_us <= cost.infer.p99_us <= cost.infer.max_us
        assert cost.infer.p50_us < cost.tick.p50_us
    assert result.ratio_p50 == result.teacher.infer.p50_us / result.policy.infer.p50_us


def test_the_demo_reports_a_node_that_dies(student: MoeTwin, teacher: DenoiserTwin) -> None:
    """A wrong file ends the demo at once, with the node's own words."""
    with pytest.raises(VddError, match=r"(?s)teacher_node ended with exit code 2.*holds a moe"):
        run_demo(episodes=1, student=student.path, teacher=student.path)
    with pytest.raises(VddError, match="expected at least 1"):
        run_demo(episodes=0, student=student.path, teacher=teacher.path)


def test_the_comparison_measures_all_three(
    monkeypatch: pytest.MonkeyPatch, student: MoeTwin, teacher: DenoiserTwin, ros_domain: int
) -> None:
    """Equal numbers of ticks at the asked rate, percentiles in order, and the two ratios."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(ros_domain))
    result = compare(1.0, 50.0, str(student.path), str(teacher.path), nfe=4)
    assert set(result) == {"echo", "policy", "teacher", "ratio"}
    for name in ("echo", "policy", "teacher"):
        figures = result[name]
        assert set(figures) == {"p50_us", "p99_us", "max_us", "ticks", "missed"}
        assert figures["ticks"] == 50
        assert 0 <= figures["missed"] < 25
        assert 0 < figures["p50_us"] <= figures["p99_us"] <= figures["max_us"]
    ratio = result["ratio"]
    assert ratio["policy_over_echo_p50"] == pytest.approx(
        result["policy"]["p50_us"] / result["echo"]["p50_us"]
    )
    assert all(math.isfinite(value) for value in ratio.values())


def test_a_busy_domain_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, student: MoeTwin, teacher: DenoiserTwin, ros_domain: int
) -> None:
    """Somebody else's robot on these topics would be measured, or moved."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(ros_domain))
    with Driver("somebody") as other:
        other.node.create_publisher(JointState, "policy/robot_state", QoSProfile(depth=1))
        with pytest.raises(VddError, match=r"'/policy/robot_state' is already used by /somebody"):
            compare(1.0, 50.0, str(student.path), str(teacher.path))


def test_a_process_is_ended_whatever_it_does() -> None:
    """One that ignores SIGINT and SIGTERM is killed; its output is kept."""
    stubborn = NodeProcess("tests.nodes.stubborn", grace_s=0.3)
    _wait_for_line(stubborn)
    with pytest.raises(VddError, match=r"(?s)did not end within 0.5 s.*still here"):
        stubborn.wait(0.5)
    assert stubborn.stop() == -signal.SIGKILL
    assert "still here" in stubborn.tail()
    with pytest.raises(VddError, match="stubborn ended with exit code -9"):
        check_alive([stubborn])


def _wait_for_line(process: NodeProcess) -> None:
    with Driver("clock", own_domain=True) as driver:
        driver.spin_until(
            lambda: "still here" in process.log(), timeout_s=TIMEOUT_S, what="first line"
        )


def test_another_interpreter_does_not_inherit_this_ones_wheels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The marks that the ROS wheels leave would make another environment load these libraries."""
    monkeypatch.setenv("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "1")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/of/this/environment")
    other = node_environment("/elsewhere/bin/python")
    assert "_ROS_WHEELS_BOOTSTRAP_COMPLETE" not in other
    assert "LD_LIBRARY_PATH" not in other
    assert node_environment()["LD_LIBRARY_PATH"] == "/of/this/environment"
