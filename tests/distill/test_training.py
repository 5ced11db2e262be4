"""Training methods on toys whose optimum is known, and the loop that drives them."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.distill.toys import ring_teacher
from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.distill.loading import load_student, load_teacher
from vdd_ros.distill.methods.kmeans import kmeans
from vdd_ros.distill.methods.mixture_training import (
    DistillSettings,
    MixtureTraining,
    place_experts,
)
from vdd_ros.distill.methods.objectives import em_expert_loss
from vdd_ros.distill.methods.vdd import VddTraining
from vdd_ros.distill.mixtures.covariance import Triangular
from vdd_ros.distill.mixtures.low_rank import LowRank
from vdd_ros.distill.mixtures.student import (
    GaussianMixtureOfExperts,
    StudentSettings,
    prune_experts,
)
from vdd_ros.distill.pipeline import distill, train_teacher
from vdd_ros.distill.teachers.analytic import AnalyticTeacher
from vdd_ros.distill.teachers.edm import TeacherSettings
from vdd_ros.distill.training import checkpoint
from vdd_ros.distill.training.ema import Ema
from vdd_ros.distill.training.targets import Targets, teacher_targets
from vdd_ros.distill.training.tracking import read_lines
from vdd_ros.distill.training.trainer import LoopSettings, TrainingInterrupted

TINY_TEACHER = TeacherSettings(width=16, depth=2, n_iters=30, batch_size=16)
TINY_STUDENT = DistillSettings(
    student=StudentSettings(n_experts=4, width=16, depth=2, head_width=8),
    n_iters=30,
    warm_start_iters=10,
    batch_size=16,
    cache_states=32,
    cache_samples=2,
    cache_steps=2,
)


def run(method: MixtureTraining) -> MixtureTraining:
    for iteration in range(method.n_iters):
        method.step(iteration)
    return method


def toy_student(**settings) -> GaussianMixtureOfExperts:
    shape = {"width": 8, "depth": 1, "head_width": 8} | settings
    return GaussianMixtureOfExperts(
        StudentSettings(**shape), dim_obs=1, dim_act=2, n_obs_steps=1, horizon=1
    )


def toy_vdd(teacher, student, **settings) -> VddTraining:
    base = {"warm_start": "none", "warm_start_iters": 0, "batch_size": 64}
    states = Targets(torch.zeros(64, 1, 1), torch.zeros(64, 1, 1, 2))
    targets = teacher_targets(teacher, states, n_states=256, n_samples=8, n_steps=40)
    return VddTraining(
        student, DistillSettings(**(base | settings)), targets, warm_targets=targets,
        teacher=teacher,
    )  # fmt: skip


@pytest.mark.parametrize("estimator", ["path", "paper", "diffused"])
def test_vdd_converges_to_the_blurred_teacher_and_the_diffused_form_to_the_teacher(estimator):
    """Fixed point on a Gaussian: exact mean, covariance Sigma + sigma^2 I; Sigma if diffused."""
    covariance = torch.tensor([[[0.20, 0.08], [0.08, 0.10]]])
    mean = torch.tensor([[[0.7, -0.4]]])
    teacher = AnalyticTeacher(torch.ones(1), mean, covariance)
    method = toy_vdd(
        teacher, toy_student(n_experts=1), estimator=estimator, sigma_rule="fixed", n_iters=250,
        sigma_end=0.3, learning_rate=3e-2, ema_decay=0.95, samples_per_expert=8,
        batch_size=32,
    )  # fmt: skip
    mixture = run(method).acting()(torch.zeros(1, 1, 1))
    factor = mixture.scale_tril[0, 0]
    blur = 0.0 if estimator == "diffused" else 0.09
    torch.testing.assert_close(mixture.flat_mean[0, 0], mean[0, 0], atol=0.02, rtol=0)
    torch.testing.assert_close(
        factor @ factor.T, covariance[0] + blur * torch.eye(2), atol=0.025, rtol=0
    )


def test_kmeans_on_teacher_samples_starts_an_expert_at_every_mode():
    """Eight narrow modes on a ring: every one has an expert's mean within three deviations."""
    teacher = ring_teacher(8, radius=2.0, std=0.1)
    states = Targets(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, 2))
    samples = teacher_targets(teacher, states, n_states=256, n_samples=8, n_steps=30)
    student = toy_student(n_experts=10)
    place_experts(student, samples)
    distance = torch.cdist(teacher.means[:, 0], student.head.mean.bias.detach().view(10, 2))
    assert (distance.amin(1) < 0.3).all()


