r"""k-means with k-means++ seeding: where the experts begin.

The initialisation decides how many modes a reverse-KL method can reach: on eight narrow modes,
random biases cover about half of them, k-means++ on teacher samples nearly all.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.core.errors import VddError


def kmeans(points: Float[Tensor, "N D"], n_clusters: int, *, n_iters: int = 30) -> Tensor:
    """Return cluster centres [K, D] (Arthur and Vassilvitskii, 2007, for the seeds).

    With fewer distinct points than clusters, centres coincide; experts may share a place.

    Raises:
        VddError: no points.
    """
    if len(points) == 0:
        raise VddError("k-means: got no points, expected at least one action to start from")
    centres = points[torch.randint(len(points), (1,))]
    for _ in range(n_clusters - 1):
        nearest = torch.cdist(points, centres).square().amin(1)
        # All points coincide with centres: any of them is as good as another.
        chances = nearest if float(nearest.sum()) > 0 else torch.ones_like(nearest)
        centres = torch.cat([centres, points[torch.multinomial(chances, 1)]])
    for _ in range(n_iters):
        owner = torch.cdist(points, centres).argmin(1)
        count = torch.zeros(n_clusters).index_add_(0, owner, torch.ones(len(points)))
        total = torch.zeros_like(centres).index_add_(0, owner, points)
        moved = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres
