"""Information Maximizing Curriculum: weights, gate and limits in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.distill.toys import random_mixture, ring_teacher
from vdd_ros.core.errors import VddError
from vdd_ros.distill.methods.imc import ImcTraining, log_curricula
from vdd_ros.distill.methods.mixture_training import DistillSettings, place_experts
from vdd_ros.distill.methods.objectives import em_expert_loss, gate_cross_entropy
from vdd_ros.distill.methods.rival_settings import ImcSettings
from vdd_ros.distill.mixtures.mixture import MixtureParameters, expert_log_prob, joint_log_prob
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts, StudentSettings
from vdd_ros.distill.training.targets import Targets


def toy_training(pacing: float = 1.0, *, learn_covariance: bool = False, **shape) -> ImcTraining:
    shape = {"n_experts": 3, "width": 8, "depth": 1, "head_width": 8} | shape
    student = GaussianMixtureOfExperts(
        StudentSettings(**shape), dim_obs=1, dim_act=2, n_obs_steps=1, horizon=1
    )
    settings = DistillSettings(
        n_iters=250, warm_start_iters=0, batch_size=64, learning_rate=1e-2, ema_decay=0.9,
        imc=ImcSettings(pacing, learn_covariance),
    )  # fmt: skip
    modes = ring_teacher(3).means[:, 0]
    action = modes[torch.randint(3, (2000,))] + 0.1 * torch.randn(2000, 2)
    return ImcTraining(student, settings, Targets(torch.randn(2000, 1, 1), action[:, None, None]))


def test_curricula_of_two_data_and_two_experts_by_hand():
    """p(D|z) is proportional to q_z(a)^(1/eta) q(z|D), normalised over the data."""
    density = np.array([[0.9, 0.2], [0.1, 0.4]])
    posterior = np.array([[0.75, 0.25], [0.5, 0.5]])
    for pacing in (0.5, 1.0, 2.0):
        wanted = density ** (1 / pacing) * posterior
        wanted /= wanted.sum(0)
        found = log_curricula(
            torch.tensor(density).log()[:, None], torch.tensor(posterior).log()[:, None], pacing
        )
        np.testing.assert_allclose(found.exp()[:, 0].numpy(), wanted)


def test_curricula_survive_densities_that_no_float_holds():
    """At -4000 nats a density is zero, its curriculum is not."""
    log_prob = torch.tensor([[[-4000.0]], [[-4001.0]]])
    found = log_curricula(log_prob, torch.zeros(2, 1, 1), 1.0).exp().flatten()
    torch.testing.assert_close(found, torch.tensor([1.0, math.exp(-1.0)]) / (1 + math.exp(-1.0)))


@pytest.mark.parametrize("shape", [(32, 1), (8, 4)])
def test_for_large_pacing_experts_learn_as_in_em(shape):
    """Curricula become responsibilities; per expert the gradient is EM's, over its share."""
    mixture = random_mixture(shape[0], 3, 1, 2)
    mean = mixture.mean.clone().requires_grad_()
    mixture = mixture._replace(mean=mean)
    action = torch.randn(*shape, 2, dtype=torch.float64)
    training = toy_training(pacing=1e9, learn_covariance=True)
    obs = torch.zeros(shape[0], 1, 1)
    (imc,) = torch.autograd.grad(training.expert_loss(mixture, obs, action, 0), mean)
    (em,) = torch.autograd.grad(em_expert_loss(action, mixture), mean)
    share = mixture.detach().log_responsibilities(action).exp().mean((0, 1))
    torch.testing.assert_close(imc, em / (3 * share)[:, None, None], rtol=1e-6, atol=1e-9)
    other = toy_training(pacing=0.5, learn_covariance=True)
    (paced,) = torch.autograd.grad(other.expert_loss(mixture, obs, action, 0), mean)
    assert (paced - imc).abs().max() > 0.1 * imc.abs().max()


