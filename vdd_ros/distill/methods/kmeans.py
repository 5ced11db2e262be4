r"""k-means with greedy k-means++ seeding: where the experts begin.

The initialisation decides how many modes a reverse-KL method can reach: on eight narrow modes,
random biases cover about half of them, k-means++ on teacher samples nearly all.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.core.errors import VddError


def kmeans(
    points: Float[Tensor, "N D"], n_clusters: int, *, n_iters: int = 30, n_restarts: int = 3
) -> Float[Tensor, "K D"]:
    """Return the cluster centres of the best of a few runs (Lloyd, 1982).

    With fewer distinct points than clusters, centres coincide; experts may share a place.

    Args:
        points: to cluster.
        n_clusters: K.
        n_iters: at most, per run.
        n_restarts: runs from different seeds; the one with the smallest sum of squares wins.

    Raises:
        VddError: no points, or not finite ones.
    """
    if len(points) == 0:
        raise VddError("k-means: got no points, expected at least one action to start from")
    if not bool(torch.isfinite(points).all()):
        raise VddError(
            "k-means: got points that are not finite; the teacher's samples, or the data, have "
            "diverged"
        )
    runs = [_lloyd(points, seed_centres(points, n_clusters), n_iters) for _ in range(n_restarts)]
    return min(runs, key=lambda run: run[1])[0]


def seed_centres(points: Float[Tensor, "N D"], n_clusters: int) -> Float[Tensor, "K D"]:
    """Return K of the points, far from each other (Arthur and Vassilvitskii, 2007).

    Each seed is the best of 2 + log K points drawn with chances proportional to the squared
    distance from the seeds there are: the greedy variant of the same paper's section 5. With forty
    centres for forty narrow modes, single draws leave about four modes without a centre.
    """
    n_candidates = 2 + int(math.log(n_clusters))
    first = int(torch.randint(len(points), (1,)))
    chosen, nearest = [first], (points - points[first]).square().sum(1)
    for _ in range(n_clusters - 1):
        # All points coincide with seeds: any of them is as good as another.
        chances = nearest if float(nearest.sum()) > 0 else torch.ones_like(nearest)
        candidates = torch.multinomial(chances, n_candidates, replacement=True)
        left = torch.minimum(nearest, torch.cdist(points[candidates], points).square())
        best = int(left.sum(1).argmin())
        chosen.append(int(candidates[best]))
        nearest = left[best]
    return points[chosen]


def _lloyd(
    points: Float[Tensor, "N D"], centres: Float[Tensor, "K D"], n_iters: int
) -> tuple[Float[Tensor, "K D"], float]:
    """Return settled centres, and the sum of squared distances to the nearest."""
    one = torch.ones(len(points), dtype=points.dtype)
    for _ in range(n_iters):
        owner = torch.cdist(points, centres).argmin(1)
        count = centres.new_zeros(len(centres)).index_add_(0, owner, one)
        total = torch.zeros_like(centres).index_add_(0, owner, points)
        moved = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres, float(torch.cdist(points, centres).amin(1).square().sum())
