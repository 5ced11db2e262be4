"""The learning rate over a training, as a fraction of its peak."""

from __future__ import annotations

import math


def cosine_rate(iteration: int, n_iters: int, *, warm_up: int = 100) -> float:
    """Return the fraction of the peak learning rate: linear rise, then half a cosine to zero."""
    rise = min(1.0, (iteration + 1) / warm_up)
    return rise * 0.5 * (1.0 + math.cos(math.pi * iteration / n_iters))