def test_kmeans_survives_fewer_points_than_clusters():
    centres = kmeans(torch.tensor([[0.0, 1.0], [2.0, 3.0]]), 5)
    assert {tuple(c) for c in centres.tolist()} == {(0.0, 1.0), (2.0, 3.0)}
    with pytest.raises(VddError, match="no points"):
        kmeans(torch.zeros(0, 2), 3)


def test_diffused_vdd_is_calibrated_on_the_ring():
    """All eight modes, and KL(teacher || student) below .05 nat: the density may be believed."""
    teacher = ring_teacher(8, radius=2.0, std=0.1)
    student = toy_student(n_experts=8, init_std=0.4)
    method = toy_vdd(
        teacher, student, estimator="diffused", sigma_rule="uniform", sigma_start=0.5,
        sigma_end=0.05, n_iters=500, learning_rate=1e-2, ema_decay=0.98, experts_per_state=8,
        samples_per_expert=2, batch_size=16,
    )  # fmt: skip
    place_experts(student, method.targets)
    mixture = run(method).acting()(torch.zeros(1, 1, 1)).detach()
    distance = torch.cdist(teacher.means[:, 0], mixture.flat_mean[0])
    assert (distance.amin(1) < 0.05).all()
    mode = torch.randint(8, (20_000,))
    action = teacher.means[mode, 0] + 0.1 * torch.randn(20_000, 2)
    exact = teacher.blurred(torch.full((1,), 1e-6), torch.zeros(1, 1, 1))
    divergence = (exact.log_prob(action[None]) - mixture.log_prob(action[None])).mean()
    assert divergence < 0.05


def test_averaged_weights_are_the_recursion_written_out():
    """The decay starts at 1/10 and rises to its value; only what is trained is averaged."""
    layer = torch.nn.Linear(1, 1)
    ema, wanted = Ema(layer, 0.5), layer.weight.item()
    for iteration in range(20):
        with torch.no_grad():
            layer.weight.fill_(float(iteration))
        ema.update(iteration)
        decay = min(0.5, (1 + iteration) / (10 + iteration))
        wanted = decay * wanted + (1 - decay) * iteration
    assert ema.shadow.weight.item() == pytest.approx(wanted, rel=1e-5)
    assert layer.weight.item() == 19.0
    assert not ema.shadow.weight.requires_grad


def test_forward_kl_leads_from_vdd_to_em():
    """The mixed gradient is the weighted sum of the two pure ones; at 1 it is EM's."""
    teacher, student = ring_teacher(3), toy_student(n_experts=3)
    obs, action = torch.zeros(16, 1, 1), torch.randn(16, 8, 2)

    def gradient(share):
        torch.manual_seed(3)  # the same reparameterised actions each time
        method = toy_vdd(teacher, student, forward_kl=share, n_iters=10)
        torch.manual_seed(4)
        loss = method.expert_loss(student(obs), obs, action, 0)
        return torch.autograd.grad(loss, student.head.mean.bias)[0]

    (em,) = torch.autograd.grad(em_expert_loss(action, student(obs)), student.head.mean.bias)
    torch.testing.assert_close(gradient(1.0), em)
    assert (gradient(0.0) - em).abs().max() > 0.1
    torch.testing.assert_close(gradient(0.25), 0.75 * gradient(0.0) + 0.25 * em)
    with pytest.raises(VddError, match="forward_kl: got 2, expected 0 to 1"):
        DistillSettings(forward_kl=2)


def test_em_increases_the_likelihood_of_its_targets(demos, tmp_path):
    settings = DistillSettings(
        student=TINY_STUDENT.student,
        n_iters=150,
        warm_start="none",
        warm_start_iters=0,
        batch_size=64,
        learning_rate=0.01,
    )
    result = distill(None, demos, settings, method="em", out_dir=tmp_path / "em")
    losses = [line["loss"] for line in read_lines(tmp_path / "em" / "metrics.jsonl")]
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.5
    assert result.training_cpu_s > 0


