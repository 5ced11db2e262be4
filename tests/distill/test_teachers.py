"""Denoisers and samplers against Gaussians, whose every moment is known."""

from __future__ import annotations

import pytest
import torch

from tests.distill.toys import ring_teacher
from vdd_ros.core.errors import VddError
from vdd_ros.distill.denoisers import sample_actions, score
from vdd_ros.distill.networks.normalization import Affine
from vdd_ros.distill.teachers.analytic import AnalyticTeacher
from vdd_ros.distill.teachers.edm import EdmTeacher
from vdd_ros.distill.teachers.settings import TeacherSettings
from vdd_ros.distill.training.augmentation import NoiseSettings, ObservationNoise

SMALL = {"width": 16, "depth": 2, "n_heads": 2, "n_obs_steps": 3, "horizon": 2}


def small_teacher(**settings) -> EdmTeacher:
    teacher = EdmTeacher(
        TeacherSettings(**(SMALL | settings)), dim_obs=4, dim_act=2, sigma_data=0.8
    )
    for parameter in teacher.parameters():  # a network that has left its zero output
        torch.nn.init.normal_(parameter, std=0.3)
    return teacher.eval()


def test_analytic_score_is_the_gradient_of_the_blurred_density():
    teacher = ring_teacher(5)
    obs, sigma = torch.zeros(20, 1, 1), torch.linspace(0.05, 2, 20)
    x = (2 * torch.randn(20, 1, 2)).requires_grad_()
    blurred = teacher.blurred(sigma, obs)
    (gradient,) = torch.autograd.grad(blurred.log_prob(x.flatten(1)[:, None]).sum(), x)
    torch.testing.assert_close(score(teacher, x.detach(), sigma, obs), gradient)


def test_analytic_denoiser_of_one_gaussian_is_linear_regression():
    """For N(m, s^2) the clean mean given x is m + s^2 / (s^2 + sigma^2) (x - m)."""
    teacher = AnalyticTeacher(torch.ones(1), torch.full((1, 1, 1), 3.0), torch.eye(1)[None] * 0.25)
    x, sigma = torch.randn(7, 1, 1), torch.full((7,), 0.5)
    wanted = 3.0 + 0.25 / (0.25 + 0.25) * (x - 3.0)
    torch.testing.assert_close(teacher.denoise(x, sigma, torch.zeros(7, 1, 1)), wanted)


@pytest.mark.parametrize("backbone", ["mlp", "transformer"])
def test_without_noise_the_denoiser_returns_its_input(backbone):
    """c_skip(0) = 1 and c_out(0) = 0, whatever the network says (Karras et al., table 1)."""
    teacher = small_teacher(backbone=backbone)
    x, obs = torch.randn(5, 2, 2), torch.randn(5, 3, 4)
    torch.testing.assert_close(teacher.denoise(x, torch.full((5,), 1e-6), obs), x)
    assert (teacher.denoise(x, torch.full((5,), 0.5), obs) - x).abs().max() > 0.01


def test_an_edm_denoiser_is_table_1_around_its_network():
    """Karras et al. (2022): c_skip, c_out, c_in, and log sigma / 4 as BESO tells it."""
    teacher = small_teacher()
    x, obs, data = torch.randn(9, 2, 2), torch.randn(9, 3, 4), 0.8
    sigma = torch.logspace(-1.5, 0.3, 9)
    wide = sigma[:, None, None]
    total = wide**2 + data**2
    raw = teacher.network(x / total.sqrt(), sigma.log()[:, None] / 4, obs)
    wanted = data**2 / total * x + wide * data / total.sqrt() * raw
    torch.testing.assert_close(teacher.denoise(x, sigma, obs), wanted)


@pytest.mark.parametrize("backbone", ["mlp", "transformer"])
def test_one_sigma_may_stand_for_the_whole_batch(backbone):
    teacher = small_teacher(backbone=backbone)
    x, obs = torch.randn(5, 2, 2), torch.randn(5, 3, 4)
    torch.testing.assert_close(
        teacher.denoise(x, torch.tensor([0.3]), obs),
        teacher.denoise(x, torch.full((5,), 0.3), obs),
    )


def test_a_fresh_network_regresses_targets_of_unit_variance():
    """EDM's point: with F = 0 the loss is the target's mean square, 1, at every sigma."""
    teacher = EdmTeacher(TeacherSettings(), dim_obs=2, dim_act=3, sigma_data=0.7)
    action = 0.7 * torch.randn(50_000, 1, 3)
    for level in (0.02, 0.2, 2.0):
        loss = teacher.loss(
            action,
            torch.zeros(50_000, 1, 2),
            torch.full((50_000,), level),
            torch.randn_like(action),
        )
        assert loss.item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("density", ["loguniform", "loglogistic"])
