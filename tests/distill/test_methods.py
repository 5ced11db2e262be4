"""What holds for every method, or for all rivals: accounting, resuming, exporting, refusing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.distill.test_export import CONTRACT
from tests.distill.test_training import (
    TINY_STUDENT,
    TINY_TEACHER,
    interrupt_after,
    same_files,
)
from vdd_ros.core.errors import VddError
from vdd_ros.data.windows import make_windows
from vdd_ros.distill.export import export_policy
from vdd_ros.distill.judging.closed_loop import student_policy
from vdd_ros.distill.loading import load_consistency, load_policy, load_student, load_teacher
from vdd_ros.distill.methods.imc import ImcTraining
from vdd_ros.distill.methods.jumps import JumpTraining
from vdd_ros.distill.methods.table import METHODS, Ingredients
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts
from vdd_ros.distill.pipeline import distill, train_teacher
from vdd_ros.distill.teachers.edm import TeacherSettings
from vdd_ros.distill.training import checkpoint
from vdd_ros.distill.training.augmentation import NoiseSettings, ObservationNoise
from vdd_ros.distill.training.targets import data_targets
from vdd_ros.distill.training.tracking import read_lines
from vdd_ros.distill.training.trainer import Trainable, TrainingInterrupted
from vdd_ros.runtime.diffusion_policy import DiffusionSettings
from vdd_ros.runtime.loading import load_policy as load_file
from vdd_ros.runtime.policy_file import PolicyFile

# Teacher samples of the tiny settings: states, actions per state, denoiser calls per action.
_SAMPLES = 32 * 2 * 2
_STEPS = 30 * 16


@pytest.fixture
def teacher(demos, tmp_path) -> Path:
    return train_teacher(demos, TINY_TEACHER, tmp_path / "teacher").folder


@pytest.mark.parametrize(("method", "queries"), [
    ("em", 0), ("imc", 0), ("em-teacher", _SAMPLES), ("cd", _STEPS), ("ctm", _STEPS),
    # 20 iterations of VDD proper, two experts a state, two actions an expert.
    ("vdd", _SAMPLES + 20 * 16 * 2 * 2),
])  # fmt: skip
def test_every_question_to_the_teacher_is_on_the_bill(demos, teacher, tmp_path, method, queries):
    """Denoiser evaluations, one per action; and the processor time of everything."""
    result = distill(teacher, demos, TINY_STUDENT, method=method, out_dir=tmp_path / "run")
    last = read_lines(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["teacher_queries"] == queries
    assert 0 < last["cpu_s"] <= result.training_cpu_s + 0.01


@pytest.mark.parametrize(("sources", "sampled"), [
    ({"warm_source": "data", "gate_source": "data"}, 0),
    ({"warm_source": "teacher", "gate_source": "data"}, _SAMPLES),
    ({"warm_source": "data", "gate_source": "teacher"}, _SAMPLES),
])  # fmt: skip
def test_a_teacher_is_sampled_only_where_somebody_looks_at_the_samples(
    demos, teacher, tmp_path, sources, sampled
):
    """Warm start and gate may each learn from demonstrated actions."""
    settings = replace(TINY_STUDENT, **sources)
    distill(teacher, demos, settings, method="vdd", out_dir=tmp_path / "run")
    last = read_lines(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["teacher_queries"] == sampled + 20 * 16 * 2 * 2


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_leaves_loads_as_it_was(demos, teacher, tmp_path, method):
    """And acts: one finite chunk per window, experts numbered or -1."""
    folder = tmp_path / "run"
    result = distill(teacher, demos, TINY_STUDENT, method=method, out_dir=folder)
    info, loaded = checkpoint.read_info(folder), load_policy(folder)
    assert (info.kind, info.method) == (METHODS[method].kind, method)
    for name, tensor in result.student.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    windows = np.random.default_rng(0).normal(size=(5, 1, 2)).astype(np.float32)
    action, expert = student_policy(loaded)(windows, np.random.default_rng(1))
    assert action.shape == (5, 1, 2)
    assert np.isfinite(action).all()
    is_mixture = isinstance(loaded, GaussianMixtureOfExperts)
    assert (expert >= 0).all() if is_mixture else (expert == -1).all()


@pytest.mark.parametrize(("method", "training"), [
    ("imc", ImcTraining), ("cd", JumpTraining), ("ctm", JumpTraining)
])  # fmt: skip
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_resumed_rival_equals_an_uninterrupted_one(
    demos, teacher, tmp_path, monkeypatch, method, training, decay
):
    """Bit for bit, with targets of the present weights and of averaged ones."""
    settings = replace(
        TINY_STUDENT,
        consistency=replace(TINY_STUDENT.consistency, target_decay=decay),
        trajectory=replace(TINY_STUDENT.trajectory, target_decay=decay, max_steps=2),
        noise=NoiseSettings(std=0.1),
    )
    arguments = {"settings": settings, "method": method}
    distill(teacher, demos, out_dir=tmp_path / "whole", **arguments)
    with monkeypatch.context() as patch:
        interrupt_after(12, patch, training)
        with pytest.raises(TrainingInterrupted):
            distill(teacher, demos, out_dir=tmp_path / "parts", **arguments)
    distill(teacher, demos, out_dir=tmp_path / "parts", resume=True, **arguments)
    assert same_files(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("method", METHODS)
def test_the_noise_on_observations_reaches_every_method(demos, teacher, method):
    """Methods see perturbed states, in minibatches or in the states the teacher is sampled at."""
    loaded = load_teacher(teacher)
    calls = []

    class Counting(ObservationNoise):
        def __call__(self, obs, action):
            calls.append(len(obs))
            return super().__call__(obs, action)

    noise = Counting(NoiseSettings(std=0.1), loaded.observation, loaded.action)
    windows = make_windows(demos, n_obs_steps=1, horizon=1)
    data = data_targets(windows, loaded.observation, loaded.action, noise)
    given = Ingredients(TINY_STUDENT, data, loaded, loaded.observation, loaded.action)
    training = METHODS[method].prepare(given)
    assert isinstance(training, Trainable)
    training.step(0)
    assert calls


@pytest.mark.parametrize("method", ["cd", "ctm"])
def test_a_consistency_model_starts_as_its_edm_teacher(demos, teacher, method):
    """Before its first step it acts as the teacher with one step does."""
    loaded = load_teacher(teacher)
    windows = make_windows(demos, n_obs_steps=1, horizon=1)
    data = data_targets(windows, loaded.observation, loaded.action, None)
    given = Ingredients(TINY_STUDENT, data, loaded, loaded.observation, loaded.action)
    model = METHODS[method].prepare(given).acting()
    noise, obs = torch.randn(64, 1, 2), data.obs[:64]
    sigma = torch.full((64,), loaded.sigma_max)
    found = model.denoise(loaded.sigma_max * noise, sigma, obs)
    wanted = loaded.denoise(loaded.sigma_max * noise, sigma, obs)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["cd", "ctm"])
@pytest.mark.parametrize("family", [
    {"family": "ddpm", "n_diffusion_steps": 8}, {"family": "flow", "schedule": "flow"}
])  # fmt: skip
def test_consistency_models_learn_from_any_family(demos, tmp_path, method, family):
    """Asked in the coordinates all teachers share; the network starts fresh, over their range."""
    settings = TeacherSettings(width=16, depth=2, n_iters=20, batch_size=16, **family)
    folder = train_teacher(demos, settings, tmp_path / "teacher").folder
    result = distill(folder, demos, TINY_STUDENT, method=method, out_dir=tmp_path / "run")
    loaded = load_teacher(folder)
    assert result.student.sigma_max == pytest.approx(loaded.sigma_max)
    losses = [line["loss"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert np.isfinite(losses).all()
    noise = torch.randn(16, 1, 2)
    acted = result.student.denoise(
        loaded.sigma_max * noise, torch.full((16,), loaded.sigma_max), torch.randn(16, 1, 2)
    )
    assert torch.isfinite(acted).all()


@pytest.mark.parametrize(("method", "backbone"), [("cd", "transformer"), ("ctm", "mlp")])
def test_the_file_of_a_consistency_model_acts_as_torch_does(demos, tmp_path, method, backbone):
    """Windows and chunks; one step without being asked, and no other number."""
    settings = TeacherSettings(
        backbone=backbone, n_obs_steps=3, horizon=2, width=16, depth=1, n_heads=2, n_iters=20,
        batch_size=16,
    )  # fmt: skip
    folder = train_teacher(demos, settings, tmp_path / "teacher").folder
    distill(folder, demos, TINY_STUDENT, method=method, out_dir=tmp_path / "run")
    result = export_policy(tmp_path / "run", CONTRACT, tmp_path / "c.onnx")
    assert (result.kind, result.parity_max_abs < 1e-4) == ("denoiser", True)
    model, rng = load_consistency(tmp_path / "run"), np.random.default_rng(0)
    windows = rng.normal(size=(6, 3, 2)).astype(np.float32)
    noise = rng.normal(size=(6, 2, 2)).astype(np.float32)
    obs = model.observation.normalize(torch.from_numpy(windows))
    sigma = torch.full((6,), model.sigma_max)
    normalised = model.denoise(model.sigma_max * torch.from_numpy(noise), sigma, obs)
    wanted = model.action.unnormalize(normalised).detach().numpy()

    session = onnxruntime.InferenceSession(result.path.read_bytes())
    feed = {"observation": windows, "noise": noise, "noisy_action": noise}
    feed["sigma"] = np.ones(6, np.float32)
    np.testing.assert_allclose(session.run(["sampled_action_1"], feed)[0], wanted, atol=1e-5)

    policy = load_file(result.path)
    assert (policy.nfe, policy.variant, policy.n_experts) == (1, "unrolled", 0)
    drawn = np.random.default_rng(0).standard_normal((6, 2, 2), dtype=np.float32)
    normalised = model.denoise(model.sigma_max * torch.from_numpy(drawn), sigma, obs)
    wanted = model.action.unnormalize(normalised).detach().numpy()
    policy.reset(0)
    for window, action in zip(windows, wanted, strict=True):
        np.testing.assert_allclose(policy.act(window).action, action, atol=1e-5)
    with pytest.raises(VddError, match=rf"holds a {method} that acts with 1 sampler step"):
        load_file(PolicyFile.open(result.path), diffusion=DiffusionSettings(n_steps=16))


def test_mixing_up_what_a_folder_holds_is_named(demos, teacher, tmp_path):
    distill(teacher, demos, TINY_STUDENT, method="cd", out_dir=tmp_path / "cd")
    distill(teacher, demos, TINY_STUDENT, method="imc", out_dir=tmp_path / "imc")
    with pytest.raises(VddError, match=r"holds a consistency model \(cd\), expected a student"):
        load_student(tmp_path / "cd")
    with pytest.raises(VddError, match=r"a student \(imc\), expected a consistency model"):
        load_consistency(tmp_path / "imc")
    with pytest.raises(VddError, match=r"holds a teacher \(edm\), expected a student"):
        load_policy(teacher)
    for method in ("cd", "ctm"):
        with pytest.raises(VddError, match="needs a teacher"):
            distill(None, demos, TINY_STUDENT, method=method, out_dir=tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert distill(None, demos, TINY_STUDENT, method="imc", out_dir=tmp_path / "y").student
