"""The U-Net along the chunk, FiLM, and goals as tokens of their own."""

from __future__ import annotations

import pytest
import torch

from vdd_ros.core.errors import VddError
from vdd_ros.distill.networks.denoising import DenoisingShape, make_denoising_network
from vdd_ros.distill.networks.unet1d import Unet1d


def shape(backbone: str, **changes) -> DenoisingShape:
    given = {
        "n_obs_steps": 2, "horizon": 8, "backbone": backbone, "width": 16, "depth": 2,
        "n_heads": 2, "dropout_attention": 0.0, "dropout": 0.0, "down_dims": (8, 16, 16),
        "n_groups": 4,
    }  # fmt: skip
    return DenoisingShape(**(given | changes))


def network(backbone: str, *, spread: float = 0.2, **changes) -> torch.nn.Module:
    made = make_denoising_network(shape(backbone, **changes), dim_obs=3, dim_act=2)
    if spread:
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=spread)
    return made.eval()


FILM = {"conditioning": "film"}
CAUSAL = {"token_layout": "causal"}
KINDS = [
    ("mlp", {}), ("mlp", FILM), ("transformer", {}), ("transformer", FILM),
    ("transformer", CAUSAL), ("unet", {}),
]  # fmt: skip


@pytest.mark.parametrize(("backbone", "changes"), KINDS)
@pytest.mark.parametrize("n_levels", [1, 2])
def test_every_network_listens_to_action_levels_and_window(backbone, changes, n_levels):
    made = network(backbone, n_levels=n_levels, **changes)
    x, levels, obs = torch.randn(5, 8, 2), torch.rand(5, n_levels), torch.randn(5, 2, 3)
    out = made(x, levels, obs)
    assert out.shape == (5, 8, 2)
    for other in (
        (x + 0.5, levels, obs), (x, levels + 0.3, obs), (x, levels, obs + 0.5),
    ):  # fmt: skip
        assert (made(*other) - out).abs().amax((1, 2)).min() > 1e-6
    # One row of levels may stand for the whole batch.
    torch.testing.assert_close(
        made(x, levels[:1], obs), made(x, levels[:1].expand(5, -1), obs), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("changes", [{"conditioning": "film"}, {}])
def test_fresh_mlps_and_unets_put_out_zero(changes):
    """So an EDM denoiser starts as the best linear one."""
    backbone = "mlp" if changes else "unet"
    out = network(backbone, spread=0.0, **changes)(
        torch.randn(4, 8, 2), torch.rand(4, 1), torch.randn(4, 2, 3)
    )
    assert torch.equal(out, torch.zeros(4, 8, 2))


@pytest.mark.parametrize("down_dims", [(8,), (8, 16), (8, 16, 16, 8)])
def test_every_output_of_a_unet_sees_the_whole_chunk_once_it_halves_it_enough(down_dims):
    """One level sees 5 convolutions of 5 steps; halving widens that to the whole chunk."""
    horizon = 64
    made = Unet1d(
        2, dim_condition=3, width=8, down_dims=down_dims, kernel_size=5, n_groups=4
    ).eval()
    torch.nn.init.normal_(made.output.weight)
    x = torch.randn(1, horizon, 2, requires_grad=True)
    # Normalisation looks at all steps; hold its statistics out of the picture.
    for module in made.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda h: h  # type: ignore[method-assign]
    made(x, torch.zeros(1, 3))[0, 0].sum().backward()
    assert x.grad is not None
    reach = int((x.grad[0].abs().sum(-1) > 0).nonzero().max())
    assert x.grad.shape[1] == horizon
    if len(down_dims) == 1:
        # Two blocks down, two in the middle, the last convolution: 2 steps each, twice a block.
        assert reach == 2 * (2 * 4 + 1)
    if len(down_dims) == 4:
        assert reach == horizon - 1


@pytest.mark.parametrize("horizon", [1, 3])
def test_a_unet_of_one_level_takes_any_chunk(horizon):
    made = network("unet", horizon=horizon, down_dims=(8,))
    assert made(torch.randn(2, horizon, 2), torch.rand(2, 1), torch.randn(2, 2, 3)).shape == (
        2, horizon, 2,
    )  # fmt: skip


def test_a_goal_is_read_from_the_newest_observation_alone():
    made = network("transformer", dim_goal=1)
    x, levels, obs = torch.randn(5, 8, 2), torch.rand(5, 1), torch.randn(5, 2, 3)
    out = made(x, levels, obs)
    older, newest = obs.clone(), obs.clone()
    older[:, 0, -1] += 1.0
    newest[:, 1, -1] += 1.0
    assert torch.equal(made(x, levels, older), out)
    assert (made(x, levels, newest) - out).abs().max() > 1e-6


def test_a_fresh_transformer_that_is_modulated_answers_as_one_that_is_not():
    """Scales of one and shifts of zero: conditioning begins where training takes it."""
    plain, film = (network("transformer", spread=0.0, **changes) for changes in ({}, FILM))
    more = film.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert {name.split(".")[0] for name in more} == {"condition", "trunk"}
    given = torch.randn(4, 8, 2), torch.rand(4, 1), torch.randn(4, 2, 3)
    assert torch.equal(film(*given), plain(*given))
    for name in more:
        torch.nn.init.normal_(film.get_parameter(name), std=0.2)
    assert (film(*given) - plain(*given)).abs().amax((1, 2)).min() > 1e-3


@pytest.mark.parametrize("goal", [0, 1])
def test_the_published_layout_hides_what_comes_later_and_the_other_hides_nothing(goal):
    """Levels, goal and frames before the chunk; every action sees itself and those before."""
    x, levels, obs = torch.randn(5, 8, 2), torch.rand(5, 1), torch.randn(5, 2, 3)
    moved = x.clone()
    moved[:, 3] += 0.5
    for layout, first in (("causal", 3), ("full", 0)):
        made = network("transformer", dim_goal=goal, token_layout=layout)
        out = made(x, levels, obs)
        change = (made(moved, levels, obs) - out).abs().amax(2)
        assert torch.equal(change[:, :first], torch.zeros(5, first))
        assert change[:, first:].min() > 1e-6
        for other in ((x, levels + 0.3, obs), (x, levels, obs + 0.5)):
            assert (made(*other) - out).abs().amax((1, 2)).min() > 1e-6


def test_the_published_layout_has_the_newest_observation_and_the_first_action_at_one_place():
    causal, full = (network("transformer", **kind) for kind in (CAUSAL, {}))
    assert causal.trunk.position.shape[1] == full.trunk.position.shape[1] - 1
    # Its positions, with that one twice, under the mask of the other kind, give its answers.
    known = causal.state_dict()
    at = known["trunk.position"]
    full.load_state_dict(known | {"trunk.position": torch.cat([at[:, :3], at[:, 2:]], dim=1)})
    for block in full.trunk.blocks:
        block.causal = True
    given = torch.randn(4, 8, 2), torch.rand(4, 1), torch.randn(4, 2, 3)
    assert torch.equal(full(*given), causal(*given))


def test_a_layout_of_tokens_is_asked_of_a_network_of_tokens():
    with pytest.raises(VddError, match="token_layout 'causal' belongs to backbone 'transformer'"):
        network("mlp", **CAUSAL)
