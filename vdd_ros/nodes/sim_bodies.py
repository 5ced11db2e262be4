"""How simulated robots look on topics: the names of their values, and what a command means.

The contracts of these robots, ``config/contracts/<task>.yaml``, are the other end of the topics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd_ros.tasks.avoiding import mode_name


@dataclass(frozen=True)
class Body:
    """One kind of simulated robot; its command is a point in the plane."""

    joints: tuple[str, ...]
    """Names in ``robot_state``."""
    entries: tuple[int, ...]
    """Which entry of the task's observation each of them is."""
    relative_to: tuple[int, ...]
    """Entries whose change the task takes for an action, while the command is their new value;
    empty where the command is the action."""
    mode_name: Callable[[int], str]
    """Readable name of a mode that is decided."""
    figures: Callable[[Any], Mapping[str, object]]
    """From the task to what else is reported of an episode."""

    def state(self, observation: ArrayLike) -> list[float]:
        """Return the values of `joints` for an observation [D_obs]."""
        values = np.asarray(observation, np.float64)[list(self.entries)].tolist()
        return [float(value) for value in values]

    def action(self, observation: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
        """Return the task's action [2] that leads an observation [D_obs] to a command [2]."""
        target = np.asarray(target, np.float64)
        if not self.relative_to:
            return target
        return target - np.asarray(observation, np.float64)[list(self.relative_to)]


BODIES: Mapping[str, Body] = MappingProxyType(
    {
        "avoiding": Body(
            joints=("x", "y", "x_desired", "y_desired"),  # metres
            entries=(2, 3, 0, 1),
            relative_to=(0, 1),
            mode_name=mode_name,
            figures=lambda task: {"contact": int(task.contact[0])},
        ),
        "pusht": Body(
            joints=("finger_x", "finger_y", "block_x", "block_y", "block_cos", "block_sin"),
            entries=(0, 1, 2, 3, 4, 5),  # pixels, and of the block's angle the cosine and sine
            relative_to=(),
            mode_name=lambda mode: f"first contact in sector {mode}",
            figures=lambda task: {"reward": f"{task.outcome().reward[0]:.4f}"},
        ),
    }
)
"""By the task's name in `vdd_ros.tasks.protocol.TASKS`."""