def test_training_sigmas_stay_in_their_range_and_follow_their_density(density):
    settings = TeacherSettings(sigma_min=0.1, sigma_max=3.0, sigma_density=density)
    teacher = EdmTeacher(settings, dim_obs=1, dim_act=1, sigma_data=0.5)
    sigma = teacher.draw_sigma(100_000)
    assert sigma.min() >= 0.0999
    assert sigma.max() <= 3.001
    if density == "loguniform":
        median = (0.1 * 3.0) ** 0.5
    else:  # the truncated distribution's, from its cumulative distribution function
        cdf = [1 / (1 + (level / 0.5) ** -2) for level in (0.1, 3.0)]
        half = sum(cdf) / 2
        median = 0.5 * (half / (1 - half)) ** 0.5
    assert float(sigma.median()) == pytest.approx(median, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "n_steps", "error"),
    [("euler", 200, 0.02), ("ddim", 200, 0.02), ("heun", 40, 0.008), ("dpmpp_2m", 40, 0.008)],
)
def test_samplers_reproduce_a_gaussians_moments_in_torch(kind, n_steps, error):
    """A Gaussian's denoiser is linear, so its sampler is: three inputs give mean and covariance.

    Starting at sigma = 80 instead of infinity alone leaves sqrt(.3) / 80 = .007 of the mean.
    """
    covariance = torch.tensor([[[0.30, 0.12], [0.12, 0.20]]])
    mean = torch.tensor([[[1.0, -0.5]]])
    teacher = AnalyticTeacher(torch.ones(1), mean, covariance)
    origin_and_axes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[:, None]
    ends = sample_actions(
        teacher, torch.zeros(3, 1, 1), origin_and_axes, n_steps=n_steps, sigma_min=0.002,
        sigma_max=80.0, kind=kind, schedule="karras",
    )[:, 0]  # fmt: skip
    slope = (ends[1:] - ends[0]).T
    torch.testing.assert_close(ends[0], mean[0, 0], atol=error, rtol=0)
    torch.testing.assert_close(slope @ slope.T, covariance[0], atol=error, rtol=0)


def test_ancestral_sampling_reproduces_a_gaussians_moments():
    teacher = AnalyticTeacher(torch.ones(1), torch.ones(1, 1, 1), 0.25 * torch.ones(1, 1, 1))
    drawn = sample_actions(
        teacher, torch.zeros(5000, 1, 1), torch.randn(5000, 1, 1), n_steps=200, sigma_min=0.005,
        sigma_max=10.0, kind="euler_ancestral", schedule="karras",
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert float(drawn.mean()) == pytest.approx(1.0, abs=0.03)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.03)


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"sigma_min": 2.0, "sigma_max": 1.0}, {"n_iters": 0}, {"ema_decay": 1.0}):
        with pytest.raises(VddError, match="expected"):
            TeacherSettings(**wrong)


def test_observation_noise_is_undone_in_raw_units():
    """An action corrected in full ends where the unperturbed one would have ended."""
    observation, action = Affine(4), Affine(2)
    observation.scale.copy_(torch.tensor([0.5, 2.0, 0.5, 2.0]))
    action.scale.copy_(torch.tensor([0.01, 0.02]))
    settings = NoiseSettings(std=0.1, correction=1.0, relative_obs=(0, 1), tied=(0, 1, 0, 1))
    obs, chunk = torch.randn(500, 3, 4), torch.randn(500, 5, 2, 2)
    noisy, corrected = ObservationNoise(settings, observation, action)(obs, chunk)
    raw = observation.unnormalize(noisy) - observation.unnormalize(obs)
    torch.testing.assert_close(raw[..., :2], raw[..., 2:], atol=1e-5, rtol=0)
    assert (noisy - obs)[..., 0].std() == pytest.approx(0.1, rel=0.1)
    undone = action.unnormalize(corrected) - action.unnormalize(chunk)
    torch.testing.assert_close(undone[:, 0, 0], -raw[:, -1, :2], atol=1e-5, rtol=0)
    assert torch.equal(corrected[:, :, 1], chunk[:, :, 1])


def test_noise_settings_name_what_is_missing():
    with pytest.raises(VddError, match="relative_obs"):
        NoiseSettings(std=0.1, correction=0.5)
    with pytest.raises(VddError, match="one per observation component"):
        ObservationNoise(NoiseSettings(std=0.1, tied=(0,)), Affine(2), Affine(1))
