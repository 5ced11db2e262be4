"""Differences hold what positions held, in the scale of what changes."""

from __future__ import annotations

import numpy as np
import pytest

from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.relative import as_differences


def recorded(*, dim_act: int = 2) -> Demonstrations:
    """Two episodes of three and four rows with three observed numbers."""
    numbers = np.random.default_rng(0).normal(size=(7, 3))
    return Demonstrations(
        observation=numbers,
        action=np.random.default_rng(1).normal(size=(7, dim_act)),
        episode_ends=np.array([3, 7]),
        mode=np.array([1, 0]),
        source="arm",
    )


def test_positions_come_back_from_differences() -> None:
    """Action plus observation is the commanded position; the observation stays as it was."""
    demos = recorded()
    found = as_differences(demos)
    np.testing.assert_allclose(found.action + demos.observation[:, :2], demos.action, atol=1e-6)
    np.testing.assert_array_equal(found.observation[:, :3], demos.observation)
    np.testing.assert_array_equal(found.episode_ends, demos.episode_ends)
    np.testing.assert_array_equal(found.mode, demos.mode)
    assert "as differences" in found.source


def test_the_change_starts_anew_with_every_episode() -> None:
    """Within one it sums to the way made; across the border there is none."""
    demos = recorded()
    change = as_differences(demos).observation[:, 3:]
    assert not change[[0, 3]].any()
    for rows in demos.episodes():
        way = demos.observation[rows.stop - 1] - demos.observation[rows.start]
        np.testing.assert_allclose(change[rows].sum(0), way, atol=1e-5)


def test_actions_that_command_more_than_is_observed_are_refused() -> None:
    with pytest.raises(VddError, match="arm: 3 observation and 4 action columns"):
        as_differences(recorded(dim_act=4))
