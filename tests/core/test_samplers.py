"""Samplers and schedules against closed forms: an analytic Gaussian denoiser has exact answers."""

import numpy as np
import pytest

from vdd_ros.core.errors import VddError
from vdd_ros.core.samplers import n_function_evaluations, sample
from vdd_ros.core.schedules import sigma_schedule

DETERMINISTIC = ["euler", "heun", "ddim", "dpmpp_2m"]
MEAN, STD = 1.5, 0.3


def gaussian_denoiser(x, sigma):
    """D(x, sigma) = E[a | a + sigma eps = x] for a ~ N(MEAN, STD^2), in closed form."""
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def exact_flow(x, sigma_start):
    """The probability-flow ODE of a Gaussian keeps the standard score of every point."""
    return MEAN + (x - MEAN) * STD / np.sqrt(STD**2 + sigma_start**2)


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_every_sampler_converges_to_the_exact_flow(kind):
    x = 2.0 * np.random.default_rng(0).standard_normal(1000)
    sigmas = sigma_schedule("karras", n_steps=200, sigma_min=1e-3, sigma_max=2.0)
    out = sample(kind, gaussian_denoiser, x, sigmas)
    np.testing.assert_allclose(out, exact_flow(x, 2.0), atol=2e-2)


@pytest.mark.parametrize(("kind", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_error_shrinks_with_the_order_of_the_method(kind, order):
    """Halving the step divides the error by 2^order (measured down to a small positive sigma)."""
    x = np.array([-1.0, 0.3, 2.5])
    errors = []
    for n in (40, 80):
        sigmas = np.exp(np.linspace(np.log(2.0), np.log(0.05), n + 1))
        out = sample(kind, gaussian_denoiser, x, sigmas)
        truth = MEAN + (x - MEAN) * np.sqrt((STD**2 + 0.05**2) / (STD**2 + 4.0))
        errors.append(np.abs(out - truth).max())
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.25)


def test_ancestral_sampling_reproduces_the_moments():
    rng = np.random.default_rng(1)
    x = 2.0 * rng.standard_normal(40_000)
    sigmas = sigma_schedule("karras", n_steps=100, sigma_min=0.01, sigma_max=2.0)
    out = sample(
        "euler_ancestral", gaussian_denoiser, x, sigmas, lambda: rng.standard_normal(x.shape)
    )
    assert out.mean() == pytest.approx(MEAN, abs=0.2)  # start at sigma 2 forgets the mean, not all
    assert out.std() == pytest.approx(STD, rel=0.1)


def test_ddim_is_euler_in_these_coordinates():
    x = np.random.default_rng(2).standard_normal(100)
    sigmas = sigma_schedule("exponential", n_steps=7, sigma_min=0.05, sigma_max=1.0)
    a = sample("ddim", gaussian_denoiser, x, sigmas)
    np.testing.assert_allclose(a, sample("euler", gaussian_denoiser, x, sigmas), atol=1e-12)


@pytest.mark.parametrize("kind", [*DETERMINISTIC, "euler_ancestral"])
@pytest.mark.parametrize("n_steps", [1, 2, 5])
def test_counts_of_function_evaluations_are_the_calls_made(kind, n_steps):
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return gaussian_denoiser(x, sigma)

    sigmas = sigma_schedule("linear", n_steps=n_steps, sigma_min=0.1, sigma_max=1.0)
    sample(kind, denoise, np.zeros(2), sigmas, lambda: np.zeros(2))
    assert len(calls) == n_function_evaluations(kind, n_steps)


@pytest.mark.parametrize("kind", [*DETERMINISTIC, "euler_ancestral"])
def test_the_result_is_the_last_denoised_value(kind):
    """The policy file relies on it: its last `action` output IS the sampled action."""
    last = []

    def denoise(x, sigma):
        last[:] = [gaussian_denoiser(x, sigma)]
        return last[0]

    sigmas = sigma_schedule("karras", n_steps=4, sigma_min=0.1, sigma_max=1.0)
    out = sample(kind, denoise, np.ones(3), sigmas, lambda: np.ones(3))
    np.testing.assert_allclose(out, last[0], atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "exponential", "karras"])
def test_schedules_fall_from_max_to_min_then_zero(kind):
    sigmas = sigma_schedule(kind, n_steps=9, sigma_min=0.05, sigma_max=1.0)
    assert len(sigmas) == 10
    assert sigmas[0] == pytest.approx(1.0)
    assert sigmas[-2] == pytest.approx(0.05)
    assert sigmas[-1] == 0.0
    assert (np.diff(sigmas) < 0).all()


def test_exponential_schedule_is_the_published_one():
    sigmas = sigma_schedule("exponential", n_steps=3, sigma_min=0.05, sigma_max=1.0)
    np.testing.assert_allclose(sigmas, [1.0, 0.2236, 0.05, 0.0], atol=1e-4)


def test_one_step_is_one_denoising_from_sigma_max():
    sigmas = sigma_schedule("karras", n_steps=1, sigma_min=0.05, sigma_max=1.0)
    out = sample("euler", gaussian_denoiser, np.array([0.7]), sigmas)
    np.testing.assert_allclose(out, gaussian_denoiser(0.7, 1.0))


def test_bad_requests_name_what_exists():
    with pytest.raises(VddError, match="known: euler, heun"):
        sample("rk45", gaussian_denoiser, np.zeros(1), [1.0, 0.0])
    with pytest.raises(VddError, match="pass noise="):
        sample("euler_ancestral", gaussian_denoiser, np.zeros(1), [1.0, 0.0])
    with pytest.raises(VddError, match="expected 0 < min <= max"):
        sigma_schedule("linear", n_steps=2, sigma_min=1.0, sigma_max=0.1)
