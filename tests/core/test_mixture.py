"""The numpy mixture is the oracle of the networks, so it is held to scipy-free closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdd_ros.core.mixture import (
    GaussianMixture,
    entropy,
    log_softmax,
    log_sum_exp,
    sample_categorical,
)


def random_mixture(rng, *, batch=3, experts=4, dim=2, spread=1.0):
    logits = rng.normal(size=(batch, experts))
    mean = spread * rng.normal(size=(batch, experts, dim))
    factor = np.tril(0.3 * rng.normal(size=(batch, experts, dim, dim)))
    idx = np.arange(dim)
    factor[..., idx, idx] = 0.4 + rng.random((batch, experts, dim))
    return GaussianMixture(log_softmax(logits), mean, factor)


def test_log_prob_of_one_standard_expert_is_the_textbook_density():
    mixture = GaussianMixture(np.zeros((1, 1)), np.zeros((1, 1, 3)), np.eye(3)[None, None])
    a = np.array([[0.5, -1.0, 2.0]])
    expected = -0.5 * (a**2).sum() - 1.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(mixture.log_prob(a), [expected], rtol=1e-12)


def test_log_prob_agrees_with_torch_distributions():
    torch = pytest.importorskip("torch")
    d = torch.distributions
    mixture = random_mixture(np.random.default_rng(0), dim=5)
    a = np.random.default_rng(1).normal(size=(3, 5))
    oracle = d.MixtureSameFamily(
        d.Categorical(logits=torch.tensor(mixture.log_gate)),
        d.MultivariateNormal(
            torch.tensor(mixture.mean), scale_tril=torch.tensor(mixture.scale_tril)
        ),
    )
    np.testing.assert_allclose(
        mixture.log_prob(a), oracle.log_prob(torch.tensor(a)).numpy(), rtol=1e-9
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), shift=st.floats(-500, 500))
def test_responsibilities_sum_to_one_and_ignore_a_constant_added_to_all_logits(seed, shift):
    rng = np.random.default_rng(seed)
    mixture = random_mixture(rng)
    shifted = GaussianMixture(
        log_softmax(mixture.log_gate + shift), mixture.mean, mixture.scale_tril
    )
    a = 3 * rng.normal(size=(3, 2))
    r = mixture.log_responsibilities(a)
    np.testing.assert_allclose(np.exp(r).sum(-1), 1.0, atol=1e-9)
    np.testing.assert_allclose(r, shifted.log_responsibilities(a), atol=1e-9)


def test_responsibilities_stay_finite_where_exp_and_log_give_minus_infinity():
    """Regressions pinned: at 112 dimensions exp() underflows and log(0) poisons the gradient."""
    dim = 112
    mixture = GaussianMixture(
        np.log(np.full((1, 2), 0.5)),
        np.stack([np.zeros(dim), np.ones(dim)])[None],
        np.broadcast_to(0.1 * np.eye(dim), (1, 2, dim, dim)),
    )
    r = mixture.log_responsibilities(np.full((1, dim), 0.9))
    assert np.isfinite(r).all()
    np.testing.assert_allclose(np.exp(r), [[0.0, 1.0]], atol=1e-12)


def test_score_is_the_gradient_of_log_prob():
    mixture = random_mixture(np.random.default_rng(2), dim=3)
    a = np.random.default_rng(3).normal(size=(3, 3))
    step = 1e-5
    for i in range(3):
        ahead, behind = a.copy(), a.copy()
        ahead[:, i] += step
        behind[:, i] -= step
        slope = (mixture.log_prob(ahead) - mixture.log_prob(behind)) / (2 * step)
        np.testing.assert_allclose(mixture.score(a)[:, i], slope, rtol=1e-5, atol=1e-7)


def test_diffusing_equals_adding_noise_to_samples():
    """Sample moments of q plus sigma noise match the moments of the diffused mixture."""
    rng = np.random.default_rng(4)
    one = random_mixture(rng, batch=1, experts=2)
    n, sigma = 200_000, 0.7
    tile = GaussianMixture(*(np.repeat(x, n, axis=0) for x in _parts(one)))
    noisy = tile.sample(rng)[0] + sigma * rng.standard_normal((n, 2))
    direct = GaussianMixture(*(np.repeat(x, n, axis=0) for x in _parts(one.diffuse(sigma))))
    drawn = direct.sample(rng)[0]
    np.testing.assert_allclose(np.cov(noisy.T), np.cov(drawn.T), atol=0.05)
    np.testing.assert_allclose(noisy.mean(0), drawn.mean(0), atol=0.02)


def test_deblurring_undoes_diffusing_and_stops_at_the_bound():
    mixture = random_mixture(np.random.default_rng(8), dim=3)
    back = mixture.diffuse(0.7).deblur(0.7, min_std=1e-3)
    np.testing.assert_allclose(back.scale_tril, mixture.scale_tril, rtol=1e-9, atol=1e-9)
    floor = mixture.deblur(100.0, min_std=0.2)
    np.testing.assert_allclose(
        floor.scale_tril, np.broadcast_to(0.2 * np.eye(3), (3, 4, 3, 3)), atol=1e-9
    )


def _parts(mixture):
    return mixture.log_gate, mixture.mean, mixture.scale_tril


def test_sampling_follows_the_gate_and_mean_only_returns_an_expert_mean():
    gate = np.array([0.1, 0.0, 0.6, 0.3])
    with np.errstate(divide="ignore"):
        log_gate = np.repeat(np.log(gate)[None], 50_000, axis=0)
    counts = np.bincount(sample_categorical(log_gate, np.random.default_rng(5)), minlength=4)
    np.testing.assert_allclose(counts / 50_000, gate, atol=0.01)
    mixture = random_mixture(np.random.default_rng(6))
    action, expert = mixture.sample(np.random.default_rng(7), mean_only=True)
    np.testing.assert_array_equal(action, mixture.mean[np.arange(3), expert])


def test_entropy_of_uniform_is_log_k_and_of_certainty_is_zero():
    np.testing.assert_allclose(entropy(np.zeros((2, 8))), np.log(8))
    np.testing.assert_allclose(entropy(np.array([[0.0, -1e9, -np.inf]])), 0.0, atol=1e-12)


def test_log_sum_exp_of_nothing_possible_is_minus_infinity():
    assert log_sum_exp(np.full(3, -np.inf)) == -np.inf
    np.testing.assert_allclose(log_sum_exp(np.array([1000.0, 1000.0])), 1000 + np.log(2))
