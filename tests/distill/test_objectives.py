"""The equations of VDD and EM, against each other and against closed forms."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from tests.distill.toys import random_covariance, random_mixture
from vdd_ros.distill.methods.objectives import (
    choose_experts,
    em_expert_loss,
    expert_weights,
    gate_cross_entropy,
    negative_log_likelihood,
    published_log_responsibilities,
    reparameterized_actions,
    vdd_paper_loss,
    vdd_path_loss,
)
from vdd_ros.distill.mixtures.covariance import Diagonal, Triangular
from vdd_ros.distill.mixtures.mixture import MixtureParameters, diffuse, mixture_score


def leaves(mixture: MixtureParameters) -> MixtureParameters:
    def leaf(part):
        return part.clone().requires_grad_()

    return MixtureParameters(
        leaf(mixture.gating_logits), leaf(mixture.mean), mixture.covariance.map(leaf)
    )


def parts(mixture: MixtureParameters) -> list[torch.Tensor]:
    """Return the tensors a mixture is made of."""
    of = mixture.covariance
    return [
        mixture.gating_logits, mixture.mean, *(getattr(of, f.name) for f in fields(of))
    ]  # fmt: skip


def vdd_gradient(estimator, mixture, target, *, n_samples, sigma=None):
    """Gradient of one state's expert loss by means and covariances, flattened."""
    mixture = leaves(mixture)
    weights = expert_weights(mixture.gating_logits, "gate")
    experts, weight = choose_experts(weights, weights.shape[1])
    action = reparameterized_actions(mixture, experts, n_samples)
    judged = mixture.detach()
    if estimator == "diffused":
        action = action + sigma * torch.randn_like(action)
        level = torch.full((1,), sigma, dtype=action.dtype)
        judged, target = diffuse(judged, level), diffuse(target, level)
    score = mixture_score(action.detach().flatten(1, 2), target).view_as(action)
    if estimator == "paper":
        loss = vdd_paper_loss(action, experts, weight, score, mixture)
    else:
        loss = vdd_path_loss(action, weight, score, judged)
    return flatten(torch.autograd.grad(loss, parts(mixture)[1:]))


def flatten(gradients):
    """Join gradients; of triangular factors only what is in them."""
    return torch.cat([(torch.tril(g) if g.ndim == 5 else g).flatten() for g in gradients])


def test_both_estimators_have_the_same_expectation():
    """Equal means within four standard errors, component by component."""
    mixture, target = random_mixture(1, 3, 1, 2), random_mixture(1, 4, 1, 2)
    sample = {
        kind: torch.stack([vdd_gradient(kind, mixture, target, n_samples=64) for _ in range(250)])
        for kind in ("path", "paper")
    }
    difference = sample["path"].mean(0) - sample["paper"].mean(0)
    variance = sum(s.var(0) / len(s) for s in sample.values())
    assert (difference.abs() <= 4 * variance.sqrt() + 1e-12).all()
    # The test would pass on pure noise: the gradient itself must stand far out of it.
    assert (sample["path"].mean(0).abs() > 10 * variance.sqrt()).any()


def test_path_estimator_is_exact_at_the_optimum_where_the_published_one_is_noisy():
    mixture = random_mixture(1, 3, 1, 2)
    path = torch.stack([vdd_gradient("path", mixture, mixture, n_samples=2) for _ in range(50)])
    paper = torch.stack([vdd_gradient("paper", mixture, mixture, n_samples=2) for _ in range(50)])
    assert path.abs().max() < 1e-10
    assert paper.std(0).max() > 0.1


def test_the_path_estimator_has_a_tenth_of_the_published_ones_variance_near_the_optimum():
    """A student that fits its modes but for a little: where most of a training is spent."""
    target = random_mixture(1, 4, 1, 2)
    target = target._replace(mean=4 * target.mean)
    near = target._replace(mean=target.mean + 0.02 * torch.randn_like(target.mean))
    spread = {
        kind: torch.stack([
            vdd_gradient(kind, near, target, n_samples=2) for _ in range(150)
        ]).var(0).sum()
        for kind in ("path", "paper")
    }  # fmt: skip
    assert spread["path"] < 0.1 * spread["paper"]


KINDS = [("diag", 0), ("full", 0), ("block", 2), ("lowrank", 2)]