def test_controls_share_everything_but_objective_and_targets():
    """The gate step, the draw of minibatches and the optimiser are the base class's own."""
    from vdd_ros.distill.methods.em import EmTraining

    assert set(vars(EmTraining)) & set(vars(MixtureTraining)) <= {
        "expert_loss", "__doc__", "__module__", "__abstractmethods__", "_abc_impl",
        "__firstlineno__", "__static_attributes__",
    }  # fmt: skip


def interrupt_after(n_calls: int, monkeypatch: pytest.MonkeyPatch, target: type) -> None:
    """Send this process a Ctrl-C during the n-th step."""
    original, calls = target.step, []

    def step(self, iteration):
        calls.append(iteration)
        if len(calls) == n_calls:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, iteration)

    monkeypatch.setattr(target, "step", step)


def same_files(a: Path, b: Path) -> bool:
    """Tell whether two runs ended with the same tensors, bit for bit (times aside)."""
    for name in (checkpoint.WEIGHTS, checkpoint.STATE):
        one, other = (checkpoint.read_tensors(folder / name)[0] for folder in (a, b))
        for tensors in (one, other):
            tensors.pop("cpu_s", None)
        if one.keys() != other.keys() or any(not torch.equal(one[k], other[k]) for k in one):
            return False
    return True


