"""Our samplers against those of the diffusers library, step for step, on an exact denoiser.

Theirs work in the coordinates of each model and are told its raw output; ours see VE coordinates
and a denoiser. The same noise must end in the same actions.
"""

from __future__ import annotations

import diffusers
import pytest
import torch

from tests.distill.toys import ring_teacher
from vdd_ros.core.samplers import sample
from vdd_ros.core.schedules import sigma_schedule
from vdd_ros.distill.teachers.adapter import coefficients
from vdd_ros.distill.teachers.analytic import AnalyticTeacher
from vdd_ros.distill.teachers.ddpm import ddpm_betas, ddpm_sigmas
from vdd_ros.distill.teachers.settings import TeacherSettings

# Theirs hand torch tensors to numpy in a way that its second version announces to change.
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
N = 16
PREDICTIONS = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}
RING = ring_teacher(3, radius=1.0, std=0.3)
TEACHER = AnalyticTeacher(RING.weights.double(), RING.means.double(), RING.covariance.double())
OBS = torch.zeros(12, 1, 1, dtype=torch.float64)


def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return TEACHER.denoise(x, x.new_full((len(x),), float(sigma)), OBS)


def raw_output(prediction: str, x: torch.Tensor, sigma: float) -> torch.Tensor:
    """What a perfect network of this kind puts out for x in VE coordinates."""
    c = coefficients(prediction, torch.tensor(sigma, dtype=torch.float64))
    return (denoise(x, sigma) - c.skip * x) / c.out


def levels_and_noise(betas: str, n: int = N) -> tuple[dict, list[float], torch.Tensor]:
    settings = TeacherSettings(family="ddpm", n_diffusion_steps=n, betas=betas)
    known = {"num_train_timesteps": n, "trained_betas": ddpm_betas(settings).tolist()}
    sigmas = [*ddpm_sigmas(settings)[::-1].tolist(), 0.0]
    return known, sigmas, torch.randn(len(OBS), 1, 2, dtype=torch.float64)


def vp_walk(scheduler, prediction: str, x: torch.Tensor, sigmas: list[float], **step):
    """Let a VP scheduler walk from x (VE) at the first level and return the actions."""
    x = x / (1 + sigmas[0] ** 2) ** 0.5
    for time, sigma in zip(scheduler.timesteps, sigmas[:-1], strict=True):
        output = raw_output(prediction, x * (1 + sigma**2) ** 0.5, sigma)
        x = scheduler.step(output, time, x, **step).prev_sample
    return x


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("betas", ["cosine", "linear"])
def test_ddpms_ancestral_sampler_is_our_euler_ancestral(betas, prediction):
    """In VE coordinates the posterior of DDPM (fixed_small) is that step, noise included."""
    known, sigmas, noise = levels_and_noise(betas)
    scheduler = diffusers.DDPMScheduler(
        **known, prediction_type=PREDICTIONS[prediction], variance_type="fixed_small",
        clip_sample=False,
    )  # fmt: skip
    scheduler.set_timesteps(N)
    theirs = vp_walk(
        scheduler, prediction, sigmas[0] * noise, sigmas,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    ours = sample(
        "euler_ancestral", denoise, sigmas[0] * noise, sigmas,
        lambda: torch.randn(noise.shape, generator=generator, dtype=torch.float64),
    )  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("betas", ["cosine", "linear"])
@pytest.mark.parametrize("kind", ["ddim", "euler"])
def test_ddim_without_noise_is_ours_and_euler(kind, betas, prediction):
    known, sigmas, noise = levels_and_noise(betas)
    scheduler = diffusers.DDIMScheduler(
        **known, prediction_type=PREDICTIONS[prediction], clip_sample=False
    )
    scheduler.set_timesteps(N)
    theirs = vp_walk(scheduler, prediction, sigmas[0] * noise, sigmas, eta=0.0)
    ours = sample(kind, denoise, sigmas[0] * noise, sigmas)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("betas", ["cosine", "linear"])
def test_dpm_solver_is_ours(betas, prediction):
    known, sigmas, noise = levels_and_noise(betas)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **known, prediction_type=PREDICTIONS[prediction], algorithm_type="dpmsolver++",
        solver_order=2, final_sigmas_type="zero", timestep_spacing="trailing",
    )  # fmt: skip
    scheduler.set_timesteps(N)
    theirs = vp_walk(scheduler, prediction, sigmas[0] * noise, sigmas)
    ours = sample("dpmpp_2m", denoise, sigmas[0] * noise, sigmas)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("n", [8, 64, 100])