@pytest.mark.parametrize("estimator", ["path", "paper", "diffused"])
@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_expert_gradient_equals_that_of_the_exact_divergence(kind, size, estimator):
    """One expert, one Gaussian teacher: torch's KL in closed form, through the dense matrix.

    The diffused form judges both after the noise, so its divergence is that of the noised ones.
    """
    dim, sigma = 4, 0.6
    one, target = (
        MixtureParameters(
            torch.zeros(1, 1, dtype=torch.float64),
            torch.randn(1, 1, 2, 2, dtype=torch.float64),
            random_covariance(of, 1, 1, dim=dim, size=of_size),
        )
        for of, of_size in ((kind, size), ("full", 0))
    )
    noise = sigma**2 * torch.eye(dim, dtype=torch.float64) if estimator == "diffused" else 0.0
    exact = leaves(one)
    divergence = kl_divergence(
        MultivariateNormal(exact.flat_mean, exact.covariance.dense() + noise),
        MultivariateNormal(target.flat_mean, target.covariance.dense() + noise),
    )
    wanted = flatten(torch.autograd.grad(divergence.sum(), parts(exact)[1:]))
    draws = torch.stack([
        vdd_gradient(estimator, one, target, n_samples=4000, sigma=sigma) for _ in range(20)
    ])  # fmt: skip
    bound = 4.5 * draws.std(0) / math.sqrt(len(draws)) + 1e-9
    assert ((draws.mean(0) - wanted).abs() <= bound).all()


def test_judging_at_random_sigmas_inflates_variances_and_the_diffused_form_does_not():
    r"""The fixed point of the published objective, exactly: no gradient there for any sample.

    It is :math:`\Sigma_q^{-1} = E_\sigma[(\Sigma_\pi + \sigma^2 I)^{-1}]`, for a narrow teacher
    far from :math:`\Sigma_\pi`; noising the student as well puts it at the teacher for every
    sigma.
    """
    eye = torch.eye(3, dtype=torch.float64)
    levels = torch.linspace(0.2, 0.5, 31, dtype=torch.float64)
    teacher = random_mixture(1, 1, 1, 3)
    teacher = teacher._replace(covariance=teacher.covariance.map(lambda blocks: 0.1 * blocks))
    dense = teacher.covariance.dense()[0, 0]
    precision = torch.stack([torch.linalg.inv(dense + s**2 * eye) for s in levels]).mean(0)
    factor = torch.linalg.cholesky(torch.linalg.inv(precision))
    inflated = teacher._replace(covariance=Triangular.full(factor[None, None]))
    assert torch.linalg.eigvalsh(inflated.covariance.dense()[0, 0]).min() > 0.09
    assert torch.linalg.eigvalsh(dense).max() < 0.04

    def gradient(student, judge):
        """Average the path gradient over the levels, from the same samples."""
        student = leaves(student)
        experts, weight = choose_experts(torch.ones(1, 1, dtype=torch.float64), 1)
        action = reparameterized_actions(student, experts, 5)
        losses = [judge(action, weight, student, sigma[None]) for sigma in levels]
        return flatten(torch.autograd.grad(sum(losses) / len(losses), parts(student)[1:]))

    def published(action, weight, student, sigma):
        score = mixture_score(action.detach().flatten(1, 2), diffuse(teacher, sigma))
        return vdd_path_loss(action, weight, score.view_as(action), student)

    def diffused(action, weight, student, sigma):
        noised = action + sigma * torch.randn_like(action)
        score = mixture_score(noised.detach().flatten(1, 2), diffuse(teacher, sigma))
        return vdd_path_loss(
            noised, weight, score.view_as(action), diffuse(student.detach(), sigma)
        )

    assert gradient(inflated, published).abs().max() < 1e-9
    assert gradient(teacher, published).abs().max() > 1.0
    assert gradient(teacher, diffused).abs().max() < 1e-9
    assert gradient(inflated, diffused).abs().max() > 0.1


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_the_metric_is_the_covariance_in_every_form(kind, size):
    """The natural gradient of a mean is the covariance times its gradient, sample by sample."""
    covariance = random_covariance(kind, 1, 1, dim=4, size=size)
    one = random_mixture(1, 1, 2, 2)._replace(covariance=covariance)
    target = random_mixture(1, 1, 2, 2)
    experts, weight = choose_experts(torch.ones(1, 1, dtype=torch.float64), 1)
    noise = torch.randn(1, 1, 6, 4, dtype=torch.float64)

    def gradient(metric):
        mean = one.mean.clone().requires_grad_()
        action = mean.view(1, 1, 1, 4) + noise
        score = mixture_score(action.detach().flatten(1, 2), target).view_as(action)
        loss = vdd_path_loss(action, weight, score, one, metric)
        return torch.autograd.grad(loss, mean)[0].flatten()

    wanted = covariance.dense()[0, 0] @ gradient(None)
    torch.testing.assert_close(gradient(covariance.select(experts)), wanted)


def test_the_metric_turns_the_gradient_of_a_mean_into_the_step_to_the_optimum():
    """One Gaussian q, one Gaussian teacher of the same covariance: Sigma s is the displacement."""
    one = random_mixture(1, 1, 1, 3)
    target = one._replace(mean=one.mean + torch.randn(1, 1, 1, 3, dtype=torch.float64))
    mean = one.mean.clone().requires_grad_()
    mixture = one._replace(mean=mean)
    weights = torch.ones(1, 1, dtype=torch.float64)
    experts, weight = choose_experts(weights, 1)
    action = reparameterized_actions(mixture, experts, 4)
    score = mixture_score(action.detach().flatten(1, 2), target).view_as(action)
    loss = vdd_path_loss(action, weight, score, mixture, one.covariance)
    (gradient,) = torch.autograd.grad(loss, mean)
    torch.testing.assert_close(gradient, (one.mean - target.mean))


