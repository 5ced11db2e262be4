"""Consistency Distillation against a teacher whose trajectories are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.distill.jumps import (
    SIGMA_MAX,
    SIGMA_MIN,
    GaussianTeacher,
    gaussian_targets,
    jump_shape,
    noisy_actions,
    run,
    scramble,
)
from vdd_ros.core.errors import VddError
from vdd_ros.distill.denoisers import Teacher, sample_actions
from vdd_ros.distill.methods.consistency import ConsistencyModel, ConsistencyTraining
from vdd_ros.distill.methods.jumps import distance, take_over
from vdd_ros.distill.methods.mixture_training import DistillSettings
from vdd_ros.distill.methods.rival_settings import ConsistencySettings
from vdd_ros.distill.networks.denoising import make_denoising_network


def toy_model(**shape) -> ConsistencyModel:
    return ConsistencyModel(jump_shape(1, **shape), dim_obs=1, dim_act=2, sigma_data=0.7)


def toy_training(model: ConsistencyModel, **options) -> ConsistencyTraining:
    settings = {"n_iters": 500, "batch_size": 256, "warm_start_iters": 0}
    options = {"n_scales": 10, "solver": "heun", "learning_rate": 3e-3} | options
    own = {k: options.pop(k) for k in list(options) if k in ConsistencySettings.__annotations__}
    given = DistillSettings(**(settings | options), consistency=ConsistencySettings(**own))
    return ConsistencyTraining(model, given, gaussian_targets(), teacher=GaussianTeacher())


def test_the_end_of_a_trajectory_is_where_it_is():
    """f(x, 0) = x to the bit, whatever the network says, and not at sigma_min already."""
    model = toy_model()
    scramble(model)
    x, obs = torch.randn(9, 1, 2), torch.randn(9, 1, 1)
    assert torch.equal(model.denoise(x, torch.zeros(9), obs), x)
    moved = model.denoise(x, torch.full((9,), SIGMA_MIN), obs) - x
    assert (moved.norm(dim=-1) > 1e-3).all()


def test_one_euler_step_of_the_sampler_is_the_consistency_function():
    """Everything that runs a teacher runs the model, told to take one step."""
    model = toy_model()
    scramble(model)
    assert isinstance(model, Teacher)
    noise, obs = torch.randn(9, 1, 2), torch.randn(9, 1, 1)
    acted = sample_actions(
        model, obs, noise, n_steps=1, sigma_min=model.sigma_min, sigma_max=model.sigma_max,
        schedule=model.schedule,
    )  # fmt: skip
    wanted = model.denoise(SIGMA_MAX * noise, torch.full((9,), SIGMA_MAX), obs)
    torch.testing.assert_close(acted, wanted)


@pytest.mark.parametrize("options", [{}, {"distance": "squared"}])
def test_the_jump_learns_where_the_teachers_ode_ends(options):
    """Error below .06 of actions that spread by .5, a fifth of the untrained one's."""
    model, teacher = toy_model(), GaussianTeacher()
    x, obs = noisy_actions(2000)
    sigma = torch.full((len(x),), SIGMA_MAX)
    wanted = teacher.flow(x, sigma, torch.zeros_like(sigma), obs)

    @torch.no_grad()
    def error(of) -> float:
        return float((of.denoise(x, sigma, obs) - wanted).square().mean().sqrt())

    untrained = error(model)
    trained = error(run(toy_training(model, ema_decay=0.98, **options)).acting())
    assert untrained > 0.3
    assert trained < 0.06


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_noise_of_sigma_min_is_taken_out_by_the_teacher(solver):
    """The last pair teaches its denoiser, as its samplers end; at sigma_min noise is left."""
    model, teacher, targets = toy_model(), GaussianTeacher(), gaussian_targets(64)
    scramble(model)
    training = toy_training(model, solver=solver)
    training.draw_level = lambda batch, n: torch.full((batch,), n - 1)  # type: ignore[method-assign]
    action, sigma = targets.action[:, 0], torch.full((64,), SIGMA_MIN)
    torch.manual_seed(3)
    found = training.losses(action, targets.obs)["loss"]
    torch.manual_seed(3)
    x = action + SIGMA_MIN * torch.randn_like(action)
    wanted = teacher.denoise(x, sigma, targets.obs)
    jump = model.denoise(x, sigma, targets.obs)
    torch.testing.assert_close(found, distance("huber", jump, wanted))
    assert float(found) > 0.01


def test_the_teacher_here_is_the_analytic_one():
    """The shortcut that makes these tests fast is the denoiser it stands for."""
    teacher = GaussianTeacher()
    x, obs, sigma = torch.randn(20, 1, 2), torch.randn(20, 1, 1), 0.05 + torch.rand(20)
    wanted = super(GaussianTeacher, teacher).denoise(x, sigma, obs)
    torch.testing.assert_close(teacher.denoise(x, sigma, obs), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("solver", "order"), [("euler", 2), ("heun", 3)])
