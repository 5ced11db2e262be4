"""DDPM and flow teachers: levels, what happens at and between them, and that they learn."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from vdd_ros.core.errors import VddError
from vdd_ros.core.schedules import sigma_schedule
from vdd_ros.distill.denoisers import Teacher, sample_actions, score
from vdd_ros.distill.teachers.adapter import PREDICTIONS, sigma_from_alpha_bar
from vdd_ros.distill.teachers.analytic import AnalyticTeacher
from vdd_ros.distill.teachers.base import DenoisingTeacher, measured_action_box
from vdd_ros.distill.teachers.ddpm import ddpm_betas, ddpm_sigmas
from vdd_ros.distill.teachers.family import make_teacher
from vdd_ros.distill.teachers.settings import TeacherSettings
from vdd_ros.distill.teachers.training import TeacherTraining
from vdd_ros.distill.training.targets import Targets

BOX = torch.tensor([[-2.0, -1.0], [2.0, 1.0]])


def make(**settings) -> DenoisingTeacher:
    """A DDPM teacher (by default) whose network has left its zero output."""
    chosen = TeacherSettings(**({"family": "ddpm", "width": 16, "depth": 2} | settings))
    teacher = make_teacher(chosen, dim_obs=3, dim_act=2, action_box=BOX)
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return teacher.eval()


@pytest.mark.parametrize("n_steps", [8, 16, 64, 100])
def test_cosine_levels_are_those_of_diffusers(n_steps):
    theirs = diffusers.DDPMScheduler(n_steps, beta_schedule="squaredcos_cap_v2")
    settings = TeacherSettings(family="ddpm", n_diffusion_steps=n_steps)
    np.testing.assert_allclose(ddpm_betas(settings), theirs.betas.numpy(), atol=1e-6)
    # In float64, since their float32 products lose the digits of the last levels.
    alpha_bar = torch.cumprod(1 - theirs.betas.double(), 0)
    wanted = sigma_from_alpha_bar(alpha_bar).numpy()
    np.testing.assert_allclose(ddpm_sigmas(settings), wanted, rtol=1e-4)


def test_linear_levels_are_those_of_diffusers_and_respaced_where_they_are_fewer():
    settings = TeacherSettings(family="ddpm", n_diffusion_steps=1000, betas="linear")
    theirs = diffusers.DDPMScheduler(1000, beta_schedule="linear")
    np.testing.assert_allclose(ddpm_betas(settings), theirs.betas.numpy(), rtol=1e-4)
    for n_steps in (8, 100):
        few = TeacherSettings(family="ddpm", n_diffusion_steps=n_steps, betas="linear")
        every = ddpm_sigmas(settings)[1000 // n_steps - 1 :: 1000 // n_steps]
        np.testing.assert_allclose(ddpm_sigmas(few), every, rtol=1e-9)
    own = TeacherSettings(
        family="ddpm", n_diffusion_steps=4, betas="linear", beta_start=0.1, beta_end=0.9
    )
    np.testing.assert_allclose(ddpm_betas(own), [0.1, 0.1 + 0.8 / 3, 0.1 + 1.6 / 3, 0.9])


def test_levels_that_never_reach_noise_are_refused():
    """Unscaled, the betas of 1000 steps leave 16 steps at sigma .42: nothing to start from."""
    settings = TeacherSettings(
        family="ddpm", n_diffusion_steps=16, betas="linear", beta_start=1e-4, beta_end=0.02
    )
    with pytest.raises(
        VddError, match=r"after 16 steps the noise is only 0\.42 .* raise beta_end"
    ):
        make_teacher(settings, dim_obs=1, dim_act=1)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("n_steps", [8, 100])
def test_at_a_trained_level_the_denoiser_is_the_papers_formula(n_steps, prediction):
    """Ask the network itself for (sqrt(abar) x, t) and turn its answer as the papers do."""
    teacher = make(n_diffusion_steps=n_steps, prediction=prediction, clip_denoised=False)
    assert isinstance(teacher, Teacher)
    levels = torch.tensor(teacher.schedule)
    x = (1 + levels[:, None, None]) * torch.randn(n_steps, 1, 2)
    obs = torch.randn(n_steps, 1, 3)
    time = torch.arange(1, n_steps + 1) / (2 * n_steps)
    torch.testing.assert_close(teacher.level(levels), time)
    keep = torch.cumprod(1 - torch.tensor(ddpm_betas(teacher.settings)), 0)[:, None, None].float()
    inside = keep.sqrt() * x
    raw = teacher.network(inside, time[:, None], obs)
    clean = {
        "epsilon": (inside - (1 - keep).sqrt() * raw) / keep.sqrt(),
        "x0": raw,
        "v": keep.sqrt() * inside - (1 - keep).sqrt() * raw,
    }[prediction]
    torch.testing.assert_close(teacher.denoise(x, levels, obs), clean, rtol=1e-4, atol=2e-3)


def test_between_levels_the_time_rises_smoothly_and_stops_at_the_ends():
    teacher = make(n_diffusion_steps=8)
    sigma = torch.logspace(-2, 4, 400)
    time = teacher.level(sigma) * 2 * 8
    assert (time.diff() >= -1e-6).all()
    assert time.diff().max() < 0.2
    assert time[0] == 1.0
    assert time[-1] == 8.0


def test_below_the_first_level_the_score_is_that_of_the_first_level():
    teacher = make()
    x, obs = torch.randn(4, 1, 2), torch.randn(4, 1, 3)
    first = torch.full((4,), teacher.sigma_min)
    wanted = score(teacher, x, first, obs)
    for share in (0.9, 0.3, 0.05):
        torch.testing.assert_close(
            score(teacher, x, share * first, obs), wanted, rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("family", ["ddpm", "flow", "edm"])
def test_clipped_answers_stay_in_the_box_and_others_are_untouched(family):
    free, clipped = make(family=family, clip_denoised=False), make(family=family)
    clipped = make(family=family, clip_denoised=True)
    clipped.load_state_dict(free.state_dict() | {"action_box": BOX})
    x, obs = 2 * torch.randn(300, 1, 2), torch.randn(300, 1, 3)
    sigma = torch.linspace(0.2, 2.0, 300)
    inside = clipped.denoise(x, sigma, obs)
    plain = free.denoise(x, sigma, obs)
    assert ((inside >= BOX[0] - 1e-5) & (inside <= BOX[1] + 1e-5)).all()
    fits = ((plain >= BOX[0]) & (plain <= BOX[1])).all(-1)
    assert 0 < fits.sum() < 300
    torch.testing.assert_close(inside[fits], plain[fits])


def test_the_action_box_is_the_data_and_a_tenth():
    action = torch.tensor([[0.0, 5.0], [10.0, 5.0]])[:, None, None]
    torch.testing.assert_close(
        measured_action_box(action), torch.tensor([[-0.5, 5.0], [10.5, 5.0]])
    )


def test_training_draws_every_level_alike():
    teacher = make(n_diffusion_steps=8)
    drawn = teacher.draw_sigma(80_000)
    counts = (drawn[:, None] == torch.tensor(teacher.schedule)).sum(0)
    assert counts.sum() == 80_000
    assert (counts - 10_000).abs().max() < 500


def test_loglogistic_sigmas_are_the_flows_uniform_time():
    teacher = make(
        family="flow", sigma_min=1e-3, sigma_max=1e3, sigma_density="loglogistic",
        sigma_spread=1.0,
    )  # fmt: skip
    sigma = teacher.draw_sigma(50_000)
    time = (sigma / (1 + sigma)).sort().values
    torch.testing.assert_close(time, torch.linspace(0, 1, 50_000), atol=0.015, rtol=0)


@pytest.mark.parametrize(
    ("family", "prediction"), [("ddpm", "epsilon"), ("ddpm", "x0"), ("ddpm", "v"), ("flow", "")]
)
def test_every_family_learns_the_denoiser_of_a_gaussian(family, prediction):
    """After a few hundred steps D is near the closed form at, between and below the levels."""
    extra = {"prediction": prediction, "n_diffusion_steps": 8} if family == "ddpm" else {}
    settings = TeacherSettings(
        family=family, width=64, depth=2, n_iters=400, batch_size=256, learning_rate=3e-3,
        ema_decay=0.98, **extra,
    )  # fmt: skip
    mean, std = torch.tensor([0.8, -0.4]), torch.tensor([0.3, 0.6])
    action = (mean + std * torch.randn(4096, 2))[:, None, None]
    teacher = make_teacher(settings, dim_obs=1, dim_act=2, action_box=measured_action_box(action))
    training = TeacherTraining(teacher, Targets(torch.zeros(4096, 1, 1), action))
    for iteration in range(settings.n_iters):
        training.step(iteration)
    learnt = training.acting()
    truth = AnalyticTeacher(torch.ones(1), mean.view(1, 1, 2), torch.diag(std**2)[None])
    for level in (0.25, 0.42, 0.55, 1.0, 1.8):  # T = 8 has levels .21, .42, .68, 1.01, 1.51
        sigma, obs = torch.full((500,), level), torch.zeros(500, 1, 1)
        x = action[:500, 0] + level * torch.randn(500, 1, 2)
        error = learnt(x, sigma, obs) - truth.denoise(x, sigma, obs)
        # A network that puts out the action itself has to repeat its input where noise is small.
        slack = 0.04 if prediction == "x0" else 0.02
        assert error.square().mean().sqrt() < 0.12 * level / (1 + level**2) ** 0.5 + slack
    drawn = sample_actions(
        learnt, torch.zeros(2000, 1, 1), torch.randn(2000, 1, 2), n_steps=16,
        sigma_min=learnt.sigma_min, sigma_max=learnt.sigma_max, schedule=learnt.schedule,
    )[:, 0]  # fmt: skip
    # A flow that starts at sigma 2 has not forgotten the mean; DDPM starts from noise alone.
    slack = 0.1 if family == "ddpm" else 0.3
    torch.testing.assert_close(drawn.mean(0), mean, atol=slack, rtol=0)


def test_a_grid_schedule_takes_the_levels_themselves():
    grid = make(n_diffusion_steps=16).schedule
    ends = {"sigma_min": min(grid), "sigma_max": max(grid)}
    whole = sigma_schedule(grid, n_steps=16, **ends)
    np.testing.assert_array_equal(whole, [*sorted(grid, reverse=True), 0.0])
    for n_steps in (1, 4, 5, 11):
        some = sigma_schedule(grid, n_steps=n_steps, **ends)
        assert len(some) == n_steps + 1
        assert set(some[:-1]) <= set(grid)
        assert some[0] == max(grid)
        assert n_steps == 1 or some[-2] == min(grid)
    more = sigma_schedule(grid, n_steps=40, **ends)
    assert len(more) == 41
    assert (np.diff(more) < 0).all()
    within = sigma_schedule(grid, n_steps=3, sigma_min=0.2, sigma_max=1.0)
    assert set(within[:-1]) <= {level for level in grid if 0.2 <= level <= 1.0}
    with pytest.raises(VddError, match="a grid of 16 levels with none from"):
        sigma_schedule(grid, n_steps=3, sigma_min=1e-4, sigma_max=1e-3)


def test_flow_schedule_takes_equal_steps_in_time():
    sigmas = sigma_schedule("flow", n_steps=9, sigma_min=0.05, sigma_max=20.0)
    time = sigmas[:-1] / (1 + sigmas[:-1])
    np.testing.assert_allclose(np.diff(time), np.diff(time)[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"family": "ddpm", "sigma_max": 5.0}, "sigma_max: got 5.0, which family 'ddpm' does not"),
        ({"family": "ddpm", "schedule": "karras"}, "schedule: got 'karras'"),
        ({"prediction": "v"}, "prediction: got 'v', which family 'edm' does not use"),
        ({"family": "flow", "n_diffusion_steps": 8}, "n_diffusion_steps: got 8"),
        ({"family": "ddpm", "n_diffusion_steps": 1}, "expected 2 to 1000"),
        ({"family": "ddpm", "betas": "linear", "beta_end": 1.5}, "expected both between 0 and 1"),
        ({"backbone": "unet", "horizon": 6}, "choose a multiple of 4"),
        ({"backbone": "unet", "horizon": 8, "down_dims": (60, 64, 64)}, "does not divide"),
        ({"backbone": "unet", "horizon": 8, "kernel_size": 4}, "odd number"),
        ({"backbone": "unet", "conditioning": "film"}, "belongs to backbones 'mlp' and 'transf"),
        ({"dim_goal": 2}, "dim_goal: got 2 with backbone 'mlp'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, message):
    with pytest.raises(VddError, match=message):
        TeacherSettings(**wrong)


def test_every_prediction_belongs_to_a_family():
    made = {make(prediction=p).prediction for p in ("epsilon", "x0", "v")}
    made |= {make(family=family).prediction for family in ("edm", "flow")}
    assert made == set(PREDICTIONS)
