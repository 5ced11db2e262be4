"""Policy files: what torch computes is what the robot's runtime computes, or there is no file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import vdd_ros
from vdd_ros.core.contract import ActionField, ObservationField, PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.core.mixture import GaussianMixture, log_softmax
from vdd_ros.core.normalizer import Normalizer
from vdd_ros.core.samplers import euler
from vdd_ros.core.schedules import sigma_schedule
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.distill.export import export_policy, fit_contract, policy
from vdd_ros.distill.loading import load_student, load_teacher
from vdd_ros.distill.methods.mixture_training import DistillSettings
from vdd_ros.distill.mixtures.student import Backbone, GaussianMixtureOfExperts, StudentSettings
from vdd_ros.distill.networks.normalization import Affine
from vdd_ros.distill.pipeline import distill, train_teacher
from vdd_ros.distill.teachers.edm import TeacherSettings
from vdd_ros.distill.training import checkpoint
from vdd_ros.distill.training.checkpoint import RunInfo, settings_tree

CONTRACT = PolicyContract(
    name="toy",
    rate_hz=10.0,
    observations=(ObservationField(key="position", dim=2),),
    actions=(ActionField(key="step", dim=2, relative_to="position"),),
)


def make_runs(demos: Demonstrations, backbone: Backbone, folder: Path) -> tuple[Path, Path]:
    """Train a teacher with history and chunks, and its student, for a moment."""
    teacher = TeacherSettings(
        backbone=backbone,
        n_obs_steps=3,
        horizon=2,
        width=16,
        depth=1,
        n_heads=2,
        n_iters=20,
        batch_size=16,
    )
    student = StudentSettings(
        backbone=backbone, n_experts=3, width=16, depth=1, n_heads=2, head_width=8
    )
    settings = DistillSettings(
        student=student,
        n_iters=20,
        warm_start_iters=10,
        batch_size=16,
        cache_states=32,
        cache_samples=2,
        cache_steps=2,
    )
    train_teacher(demos, teacher, folder / "teacher")
    distill(folder / "teacher", demos, settings, out_dir=folder / "student")
    return folder / "teacher", folder / "student"


@pytest.fixture
def runs(demos, tmp_path) -> tuple[Path, Path]:
    return make_runs(demos, "mlp", tmp_path)


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def metadata(path: Path) -> dict:
    return {p.key: json.loads(p.value) for p in onnx.load(path).metadata_props}


@pytest.mark.parametrize("backbone", ["mlp", "transformer"])
def test_the_students_file_is_its_mixture_in_raw_units(backbone, demos, tmp_path):
    """Raw densities differ from normalised ones by the Jacobian of the scaling, nothing else."""
    runs = make_runs(demos, backbone, tmp_path)
    result = export_policy(runs[1], CONTRACT, tmp_path / "s.onnx", density=True, n_action_steps=2)
    student = load_student(runs[1])
    raw = np.random.default_rng(1).normal(size=(6, 3, 2)).astype(np.float32)
    logits, actions, scale = session(result.path).run(None, {"observation": raw})
    obs = student.observation.normalize(torch.from_numpy(raw))
    mixture = student(obs)
    torch.testing.assert_close(torch.from_numpy(logits), mixture.gating_logits, atol=1e-4, rtol=0)
    file_side = GaussianMixture(log_softmax(logits), actions.reshape(6, 3, 4), scale)
    action = torch.randn(6, 1, 2, 2)
    ours = mixture.log_prob(action.flatten(2))[:, 0]
    jacobian = student.action.scale.log().sum() * 2
    theirs = file_side.log_prob(student.action.unnormalize(action).flatten(1).numpy())
    np.testing.assert_allclose(theirs, (ours - jacobian).numpy(), rtol=1e-3, atol=1e-3)


def write_student(folder: Path, **settings) -> GaussianMixtureOfExperts:
    """Leave the run folder of an untrained student of chunks of four actions, scattered wide."""
    shape = StudentSettings(n_experts=3, width=16, depth=1, head_width=8, **settings)
    student = GaussianMixtureOfExperts(
        shape, dim_obs=2, dim_act=2, n_obs_steps=1, horizon=4,
        action=Affine(2, Normalizer(np.array([0.5, -1.0]), np.array([2.0, 0.3]))),
    )  # fmt: skip
    with torch.no_grad():
        for layer in (student.head.mean, student.head.free, student.gate[-1]):
            layer.weight.normal_()
            layer.bias.normal_()
    folder.mkdir()
    checkpoint.write_info(folder, RunInfo(
        format_version=checkpoint.FORMAT_VERSION, kind="student", method="vdd", dim_obs=2,
        dim_act=2, n_obs_steps=1, horizon=4, model=settings_tree(shape), training={},
        data_source="", data_hash="", teacher={}, vdd_ros_version="",
    ))  # fmt: skip
    checkpoint.write_examples(folder, np.random.default_rng(0).normal(size=(8, 1, 2)).astype("f4"))
    checkpoint.write_tensors(folder / checkpoint.WEIGHTS, student.state_dict())
    return load_student(folder)


@pytest.mark.parametrize(("n_action_steps", "settings"), [
    (3, {"covariance": "full"}), (1, {"covariance": "lowrank", "rank": 3}),
    (2, {"covariance": "block", "deblur": 0.2}),
], ids=["full", "lowrank", "block"])  # fmt: skip
def test_a_students_file_holds_the_executed_actions_and_their_marginal(
    settings, n_action_steps, tmp_path
):
    """Means are the first of the chunk, densities their marginal; the rest is in no weight."""
    student = write_student(tmp_path / "run", **settings)
    path = tmp_path / "s.onnx"
    export_policy(tmp_path / "run", CONTRACT, path, density=True, n_action_steps=n_action_steps)
    raw = np.random.default_rng(1).normal(size=(5, 1, 2)).astype(np.float32)
    logits, actions, scale = session(path).run(None, {"observation": raw})
    mixture = student(student.observation.normalize(torch.from_numpy(raw)))
    wanted = student.action.unnormalize(mixture.mean)[:, :, :n_action_steps]
    np.testing.assert_allclose(actions, wanted.numpy(), rtol=1e-4, atol=1e-4)
    entries = metadata(path)
    assert entries["vdd_ros.contract"]["horizon"] == n_action_steps
    assert entries["vdd_ros.provenance"]["trained_horizon"] == 4
    # Three experts, four actions of two values: no such layer is left.
    assert not any(24 in i.dims for i in onnx.load(path).graph.initializer)
    dim = 2 * n_action_steps
    stretch = student.action.scale.repeat(n_action_steps)
    covariance = stretch[:, None] * mixture.covariance.dense()[..., :dim, :dim] * stretch
    oracle = MixtureSameFamily(
        Categorical(logits=mixture.gating_logits),
        MultivariateNormal(wanted.flatten(2), covariance),
    )
    action = wanted.flatten(2)[:, 1] + 0.1
    file_side = GaussianMixture(log_softmax(logits), actions.reshape(5, 3, dim), scale)
    np.testing.assert_allclose(
        file_side.log_prob(action.numpy()), oracle.log_prob(action).numpy(), rtol=1e-3, atol=1e-3
    )


def test_the_chunk_is_cut_only_where_the_rest_of_it_is_never_used(tmp_path):
    student = write_student(tmp_path / "run")
    info = checkpoint.read_info(tmp_path / "run")
    wide = replace(CONTRACT, horizon=8, n_action_steps=3)
    for model in (student, info):
        fitted = fit_contract(wide, model)
        assert (fitted.horizon, fitted.n_action_steps) == (3, 3)
        blended = fit_contract(replace(wide, execution="average"), model)
        assert (blended.horizon, blended.n_action_steps) == (4, 3)
        assert fit_contract(wide, model, 2).horizon == 2
        with pytest.raises(VddError, match=r"n_action_steps: got 5, expected 1 to 4"):
            fit_contract(wide, model, 5)


def test_a_density_that_onnx_cannot_say_is_refused(tmp_path):
    write_student(tmp_path / "run", covariance="full", deblur=0.1)
    with pytest.raises(VddError, match=r"deblurred, for 'full' of size 8 by eigenvalues"):
        export_policy(tmp_path / "run", CONTRACT, tmp_path / "s.onnx", density=True)


@pytest.mark.parametrize("backbone", ["mlp", "transformer"])
def test_unrolled_samplers_are_the_loop_over_the_denoiser(backbone, demos, tmp_path):
    runs = make_runs(demos, backbone, tmp_path)
    teacher = load_teacher(runs[0])
    result = export_policy(runs[0], CONTRACT, tmp_path / "t.onnx", unroll=(1, 3))
    assert result.kind == "denoiser"
    run = session(result.path).run
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((5, 2, 2)).astype(np.float32)
    feed = {"observation": rng.normal(size=(5, 3, 2)).astype(np.float32), "noise": noise}

    def denoise(x, sigma):
        inputs = feed | {"noisy_action": x, "sigma": np.full(5, sigma, np.float32)}
        return run(["denoised"], inputs)[0]

    for n_steps in (1, 3):
        sigmas = sigma_schedule(
            "exponential", n_steps=n_steps, sigma_min=teacher.sigma_min,
            sigma_max=teacher.sigma_max,
        ).astype(np.float32)  # fmt: skip
        looped = euler(denoise, noise * sigmas[0], sigmas)
        idle = {"noisy_action": noise, "sigma": np.ones(5, np.float32)}
        (unrolled,) = run([f"sampled_action_{n_steps}"], feed | idle)
        raw = teacher.action.unnormalize(torch.from_numpy(looped)).numpy()
        np.testing.assert_allclose(unrolled, raw, atol=1e-5)


def test_a_file_describes_itself_and_carries_no_trace_of_this_machine(runs, tmp_path):
    for folder, name in zip(runs, ("t.onnx", "s.onnx"), strict=True):
        result = export_policy(
            folder, CONTRACT, tmp_path / name, unroll=(2,), evaluation={"success": 0.5}
        )
        assert result.parity_max_abs < 1e-4
        entries = metadata(result.path)
        contract, provenance, golden = (
            entries[f"vdd_ros.{k}"] for k in ("contract", "provenance", "golden")
        )
        # A student's chunk ends with the one action that the contract says is executed.
        horizon = 2 if result.kind == "denoiser" else 1
        assert (contract["n_obs_steps"], contract["horizon"]) == (3, horizon)
        assert contract["n_action_steps"] == 1
        assert provenance["format_version"] == 1
        assert provenance["kind"] == result.kind
        assert provenance["evaluation"] == {"success": 0.5}
        assert provenance["training_cpu_s"] > 0
        assert provenance["data_source"] == "a toy"
        feed = {
            k: np.array(v["data"], np.float32).reshape(v["shape"])
            for k, v in golden["inputs"].items()
        }
        for output, value in zip(
            session(result.path).run(list(golden["outputs"]), feed),
            golden["outputs"].values(),
            strict=True,
        ):
            recorded = np.array(value["data"]).reshape(value["shape"])
            np.testing.assert_allclose(output, recorded, atol=golden["atol"])
        content = result.path.read_bytes()
        for trace in (str(Path(vdd_ros.__file__).parents[1]), "site-packages", ".py"):
            assert trace.encode() not in content
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model)
        assert all(i.data_location == onnx.TensorProto.DEFAULT for i in model.graph.initializer)


def test_nothing_is_written_when_the_runtime_disagrees(runs, tmp_path, monkeypatch):
    """A graph that is wrong by one part in a thousand is refused, and an older file survives."""
    out = tmp_path / "policy.onnx"
    out.write_text("the old one")
    faithful = policy.to_onnx

    def perturbed(*args, **kwargs):
        model = faithful(*args, **kwargs)
        name = max(model.graph.initializer, key=lambda i: i.ByteSize()).name
        for initializer in model.graph.initializer:
            if initializer.name == name:
                weights = onnx.numpy_helper.to_array(initializer) * np.float32(1.05)
                initializer.CopyFrom(onnx.numpy_helper.from_array(weights, name))
        return model

    monkeypatch.setattr(policy, "to_onnx", perturbed)
    with pytest.raises(VddError, match=r"differs by .* nothing was written"):
        export_policy(runs[1], CONTRACT, out)
    assert out.read_text() == "the old one"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_non_finite_weights_are_never_exported(runs, tmp_path):
    weights = runs[1] / checkpoint.WEIGHTS
    tensors, notes = checkpoint.read_tensors(weights)
    tensors["head.mean.bias"][0] = float("nan")
    checkpoint.write_tensors(weights, tensors, **notes)
    with pytest.raises(VddError, match=r"'head.mean.bias' holds values that are not finite"):
        export_policy(runs[1], CONTRACT, tmp_path / "s.onnx")
    assert not (tmp_path / "s.onnx").exists()


def test_a_contract_of_another_robot_is_refused(runs, tmp_path):
    other = PolicyContract(
        name="arm",
        rate_hz=10.0,
        observations=(ObservationField(key="joints", dim=7),),
        actions=(ActionField(key="joints", dim=7),),
    )
    with pytest.raises(VddError, match=r"'arm': 7 observation .* the model has 2 and 2"):
        export_policy(runs[0], other, tmp_path / "t.onnx")


def test_the_runtime_opens_what_was_exported(runs, tmp_path):
    """The other end of the format: opened, verified, and acting alike."""
    from vdd_ros.runtime.policy_file import PolicyFile

    for folder, name in zip(runs, ("t.onnx", "s.onnx"), strict=True):
        result = export_policy(folder, CONTRACT, tmp_path / name, unroll=(2,))
        opened = PolicyFile.open(result.path)
        assert opened.kind == result.kind
        assert opened.contract.n_obs_steps == 3
        assert opened.verify() < 1e-4
