"""The teacher's say in the gate: its energy against the exact likelihood, its optimum, its run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.distill.test_training import TINY_STUDENT, TINY_TEACHER, toy_student
from vdd_ros.core.errors import VddError
from vdd_ros.distill import loading
from vdd_ros.distill.methods.gate_judgement import (
    GateJudgement,
    JudgementSettings,
    expert_energy,
    judged_gate_loss,
)
from vdd_ros.distill.methods.mixture_training import DistillSettings
from vdd_ros.distill.pipeline import distill, train_teacher
from vdd_ros.distill.teachers.analytic import AnalyticTeacher
from vdd_ros.distill.training.targets import Targets
from vdd_ros.distill.training.trainer import LoopSettings, TrainingInterrupted

MEANS = torch.tensor([[[[0.0, 0.0]], [[0.5, 0.0]], [[-0.3, 0.8]]]])
OBS = torch.zeros(1, 1, 1)


def gaussian(std: float) -> AnalyticTeacher:
    """Return a teacher N(0, std^2 I) over one two-dimensional action."""
    return AnalyticTeacher(torch.ones(1), torch.zeros(1, 1, 2), std**2 * torch.eye(2)[None])


def mean_energy(
    teacher: AnalyticTeacher, settings: JudgementSettings, repeats: int
) -> torch.Tensor:
    """Average many estimates; energies relative to the first expert's."""
    mean, obs = MEANS.expand(repeats, -1, -1, -1), OBS.expand(repeats, -1, -1)
    energy = expert_energy(teacher, mean, obs, settings).mean(0)
    return energy - energy[0]


def test_over_all_sigmas_the_energy_is_the_negative_log_likelihood() -> None:
    """The bound is exact: for N(0, s^2 I) energies differ by |a|^2 / (2 s^2)."""
    settings = JudgementSettings(draws=16, sigma_low=1e-3, sigma_high=100.0)
    found = mean_energy(gaussian(0.4), settings, 20_000)
    wanted = MEANS[0].flatten(1).square().sum(-1) / (2 * 0.4**2)
    torch.testing.assert_close(found, wanted, rtol=0.03, atol=0.02)


def test_between_two_sigmas_the_energy_is_that_part_of_the_integral() -> None:
    r"""Closed form: |a|^2 (1/(s^2 + low^2) - 1/(s^2 + high^2)) / 2, so draws have no bias."""
    settings = JudgementSettings(draws=1, sigma_low=0.2, sigma_high=0.8)
    found = mean_energy(gaussian(0.4), settings, 40_000)
    part = 1 / (0.16 + 0.04) - 1 / (0.16 + 0.64)
    wanted = MEANS[0].flatten(1).square().sum(-1) * part / 2
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.01)


def test_one_noise_for_all_experts_makes_their_difference_precise() -> None:
    """Two equal experts get equal energies from a single draw; with noise of their own not."""
    same = MEANS[:, :1].expand(1, 3, 1, 2)
    energy = expert_energy(gaussian(0.4), same, OBS, JudgementSettings(draws=1))
    assert float(energy.max() - energy.min()) < 1e-5


def test_the_optimum_is_the_prior_tempered_by_the_teachers_likelihood() -> None:
    """Minimised over free logits, the loss ends at g exp(-w E), normalised."""
    prior, energy = torch.randn(5, 4), 3 * torch.rand(5, 4)
    logits = torch.zeros(5, 4, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=0.1)
    for _ in range(500):
        adam.zero_grad()
        judged_gate_loss(logits, prior, energy, 0.7).backward()
        adam.step()
    wanted = torch.softmax(torch.log_softmax(prior, -1) - 0.7 * energy, -1)
    torch.testing.assert_close(torch.softmax(logits.detach(), -1), wanted, atol=2e-3, rtol=0)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_an_expert_between_two_modes_loses_its_share_and_the_modes_keep_theirs(
    weight: float,
) -> None:
    """Modes at x = -1 and 1, a third expert at 0 that forward KL has given a third.

    The control has no weight: its gate stays as it was.
    """
    modes = torch.tensor([[[-1.0, 0.0]], [[1.0, 0.0]]])
    teacher = AnalyticTeacher(torch.ones(2) / 2, modes, 0.01 * torch.eye(2).expand(2, 2, 2))
    student = toy_student(n_experts=3)
    student.head.set_means(torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    with torch.no_grad():
        student.head.mean.weight.zero_()
    states = Targets(torch.zeros(8, 1, 1), torch.zeros(8, 1, 1, 2))
    settings = JudgementSettings(weight=weight, batch_size=32, learning_rate=0.05)
    judgement = GateJudgement(student, settings, states, teacher=teacher, n_iters=150)
    judgement.begin(student)
    for iteration in range(150):
        judgement.step(iteration)
    gate = torch.softmax(judgement.student(OBS).gating_logits, -1)[0].detach()
    if weight == 0:
        torch.testing.assert_close(gate, torch.full((3,), 1 / 3), atol=0.01, rtol=0)
    else:
        assert float(gate[2]) < 0.02
        assert float(gate[:2].min()) > 0.4
    assert judgement.teacher_queries == 150 * 32 * 3 * settings.draws


def test_only_the_gate_moves_and_a_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path, demos
) -> None:
    """Experts and trunk are those of a run of the first part's length; resuming is exact."""
    teacher = train_teacher(demos, TINY_TEACHER, tmp_path / "teacher").folder
    judged = replace(TINY_STUDENT, judgement=JudgementSettings(weight=2.0, share=0.4))
    whole = distill(teacher, demos, judged, out_dir=tmp_path / "whole").student.state_dict()

    ticks = iter(range(10_000))

    def stop_at_24(_model: torch.nn.Module) -> dict[str, float]:
        if next(ticks) == 23:
            raise KeyboardInterrupt
        return {}

    for when, evaluate in ((False, stop_at_24), (True, None)):
        try:
            distill(
                teacher, demos, judged, out_dir=tmp_path / "halves", resume=when,
                loop=LoopSettings(checkpoint_every_s=0.0), evaluate=evaluate, evaluate_every=1,
            )  # fmt: skip
        except (KeyboardInterrupt, TrainingInterrupted):
            assert not when
    halves = loading.load_student(tmp_path / "halves").state_dict()
    plain = replace(TINY_STUDENT, n_iters=18)
    before = distill(teacher, demos, plain, out_dir=tmp_path / "before").student.state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value, rtol=0, atol=0)
        moved = not torch.equal(before[name], value)
        assert moved == name.startswith("gate."), name


def test_settings_that_cannot_be_are_named() -> None:
    """Every refusal says which setting and what it wants."""
    for wrong, words in (
        ({"weight": -1.0}, "judgement.weight: got -1"),
        ({"weight": math.nan}, "judgement.weight: got nan"),
        ({"share": 1.0}, "judgement.share: got 1"),
        ({"sigma_low": 0.9}, "sigma_low 0.9"),
        ({"draws": 0}, "judgement.draws 0"),
        ({"learning_rate": 0.0}, "judgement.learning_rate: got 0"),
    ):
        with pytest.raises(VddError, match=words):
            JudgementSettings(**wrong)  # type: ignore[arg-type]
    weighty = JudgementSettings(weight=1.0, share=0.5)
    with pytest.raises(VddError, match="leaves 50 iterations before it"):
        DistillSettings(n_iters=100, warm_start_iters=60, judgement=weighty)
    with pytest.raises(VddError, match="learn_gate false"):
        DistillSettings(learn_gate=False, judgement=weighty)
