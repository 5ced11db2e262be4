"""Policy files shared by the tests of this folder; written once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.policy_files import DenoiserTwin, MoeTwin

# Imported inside the fixtures: without the onnx package the test modules skip, but a conftest
# that skips would stop the whole run.


@pytest.fixture(scope="session")
def moe(tmp_path_factory: pytest.TempPathFactory) -> MoeTwin:
    """A student without density."""
    from tests.policy_files import make_moe_file

    return make_moe_file(tmp_path_factory.mktemp("moe") / "student.onnx")


@pytest.fixture(scope="session")
def dense_moe(tmp_path_factory: pytest.TempPathFactory) -> MoeTwin:
    """A student whose file also holds the experts' Cholesky factors."""
    from tests.policy_files import make_moe_file

    return make_moe_file(tmp_path_factory.mktemp("dense") / "student.onnx", density=True, width=16)


@pytest.fixture(scope="session")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> DenoiserTwin:
    """The denoiser of a Gaussian with 1, 4 and 16 unrolled Euler steps."""
    from tests.policy_files import make_denoiser_file

    return make_denoiser_file(tmp_path_factory.mktemp("denoiser") / "teacher.onnx")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Where a test writes its variation of a file."""
    return tmp_path / "variation.onnx"