@pytest.mark.parametrize("backbone", ["mlp", "transformer"])
def test_a_resumed_teacher_equals_an_uninterrupted_one(demos, tmp_path, monkeypatch, backbone):
    from vdd_ros.distill.teachers.edm import EdmTraining

    settings = TeacherSettings(
        width=16, depth=2, n_iters=30, batch_size=16, backbone=backbone, n_obs_steps=2, n_heads=2
    )
    train_teacher(demos, settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(12, patch, EdmTraining)
        with pytest.raises(TrainingInterrupted, match="stopped after iteration 12"):
            train_teacher(demos, settings, tmp_path / "parts")
    train_teacher(demos, settings, tmp_path / "parts", resume=True)
    assert same_files(tmp_path / "whole", tmp_path / "parts")
    whole, parts = (read_lines(tmp_path / f / checkpoint.METRICS) for f in ("whole", "parts"))
    assert [(w["iteration"], w["loss"]) for w in whole] == [
        (p["iteration"], p["loss"]) for p in parts
    ]


@pytest.mark.parametrize("stop", [5, 20])
def test_a_resumed_distillation_equals_an_uninterrupted_one(demos, tmp_path, monkeypatch, stop):
    """Interrupted in the warm start as well as in the VDD phase."""
    train_teacher(demos, TINY_TEACHER, tmp_path / "teacher")
    arguments = (tmp_path / "teacher", demos, TINY_STUDENT)
    distill(*arguments, out_dir=tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(stop, patch, VddTraining)
        with pytest.raises(TrainingInterrupted):
            distill(*arguments, out_dir=tmp_path / "parts")
    distill(*arguments, out_dir=tmp_path / "parts", resume=True)
    assert same_files(tmp_path / "whole", tmp_path / "parts")


def test_training_leaves_the_callers_random_numbers_and_threads_alone(demos, tmp_path):
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    train_teacher(demos, TINY_TEACHER, tmp_path / "run", loop=LoopSettings(n_threads=2))
    assert torch.equal(torch.rand(3), wanted)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("method", ["vdd", "em", "em-teacher"])
def test_every_method_goes_from_demonstrations_to_a_loadable_run(demos, tmp_path, method):
    train_teacher(demos, TINY_TEACHER, tmp_path / "teacher")
    result = distill(
        tmp_path / "teacher", demos, TINY_STUDENT, method=method, out_dir=tmp_path / "run"
    )
    loaded = load_student(tmp_path / "run")
    obs = torch.randn(3, 1, 2)
    ours, theirs = result.student(obs), loaded(obs)
    for name in ("gating_logits", "mean", "scale_tril"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    last = read_lines(tmp_path / "run" / "metrics.jsonl")[-1]
    assert {"loss", "gate_entropy", "experts_alive", "teacher_queries", "cpu_s"} <= set(last)
    info = checkpoint.read_info(tmp_path / "run")
    assert info.data_hash == demos.data_hash()
    assert info.teacher["settings"]["width"] == 16


@pytest.mark.parametrize("choice", [
    {"gate_source": "data"}, {"warm_start": "kmeans"}, {"warm_start": "none"},
    {"expert_weight": "gate"}, {"expert_weight": "uniform"}, {"sigma_rule": "uniform"},
    {"estimator": "paper"}, {"estimator": "diffused"}, {"natural": False}, {"forward_kl": 0.5},
    {"detach_gate": True}, {"ema_decay": 0.0},
])  # fmt: skip
def test_every_option_of_vdd_trains(demos, tmp_path, choice):
    from dataclasses import replace

    train_teacher(demos, TINY_TEACHER, tmp_path / "teacher")
    distill(tmp_path / "teacher", demos, replace(TINY_STUDENT, **choice), out_dir=tmp_path / "run")
    last = read_lines(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["iteration"] == TINY_STUDENT.n_iters


def test_chunks_and_windows_of_a_transformer_teacher_are_distilled(demos, tmp_path):
    settings = TeacherSettings(
        backbone="transformer", n_obs_steps=3, horizon=4, width=16, depth=1, n_heads=2,
        n_iters=10, batch_size=8,
    )  # fmt: skip
    train_teacher(demos, settings, tmp_path / "teacher")
    result = distill(tmp_path / "teacher", demos, TINY_STUDENT, out_dir=tmp_path / "run")
    obs = torch.randn(2, 3, 2)
    mixture = result.student(obs)
    assert mixture.mean.shape == (2, 4, 4, 2)
    assert mixture.scale_tril.shape == (2, 4, 8, 8)
    for kind, form in (("block", Triangular), ("lowrank", LowRank)):
        student = replace(TINY_STUDENT.student, covariance=kind, rank=2)
        asked = replace(TINY_STUDENT, student=student, estimator="diffused")
        result = distill(tmp_path / "teacher", demos, asked, out_dir=tmp_path / kind)
        covariance = result.student(obs).covariance
        assert isinstance(covariance, form)
        assert covariance.dim == 8


def test_folders_are_never_mixed(demos, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(VddError, match="nothing to resume"):
        train_teacher(demos, TINY_TEACHER, folder, resume=True)
    train_teacher(demos, TINY_TEACHER, folder)
    with pytest.raises(VddError, match="already holds a run"):
        train_teacher(demos, TINY_TEACHER, folder)
    other = TeacherSettings(width=8, depth=2, n_iters=30, batch_size=16)
    with pytest.raises(VddError, match=r"other settings or data: model\.width;"):
        train_teacher(demos, other, folder, resume=True)
    with pytest.raises(VddError, match=r"other settings or data: model\.seed;"):
        train_teacher(demos, replace(TINY_TEACHER, seed=5), folder, resume=True)


def test_a_student_is_not_a_teacher_and_teachers_must_fit(demos, tmp_path):
    train_teacher(demos, TINY_TEACHER, tmp_path / "teacher")
    with pytest.raises(VddError, match=r"holds a teacher \(edm\), expected a student"):
        load_student(tmp_path / "teacher")
    with pytest.raises(VddError, match="not a run folder"):
        load_teacher(tmp_path)
    wide = Demonstrations(
        observation=np.zeros((5, 3), np.float32), action=np.zeros((5, 2), np.float32),
        episode_ends=np.array([5]), mode=None, source="another robot",
    )  # fmt: skip
    with pytest.raises(VddError, match="another robot: 3 observation and 2 action"):
        distill(tmp_path / "teacher", wide, TINY_STUDENT, out_dir=tmp_path / "x")
    for name, table in (("observation", demos.observation), ("action", demos.action)):
        millimetres = replace(demos, **{name: 1000 * table})
        with pytest.raises(VddError, match=f"a toy: {name} column . does not fit the teacher"):
            distill(tmp_path / "teacher", millimetres, TINY_STUDENT, out_dir=tmp_path / "x")
    asked = DistillSettings(n_obs_steps=5)
    with pytest.raises(VddError, match=r"n_obs_steps: got 5, but the teacher has 1"):
        distill(tmp_path / "teacher", demos, asked, out_dir=tmp_path / "x")
    with pytest.raises(VddError, match="needs a teacher"):
        distill(None, demos, TINY_STUDENT, out_dir=tmp_path / "x", method="em-teacher")
    assert not (tmp_path / "x").exists()


def test_damaged_run_folders_are_refused_with_their_reason(demos, tmp_path):
    folder = train_teacher(demos, TINY_TEACHER, tmp_path / "run").folder
    weights = folder / checkpoint.WEIGHTS
    whole = weights.read_bytes()
    for cut in (0, 7, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:cut])
        with pytest.raises(VddError, match="truncated or foreign"):
            load_teacher(folder)
    weights.unlink()
    with pytest.raises(VddError, match="no such file"):
        load_teacher(folder)
    weights.write_bytes(whole)
    path = folder / checkpoint.SETTINGS
    settings = json.loads(path.read_text())
    settings["model"]["width"] = 8
    path.write_text(json.dumps(settings))
    with pytest.raises(VddError, match="from different runs"):
        load_teacher(folder)
    settings["model"]["widht"] = settings["model"].pop("width")
    path.write_text(json.dumps(settings))
    with pytest.raises(VddError, match="did you mean 'width'"):
        load_teacher(folder)
    settings["format_version"] = 99
    path.write_text(json.dumps(settings))
    with pytest.raises(VddError, match="format version 99"):
        load_teacher(folder)


def test_a_diverging_training_stops_and_says_so(demos, tmp_path):
    settings = TeacherSettings(
        width=16, depth=2, n_iters=300, batch_size=16, learning_rate=1e30, ema_decay=0.0
    )
    with pytest.raises(VddError, match="training diverged; lower the learning rate"):
        train_teacher(demos, settings, tmp_path / "run")


def test_nothing_half_written_where_no_folder_can_be(demos, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(VddError, match="cannot write here"):
        train_teacher(demos, TINY_TEACHER, blocked / "run")
    assert blocked.read_text() == "in the way"


def test_discrete_sigmas_are_those_of_the_list_or_of_the_teacher():
    """Only what lies between sigma_end and sigma_start; every one of them is drawn."""
    teacher, student = ring_teacher(3), toy_student(n_experts=3)
    asked = {"sigma_rule": "discrete", "sigma_end": 0.1, "sigma_start": 0.4}

    def drawn(method):
        return sorted({round(float(s), 4) for s in method.sigma(0, 500)})

    listed = toy_vdd(teacher, student, sigma_grid=(0.05, 0.1, 0.3, 0.2, 0.5), **asked)
    assert drawn(listed) == [0.1, 0.2, 0.3]
    with pytest.raises(VddError, match="was trained at every sigma; name some in sigma_grid"):
        toy_vdd(teacher, student, **asked)
    teacher.schedule = (0.04, 0.15, 0.35, 0.9)
    targets = listed.targets
    of_teacher = VddTraining(
        student, replace(listed.settings, sigma_grid=()), targets, warm_targets=targets,
        teacher=teacher,
    )  # fmt: skip
    assert drawn(of_teacher) == [0.15, 0.35]
    with pytest.raises(VddError, match=r"none of the 1 levels from 2 to 2 lies between"):
        VddTraining(
            student, replace(listed.settings, sigma_grid=(2.0,)), targets, warm_targets=targets,
            teacher=teacher,
        )  # fmt: skip


@pytest.mark.parametrize("warm", [0, 20])
def test_annealed_sigmas_fall_evenly_once_the_warm_start_is_over(warm):
    method = toy_vdd(
        ring_teacher(3), toy_student(n_experts=3), sigma_rule="anneal", sigma_start=0.5,
        sigma_end=0.1, n_iters=61, warm_start="em" if warm else "none", warm_start_iters=warm,
    )  # fmt: skip
    found = torch.stack([method.sigma(i, 3) for i in range(warm, 61)])
    wanted = torch.linspace(0.5, 0.1, 61 - warm)[:, None].expand(-1, 3)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("rule", "blur"), [("fixed", 0.2), ("uniform", 0.3162), ("discrete", 0)])
def test_the_blur_of_a_rule_is_the_fixed_point_of_a_narrow_teacher(rule, blur):
    r"""The blur is the sigma with 1 / sigma^2 = E[1 / sigma^2], here by brute force."""
    method = toy_vdd(
        ring_teacher(3), toy_student(n_experts=3), sigma_rule=rule, sigma_end=0.2, sigma_start=0.5,
        sigma_grid=(0.2, 0.3, 0.5),
    )  # fmt: skip
    mean = method.sigma(0, 400_000).double().pow(-2).mean()
    assert method.blur() == pytest.approx(float(mean.rsqrt()), rel=3e-3)
    if blur:
        assert method.blur() == pytest.approx(blur, rel=1e-3)


@pytest.mark.parametrize("kind", ["full", "lowrank"])
def test_a_deblurred_student_has_the_teachers_own_width(kind):
    """Trained on the score at sigma .3, a Gaussian of width .2 comes out .36 wide, and back."""
    teacher = AnalyticTeacher(torch.ones(1), torch.zeros(1, 1, 2), 0.04 * torch.eye(2)[None])
    method = toy_vdd(
        teacher, toy_student(n_experts=1, covariance=kind, rank=1), sigma_rule="fixed",
        n_iters=150, sigma_end=0.3, learning_rate=3e-2, ema_decay=0.9, samples_per_expert=8,
        batch_size=32, deblur=True,
    )  # fmt: skip
    obs = torch.zeros(1, 1, 1)
    run(method)

    def width(student):
        return student(obs).covariance.dense()[0, 0].diagonal().mean().sqrt()

    assert float(width(method.acting())) == pytest.approx(math.sqrt(0.04 + 0.09), rel=0.03)
    refined = method.refined()
    assert float(width(refined)) == pytest.approx(0.2, rel=0.1)
    assert refined.settings.deblur == 0.3
    with pytest.raises(VddError, match="deblur: takes out what the path and paper"):
        DistillSettings(estimator="diffused", deblur=True)


@pytest.mark.parametrize("kind", ["diag", "full", "block", "lowrank"])
def test_pruning_leaves_the_mixture_without_the_dropped_terms(kind):
    """The gate of the smaller student is the old one renormalised; nothing else moves."""
    student = GaussianMixtureOfExperts(
        StudentSettings(n_experts=5, width=8, depth=1, head_width=8, covariance=kind, rank=2),
        dim_obs=3, dim_act=2, n_obs_steps=1, horizon=3,
    )  # fmt: skip
    with torch.no_grad():
        student.gate[-1].bias.copy_(torch.tensor([1.0, -9.0, 0.5, 0.0, -9.0]))
        student.gate[-1].weight.normal_()
        student.head.mean.bias.normal_()
    obs = torch.randn(200, 1, 3)
    pruned = prune_experts(student, obs, 0.1)
    assert pruned.settings.n_experts == 3
    old, new, kept = student(obs), pruned(obs), [0, 2, 3]
    torch.testing.assert_close(new.mean, old.mean[:, kept])
    torch.testing.assert_close(new.covariance.dense(), old.covariance.dense()[:, kept])
    gate = old.log_gate.exp()[:, kept]
    torch.testing.assert_close(new.log_gate.exp(), gate / gate.sum(-1, keepdim=True))
    assert prune_experts(student, obs, 1.0).settings.n_experts >= 1
    assert student.settings.n_experts == 5


def test_a_pruned_and_deblurred_run_loads_and_resumes(demos, tmp_path):
    """The run folder says how many experts are left; the settings say how many there were."""
    train_teacher(demos, TINY_TEACHER, tmp_path / "teacher")
    settings = replace(TINY_STUDENT, prune=1.0, deblur=True)
    arguments = (tmp_path / "teacher", demos, settings)
    student = distill(*arguments, out_dir=tmp_path / "run").student
    assert 1 <= student.settings.n_experts < 4
    assert student.settings.deblur == settings.sigma_end
    info = checkpoint.read_info(tmp_path / "run")
    assert info.model["n_experts"] == student.settings.n_experts
    assert info.training["student"]["n_experts"] == 4
    again = distill(*arguments, out_dir=tmp_path / "run", resume=True).student
    assert again.settings == student.settings
    for name, tensor in student.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
