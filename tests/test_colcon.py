"""The package as colcon builds it: executables where launch files look, files where nodes look."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# On a ROS machine colcon belongs to another Python than its script in PATH may say; run ours.
COLCON = "import sys, colcon_core.command as c; sys.argv[0] = 'colcon'; sys.exit(c.main())"

pytestmark = pytest.mark.skipif(
    any(
        importlib.util.find_spec(name) is None
        for name in ("colcon_core", "colcon_ros", "colcon_package_information")
    ),
    reason="colcon with its ROS extensions is not importable here",
)


def colcon(workspace: Path, *arguments: str) -> str:
    """Runs colcon in a workspace; returns its output."""
    env = {name: value for name, value in os.environ.items() if name != "AMENT_PREFIX_PATH"}
    done = subprocess.run(
        [sys.executable, "-c", COLCON, *arguments],
        cwd=workspace,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ROS workspace with this package under src/, built once."""
    folder = tmp_path_factory.mktemp("workspace with a space")
    source = folder / "src" / "vdd_ros"
    for name in ("vdd_ros", "launch", "config", "models", "resource"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("package.xml", "setup.py", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, source / name)
    colcon(folder, "build")
    return folder


def test_colcon_sees_a_ros_package(workspace: Path) -> None:
    """The manifest is accepted: the build type is ament_python's, not plain Python's."""
    assert "(ros.ament_python)" in colcon(workspace, "list")


def test_executables_are_where_launch_files_look(workspace: Path) -> None:
    """`ros2 run` and Node(executable=...) look in lib/vdd_ros."""
    installed = workspace / "install" / "vdd_ros" / "lib" / "vdd_ros"
    for name in ("policy_node", "teacher_node", "sim_node", "vdd"):
        executable = installed / name
        assert os.access(executable, os.X_OK)
        assert name in executable.read_text()


def test_share_holds_launch_files_configuration_and_index(workspace: Path) -> None:
    """What the launch files need is installed beside them, and the package is in the index."""
    prefix = workspace / "install" / "vdd_ros"
    assert (prefix / "share/ament_index/resource_index/packages/vdd_ros").is_file()
    assert (prefix / "share/vdd_ros/launch/policy.launch.py").is_file()
    for folder in ("launch", "config", "models"):
        for source in (ROOT / folder).rglob("*"):
            if source.is_file() and "__pycache__" not in source.parts:
                copy = prefix / "share" / "vdd_ros" / source.relative_to(ROOT)
                assert copy.read_bytes() == source.read_bytes()


def test_installed_command_runs_from_the_install_space_alone(workspace: Path) -> None:
    """The built `vdd` finds its package in the install space, without the source folder."""
    prefix = workspace / "install" / "vdd_ros"
    packages = next(prefix.glob("lib/python3*/site-packages"))
    contract = "config/contracts/avoiding.yaml"
    where = f"from vdd_ros.core.shipped import shipped_file; print(shipped_file('{contract}'))"
    for command, expected in (
        ([sys.executable, "-c", where], str(prefix / "share" / "vdd_ros" / contract)),
        ([str(prefix / "lib" / "vdd_ros" / "vdd"), "--help"], "train-teacher"),
    ):
        done = subprocess.run(
            command,
            cwd=workspace,
            env=dict(os.environ, PYTHONPATH=str(packages)),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert expected in done.stdout
