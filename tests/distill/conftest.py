"""Small data and teachers that the tests of this room share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vdd_ros.data.demonstrations import Demonstrations


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers, alone or in company, on one thread."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def demos() -> Demonstrations:
    """Eight episodes of a point that goes to the left or to the right of the origin."""
    rng = np.random.default_rng(0)
    observation, action, ends = [], [], []
    for episode in range(8):
        side = 1.0 if episode % 2 else -1.0
        steps = 20 + episode
        path = np.stack([np.linspace(0, side, steps), np.linspace(-1, 1, steps)], 1)
        path += 0.01 * rng.standard_normal(path.shape)
        observation.append(path[:-1])
        action.append(np.diff(path, axis=0))
        ends.append(steps - 1)
    return Demonstrations(
        observation=np.concatenate(observation).astype(np.float32),
        action=np.concatenate(action).astype(np.float32),
        episode_ends=np.cumsum(ends),
        mode=None,
        source="a toy",
    )
