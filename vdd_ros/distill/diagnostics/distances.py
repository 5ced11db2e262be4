r"""How far one distribution of actions is from another.

Densities on both sides allow a Kullback-Leibler divergence (analytic teachers); samples on both
sides a Wasserstein distance; a score and samples a Stein discrepancy (`stein.py`).

Shapes: B states, S actions per state, D flattened chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.core.errors import VddError
from vdd_ros.distill.mixtures.mixture import MixtureParameters

Policy = Callable[[Float[Tensor, "B T O"]], MixtureParameters]
"""Normalised windows to one mixture per window: a student, or an analytic teacher."""


@torch.no_grad()
def draw_actions(
    policy: Policy,
    obs: Float[Tensor, "B T O"],
    n_samples: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B S D"]:
    """Draw S actions per state from a mixture policy."""
    action, _ = policy(obs.repeat_interleave(n_samples, 0)).sample(generator)
    return action.flatten(1).view(len(obs), n_samples, -1)


@torch.no_grad()
def monte_carlo_kl(
    first: Policy,
    second: Policy,
    obs: Float[Tensor, "B T O"],
    *,
    n_samples: int,
    generator: torch.Generator | None = None,
) -> float:
    r"""Return :math:`E_s KL(p(a|s) \| q(a|s))` in nats, p the first and q the second policy.

    The average of log p - log q over samples of p: unbiased, with a standard error of the spread
    of that difference over the root of the number of samples. Where the two agree closely it may
    come out slightly negative.
    """
    action = draw_actions(first, obs, n_samples, generator)
    return float((first(obs).log_prob(action) - second(obs).log_prob(action)).mean())


def sliced_wasserstein(
    first: Float[Tensor, "N D"],
    second: Float[Tensor, "M E"],
    *,
    order: int = 1,
    n_projections: int = 128,
    generator: torch.Generator | None = None,
) -> float:
    r"""Return the sliced p-Wasserstein distance of two sets of as many points.

    .. math:: SW_p^p = E_\theta W_p^p(\theta^T x, \theta^T y)

    over directions uniform on the sphere (Rabin et al., 2011; Bonneel et al., 2015). On a line
    the optimal transport pairs points in order, so each projection costs a sort.

    Raises:
        VddError: sets of different size or dimension, or empty ones.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) == 0:
        raise VddError(
            f"sliced Wasserstein: got sets of shape {tuple(first.shape)} and "
            f"{tuple(second.shape)}, expected two equal, non-empty ones [N, D]"
        )
    direction = torch.randn(first.shape[1], n_projections, generator=generator, dtype=first.dtype)
    direction = direction / direction.norm(dim=0)
    gap = (first @ direction).sort(0).values - (second @ direction).sort(0).values
    return float(gap.abs().pow(order).mean() ** (1.0 / order))