def test_a_solver_step_has_the_local_error_of_its_order(solver, order):
    """Half the step, 2^order times less error; from the teacher's own answers."""
    teacher = GaussianTeacher()
    training = toy_training(toy_model(), solver=solver)
    x, obs = torch.randn(500, 1, 2), torch.randn(500, 1, 1)
    now = torch.full((500,), 1.0)

    def error(width: float) -> float:
        then = now - width
        wanted = teacher.flow(x, now, then, obs)
        return float((training.ode_step(x, now, then, obs) - wanted).square().mean().sqrt())

    assert math.log2(error(0.2) / error(0.1)) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(("solver", "calls"), [("euler", 1), ("heun", 2)])
def test_every_question_to_the_teacher_is_counted(solver, calls):
    training = toy_training(toy_model(), solver=solver, n_iters=3, batch_size=16)
    assert run(training).teacher_queries == 3 * 16 * calls


def test_levels_run_from_sigma_max_over_sigma_min_to_zero():
    """Equation 5 of Karras et al., evaluated by hand."""
    sigmas = toy_training(toy_model(), n_scales=5).sigmas.numpy()
    ramp = np.linspace(SIGMA_MAX ** (1 / 7), SIGMA_MIN ** (1 / 7), 5) ** 7
    np.testing.assert_allclose(sigmas, [*ramp, 0.0], rtol=1e-6)


def test_the_pseudo_huber_distance_is_the_norm_with_a_round_corner():
    """Against numpy, and with a gradient of one wherever the corner is far."""
    a, b = torch.randn(7, 3, 2, requires_grad=True), torch.randn(7, 3, 2)
    corner = 0.00054 * math.sqrt(6)
    norm = np.linalg.norm((a - b).detach().numpy().reshape(7, 6), axis=1)
    wanted = (np.sqrt(norm**2 + corner**2) - corner).mean()
    found = distance("huber", a, b)
    assert found.item() == pytest.approx(wanted, rel=1e-6)
    found.backward()
    torch.testing.assert_close(7 * a.grad.flatten(1).norm(dim=1), torch.ones(7), atol=1e-4, rtol=0)
    assert distance("squared", a, b).item() == pytest.approx((norm**2).mean(), rel=1e-6)
    assert float(distance("huber", b, b)) == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("more", [
    {"backbone": "mlp"}, {"backbone": "mlp", "conditioning": "film"},
    {"backbone": "mlp", "n_frequencies": 4, "frequency_scale": 2.0},
    {"backbone": "transformer"}, {"backbone": "transformer", "n_frequencies": 4},
    {"backbone": "transformer", "n_frequencies": 4, "conditioning": "film"},
    {"backbone": "unet", "horizon": 4, "down_dims": (8, 16), "n_groups": 4, "kernel_size": 3},
    {"backbone": "unet", "horizon": 1, "down_dims": (8,), "n_groups": 4, "n_frequencies": 4},
])  # fmt: skip
def test_a_network_told_two_levels_starts_as_the_one_told_the_first(more):
    """Every backbone: the same answers, whatever the second level is; afterwards it matters."""
    one, two = (jump_shape(n, **more).network for n in (1, 2))
    teacher, network = (make_denoising_network(s, dim_obs=3, dim_act=2).eval() for s in (one, two))
    scramble(teacher)
    scramble(network)
    x, obs, level = torch.randn(6, one.horizon, 2), torch.randn(6, 1, 3), torch.randn(6, 1)
    pair = torch.cat([level, torch.randn(6, 1)], dim=-1)
    wanted = teacher(x, level, obs)
    assert (network(x, pair, obs) - wanted).abs().max() > 0.1
    take_over(network, teacher, two)
    torch.testing.assert_close(network(x, pair, obs), wanted)
    pair[:, 0] += 1.0
    assert (network(x, pair, obs) - wanted).abs().max() > 1e-3


@pytest.mark.parametrize(("wrong", "message"), [
    ({"n_scales": 1}, "consistency.n_scales: got 1, expected at least 2"),
    ({"rho": 0.0}, r"consistency.rho: got 0.0, expected a positive number"),
    ({"learning_rate": -1e-3}, r"consistency.learning_rate: got -0.001"),
    ({"target_decay": 1.0}, "consistency.target_decay: got 1.0"),
])  # fmt: skip
def test_a_bad_setting_is_named(wrong, message):
    with pytest.raises(VddError, match=message):
        ConsistencySettings(**wrong)
