"""Structured covariances against dense ones and torch.distributions."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch.distributions import Categorical, LowRankMultivariateNormal, MultivariateNormal

from tests.distill.toys import random_covariance
from vdd_ros.distill.mixtures.covariance import Covariance, Diagonal, Triangular
from vdd_ros.distill.mixtures.low_rank import LowRank
from vdd_ros.distill.mixtures.mixture import (
    MixtureParameters,
    diffuse,
    expert_log_prob,
    gaussian_entropy,
    mixture_score,
)

# kind, D, size of the blocks or rank: below and above the size up to which algebra is written out.
FORMS = [
    ("diag", 1, 0), ("diag", 6, 0),
    ("full", 1, 0), ("full", 2, 0), ("full", 3, 0), ("full", 6, 0),
    ("block", 6, 2), ("block", 8, 4),
    ("lowrank", 6, 1), ("lowrank", 6, 3), ("lowrank", 8, 5),
]  # fmt: skip
BATCH, EXPERTS = 3, 4


def mixture_of(covariance: Covariance) -> MixtureParameters:
    mean = torch.randn(BATCH, EXPERTS, 1, covariance.dim, dtype=torch.float64)
    return MixtureParameters(torch.randn(BATCH, EXPERTS, dtype=torch.float64), mean, covariance)


def matrix(covariance: Covariance) -> torch.Tensor:
    """The covariance matrix by its definition, without a line of the code under test."""
    if isinstance(covariance, Diagonal):
        return torch.diag_embed(covariance.scale**2)
    if isinstance(covariance, LowRank):
        zero = torch.zeros_like(covariance.variance)
        return LowRankMultivariateNormal(
            zero, covariance.directions, covariance.variance
        ).covariance_matrix
    assert isinstance(covariance, Triangular)
    return torch.stack([
        torch.stack([torch.block_diag(*(b @ b.T for b in one)) for one in row])
        for row in covariance.blocks
    ])  # fmt: skip


def leaves(covariance: Covariance) -> tuple[Covariance, list[torch.Tensor]]:
    own = covariance.map(lambda part: part.clone().requires_grad_())
    return own, [getattr(own, field.name) for field in fields(own)]


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(map(str, form)))
def covariance(request) -> Covariance:
    kind, dim, size = request.param
    return random_covariance(kind, BATCH, EXPERTS, dim=dim, size=size)


def test_log_prob_and_its_gradients_are_those_of_torch_distributions(covariance):
    """By the action, the mean and every tensor the covariance is made of."""
    covariance, tensors = leaves(covariance)
    mixture = mixture_of(covariance)
    action = torch.randn(BATCH, 5, covariance.dim, dtype=torch.float64, requires_grad=True)
    oracle = MultivariateNormal(mixture.flat_mean[:, None], matrix(covariance)[:, None])
    wanted, got = oracle.log_prob(action[:, :, None]), expert_log_prob(action, mixture)
    torch.testing.assert_close(got, wanted)
    weight = torch.randn_like(wanted)
    for ours, theirs in zip(
        torch.autograd.grad((weight * got).sum(), [action, *tensors], retain_graph=True),
        torch.autograd.grad((weight * wanted).sum(), [action, *tensors]),
        strict=True,
    ):
        if isinstance(covariance, Triangular) and ours.ndim == 5:
            ours, theirs = torch.tril(ours), torch.tril(theirs)
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gaussian_entropy(covariance), oracle.entropy()[:, 0])


def test_score_of_the_mixture_is_the_gradient_of_its_log_density(covariance):
    mixture = mixture_of(covariance)
    action = torch.randn(BATCH, 5, covariance.dim, dtype=torch.float64, requires_grad=True)
    oracle = MultivariateNormal(mixture.flat_mean[:, None], matrix(covariance)[:, None])
    gate = Categorical(logits=mixture.gating_logits).logits[:, None]
    density = torch.logsumexp(oracle.log_prob(action[:, :, None]) + gate, -1)
    (wanted,) = torch.autograd.grad(density.sum(), action)
    torch.testing.assert_close(mixture_score(action, mixture), wanted)


def test_noise_is_coloured_by_a_square_root_of_the_covariance(covariance):
    """Colouring is linear, so its matrix A says everything: A A^T is the covariance."""
    noise = torch.eye(covariance.n_noise, dtype=torch.float64)
    root = covariance.color(noise.expand(BATCH, EXPERTS, -1, -1)).mT
    torch.testing.assert_close(root @ root.mT, matrix(covariance))


def test_products_and_factors_are_those_of_the_matrix(covariance):
    dense = matrix(covariance)
    torch.testing.assert_close(covariance.dense(), dense)
    factor = covariance.cholesky()
    torch.testing.assert_close(factor, torch.linalg.cholesky(dense))
    vector = torch.randn(BATCH, EXPERTS, 7, covariance.dim, dtype=torch.float64)
    torch.testing.assert_close(
        covariance.times(vector), torch.einsum("bkij,bksj->bksi", dense, vector)
    )


def test_diffusing_adds_to_the_diagonal_and_keeps_the_form(covariance):
    sigma = torch.rand(BATCH, dtype=torch.float64)
    wider = diffuse(mixture_of(covariance), sigma).covariance
    assert type(wider) is type(covariance)
    eye = torch.eye(covariance.dim, dtype=torch.float64)
    wanted = matrix(covariance) + sigma[:, None, None, None] ** 2 * eye
    torch.testing.assert_close(matrix(wider), wanted)


def test_deblurring_undoes_diffusing(covariance):
    sigma = torch.full((BATCH,), 0.7, dtype=torch.float64)
    back = covariance.diffuse(sigma).deblur(0.7, min_std=1e-3)
    torch.testing.assert_close(matrix(back), matrix(covariance))


def test_deblurring_never_goes_below_the_bound(covariance):
    """A sigma larger than what is there: every eigenvalue ends at the bound or above it."""
    if isinstance(covariance, LowRank):
        covariance = LowRank(torch.full_like(covariance.variance, 0.3), covariance.directions)
    back = covariance.deblur(0.8, min_std=0.1)
    values, vectors = torch.linalg.eigh(matrix(covariance))
    wanted = (values - 0.64).clamp(min=0.01)
    torch.testing.assert_close(matrix(back), vectors @ (wanted[..., None] * vectors.mT))


def test_deblurring_a_low_rank_with_uneven_noise_stays_positive_and_only_shrinks():
    covariance = random_covariance("lowrank", BATCH, EXPERTS, dim=6, size=2)
    back = covariance.deblur(1.0, min_std=0.05)
    values = torch.linalg.eigvalsh(matrix(back))
    assert (values > 0.05**2 - 1e-12).all()
    assert (torch.linalg.eigvalsh(matrix(covariance) - matrix(back)) > -1e-12).all()


def test_deblurring_a_low_rank_takes_all_of_it_along_every_principal_direction():
    """Noise that does not hold sigma^2 gives what it has, and the direction itself the rest."""
    noise = torch.tensor([0.02, 0.5, 0.05, 0.3, 0.9], dtype=torch.float64)
    vectors = torch.linalg.qr(torch.randn(5, 2, dtype=torch.float64)).Q
    turned = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64)).Q
    directions = (vectors * torch.tensor([1.5, 2.5], dtype=torch.float64)) @ turned
    covariance = LowRank(noise[None, None], directions[None, None])
    back = matrix(covariance.deblur(0.4, min_std=1e-6))[0, 0]
    lost = torch.einsum("ir,ij,jr->r", vectors, matrix(covariance)[0, 0] - back, vectors)
    torch.testing.assert_close(lost, torch.full((2,), 0.16, dtype=torch.float64))


def test_round_blocks_are_deblurred_like_others():
    """Two equal eigenvalues have no direction of their own to divide by."""
    round_blocks = Triangular(0.5 * torch.eye(2, dtype=torch.float64).expand(1, 1, 3, 2, 2))
    back = round_blocks.deblur(0.3, min_std=1e-3)
    torch.testing.assert_close(matrix(back), 0.16 * torch.eye(6, dtype=torch.float64)[None, None])


def test_marginal_and_stretched_covariances_are_parts_and_multiples_of_the_matrix(covariance):
    dense = matrix(covariance)
    for n_dims in {covariance.dim, 4, 2} if covariance.dim > 3 else {1}:
        split = isinstance(covariance, Triangular) and covariance.blocks.shape[-3] > 1
        if split and n_dims % covariance.blocks.shape[-1]:
            with pytest.raises(ValueError, match="multiple of the block"):
                covariance.marginal(n_dims)
            continue
        torch.testing.assert_close(
            matrix(covariance.marginal(n_dims)), dense[..., :n_dims, :n_dims]
        )
    scale = 0.5 + torch.rand(covariance.dim, dtype=torch.float64)
    torch.testing.assert_close(matrix(covariance.stretch(scale)), scale[:, None] * dense * scale)


def test_chosen_experts_have_their_own_covariances(covariance):
    experts = torch.randint(EXPERTS, (BATCH, 2))
    wanted = torch.stack([matrix(covariance)[b, experts[b]] for b in range(BATCH)])
    torch.testing.assert_close(matrix(covariance.select(experts)), wanted)


def test_samples_of_a_low_rank_mixture_have_its_moments():
    one = random_covariance("lowrank", 1, 1, dim=4, size=2)
    mean = torch.randn(1, 1, 2, 2, dtype=torch.float64)
    many = MixtureParameters(
        torch.zeros(60_000, 1, dtype=torch.float64),
        mean.expand(60_000, -1, -1, -1),
        one.map(lambda part: part.expand(60_000, *part.shape[1:])),
    )
    action, _ = many.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(action.mean(0), mean[0, 0], atol=0.02, rtol=0)
    drawn = action.flatten(1)
    torch.testing.assert_close(drawn.T.cov(), matrix(one)[0, 0], atol=0.04, rtol=0.03)
