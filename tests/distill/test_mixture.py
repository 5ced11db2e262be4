"""The torch mixture against torch.distributions, autograd and the numpy reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from tests.distill.toys import random_mixture
from vdd_ros.core.mixture import GaussianMixture
from vdd_ros.distill.mixtures.mixture import (
    MixtureParameters,
    diffuse,
    expert_log_prob,
    gate_entropy,
    gaussian_entropy,
    mixture_score,
)

SHAPES = [(1, 1), (1, 2), (1, 3), (2, 2), (4, 3)]


def repeat(mixture, n):
    def expand(part):
        return part.expand(n, *part.shape[1:])

    return MixtureParameters(
        expand(mixture.gating_logits), expand(mixture.mean), mixture.covariance.map(expand)
    )


def oracle(mixture):
    experts = MultivariateNormal(mixture.flat_mean, scale_tril=mixture.scale_tril)
    return MixtureSameFamily(Categorical(logits=mixture.gating_logits), experts)


@pytest.mark.parametrize(("horizon", "dim_act"), SHAPES)
def test_log_prob_is_that_of_torch_distributions(horizon, dim_act):
    mixture = random_mixture(3, 4, horizon, dim_act)
    action = torch.randn(3, 5, horizon * dim_act, dtype=torch.float64)
    wanted = torch.stack([oracle(mixture).log_prob(action[:, s]) for s in range(5)], 1)
    torch.testing.assert_close(mixture.log_prob(action), wanted)


@pytest.mark.parametrize(("horizon", "dim_act"), SHAPES)
def test_everything_equals_the_numpy_reference(horizon, dim_act):
    mixture = random_mixture(3, 4, horizon, dim_act)
    action = torch.randn(3, 1, horizon * dim_act, dtype=torch.float64)
    twin = GaussianMixture(
        mixture.log_gate.numpy(), mixture.flat_mean.numpy(), mixture.scale_tril.numpy()
    )
    flat = action[:, 0].numpy()
    for ours, theirs in (
        (expert_log_prob(action, mixture), twin.expert_log_prob(flat)),
        (mixture.log_prob(action), twin.log_prob(flat)),
        (mixture.log_responsibilities(action), twin.log_responsibilities(flat)),
        (mixture_score(action, mixture), twin.score(flat)),
    ):
        np.testing.assert_allclose(ours[:, 0].numpy(), theirs, rtol=1e-9, atol=1e-9)
    wide = diffuse(mixture, torch.full((3,), 0.7, dtype=torch.float64))
    np.testing.assert_allclose(wide.scale_tril.numpy(), twin.diffuse(0.7).scale_tril, rtol=1e-9)
    narrow = mixture._replace(covariance=mixture.covariance.deblur(0.4, min_std=0.1))
    np.testing.assert_allclose(
        narrow.scale_tril.numpy(), twin.deblur(0.4, 0.1).scale_tril, rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize(("horizon", "dim_act"), SHAPES)
def test_score_is_the_gradient_of_log_prob(horizon, dim_act):
    mixture = random_mixture(3, 4, horizon, dim_act)
    action = torch.randn(3, 5, horizon * dim_act, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(mixture.log_prob(action).sum(), action)
    torch.testing.assert_close(mixture_score(action, mixture), gradient)


def test_responsibilities_sum_to_one_and_ignore_a_shift_of_the_logits():
    mixture = random_mixture(6, 5, 1, 3)
    action = 4 * torch.randn(6, 7, 3, dtype=torch.float64)
    responsibilities = mixture.log_responsibilities(action)
    torch.testing.assert_close(
        responsibilities.exp().sum(-1), torch.ones(6, 7, dtype=torch.float64)
    )
    shifted = mixture._replace(gating_logits=mixture.gating_logits + 100.0)
    torch.testing.assert_close(shifted.log_responsibilities(action), responsibilities)


def test_responsibilities_stay_finite_where_every_density_underflows():
    mixture = random_mixture(2, 4, 8, 4, dtype=torch.float32)
    action = torch.full((2, 1, 32), 1e3)
    responsibilities = mixture.log_responsibilities(action)
    assert torch.isfinite(responsibilities).all()
    torch.testing.assert_close(responsibilities.exp().sum(-1), torch.ones(2, 1))


def test_entropies_are_those_of_torch_distributions():
    mixture = random_mixture(3, 4, 2, 3)
    experts = MultivariateNormal(mixture.flat_mean, scale_tril=mixture.scale_tril)
    torch.testing.assert_close(gaussian_entropy(mixture.covariance), experts.entropy())
    gate = Categorical(logits=mixture.gating_logits)
    torch.testing.assert_close(gate_entropy(mixture.gating_logits), gate.entropy())


def test_samples_have_the_gates_frequencies_and_the_experts_moments():
    one = random_mixture(1, 3, 1, 2)
    many = repeat(one, 40_000)
    action, expert = many.sample(torch.Generator().manual_seed(0))
    share = torch.bincount(expert, minlength=3) / len(expert)
    torch.testing.assert_close(share, one.log_gate.exp()[0].float(), atol=0.01, rtol=0)
    likeliest = int(share.argmax())
    drawn = action[expert == likeliest][:, 0]
    torch.testing.assert_close(drawn.mean(0), one.flat_mean[0, likeliest], atol=0.03, rtol=0)
    factor = one.scale_tril[0, likeliest]
    torch.testing.assert_close(drawn.T.cov(), factor @ factor.T, atol=0.03, rtol=0.05)
