"""Heads and trunks: what their shapes and initial values promise."""

from __future__ import annotations

import pytest
import torch

from vdd_ros.core.errors import VddError
from vdd_ros.core.normalizer import Normalizer
from vdd_ros.distill.mixtures.gaussian_head import (
    GaussianHead,
    fill_triangular,
    triangular_index,
)
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts, StudentSettings
from vdd_ros.distill.networks.mlp import Mlp
from vdd_ros.distill.networks.normalization import Affine
from vdd_ros.distill.networks.transformer import Transformer


@pytest.mark.parametrize("dim", [1, 2, 3, 7])
def test_fill_triangular_is_a_bijection(dim):
    """Every free value appears exactly once, on or below the diagonal, and zeros above."""
    free = torch.arange(1, dim * (dim + 1) // 2 + 1).float()
    filled = fill_triangular(free, dim)
    rows, columns = torch.tril_indices(dim, dim)
    assert torch.equal(filled[rows, columns].sort().values, free)
    assert torch.equal(filled, torch.tril(filled))


def test_fill_triangular_winds_as_tensorflow_probability_documents_it():
    """The example of the documentation: x = 1..6 gives [[4, 0, 0], [6, 5, 0], [3, 2, 1]]."""
    wanted = torch.tensor([[4.0, 0, 0], [6, 5, 0], [3, 2, 1]])
    assert torch.equal(fill_triangular(torch.arange(1.0, 7.0), 3), wanted)
    assert triangular_index(1).tolist() == [[0]]


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_head_starts_at_the_given_means_and_deviation(covariance):
    head = GaussianHead(
        dim_in=16, n_experts=3, dim=2, covariance=covariance, init_std=0.4, min_std=0.01
    )
    means = torch.randn(3, 2)
    head.set_means(means)
    mean, spread = head(torch.randn(5, 16))
    torch.testing.assert_close(mean, means.expand(5, 3, 2), atol=0.1, rtol=0)
    scale = spread.cholesky()
    torch.testing.assert_close(scale, (0.4 * torch.eye(2)).expand(5, 3, 2, 2), atol=0.05, rtol=0)


def test_deviations_never_fall_below_the_bound():
    head = GaussianHead(dim_in=1, n_experts=1, dim=2, covariance="full", init_std=1.0, min_std=0.1)
    with torch.no_grad():
        head.free.bias.fill_(-1e4)
    _, spread = head(torch.zeros(1, 1))
    assert torch.equal(torch.diagonal(spread.cholesky()[0, 0]), torch.full((2,), 0.1))


def test_impossible_heads_are_refused():
    for min_std in (0.0, 2.0):
        with pytest.raises(VddError, match="expected 0 < min_std < init_std"):
            GaussianHead(
                dim_in=2, n_experts=1, dim=2, covariance="full", init_std=1.0, min_std=min_std
            )


def test_causal_tokens_see_only_what_came_before():
    tokens = torch.randn(2, 5, 8)
    changed = tokens.clone()
    changed[:, 3, 0] += 1.0  # one component: LayerNorm takes a shift of all of them out
    for causal in (True, False):
        trunk = Transformer(n_tokens=5, width=8, depth=2, n_heads=2, causal=causal).eval()
        same = torch.isclose(trunk(tokens), trunk(changed), atol=1e-6).all(-1)[0]
        assert same.tolist() == ([True] * 3 + [False] * 2 if causal else [False] * 5)


def test_heads_must_divide_the_width():
    with pytest.raises(VddError, match=r"width 9 .* n_heads 2"):
        Transformer(n_tokens=2, width=9, depth=1, n_heads=2)


def test_residual_blocks_pass_their_input_on():
    """With its hidden layers at zero, a residual network is its two outer maps."""
    mlp = Mlp(3, 2, width=8, depth=4, residual=True)
    for layer in mlp.hidden:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = torch.randn(5, 3)
    torch.testing.assert_close(mlp(x), mlp.output(torch.nn.functional.silu(mlp.lift(x))))


def test_torch_normaliser_is_the_core_one():
    data = torch.randn(50, 3) * torch.tensor([1.0, 10.0, 0.1]) + 5
    core = Normalizer.fit(data.numpy(), "mean_std")
    affine = Affine(3, core)
    torch.testing.assert_close(
        affine.normalize(data), torch.from_numpy(core.normalize(data.numpy()))
    )
    torch.testing.assert_close(affine.unnormalize(affine.normalize(data)), data)


@pytest.mark.parametrize("backbone", ["mlp", "transformer"])
def test_gate_loss_reaches_the_trunk_only_when_it_may(backbone):
    student = GaussianMixtureOfExperts(
        StudentSettings(n_experts=3, backbone=backbone, width=16, depth=2, n_heads=2),
        dim_obs=4,
        dim_act=2,
        n_obs_steps=3,
        horizon=2,
    )
    torch.nn.init.normal_(student.gate[-1].weight)
    for detach in (True, False):
        student.zero_grad()
        mixture = student(torch.randn(5, 3, 4), detach_gate=detach)
        assert mixture.mean.shape == (5, 3, 2, 2)
        assert mixture.scale_tril.shape == (5, 3, 4, 4)
        mixture.gating_logits.square().sum().backward()
        reached = [p.grad is not None and bool(p.grad.any()) for p in student.trunk.parameters()]
        assert any(reached) is not detach
