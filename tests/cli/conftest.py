"""The command line as a user meets it: a process with two streams and an exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.policy_files import DenoiserTwin, MoeTwin, make_denoiser_file, make_moe_file
from vdd_ros.core.config_io import load_yaml
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.shipped import shipped_file

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """How one command went."""

    code: int
    out: str
    err: str

    def only_object(self) -> dict[str, Any]:
        """The one JSON object that standard output consists of."""
        value, end = json.JSONDecoder(parse_constant=_refuse).raw_decode(self.out)
        assert isinstance(value, dict)
        assert self.out[end:] == "\n", "something stands behind the object"
        return value


def _refuse(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


Vdd = Callable[..., Run]


@pytest.fixture
def vdd(tmp_path: Path) -> Vdd:
    """Runs `vdd ...` in an empty folder, as a process of its own."""

    def run(*words: str | Path, cwd: Path | None = None, **environment: str) -> Run:
        done = subprocess.run(
            [sys.executable, "-m", "vdd_ros", *map(str, words)],
            cwd=cwd or tmp_path,
            env={**os.environ, "PYTHONPATH": _python_path(), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Run(done.returncode, done.stdout, done.stderr)

    return run


def _python_path() -> str:
    # The ROS wheels put folders of theirs on the path, which a child must keep.
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(scope="session")
def contract() -> PolicyContract:
    """The contract of the simulated robot."""
    return load_yaml(PolicyContract, shipped_file("config/contracts/avoiding.yaml"))


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory, contract: PolicyContract) -> MoeTwin:
    """A small mixture of experts for the simulated robot."""
    return make_moe_file(tmp_path_factory.mktemp("student") / "student.onnx", contract=contract)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory, contract: PolicyContract) -> DenoiserTwin:
    """A small denoiser for the simulated robot."""
    return make_denoiser_file(
        tmp_path_factory.mktemp("teacher") / "teacher.onnx", contract=contract
    )