@pytest.mark.parametrize("kind", ["euler_ancestral", "ddim", "dpmpp_2m"])
def test_the_other_published_numbers_of_levels_agree_as_well(kind, n):
    """Avoiding 8, Pushing 64, Diffusion Policy 100; cosine betas, noise predicted."""
    known, sigmas, noise = levels_and_noise("cosine", n)
    plain = {"prediction_type": "epsilon", "clip_sample": False}
    scheduler, step = {
        "euler_ancestral": lambda: (
            diffusers.DDPMScheduler(**known, **plain, variance_type="fixed_small"),
            {"generator": torch.Generator().manual_seed(1)},
        ),
        "ddim": lambda: (diffusers.DDIMScheduler(**known, **plain), {"eta": 0.0}),
        "dpmpp_2m": lambda: (
            diffusers.DPMSolverMultistepScheduler(
                **known, prediction_type="epsilon", algorithm_type="dpmsolver++", solver_order=2,
                final_sigmas_type="zero", timestep_spacing="trailing",
            ),
            {},
        ),
    }[kind]()  # fmt: skip
    scheduler.set_timesteps(n)
    theirs = vp_walk(scheduler, "epsilon", sigmas[0] * noise, sigmas, **step)
    generator = torch.Generator().manual_seed(1)
    ours = sample(
        kind, denoise, sigmas[0] * noise, sigmas,
        lambda: torch.randn(noise.shape, generator=generator, dtype=torch.float64),
    )  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("n_steps", [4, 6, N])  # these divide 15, so that theirs hit our levels
@pytest.mark.parametrize("betas", ["cosine", "linear"])
@pytest.mark.parametrize(
    ("kind", "prediction"),
    [
        ("euler", "epsilon"), ("euler", "x0"), ("euler", "v"), ("heun", "epsilon"),
        ("heun", "v"), ("euler_ancestral", "epsilon"), ("euler_ancestral", "v"),
    ],
)  # fmt: skip
def test_k_samplers_and_their_choice_of_levels_are_ours(kind, prediction, betas, n_steps):
    """Euler, Heun and Euler-ancestral in VE coordinates, over few of the levels or all."""
    known, sigmas, noise = levels_and_noise(betas)
    name = {"euler": "Euler", "heun": "Heun", "euler_ancestral": "EulerAncestral"}[kind]
    scheduler = getattr(diffusers, f"{name}DiscreteScheduler")(
        **known, prediction_type=PREDICTIONS[prediction], timestep_spacing="linspace"
    )
    scheduler.set_timesteps(n_steps)
    few = sigma_schedule(
        tuple(sigmas[:-1]), n_steps=n_steps, sigma_min=sigmas[-2], sigma_max=sigmas[0]
    )
    theirs_levels = scheduler.sigmas[torch.cat([scheduler.sigmas.diff() != 0, torch.tensor([1])])
        .bool()]  # fmt: skip
    torch.testing.assert_close(theirs_levels.double(), torch.tensor(few), rtol=1e-3, atol=1e-5)
    x = few[0] * noise
    generator = torch.Generator().manual_seed(2)
    extra = {"generator": generator} if kind == "euler_ancestral" else {}
    for time in scheduler.timesteps:
        scheduler.scale_model_input(x, time)  # counts their steps
        output = raw_output(prediction, x, float(scheduler.sigmas[scheduler.step_index]))
        x = scheduler.step(output, time, x, **extra).prev_sample
    again = torch.Generator().manual_seed(2)
    ours = sample(
        kind, denoise, few[0] * noise, few.tolist(),
        lambda: torch.randn(noise.shape, generator=again, dtype=torch.float64),
    )  # fmt: skip
    torch.testing.assert_close(ours, x, rtol=0, atol=3e-3)


def test_euler_is_the_one_for_edm_models():
    scheduler = diffusers.EDMEulerScheduler(
        sigma_min=0.02, sigma_max=5.0, sigma_data=0.5, sigma_schedule="exponential"
    )
    scheduler.set_timesteps(12)
    sigmas = sigma_schedule("exponential", n_steps=12, sigma_min=0.02, sigma_max=5.0)
    torch.testing.assert_close(
        scheduler.sigmas, torch.as_tensor(sigmas, dtype=torch.float32), rtol=1e-5, atol=1e-6
    )
    noise = torch.randn(len(OBS), 1, 2, dtype=torch.float64)
    x = noise * float(sigmas[0])
    for step, level in zip(scheduler.timesteps, sigmas[:-1], strict=True):
        c = coefficients("edm", torch.tensor(level), 0.5)
        x = scheduler.step((denoise(x, level) - c.skip * x) / c.out, step, x).prev_sample
    ours = sample("euler", denoise, noise * float(sigmas[0]), sigmas.tolist())
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)


def test_the_flows_own_euler_steps_are_ours():
    sigmas = sigma_schedule("flow", n_steps=10, sigma_min=0.05, sigma_max=20.0)
    time = sigmas / (1 + sigmas)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=time[:-1].tolist())
    noise = torch.randn(len(OBS), 1, 2, dtype=torch.float64)
    x = (1 - time[0]) * sigmas[0] * noise  # theirs walk x_tau = (1 - tau) a + tau eps
    for step, level, tau in zip(scheduler.timesteps, sigmas[:-1], time, strict=False):
        output = raw_output("flow", x / (1 - tau), float(level))
        x = scheduler.step(output, step, x).prev_sample
    ours = sample("euler", denoise, sigmas[0] * noise, sigmas.tolist())
    torch.testing.assert_close(ours, x.double(), rtol=0, atol=1e-4)
