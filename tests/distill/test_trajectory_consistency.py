"""Consistency Trajectory Model against a teacher whose trajectories are known in closed form."""

from __future__ import annotations

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
from vdd_ros.distill.methods.jumps import take_over
from vdd_ros.distill.methods.mixture_training import DistillSettings
from vdd_ros.distill.methods.rival_settings import TrajectorySettings
from vdd_ros.distill.methods.trajectory_consistency import TrajectoryModel, TrajectoryTraining
from vdd_ros.distill.teachers.edm import EdmTeacher, TeacherSettings


def toy_model() -> TrajectoryModel:
    return TrajectoryModel(jump_shape(2), dim_obs=1, dim_act=2, sigma_data=0.7)


def toy_training(model: TrajectoryModel, **options) -> TrajectoryTraining:
    settings = {"n_iters": 300, "batch_size": 256, "warm_start_iters": 0}
    fine = {"n_scales": 10, "solver": "heun", "learning_rate": 3e-3}
    options = fine | {"target_decay": 0.0, "end_share": 0.0} | options
    own = {k: options.pop(k) for k in list(options) if k in TrajectorySettings.__annotations__}
    given = DistillSettings(**(settings | options), trajectory=TrajectorySettings(**own))
    return TrajectoryTraining(model, given, gaussian_targets(), teacher=GaussianTeacher())


class Exact(torch.nn.Module):
    """A model that needs no training: the closed form in place of G."""

    sigma_min = SIGMA_MIN
    jump = staticmethod(GaussianTeacher().flow)


def test_a_jump_to_where_it_starts_does_not_move():
    """G(x, t, t) = x to the bit, at 0, at sigma_min, anywhere; whatever the network says."""
    model = toy_model()
    scramble(model)
    x, obs = torch.randn(4, 1, 2), torch.randn(4, 1, 1)
    t = torch.tensor([0.0, SIGMA_MIN, 0.3, SIGMA_MAX])
    assert torch.equal(model.jump(x, t, t, obs), x)
    moved = model.jump(x[1:], t[1:], t[:-1], obs[1:]) - x[1:]
    assert moved.abs().amin() > 1e-4


def test_acting_is_the_jump_to_zero():
    """One sigma for the whole batch and one per row give the same."""
    model = toy_model()
    scramble(model)
    x, obs = torch.randn(5, 1, 2), torch.randn(5, 1, 1)
    sigma = torch.full((5,), SIGMA_MAX)
    acted = model.denoise(x, sigma, obs)
    torch.testing.assert_close(acted, model.jump(x, sigma, torch.zeros(5), obs))
    torch.testing.assert_close(acted, model.denoise(x, sigma[:1], obs))


def test_jumps_learn_the_whole_trajectory():
    """To the end and to levels in between: error below .08, untrained above three times that."""
    model, teacher = toy_model(), GaussianTeacher()
    x, obs = noisy_actions(2000)
    start = torch.full((len(x),), SIGMA_MAX)
    stop = torch.where(torch.arange(len(x)) % 2 == 0, 0.0, 0.5)
    wanted = teacher.flow(x, start, stop, obs)

    @torch.no_grad()
    def error(of) -> torch.Tensor:
        wrong = (of.jump(x, start, stop, obs) - wanted).square().mean((1, 2))
        return torch.stack([wrong[::2].mean(), wrong[1::2].mean()]).sqrt()

    untrained = error(model)
    trained = error(run(toy_training(model, ema_decay=0.98)).acting())
    assert (untrained > 0.24).all()
    assert (trained < 0.08).all()


