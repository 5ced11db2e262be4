r"""The equations of Variational Diffusion Distillation and of its rivals, one function each.

VDD (Zhou et al., NeurIPS 2024, arXiv:2406.12538) fits a mixture q to a teacher :math:`\pi` known
only through its score, by the reverse Kullback-Leibler divergence averaged over states:

.. math:: J = E_s \, KL(q(a|s) \,\|\, \pi(a|s)).

For any auxiliary :math:`\tilde q(z|a,s)` the decomposition
:math:`J = U - E_s E_q KL(q(z|a,s) \| \tilde q(z|a,s))` gives the upper bound

.. math:: U = E_s \sum_z q(z|s) \{ E_{q(a|s,z)}[\log q(a|s,z) - \log \pi(a|s)
              - \log \tilde q(z|a,s)] + \log q(z|s) \},

tight at :math:`\tilde q = q` (E-step: current parameters, detached). Given :math:`\tilde q` it
falls apart into one problem per expert (equation 11 of the paper) and one for the gate.

Shapes: B states, S actions per state, K experts, M experts drawn per state, D flattened chunk.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vdd_ros.core.errors import VddError
from vdd_ros.distill.mixtures.covariance import Covariance
from vdd_ros.distill.mixtures.mixture import (
    MixtureParameters,
    expert_log_prob,
    gaussian_entropy,
    joint_log_prob,
    mixture_score,
)

ExpertWeight = Literal["gate", "uniform", "floor"]


# -- which experts learn, and how much ---------------------------------------------------------


def expert_weights(
    gating_logits: Float[Tensor, "B K"], kind: ExpertWeight
) -> Float[Tensor, "B K"]:
    """Return the gate that the expert step assumes; rows sum to one; no gradient.

    ``gate`` is the bound U itself. Under it an expert without gate weight gets no gradient and
    stays dead, so ``floor`` (the default) mixes half the gate with half ``uniform``: U for a gate
    that gives everyone a share.

    Raises:
        VddError: unknown kind.
    """
    gate = torch.softmax(gating_logits.detach(), dim=-1)
    uniform = torch.full_like(gate, 1.0 / gate.shape[-1])
    if kind == "gate":
        return gate
    if kind == "uniform":
        return uniform
    if kind == "floor":
        return 0.5 * gate + 0.5 * uniform
    raise VddError(f"expert_weight: unknown '{kind}'; known: gate, uniform, floor")


def choose_experts(
    weights: Float[Tensor, "B K"], n_chosen: int
) -> tuple[Int[Tensor, "B M"], Float[Tensor, "B M"]]:
    r"""Draw M experts z and weights c such that :math:`\sum_m c_m f_{z_m}` has the right mean.

    That mean is the full sum :math:`\sum_z w_z f_z`.

    Systematic resampling (one uniform number per state, M equidistant points on the cumulative
    weights) is unbiased and takes every expert M w times, rounded down or up, where M independent
    draws take it any number of times. With M >= K every expert is taken once with its own weight,
    and nothing is random.

    Returns:
        experts [B, M] and importance weights c [B, M].
    """
    batch, n_experts = weights.shape
    if n_chosen >= n_experts:
        everyone = torch.arange(n_experts).expand(batch, n_experts)
        return everyone, weights
    total = weights.sum(-1, keepdim=True)
    points = (torch.rand(batch, 1) + torch.arange(n_chosen)) / n_chosen * total
    experts = torch.searchsorted(weights.cumsum(-1), points).clamp(max=n_experts - 1)
    return experts, (total / n_chosen).expand(batch, n_chosen)


def reparameterized_actions(
    mixture: MixtureParameters, experts: Int[Tensor, "B M"], n_samples: int
) -> Float[Tensor, "B M S D"]:
    r"""Draw :math:`a = \mu_z + L_z \epsilon` for the chosen experts, differentiably."""
    mean = mixture.flat_mean[torch.arange(len(experts))[:, None], experts]
    chosen = mixture.covariance.select(experts)
    noise = torch.randn(*experts.shape, n_samples, chosen.n_noise, dtype=mean.dtype)
    return mean[:, :, None] + chosen.color(noise)


# -- the expert step of VDD --------------------------------------------------------------------


def vdd_path_loss(
    action: Float[Tensor, "B M S D"],
    weight: Float[Tensor, "B M"],
    teacher_score: Float[Tensor, "B M S D"],
    mixture: MixtureParameters,
    metric: Covariance | None = None,
) -> Float[Tensor, ""]:
    r"""Expert loss whose gradient is the path derivative of U.

    With :math:`\log\tilde q(z|a) = \log q_z(a) + \log g_z - \log q(a)` and the path-derivative
    ("sticking the landing", Roeder et al., 2017) form of the entropy, the integrand
    of U collapses:

    .. math:: \nabla_\nu L_z = E_\epsilon[(\nabla_a \log q(a|s) - s_\pi(a|s))
              \cdot \partial a / \partial \nu_z],

    the mixture's own score in closed form minus the teacher's. Its mean is that of
    `vdd_paper_loss`; its variance vanishes at the optimum, where the two scores are equal.
    The value of this loss means nothing, only its gradient does.

    With a ``metric`` (the drawn experts' covariances) the difference of scores becomes a step in
    units of the action, as the natural gradient of a Gaussian's mean is (Amari, 1998; Arenz et
    al., 2018, for mixtures). It is invertible and the same for all of an expert's samples, so at
    any one state the gradient is zero where it was; in a network that states and experts share,
    narrow experts, whose scores are large, no longer drown all others.
    """
    flat = action.detach().flatten(1, 2)
    own_score = mixture_score(flat, mixture.detach()).view_as(action)
    direction = own_score - teacher_score
    if metric is not None:
        direction = metric.detach().times(direction)
    return _weighted(weight, (direction * action).sum(-1).mean(-1))


def vdd_paper_loss(
    action: Float[Tensor, "B M S D"],
    experts: Int[Tensor, "B M"],
    weight: Float[Tensor, "B M"],
    teacher_score: Float[Tensor, "B M S D"],
    mixture: MixtureParameters,
) -> Float[Tensor, ""]:
    r"""Expert loss as published: the reference that `vdd_path_loss` is held against.

    .. math:: -E[ s_\pi(a) \cdot a + \log \tilde q(z|a,s) ] - H[q(\cdot|s,z)],

    with :math:`\tilde q` from detached parameters but differentiable in a (its gradient is the
    repulsion between experts). The responsibilities are computed with a log-sum-exp; the
    published code exponentiates first (`published_log_responsibilities`).
    """
    flat = action.flatten(1, 2)
    responsibilities = mixture.detach().log_responsibilities(flat)
    own = responsibilities.view(*action.shape[:3], -1).gather(
        -1, experts[:, :, None, None].expand(-1, -1, action.shape[2], 1)
    )[..., 0]
    entropy = gaussian_entropy(mixture.covariance).gather(1, experts)
    gain = ((teacher_score * action).sum(-1) + own).mean(-1) + entropy
    return _weighted(weight, -gain)


def published_log_responsibilities(
    action: Float[Tensor, "B S D"], mixture: MixtureParameters
) -> Float[Tensor, "B S K"]:
    """Return log q(z|a) the way the published code does: exponentiate, add 1e-8, take the log.

    Kept so that a test can show what is wrong with it; nothing trains on it. Once the density
    falls below 1e-8 (any action at nine dimensions and unit deviation) the constant dominates,
    the gradient of the margin vanishes and with it the repulsion between experts.
    """
    joint = joint_log_prob(action, mixture)
    return joint - torch.log(joint.exp().sum(-1, keepdim=True) + 1e-8)


# -- the gate step, shared by every method -------------------------------------------------------


def gate_cross_entropy(
    gating_logits: Float[Tensor, "B K"], responsibilities: Float[Tensor, "B S K"]
) -> Float[Tensor, ""]:
    r"""Return :math:`-E_{(s,a)} \sum_z \tilde q(z|a,s) \log q(z|s)` (forward-KL gate of VDD).

    The exact reverse-KL gate needs the teacher's density; VDD therefore fits the gate to the
    responsibilities of actions drawn from the demonstrations or from the teacher.
    """
    log_gate = torch.log_softmax(gating_logits, dim=-1)
    return -(responsibilities.mean(1) * log_gate).sum(-1).mean()


# -- maximum likelihood: the rivals --------------------------------------------------------------


def em_expert_loss(
    action: Float[Tensor, "B S D"], mixture: MixtureParameters
) -> Float[Tensor, ""]:
    r"""M-step of the experts: :math:`-E \sum_z \tilde q(z|a,s) \log q(a|s,z)`.

    Expectation maximisation (Dempster et al., 1977) with the E-step at the current parameters;
    together with `gate_cross_entropy` its gradient is that of `negative_log_likelihood`.
    """
    log_density = expert_log_prob(action, mixture)
    joint = log_density.detach() + mixture.log_gate.detach()[:, None]
    return -(torch.softmax(joint, dim=-1) * log_density).sum(-1).mean()


def negative_log_likelihood(
    action: Float[Tensor, "B S D"], mixture: MixtureParameters
) -> Float[Tensor, ""]:
    r"""Return :math:`-E \log q(a|s)` in nats: the forward KL up to the teacher's entropy."""
    return -mixture.log_prob(action).mean()


def _weighted(weight: Float[Tensor, "B M"], value: Float[Tensor, "B M"]) -> Float[Tensor, ""]:
    return (weight.detach() * value).sum(-1).mean()
