"""Positions as differences: where actions say where to go, and hardly differ from where one is.

At 30 Hz a commanded joint position is the measured one plus a little. A network that is to put
out the position has to learn to repeat its input, to a hundredth of the range that the data
spans, before anything it adds is worth something; what it fails to repeat in new episodes drowns
the little that matters. As a difference the little is all there is, and its normaliser has its
scale. For the same reason the change since the row before, which says how fast one goes, is an
input of its own: as the difference of two inputs it would drown in them.
"""

from __future__ import annotations

import numpy as np

from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations


def as_differences(demos: Demonstrations) -> Demonstrations:
    """Return the episodes with actions as differences from the observation of the same row.

    Args:
        demos: the first D_act of the D_obs observation columns are what the actions command, in
            the same units: joint positions and commanded ones, poses and next poses.

    Returns:
        Observation [N, 2 D_obs]: as it was, then its change since the row before, 0 in the first
        row of an episode. Action [N, D_act] minus the first D_act observation columns.

    Raises:
        VddError: fewer observation than action columns.
    """
    if demos.dim_obs < demos.dim_act:
        raise VddError(
            f"{demos.source}: {demos.dim_obs} observation and {demos.dim_act} action columns; "
            "actions can only be differences where observations begin with what they command"
        )
    change = np.diff(demos.observation, axis=0, prepend=demos.observation[:1])
    change[[rows.start for rows in demos.episodes()]] = 0.0
    return Demonstrations(
        observation=np.concatenate([demos.observation, change], axis=1),
        action=demos.action - demos.observation[:, : demos.dim_act],
        episode_ends=demos.episode_ends,
        mode=demos.mode,
        source=f"{demos.source}, as differences",
    )
