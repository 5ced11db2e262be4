"""Training windows: what a policy has seen, and the chunk of actions that followed.

With n_obs_steps = 3 and horizon = 2 an episode o0..o4, a0..a4 gives

    observation   o0 o0 o0 | o0 o0 o1 | o0 o1 o2 | o1 o2 o3          (| o2 o3 o4 with pad)
    action           a0 a1 |    a1 a2 |    a2 a3 |    a3 a4          (|    a4 a4 with pad)

The observation window ends at the step its chunk starts at. Starts are back-filled with the first
observation, exactly as `core.history.ObservationHistory` does on the robot. No window ever spans
two episodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations


@dataclass(frozen=True, eq=False)
class Windows:
    """N pairs of an observation window and the action chunk that followed it."""

    observation: NDArray[np.float32]
    """[N, n_obs_steps, D_obs], oldest first."""
    action: NDArray[np.float32]
    """[N, horizon, D_act], the first one taken on the newest observation."""
    episode: NDArray[np.int64]
    """[N] index of the episode each window is from."""

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.observation)


def make_windows(
    demos: Demonstrations, *, n_obs_steps: int, horizon: int, pad: bool = False
) -> Windows:
    """Cut demonstrations into windows; see the module's docstring for an example.

    A chunk that would run past the end of its episode is dropped, because neither thing one could
    fill it with is what the demonstrator did: repeating a relative action means running on, and
    zeros mean stopping there.

    Args:
        demos: episodes.
        n_obs_steps: observations per window.
        horizon: actions per chunk.
        pad: keep such chunks and repeat the last action. Right where actions are positions to go
            to (the robot then stays), and where the last steps matter more than their accuracy.

    Raises:
        VddError: a length below 1, or no episode as long as the horizon.
    """
    if n_obs_steps < 1 or horizon < 1:
        raise VddError(
            f"got n_obs_steps={n_obs_steps} and horizon={horizon}; both must be at least 1"
        )
    starts = np.concatenate([[0], demos.episode_ends[:-1]])
    lengths = demos.episode_ends - starts
    usable = lengths if pad else np.maximum(lengths - horizon + 1, 0)
    if usable.sum() == 0:
        raise VddError(
            f"{demos.source}: no window fits: the longest episode has {lengths.max()} rows, "
            f"horizon is {horizon}; expected a horizon of at most {lengths.max()}, or padding"
        )
    episode = np.repeat(np.arange(demos.n_episodes), usable)
    now = np.concatenate([start + np.arange(k) for start, k in zip(starts, usable, strict=True)])
    seen = now[:, None] + np.arange(1 - n_obs_steps, 1)
    followed = now[:, None] + np.arange(horizon)
    return Windows(
        observation=demos.observation[np.maximum(seen, starts[episode, None])],
        action=demos.action[np.minimum(followed, demos.episode_ends[episode, None] - 1)],
        episode=episode,
    )
