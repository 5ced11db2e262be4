"""ROS domains and policy files shared by the node tests.

Nodes run on the interpreter that runs the tests: `make test` runs this folder on the Jazzy and on
the Kilted wheels, and on the system's rclpy where ROS 2 is sourced.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 client library here")
pytest.importorskip("onnx", reason="policy files for tests are made with onnx")

from tests.nodes.robot import driving_policy, small_policy
from tests.policy_files import DenoiserTwin, MoeTwin, make_denoiser_file
from vdd_ros.nodes.driver import Driver


@pytest.fixture
def driver() -> Iterator[Driver]:
    """A node in a ROS domain of its own; ends every process the test started."""
    with Driver("test", own_domain=True) as made:
        yield made


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for policy files."""
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="session")
def student(files: Path) -> MoeTwin:
    """Random experts for the Avoiding contract."""
    return small_policy(files / "student.onnx")


@pytest.fixture(scope="session")
def driving(files: Path) -> Path:
    """A student that reaches the goal."""
    return driving_policy(files / "driving.onnx")


@pytest.fixture(scope="session")
def teacher(files: Path, student: MoeTwin) -> DenoiserTwin:
    """A Gaussian's denoiser for the Avoiding contract."""
    return make_denoiser_file(files / "teacher.onnx", contract=student.contract)
