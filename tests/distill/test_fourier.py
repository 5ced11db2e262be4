"""Random Fourier features: what they add, and what a small network gains from them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from vdd_ros.core.errors import VddError
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts, StudentSettings
from vdd_ros.distill.networks.denoising import make_denoising_network
from vdd_ros.distill.networks.fourier import FourierFeatures
from vdd_ros.distill.networks.mlp import Mlp
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


def test_students_take_them_unless_their_backbone_would_ignore_them() -> None:
    """A setting that would be ignored is an error, and so is an impossible one."""
    settings = StudentSettings(n_experts=3, width=16, head_width=8, n_frequencies=5)
    student = GaussianMixtureOfExperts(settings, dim_obs=2, dim_act=2, n_obs_steps=2, horizon=1)
    assert student.state_dict()["seen.projection"].shape == (4, 5)
    assert student(torch.randn(7, 2, 2)).mean.shape == (7, 3, 1, 2)
    with pytest.raises(VddError, match="n_frequencies: got 5 with backbone 'transformer'"):
        dataclasses.replace(settings, backbone="transformer")
    for made in (settings, TeacherSettings(n_frequencies=5)):
        with pytest.raises(VddError, match="frequency_scale: got 0"):
            dataclasses.replace(made, frequency_scale=0.0)
        with pytest.raises(VddError, match="n_frequencies: got -1"):
            dataclasses.replace(made, n_frequencies=-1)


KINDS: list[dict[str, Any]] = [
    {},
    {"conditioning": "film"},
    {"backbone": "transformer"},
    {"backbone": "transformer", "conditioning": "film"},
    {"backbone": "unet", "down_dims": (8,)},
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_teachers_network_sees_the_window_through_them(kind: dict[str, Any]) -> None:
    """Every backbone takes them, and its output depends on the window through them."""
    torch.manual_seed(0)
    settings = TeacherSettings(width=16, n_frequencies=6, **kind)
    network = make_denoising_network(settings.network(), dim_obs=3, dim_act=2).eval()
    network.load_state_dict({k: torch.randn_like(v) for k, v in network.state_dict().items()})
    x, level, obs = torch.randn(4, 1, 2), torch.zeros(1, 1), torch.randn(4, 1, 3)
    before = network(x, level, obs)
    name = next(n for n, _ in network.named_buffers() if n.endswith("seen.projection"))
    network.get_buffer(name).mul_(2.0)
    assert not torch.allclose(network(x, level, obs), before)


@pytest.mark.parametrize("kind", KINDS)
def test_without_them_a_teachers_network_reads_the_bare_window(kind: dict[str, Any]) -> None:
    """Its weights have the names and shapes they had before there were features."""
    without = TeacherSettings(width=16, n_obs_steps=2, **kind).network()
    plain = make_denoising_network(without, dim_obs=3, dim_act=2)
    seeing = make_denoising_network(
        dataclasses.replace(without, n_frequencies=6), dim_obs=3, dim_act=2
    )
    ours, theirs = plain.state_dict(), seeing.state_dict()
    assert theirs.keys() - ours.keys() == {"seen.projection"}
    wider = [
        theirs[name].shape[-1] - weight.shape[-1]
        for name, weight in ours.items()
        if weight.shape != theirs[name].shape
    ]
    if kind.get("backbone") != "transformer":
        assert wider == [12]  # one layer reads the features of the window as a whole
        assert theirs["seen.projection"].shape == (2 * 3, 6)
        return
    # Of every frame: its embedding reads them, and what modulates those of all frames.
    assert wider == ([12, 2 * 12] if kind.get("conditioning") == "film" else [12])
    assert theirs["seen.projection"].shape == (3, 6)


def test_frames_that_are_tokens_pass_through_the_same_features_and_goals_through_none() -> None:
    """What a frame looks like does not depend on where in the window it stands."""
    torch.manual_seed(0)
    settings = TeacherSettings(
        backbone="transformer", n_obs_steps=2, width=16, n_frequencies=6, dim_goal=1
    )
    network = make_denoising_network(settings.network(), dim_obs=3, dim_act=2).eval()
    assert network.get_buffer("seen.projection").shape == (2, 6)
    x, level, obs = torch.randn(4, 1, 2), torch.zeros(1, 1), torch.randn(4, 2, 3)
    obs[:, 0, -1] = obs[:, 1, -1]  # a goal stays where it is
    torch.nn.init.zeros_(network.get_parameter("trunk.position"))
    # Tokens without positions are a set, so that exchanging frames changes nothing.
    torch.testing.assert_close(network(x, level, obs.flip(1)), network(x, level, obs))
    assert not torch.allclose(network(x, level, obs[:, [0, 0]]), network(x, level, obs))
