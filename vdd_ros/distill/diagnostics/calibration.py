r"""Does log q(a|s) mean what it says? Coverage of credible regions, with a direction.

Shapes: B states, S actions per state, D flattened chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.core.errors import VddError
from vdd_ros.distill.diagnostics.distances import Policy, draw_actions

LEVELS = tuple(round(0.1 * i, 1) for i in range(1, 10))
"""Nominal probabilities of the credible regions."""


@dataclass(frozen=True)
class Calibration:
    """How often actions fall into the student's highest-density regions."""

    levels: tuple[float, ...]
    """Nominal probabilities."""
    coverage: tuple[float, ...]
    """Share of actions inside the region of each level; calibrated means equal."""
    expected_error: float
    """Mean absolute difference of the two (expected calibration error)."""
    bias: float
    """Mean signed difference: above 0 actions lie too centrally, the student is over-dispersed;
    below 0 it is over-confident (too narrow, or in the wrong place)."""
    n_actions: int
    """Actions it rests on."""


@torch.no_grad()
def density_ranks(
    policy: Policy,
    obs: Float[Tensor, "B T O"],
    action: Float[Tensor, "B S D"],
    *,
    n_draws: int = 199,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B S"]:
    r"""Return the probability of the smallest highest-density region that holds each action.

    The region of all actions denser than a has probability
    :math:`P_{a' \sim q}(q(a'|s) > q(a|s))`, a probability-integral transform in any dimension
    (Hyndman, 1996, for the region by ranks of densities). It is counted among ``n_draws`` samples
    of q; with the action itself as one of n + 1 exchangeable draws the rank is exactly uniform on
    {1, ..., n + 1} / (n + 1) if the student is right, so that levels which are multiples of
    1 / (n + 1) are met without bias.
    """
    draws = draw_actions(policy, obs, n_draws, generator)
    mixture = policy(obs)
    threshold = mixture.log_prob(action)
    own = mixture.log_prob(draws).sort(-1).values
    # The draws that are denser than the action are those to the right of its place.
    denser = n_draws - torch.searchsorted(own, threshold.contiguous(), right=True)
    return (denser + 1) / (n_draws + 1)


def calibration(ranks: Float[Tensor, "B S"], levels: tuple[float, ...] = LEVELS) -> Calibration:
    """Return the coverage of credible regions from `density_ranks`.

    Raises:
        VddError: no ranks, or levels outside 0..1.
    """
    if ranks.numel() == 0 or not levels or not all(0 < level < 1 for level in levels):
        raise VddError(
            f"calibration: got {ranks.numel()} ranks and levels {levels}, expected some ranks "
            "and levels between 0 and 1"
        )
    # Levels and ranks are rounded differently: .3 may come out just below 60 / 200.
    coverage = [float((ranks <= level + 1e-6).double().mean()) for level in levels]
    differences = [found - level for found, level in zip(coverage, levels, strict=True)]
    return Calibration(
        levels=levels,
        coverage=tuple(coverage),
        expected_error=sum(abs(d) for d in differences) / len(levels),
        bias=sum(differences) / len(levels),
        n_actions=ranks.numel(),
    )