def test_published_responsibilities_lose_the_repulsion_at_nine_dimensions():
    """Regressions pinned: exp, + 1e-8, log.

    At nine dimensions and unit deviation the density is below 1e-8, the added constant dominates
    and most of the gradient of the responsibilities is gone. In log space nothing is lost.
    """
    torch.manual_seed(1)
    exact = random_mixture(64, 4, 1, 9)
    exact = exact._replace(mean=0.1 * exact.mean)  # where training starts: experts overlap
    exact = exact._replace(covariance=Diagonal(torch.ones(64, 4, 9, dtype=torch.float64)))
    action = exact.mean[:, :1, 0] + torch.randn(64, 1, 9, dtype=torch.float64)

    def gradient(log_responsibilities, dtype):
        at = action.to(dtype).requires_grad_()
        mixture = MixtureParameters(
            exact.gating_logits.to(dtype), exact.mean.to(dtype),
            exact.covariance.map(lambda part: part.to(dtype)),
        )  # fmt: skip
        return torch.autograd.grad(log_responsibilities(at, mixture)[..., 0].sum(), at)[0].double()

    truth = gradient(lambda a, m: m.log_responsibilities(a), torch.float64)
    ours = gradient(lambda a, m: m.log_responsibilities(a), torch.float32)
    theirs = gradient(published_log_responsibilities, torch.float32)
    assert (ours - truth).norm() / truth.norm() < 1e-5
    assert (theirs - truth).norm() / truth.norm() > 0.7


def test_em_steps_are_the_gradient_of_the_likelihood():
    """Expert loss plus gate loss, both at frozen responsibilities, move like the likelihood."""
    action = torch.randn(4, 6, 2, dtype=torch.float64)
    mixture = leaves(random_mixture(4, 3, 1, 2))
    responsibilities = mixture.detach().log_responsibilities(action).exp()
    split = em_expert_loss(action, mixture) + gate_cross_entropy(
        mixture.gating_logits, responsibilities
    )
    whole = negative_log_likelihood(action, mixture)
    for ours, theirs in zip(
        torch.autograd.grad(split, parts(mixture)),
        torch.autograd.grad(whole, parts(mixture)),
        strict=True,
    ):
        torch.testing.assert_close(torch.tril(ours), torch.tril(theirs))


def test_gate_loss_is_least_at_the_average_responsibility():
    responsibilities = torch.softmax(torch.randn(2, 5, 4, dtype=torch.float64), -1)
    best = responsibilities.mean(1).log().requires_grad_()
    (gradient,) = torch.autograd.grad(gate_cross_entropy(best, responsibilities), best)
    assert gradient.abs().max() < 1e-12
    worse = best.detach() + 0.1 * torch.randn_like(best)
    assert gate_cross_entropy(worse, responsibilities) > gate_cross_entropy(best, responsibilities)


def test_expert_weights_sum_to_one_and_floor_keeps_everyone_alive():
    logits = 20 * torch.randn(6, 8)
    for kind in ("gate", "uniform", "floor"):
        torch.testing.assert_close(expert_weights(logits, kind).sum(-1), torch.ones(6))
    assert (expert_weights(logits, "floor") >= 0.5 / 8).all()


@pytest.mark.parametrize("n_chosen", [1, 2, 3])
def test_choosing_experts_is_unbiased(n_chosen):
    weights = torch.softmax(torch.tensor([[2.0, 0.0, -1.0, 0.5]]), -1)
    values = torch.tensor([1.0, -2.0, 5.0, 0.3])
    experts, share = choose_experts(weights.expand(200_000, 4), n_chosen)
    estimate = (share * values[experts]).sum(-1)
    error = estimate.std() / math.sqrt(len(estimate))
    assert abs(estimate.mean() - (weights[0] * values).sum()) < 4 * error


def test_every_expert_is_chosen_as_often_as_its_weight_says_up_to_rounding():
    """Systematic choice: M w_z times, rounded down or up; independent draws vary from 0 to M."""
    weights = torch.softmax(torch.randn(5000, 6), -1)
    experts, _ = choose_experts(weights, 4)
    count = torch.nn.functional.one_hot(experts, 6).sum(1)
    assert (count >= (4 * weights - 1e-4).floor()).all()
    assert (count <= (4 * weights + 1e-4).ceil()).all()


def test_choosing_all_experts_draws_nothing_at_random():
    weights = torch.softmax(torch.randn(3, 4), -1)
    experts, share = choose_experts(weights, 9)
    assert experts.tolist() == [[0, 1, 2, 3]] * 3
    assert torch.equal(share, weights)
