"""From settings to the robot's runtime: every family trains, exports, samples and is distilled."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from vdd_ros.core.config_io import from_dict, load_yaml
from vdd_ros.core.contract import ActionField, ObservationField, PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.distill import loading
from vdd_ros.distill.denoisers import sample_actions
from vdd_ros.distill.export import export_policy
from vdd_ros.distill.methods.mixture_training import DistillSettings
from vdd_ros.distill.mixtures.student import StudentSettings
from vdd_ros.distill.pipeline import distill, train_teacher
from vdd_ros.distill.study.recipes import student_settings, teacher_settings
from vdd_ros.distill.study.settings import StudySettings
from vdd_ros.distill.teachers.settings import TeacherSettings
from vdd_ros.distill.training import checkpoint
from vdd_ros.runtime.diffusion_policy import DiffusionPolicy, DiffusionSettings
from vdd_ros.runtime.policy_file import PolicyFile

ROOT = Path(__file__).parents[2]
CONTRACT = PolicyContract(
    name="toy",
    rate_hz=10.0,
    observations=(ObservationField(key="position", dim=2),),
    actions=(ActionField(key="step", dim=2, relative_to="position"),),
)
DDPM = {"family": "ddpm", "n_diffusion_steps": 8}
UNET = {"backbone": "unet", "horizon": 4, "n_obs_steps": 2, "down_dims": (8, 16), "n_groups": 4}


def trained(demos, folder: Path, **settings) -> Path:
    small = {"width": 16, "depth": 1, "n_iters": 30, "batch_size": 16}
    return train_teacher(demos, TeacherSettings(**(small | settings)), folder).folder


@pytest.mark.parametrize(
    ("settings", "unroll"),
    [
        (DDPM, (1, 4)),
        ({"family": "flow", "schedule": "flow"}, (2,)),
        (DDPM | {"prediction": "v", "betas": "linear"} | UNET | {"n_frequencies": 4}, ()),
        (
            {"family": "edm", "backbone": "transformer", "n_obs_steps": 2, "n_frequencies": 4}
            | {"conditioning": "film", "token_layout": "causal"},
            (2,),
        ),
    ],
)
def test_the_robots_runtime_samples_what_torch_samples(demos, tmp_path, settings, unroll):
    """Over the levels of the file, in every variant it holds, for a chunk and its first action."""
    folder = trained(demos, tmp_path / "run", **settings)
    teacher = loading.load_teacher(folder)
    path = export_policy(folder, CONTRACT, tmp_path / "t.onnx", unroll=unroll).path
    file = PolicyFile.open(path)
    assert file.verify() < 1e-3
    assert file.provenance["method"] == settings["family"]
    windows = np.random.default_rng(0).normal(size=(6, teacher.n_obs_steps, 2)).astype(np.float32)
    for n_steps in {4, *unroll}:
        noise = np.random.default_rng(3).standard_normal((6, teacher.horizon, 2), dtype=np.float32)
        wanted = teacher.action.unnormalize(
            sample_actions(
                teacher, teacher.observation.normalize(torch.from_numpy(windows)),
                torch.from_numpy(noise), n_steps=n_steps, sigma_min=teacher.sigma_min,
                sigma_max=teacher.sigma_max, schedule=teacher.schedule,
            )
        )  # fmt: skip
        for variant in ("bound", *(["unrolled"] if n_steps in unroll else [])):
            policy = DiffusionPolicy(
                file, DiffusionSettings(n_steps=n_steps, variant=variant, seed=3)
            )
            got, _ = policy.act_batch(windows)
            np.testing.assert_allclose(got, wanted.numpy(), atol=2e-4)


def test_ancestral_ddpm_runs_from_the_file_and_says_what_it_cannot_unroll(demos, tmp_path):
    folder = trained(demos, tmp_path / "run", **DDPM)
    path = export_policy(folder, CONTRACT, tmp_path / "t.onnx", unroll=()).path
    file = PolicyFile.open(path)
    ancestral = DiffusionPolicy(
        file, DiffusionSettings(n_steps=8, sampler="euler_ancestral", seed=0)
    )
    actions, _ = ancestral.act_batch(np.zeros((200, 1, 2), np.float32))
    box = loading.load_teacher(folder)
    low, high = box.action.unnormalize(box.action_box).numpy()
    assert ((actions >= low - 1e-4) & (actions <= high + 1e-4)).all()
    assert actions.std() > 0
    with pytest.raises(VddError, match=r"it holds euler on 'its own levels' with no steps"):
        DiffusionPolicy(file, DiffusionSettings(n_steps=8, variant="unrolled"))


@pytest.mark.parametrize("settings", [DDPM, {"family": "flow"}])
def test_vdd_distils_every_family(demos, tmp_path, settings):
    teacher = trained(demos, tmp_path / "teacher", **settings)
    student = StudentSettings(n_experts=3, width=16, depth=1, head_width=8)
    chosen = DistillSettings(
        student=student, n_iters=20, warm_start_iters=5, batch_size=16, cache_states=32,
        cache_samples=2, cache_steps=12,
    )  # fmt: skip
    result = distill(teacher, demos, chosen, out_dir=tmp_path / "student")
    assert result.student(torch.randn(2, 1, 2)).mean.shape == (2, 3, 1, 2)
    origin = checkpoint.read_info(result.folder).teacher
    assert origin["method"] == settings["family"]


@pytest.mark.parametrize(
    "settings",
    [DDPM, {"family": "flow"}, {"conditioning": "film"}, UNET, DDPM | {"clip_denoised": False}],
)
def test_a_saved_teacher_answers_as_the_trained_one(demos, tmp_path, settings):
    folder = trained(demos, tmp_path / "run", **settings)
    teacher, again = loading.load_teacher(folder), loading.load_teacher(folder)
    x, obs = torch.randn(3, teacher.horizon, 2), torch.randn(3, teacher.n_obs_steps, 2)
    for sigma in (teacher.sigma_min, 0.4, teacher.sigma_max):
        level = torch.full((3,), sigma)
        assert torch.equal(teacher.denoise(x, level, obs), again.denoise(x, level, obs))
        assert teacher.denoise(x, level, obs).isfinite().all()


def test_settings_from_before_there_were_families_mean_what_they_meant():
    """The shipped teacher's, without what has been added to settings since it was designed."""
    entries = onnx.load(ROOT / "models/avoiding/teacher.onnx").metadata_props
    provenance = next(json.loads(e.value) for e in entries if e.key == "vdd_ros.provenance")
    recorded = provenance["settings"]
    for added in ("family", "pad", "conditioning", "n_frequencies", "clip_denoised"):
        del recorded[added]
    settings = from_dict(TeacherSettings, recorded, where="the shipped teacher")
    assert (settings.family, settings.clips) == ("edm", False)
    assert (settings.network().backbone, settings.network().conditioning) == ("mlp", "concat")


