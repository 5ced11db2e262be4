"""The density of a policy file, its calibration, and what survives the way into the file."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policy_files import MoeTwin, make_contract, make_denoiser_file, make_moe_file
from vdd_ros.core.config_io import dump_json, to_dict
from vdd_ros.core.errors import VddError
from vdd_ros.core.mixture import GaussianMixture, log_softmax
from vdd_ros.evaluation.audit import HeldOut, calibrate_file, steps_apart
from vdd_ros.runtime.density import (
    Calibration,
    Density,
    calibrate,
    calibrated,
    has_density,
    read_calibration,
)
from vdd_ros.runtime.diffusion_policy import DiffusionPolicy
from vdd_ros.runtime.graph import with_metadata
from vdd_ros.runtime.policy_file import PolicyFile


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> MoeTwin:
    """A student of two-step chunks with its density."""
    return make_moe_file(tmp_path_factory.mktemp("dense") / "dense.onnx", density=True)


def nominal() -> Calibration:
    """Scores 0, 1, ... 99."""
    return calibrate(
        np.arange(100.0),
        actions="demonstrations",
        n_episodes=4,
        steps_apart=2,
        horizon=1,
        data_hash="ab",
    )


@pytest.mark.parametrize("steps", [1, 2])
def test_the_density_is_that_of_the_mixture(dense: MoeTwin, steps: int) -> None:
    """log q equals the numpy mixture over the first values of the chunk: the marginal."""
    rng = np.random.default_rng(0)
    c = dense.contract
    windows = rng.standard_normal((300, c.n_obs_steps, c.dim_obs)).astype(np.float32)
    actions = rng.standard_normal((300, steps, c.dim_act))
    out, size = dense.outputs(windows), steps * c.dim_act
    covariance = np.einsum("bkij,bklj->bkil", out["expert_scale"], out["expert_scale"])
    mixture = GaussianMixture(
        log_softmax(out["gating_logits"]),
        out["expert_actions"].reshape(300, 4, -1)[..., :size],
        np.linalg.cholesky(covariance[..., :size, :size].astype(np.float64)),
    )
    density = Density(PolicyFile.open(dense.path))
    found = density.log_prob_batch(windows, actions)
    np.testing.assert_allclose(found, mixture.log_prob(actions.reshape(300, -1)), rtol=1e-4)
    assert density.log_prob(windows[7], actions[7]) == pytest.approx(found[7], rel=1e-4)


def test_a_file_without_density_says_how_to_get_one(tmp_path: Path) -> None:
    """The error names file, lack and remedy; a chunk of another size is refused, too."""
    file = PolicyFile.open(make_moe_file(tmp_path / "bare.onnx").path)
    assert not has_density(file)
    with pytest.raises(VddError, match=r"bare.onnx: .* no density; export it .* --density"):
        Density(file)


def test_a_chunk_of_another_size_is_refused(dense: MoeTwin) -> None:
    """Longer chunks have no density here, nor have those of another robot."""
    density = Density(PolicyFile.open(dense.path))
    window = np.zeros((dense.contract.n_obs_steps, dense.contract.dim_obs), np.float32)
    for shape in [(3, 2), (1, 3), (0, 2)]:
        with pytest.raises(ValueError, match="expected"):
            density.log_prob(window, np.zeros(shape))


def test_a_calibration_survives_the_way_into_the_file_and_changes_nothing_else(
    dense: MoeTwin, tmp_path: Path
) -> None:
    """The file opens with it, its golden sample holds, and a second one replaces the first."""
    file = PolicyFile.open(dense.path)
    assert read_calibration(file) is None
    model = file.model
    for calibration in (nominal(), dataclasses.replace(nominal(), n=77)):
        text = dump_json(calibrated(file, calibration))
        model = with_metadata(model, "vdd_ros.provenance", text)
    path = tmp_path / "calibrated.onnx"
    path.write_bytes(model)
    again = PolicyFile.open(path)
    found = read_calibration(again)
    assert found == dataclasses.replace(nominal(), n=77)
    assert again.contract == file.contract
    assert {k: v for k, v in again.provenance.items() if k != "audit"} == file.provenance
    onnx = pytest.importorskip("onnx")
    before, after = onnx.load_from_string(file.model), onnx.load_from_string(model)
    assert before.graph.SerializeToString() == after.graph.SerializeToString()


@pytest.mark.parametrize(
    "wrong",
    [
        {"quantiles": [3.0, 1.0]},
        {"quantiles": [1.0]},
        {"level": 0.0},
        {"n": 0},
        {"threshold": "low"},
        {"thresholt": 1.0},
    ],
)
def test_a_file_that_says_nonsense_about_its_audit_is_refused(
    dense: MoeTwin, tmp_path: Path, wrong: dict[str, object]
) -> None:
    """What is read from a file may be anything: it is checked, and the message names the file."""
    raw = {**to_dict(nominal()), **wrong}
    path = dense.save_as(
        tmp_path / "odd.onnx",
        provenance=json.loads(json.dumps({**dense.provenance, "audit": raw})),
    )
    with pytest.raises(VddError, match=r"odd.onnx: audit"):
        read_calibration(PolicyFile.open(path))


@given(st.floats(-50, 150))
def test_percentiles_grow_with_the_score(score: float) -> None:
    """From 0 at the smallest nominal score to 100 at the largest."""
    calibration = nominal()
    assert 0.0 <= calibration.percentile(score) <= 100.0
    assert calibration.percentile(score) <= calibration.percentile(score + 1.0)
    assert calibration.percentile(49.5) == pytest.approx(50.0)
    assert math.isnan(calibration.percentile(math.nan))


def test_scores_of_a_slow_process_are_taken_apart() -> None:
    """Independent scores may be neighbours; those that drift along an episode may not."""
    rng = np.random.default_rng(1)
    episode = np.repeat(np.arange(200), 100)
    assert steps_apart(rng.standard_normal(20_000), episode) == 1
    noise = rng.standard_normal((200, 100))
    slow = np.zeros((200, 100))
    slow[:, 0] = noise[:, 0]
    for t in range(1, 100):
        slow[:, t] = 0.9 * slow[:, t - 1] + np.sqrt(1 - 0.81) * noise[:, t]
    assert 6 <= steps_apart(slow.ravel(), episode) <= 30
    assert steps_apart(np.repeat(rng.standard_normal(200), 100), episode) == 100
    assert steps_apart(np.zeros(20_000), episode) == 1


def test_teacher_samples_and_demonstrations_are_told_apart(dense: MoeTwin, tmp_path: Path) -> None:
    """The file says what was scored; a teacher of another robot is refused."""
    contract = dense.contract
    rng = np.random.default_rng(2)
    held_out = HeldOut(
        observation=rng.standard_normal((200, 2, 3)).astype(np.float32),
        action=rng.standard_normal((200, 2, 2)).astype(np.float32),
        episode=np.repeat(np.arange(20), 10),
        data_hash="cd",
    )
    file = PolicyFile.open(dense.path)
    alone, scores = calibrate_file(file, held_out)
    assert (alone.actions, alone.teacher, alone.horizon) == ("demonstrations", "", 2)
    assert alone.n_episodes == 20
    assert len(scores) == 200
    assert np.mean(scores < alone.threshold) <= alone.level
    short = dataclasses.replace(contract, horizon=1)
    twin = make_denoiser_file(tmp_path / "teacher.onnx", contract=short, unroll=())
    teacher = DiffusionPolicy(PolicyFile.open(twin.path))
    beside, _ = calibrate_file(file, held_out, teacher=teacher)
    assert (beside.actions, beside.horizon) == ("teacher", 1)
    assert beside.teacher == teacher.file.sha256
    other = make_denoiser_file(tmp_path / "other.onnx", contract=make_contract(dim_obs=5))
    with pytest.raises(VddError, match="dim_obs is 5, the student's is 3"):
        calibrate_file(file, held_out, teacher=DiffusionPolicy(PolicyFile.open(other.path)))
