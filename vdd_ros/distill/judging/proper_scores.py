r"""Scores of predicted distributions that are best at the truth, and calibration.

Gneiting and Raftery, JASA 2007. Shapes: B windows, S samples, K experts, D = H A the flattened
chunk.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vdd_ros.distill.mixtures.mixture import MixtureParameters

# Ranks of y among so many draws are uniform on 0..199 under the truth, and both .5 and .9 of 200
# are whole: coverage then has no error from the finite number of draws.
_N_DENSITY = 199
_NUMBERS = 1 << 22


def density_rank(
    mixture: MixtureParameters, truth: Float[Tensor, "B D"], generator: torch.Generator
) -> Int[Tensor, " B"]:
    """Count how many of 199 draws from the mixture are denser than the truth: 0..199."""
    level, rank = mixture.log_prob(truth[:, None])[:, 0], torch.zeros(len(truth), dtype=torch.long)
    draws = draw_chunks(mixture, _N_DENSITY, generator).flatten(2)
    # A few at a time: all at once would hold B S K D numbers, gigabytes for long chunks.
    for some in draws.split(max(1, _NUMBERS // mixture.flat_mean.numel()), dim=1):
        rank += (mixture.log_prob(some) > level[:, None]).sum(1)
    return rank


def sampled_energy(error: Float[Tensor, "B S H A"]) -> Float[Tensor, " B"]:
    """Energy score of S draws given as errors, over sqrt(D); fair: unbiased for any S >= 2."""
    flat = error.flatten(2)
    n_samples, dim = flat.shape[1:]
    near = flat.norm(dim=-1).mean(1)
    apart = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum((1, 2))
    return (near - 0.5 * apart / (n_samples * (n_samples - 1))) / math.sqrt(dim)


def weighted_energy(
    error: Float[Tensor, "B K H A"], weight: Float[Tensor, "B K"]
) -> Float[Tensor, " B"]:
    """Energy score of K weighted points given as errors, over sqrt(D); exact."""
    flat = error.flatten(2)
    near = (weight * flat.norm(dim=-1)).sum(1)
    apart = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    spread = torch.einsum("bk,bkj,bj->b", weight, apart, weight)
    return (near - 0.5 * spread) / math.sqrt(flat.shape[-1])


def coverage(rank: Int[Tensor, " N"], level: float) -> float:
    """Share of ranks below the level's: exact for a calibrated mixture."""
    return float((rank < round(level * (_N_DENSITY + 1))).double().mean())


def draw_chunks(
    mixture: MixtureParameters, n_samples: int, generator: torch.Generator
) -> Float[Tensor, "B S H A"]:
    """Draw chunks, normalised."""
    draws = [mixture.sample(generator)[0] for _ in range(n_samples)]
    return torch.stack(draws, dim=1)
