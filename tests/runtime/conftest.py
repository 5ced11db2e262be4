"""Policy files shared by the tests of this folder; written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.policy_files import DenoiserTwin, MoeTwin, make_denoiser_file, make_moe_file


@pytest.fixture(scope="session")
def moe(tmp_path_factory: pytest.TempPathFactory) -> MoeTwin:
    """A student without density."""
    return make_moe_file(tmp_path_factory.mktemp("moe") / "student.onnx")


@pytest.fixture(scope="session")
def dense_moe(tmp_path_factory: pytest.TempPathFactory) -> MoeTwin:
    """A student whose file also holds the experts' Cholesky factors."""
    return make_moe_file(tmp_path_factory.mktemp("dense") / "student.onnx", density=True, width=16)


@pytest.fixture(scope="session")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> DenoiserTwin:
    """The denoiser of a Gaussian with 1, 4 and 16 unrolled Euler steps."""
    return make_denoiser_file(tmp_path_factory.mktemp("denoiser") / "teacher.onnx")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Where a test writes its variation of a file."""
    return tmp_path / "variation.onnx"
