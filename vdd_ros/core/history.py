"""ObservationHistory: the last ``n_obs_steps`` observations, oldest first.

The ring is preallocated and doubled, so that the window is always one contiguous slice and a tick
allocates nothing. It is back-filled: the first observation after a reset fills the whole window,
as the training windows do, so there is always valid data and never a zero that no robot measured.
With ``n_obs_steps = 3``, pushing a, b, c, d gives  a a a | a a b | a b c | b c d.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


class ObservationHistory:
    """Ring of observations of shape [n_obs_steps, dim_obs]."""

    def __init__(self, n_obs_steps: int, dim_obs: int) -> None:
        """Preallocate the ring; it is empty until the first `push`."""
        self._n = n_obs_steps
        self._ring = np.zeros((2 * n_obs_steps, dim_obs), dtype=np.float32)
        self._next = 0
        self._empty = True

    def reset(self) -> None:
        """Forget everything: the next observation back-fills the window."""
        self._next = 0
        self._empty = True

    @property
    def empty(self) -> bool:
        """True until an observation was pushed after the last reset."""
        return self._empty

    def push(self, observation: ArrayLike) -> NDArray[np.float32]:
        """Append an observation [D] and return the window [n_obs_steps, D] as a view.

        The view is valid until the next push.
        """
        if self._empty:
            self._ring[:] = observation
            self._empty = False
        # Written twice, n rows apart: the newest n rows are then contiguous wherever they start.
        self._ring[self._next] = observation
        self._ring[self._next + self._n] = observation
        self._next = (self._next + 1) % self._n
        return self._ring[self._next : self._next + self._n]