def test_a_small_pacing_keeps_every_expert_to_what_it_does_best():
    mixture = random_mixture(16, 3, 1, 2)
    joint = joint_log_prob(torch.randn(16, 1, 2, dtype=torch.float64), mixture)
    log_prob = joint - mixture.log_gate[:, None]
    weights = toy_training(pacing=1e-3).curricula(mixture, joint)
    assert torch.equal(weights.argmax(0), log_prob.argmax(0))
    assert (weights.amax(0) > 0.99).all()
    torch.testing.assert_close(weights.sum(0), torch.ones(1, 3, dtype=torch.float64))


def test_the_gate_learns_bayes_rule():
    """Its cross-entropy is smallest at q(z|s) = p(s|z) / sum_z p(s|z) for equal p(z)."""
    mixture = random_mixture(12, 3, 1, 2)
    joint = joint_log_prob(torch.randn(12, 1, 2, dtype=torch.float64), mixture)
    training = toy_training()
    targets = training.gate_targets(mixture, joint)
    curricula = training.curricula(mixture, joint)[:, 0]
    torch.testing.assert_close(targets[:, 0].mean(0), torch.full((3,), 1 / 3).double())

    def gradient(logits):
        logits = logits.clone().requires_grad_()
        return torch.autograd.grad(gate_cross_entropy(logits, targets), logits)[0]

    assert gradient(curricula.log()).abs().max() < 1e-12
    assert gradient(mixture.gating_logits).abs().max() > 1e-3


def test_experts_share_out_the_modes_and_keep_their_covariances():
    """Three narrow modes: an expert on each, the gate even, deviations as they started."""
    training = toy_training(init_std=0.3)
    place_experts(training.student, training.targets)
    for iteration in range(training.n_iters):
        figures = training.step(iteration)
    mixture = training.acting()(torch.randn(5, 1, 1))
    distance = torch.cdist(ring_teacher(3).means[:, 0], mixture.flat_mean[0])
    assert (distance.amin(1) < 0.1).all()
    assert (mixture.log_gate.exp() - 1 / 3).abs().max() < 0.1
    deviations = torch.diagonal(mixture.scale_tril, dim1=-2, dim2=-1)
    torch.testing.assert_close(deviations, torch.full_like(deviations, 0.3), atol=5e-3, rtol=0)
    assert figures["experts_alive"] == 3.0


def test_curricula_are_constants_and_the_gate_learns_from_its_own_loss_alone():
    """E-step and M-step alternate: no gradient finds a way round through the weights."""
    mixture = random_mixture(8, 3, 1, 2)
    logits = mixture.gating_logits.clone().requires_grad_()
    mean = mixture.mean.clone().requires_grad_()
    mixture = mixture._replace(gating_logits=logits, mean=mean)
    action = torch.randn(8, 1, 2, dtype=torch.float64)
    assert not toy_training().curricula(mixture, joint_log_prob(action, mixture)).requires_grad
    loss = toy_training().expert_loss(mixture, torch.zeros(8, 1, 1), action, 0)
    by_gate, by_mean = torch.autograd.grad(loss, [logits, mean], allow_unused=True)
    assert by_gate is None
    assert by_mean.abs().max() > 0


def test_covariances_learn_on_request():
    for learn in (False, True):
        training = toy_training(learn_covariance=learn)
        mixture = training.student(torch.zeros(4, 1, 1))
        loss = training.expert_loss(mixture, torch.zeros(4, 1, 1), torch.randn(4, 1, 2), 0)
        loss.backward()
        moved = [p.grad is not None for p in training.student.lift_scale.parameters()]
        assert all(moved) if learn else not any(moved)


def test_the_log_density_taken_from_the_joint_is_the_experts_own():
    """What `curricula` derives from log q(a, z|s) is log q(a|s, z)."""
    mixture: MixtureParameters = random_mixture(6, 3, 1, 2)
    action = torch.randn(6, 2, 2, dtype=torch.float64)
    joint = joint_log_prob(action, mixture)
    posterior = mixture.log_responsibilities(action)
    wanted = log_curricula(expert_log_prob(action, mixture), posterior, 1.5).exp()
    torch.testing.assert_close(toy_training(1.5).curricula(mixture, joint), wanted)


def test_a_bad_setting_is_named():
    with pytest.raises(VddError, match=r"imc.pacing: got 0.0, expected a positive number"):
        ImcSettings(pacing=0.0)
