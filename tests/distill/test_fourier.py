"""Random Fourier features: what they add, and what a small network gains from them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from vdd_ros.core.errors import VddError
from vdd_ros.distill.networks.fourier import FourierFeatures
from vdd_ros.distill.networks.mlp import Mlp
from vdd_ros.distill.student import GaussianMixtureOfExperts, StudentSettings
from vdd_ros.distill.teachers.settings import TeacherSettings


def test_without_frequencies_the_window_passes_through_and_nothing_is_stored() -> None:
    """A model that was made without them keeps its weights' names."""
    features = FourierFeatures(3, 0, scale=1.0)
    x = torch.randn(5, 3)
    assert features.dim == 3
    assert features(x) is x
    assert not features.state_dict()


def test_the_features_are_the_window_and_waves_of_unit_amplitude() -> None:
    """The input itself, then sine and cosine of the same phases, reproducible from the weights."""
    torch.manual_seed(0)
    features = FourierFeatures(3, 4, scale=2.0)
    x = torch.randn(6, 3)
    out = features(x)
    assert out.shape == (6, features.dim) == (6, 11)
    torch.testing.assert_close(out[:, :3], x)
    torch.testing.assert_close(out[:, 3:7] ** 2 + out[:, 7:] ** 2, torch.ones(6, 4))
    other = FourierFeatures(3, 4, scale=2.0)
    other.load_state_dict(features.state_dict())
    torch.testing.assert_close(other(x), out)


def test_projections_have_the_asked_scale() -> None:
    """Radians per unit, so that a wavelength can be chosen."""
    torch.manual_seed(0)
    projection = FourierFeatures(40, 500, scale=3.0).projection
    assert float(projection.std()) == pytest.approx(3.0, rel=0.02)


def test_a_fine_pattern_is_learnt_in_a_time_in_which_the_plain_network_learns_little() -> None:
    """sin(12 x) over [-1, 1]: the claim of the paper, with the same network and steps."""

    def error(n: int) -> float:
        torch.manual_seed(1)
        seen = FourierFeatures(1, n, scale=8.0)
        mlp = Mlp(seen.dim, 1, width=32, depth=2)
        adam = torch.optim.Adam(mlp.parameters(), lr=3e-3)
        x = torch.linspace(-1, 1, 200)[:, None]
        wanted = torch.sin(12 * x)
        for _ in range(150):
            adam.zero_grad()
            loss = (mlp(seen(x)) - wanted).square().mean()
            loss.backward()
            adam.step()
        return float(loss.detach())

    assert error(16) < 0.02
    assert error(0) > 0.2


def test_student_and_teacher_take_them_and_other_backbones_refuse_them() -> None:
    """A setting that would be ignored is an error."""
    settings = StudentSettings(n_experts=3, width=16, head_width=8, n_frequencies=5)
    student = GaussianMixtureOfExperts(settings, dim_obs=2, dim_act=2, n_obs_steps=2, horizon=1)
    assert student.state_dict()["seen.projection"].shape == (4, 5)
    assert student(torch.randn(7, 2, 2)).mean.shape == (7, 3, 1, 2)
    for made in (settings, TeacherSettings(n_frequencies=5)):
        with pytest.raises(VddError, match="n_frequencies: got 5 with backbone 'transformer'"):
            dataclasses.replace(made, backbone="transformer")
        with pytest.raises(VddError, match="frequency_scale: got 0"):
            dataclasses.replace(made, frequency_scale=0.0)


@pytest.mark.parametrize("conditioning", ["concat", "film"])
def test_a_teachers_network_sees_the_window_through_them(conditioning: str) -> None:
    """Both ways of conditioning take them; the output depends on the window through them."""
    from vdd_ros.distill.networks.denoising import make_denoising_network

    torch.manual_seed(0)
    settings = TeacherSettings(width=16, n_frequencies=6, conditioning=conditioning)  # type: ignore[arg-type]
    network = make_denoising_network(settings.network(), dim_obs=3, dim_act=2)
    network.load_state_dict({k: torch.randn_like(v) for k, v in network.state_dict().items()})
    x, level, obs = torch.randn(4, 1, 2), torch.zeros(1, 1), torch.randn(4, 1, 3)
    before = network(x, level, obs)
    name = next(n for n, _ in network.named_buffers() if n.endswith("seen.projection"))
    network.get_buffer(name).mul_(2.0)
    assert not torch.allclose(network(x, level, obs), before)
