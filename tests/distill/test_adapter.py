"""The score adapter against closed forms: every prediction of a Gaussian mixture is known."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from vdd_ros.distill.denoisers import score
from vdd_ros.distill.teachers.adapter import (
    PREDICTIONS,
    alpha_bar_from_sigma,
    coefficients,
    denoised_from,
    regression_target,
    score_from_vp_score,
    sigma_from_alpha_bar,
)
from vdd_ros.distill.teachers.analytic import AnalyticTeacher
from vdd_ros.distill.teachers.ddpm import ddpm_sigmas
from vdd_ros.distill.teachers.settings import TeacherSettings

SIGMAS = (0.05, 0.31, 1.0, 5.0, 80.0)
DATA = 0.7
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[1.0, -0.5], [-1.2, 0.3], [0.1, 1.4]], dtype=torch.float64)
COVARIANCE = torch.stack(
    [torch.tensor([[0.10, 0.03], [0.03, 0.05]], dtype=torch.float64) * k for k in (1, 2, 0.5)]
)


def analytic() -> AnalyticTeacher:
    return AnalyticTeacher(WEIGHTS, MEANS[:, None], COVARIANCE)


def score_of(scale: float, noise: float, at: torch.Tensor) -> torch.Tensor:
    """Score of ``scale a + noise eps`` at [B, 2], by differentiating torch's own density."""
    at = at.detach().requires_grad_()
    eye = torch.eye(2, dtype=torch.float64)
    density = MixtureSameFamily(
        Categorical(WEIGHTS),
        MultivariateNormal(scale * MEANS, scale**2 * COVARIANCE + noise**2 * eye),
    )
    return torch.autograd.grad(density.log_prob(at).sum(), at)[0]


def exact_output(prediction: str, x: torch.Tensor, sigma: float) -> torch.Tensor:
    """What a perfect network of each kind puts out at its own input, from its own density."""
    if prediction == "edm":  # Karras et al. (2022), table 1, around the exact mean
        clean = x + sigma**2 * score_of(1.0, sigma, x)
        total = sigma**2 + DATA**2
        return (clean - DATA**2 / total * x) / (sigma * DATA / total**0.5)
    if prediction == "flow":
        tau = sigma / (1 + sigma)
        inside = (1 - tau) * x
        noise = -tau * score_of(1 - tau, tau, inside)
        return noise - (inside - tau * noise) / (1 - tau)
    keep = 1 / (1 + sigma**2)
    inside = keep**0.5 * x
    noise = -((1 - keep) ** 0.5) * score_of(keep**0.5, (1 - keep) ** 0.5, inside)
    clean = (inside - (1 - keep) ** 0.5 * noise) / keep**0.5
    return {"epsilon": noise, "x0": clean, "v": keep**0.5 * noise - (1 - keep) ** 0.5 * clean}[
        prediction
    ]


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_prediction_gives_the_exact_score_in_our_coordinates(prediction, sigma):
    teacher, obs = analytic(), torch.zeros(64, 1, 1, dtype=torch.float64)
    x = (1 + sigma) * torch.randn(64, 1, 2, dtype=torch.float64)
    level = torch.full((64,), sigma, dtype=torch.float64)
    output = exact_output(prediction, x[:, 0], sigma)[:, None]
    clean = denoised_from(prediction, output, x, level, DATA)
    torch.testing.assert_close(clean, teacher.denoise(x, level, obs), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        (clean - x) / sigma**2, score(teacher, x, level, obs), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_regression_target_is_the_papers(prediction):
    action, noise = torch.randn(2, 50, 3, 2, dtype=torch.float64).unbind()
    sigma = torch.logspace(-2, 2, 50, dtype=torch.float64)
    wide = sigma[:, None, None]
    keep = 1 / (1 + wide**2)
    total = wide**2 + DATA**2
    wanted = {
        "epsilon": noise,
        "x0": action,
        "v": keep.sqrt() * noise - (1 - keep).sqrt() * action,
        "flow": noise - action,
        "edm": (action - DATA**2 / total * (action + wide * noise)) * total.sqrt() / (wide * DATA),
    }[prediction]
    target = regression_target(prediction, action, noise, sigma, DATA)
    torch.testing.assert_close(target, wanted, rtol=1e-9, atol=1e-9)
    x = action + wide * noise
    torch.testing.assert_close(
        denoised_from(prediction, target, x, sigma, DATA), action, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_weight_turns_an_error_of_the_action_into_one_of_the_network(prediction):
    sigma = torch.logspace(-2, 2, 20, dtype=torch.float64)
    c = coefficients(prediction, sigma, DATA)
    torch.testing.assert_close(c.weight * c.out**2, torch.ones_like(sigma))


def test_levels_and_vp_scores_change_coordinates_by_the_chain_rule():
    alpha_bar = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    sigma = sigma_from_alpha_bar(alpha_bar)
    torch.testing.assert_close(alpha_bar_from_sigma(sigma), alpha_bar)
    x = torch.randn(50, 1, 2, dtype=torch.float64)
    for keep, level, point in zip(alpha_bar, sigma, x, strict=True):
        vp = score_of(float(keep.sqrt()), float((1 - keep).sqrt()), keep.sqrt() * point)
        ve = score_of(1.0, float(level), point)
        torch.testing.assert_close(score_from_vp_score(vp[None], level[None])[0], ve)


@pytest.mark.parametrize(("n_steps", "step"), [(8, 4), (16, 4), (16, 6)])
def test_the_published_vp_score_shrinks_means_and_ours_does_not(n_steps, step):
    """Where the score of a Gaussian is zero is where distillation puts an expert's mean.

    The published code takes -eps(a, t) / sqrt(1 - abar) at the action itself. That network
    expects sqrt(abar) a: its zero lies at sqrt(abar) times the mean. The exact eps of N(m, s^2)
    is sqrt(1 - abar) (x - sqrt(abar) m) / (abar s^2 + 1 - abar).
    """
    mean, variance = 1.3, 0.01
    sigma = ddpm_sigmas(TeacherSettings(family="ddpm", n_diffusion_steps=n_steps))[step - 1]
    keep = 1 / (1 + sigma**2)

    def epsilon(inside: torch.Tensor) -> torch.Tensor:
        return (1 - keep) ** 0.5 * (inside - keep**0.5 * mean) / (keep * variance + 1 - keep)

    level = torch.tensor([sigma], dtype=torch.float64)

    def published(a: torch.Tensor) -> torch.Tensor:
        return -epsilon(a) / (1 - keep) ** 0.5

    def ours(a: torch.Tensor) -> torch.Tensor:
        return (denoised_from("epsilon", epsilon(keep**0.5 * a), a, level) - a) / sigma**2

    ends = []
    for rule in (published, ours):
        a = torch.zeros(1, 1, 1, dtype=torch.float64)
        for _ in range(400):
            a = a + 0.05 * rule(a)
        ends.append(float(a))
    assert ends[0] == pytest.approx(keep**0.5 * mean, abs=1e-6)
    assert ends[0] < 0.93 * mean
    assert ends[1] == pytest.approx(mean, abs=1e-6)