@pytest.mark.parametrize("name", ["avoiding_ddpm", "chunked_unet"])
def test_the_shipped_settings_files_are_what_they_say(name):
    settings = load_yaml(TeacherSettings, ROOT / f"config/train/{name}.yaml")
    assert settings.family == "ddpm"
    assert settings.clips
    assert (settings.backbone == "unet") == (name == "chunked_unet")


@pytest.mark.parametrize("backbone", ["transformer", "unet"])
def test_the_backbones_that_are_compared_learn_the_same_thing(backbone):
    """They differ in their network and how long and fast it learns, in nothing that is learnt."""
    base = load_yaml(TeacherSettings, ROOT / "config/train/avoiding_human.yaml")
    other = load_yaml(TeacherSettings, ROOT / f"config/train/avoiding_human_{backbone}.yaml")
    assert other.backbone == backbone
    learning = {"n_iters", "batch_size", "learning_rate"}
    network = {field.name for field in fields(base.network())} - {"n_obs_steps", "horizon"}
    for field in fields(base):
        if field.name not in network | learning:
            assert getattr(other, field.name) == getattr(base, field.name), field.name


def test_the_study_of_backbones_asks_every_teacher_for_the_same_student():
    """Three teachers, each with its student, and nothing but the teacher differs."""
    study = load_yaml(StudySettings, ROOT / "config/study/backbones.yaml")
    rows, (task,) = study.resolved(), study.tasks
    found = {teacher_settings(task, row, seed=0).backbone for row in rows if row.is_teacher}
    assert found == {"mlp", "transformer", "unet"}
    asked = {teacher_settings(task, row, seed=0).backbone for row in rows if not row.is_teacher}
    assert asked == found
    first, *others = [student_settings(task, row, seed=0) for row in rows if not row.is_teacher]
    assert all(other == first for other in others)
    assert (first.forward_kl, first.n_iters) == (0.5, 3000)