@pytest.mark.parametrize("max_steps", [1, 3])
def test_the_loss_of_the_exact_trajectory_is_that_of_the_solver_alone(max_steps):
    """With the closed form for G, what is left are Heun's errors; with another G, more."""
    model = toy_model()
    training = toy_training(model, max_steps=max_steps, n_scales=40)
    targets = gaussian_targets(2000)
    index = torch.randint(40, (2000,))
    x = targets.action[:, 0] + training.sigmas[index][:, None, None] * torch.randn(2000, 1, 2)
    untrained = float(training.trajectory_loss(x, index, targets.obs).detach())
    training.model = training._target.shadow = Exact()  # type: ignore[assignment]
    exact = float(training.trajectory_loss(x, index, targets.obs))
    assert exact < 2e-3
    assert untrained > 10 * exact


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_pairs_jumps_to_the_end(share):
    """That many rows jump to 0 at once, the others as evenly as ever; none jumps upwards."""
    model = toy_model()
    training = toy_training(model, end_share=share)
    targets, stops, starts = gaussian_targets(2000), [], []
    jump = model.jump

    def recording(x, start, stop, obs):
        starts.append(start)
        stops.append(stop)
        return jump(x, start, stop, obs)

    model.jump = recording  # type: ignore[method-assign]
    index = torch.zeros(2000, dtype=torch.long)
    x = targets.action[:, 0] + SIGMA_MAX * torch.randn(2000, 1, 2)
    training.trajectory_loss(x, index, targets.obs)
    (stop,), (start,) = stops, starts
    # Ten levels are left after the solver's step, 0 among them.
    wanted = share + (1 - share) / 10
    assert float((stop == 0).float().mean()) == pytest.approx(wanted, abs=0.03)
    assert len(stop.unique()) == (1 if share == 1 else 10)
    assert (stop < start).all()


def test_only_the_first_jump_learns():
    """The outer jump and the target are constants: one network's gradient, none of the copy's."""
    model = toy_model()
    scramble(model)
    training = toy_training(model, denoising_weight=0.0)
    targets = gaussian_targets(64)
    losses = training.losses(targets.action[:, 0], targets.obs)
    assert set(losses) == {"loss"}
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    fixed = training._target.shadow
    assert all(p.grad is None for p in fixed.parameters())
    assert torch.equal(fixed.network.mlp.lift.weight, model.network.mlp.lift.weight)


def test_targets_are_the_present_weights_unless_averaged():
    """Decay 0: after a step the copy is the model. Decay .9: it follows, slowly."""
    for decay, follows in ((0.0, 1.0), (0.9, 0.1)):
        model = toy_model()
        training = toy_training(model, target_decay=decay, batch_size=16)
        for iteration in range(81):  # where the average's warm-up ends
            training.step(iteration)
        copy = training._target.shadow.network.mlp.lift.bias.clone()
        before = model.network.mlp.lift.bias.detach().clone()
        training.step(81)
        after = model.network.mlp.lift.bias.detach()
        wanted = copy + follows * (after - copy)
        torch.testing.assert_close(training._target.shadow.network.mlp.lift.bias, wanted)
        assert not torch.equal(after, before)


def test_the_denoising_loss_is_the_teachers_own():
    """Started as an EDM teacher, g(x, t, t) is its denoiser and the loss is EDM's."""
    settings = TeacherSettings(width=48, depth=2, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
    teacher = EdmTeacher(settings, dim_obs=1, dim_act=2, sigma_data=0.7)
    scramble(teacher.network)
    model = toy_model()
    take_over(model.network, teacher.network, model.shape.network)
    targets, noise = gaussian_targets(50), torch.randn(50, 1, 2)
    sigma = torch.linspace(SIGMA_MIN, SIGMA_MAX, 50)
    x = targets.action[:, 0] + sigma[:, None, None] * noise
    found = toy_training(model).denoising_loss(targets.action[:, 0], x, sigma, targets.obs)
    wanted = teacher.loss(targets.action[:, 0], targets.obs, sigma, noise)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        model.denoise(x, sigma, targets.obs), teacher.denoise(x, sigma, targets.obs)
    )


@pytest.mark.parametrize(("wrong", "message"), [
    ({"n_scales": 1}, "trajectory.n_scales: got 1, expected at least 2"),
    ({"max_steps": 0}, "trajectory.max_steps: got 0, expected at least 1"),
    ({"denoising_weight": -1.0}, "trajectory.denoising_weight: got -1.0, expected 0 or more"),
    ({"target_decay": -0.1}, "trajectory.target_decay: got -0.1"),
    ({"end_share": 1.5}, "trajectory.end_share: got 1.5, expected a share between 0 and 1"),
])  # fmt: skip
def test_a_bad_setting_is_named(wrong, message):
    with pytest.raises(VddError, match=message):
        TrajectorySettings(**wrong)
