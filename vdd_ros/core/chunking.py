"""Action chunks and the queue they are executed from.

A policy may predict ``horizon`` actions at once. The queue keeps them by absolute step number, so
an action whose time has passed is dropped, never executed late. Where a new chunk overlaps the
old one, ``execution`` says which value wins, by the names LeRobot's users know:

``latest_only``       the new chunk replaces the old one
``average``           equal mean of old and new
``weighted_average``  0.3 old + 0.7 new
``conservative``      0.7 old + 0.3 new
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.contract import Execution
from vdd_ros.core.errors import VddError

# Share of the OLD value where two chunks overlap.
_KEEP: dict[str, float] = {
    "latest_only": 0.0,
    "average": 0.5,
    "weighted_average": 0.3,
    "conservative": 0.7,
}


@dataclass(frozen=True)
class ActionChunk:
    """Actions [horizon, D_act]; the first belongs to control step ``first_step``."""

    first_step: int
    actions: NDArray[np.floating]


class ActionQueue:
    """Holds the actions still to be executed, by control step."""

    def __init__(self, execution: Execution = "latest_only") -> None:
        """Choose the rule for overlaps.

        Raises:
            VddError: unknown rule.
        """
        if execution not in _KEEP:
            raise VddError(f"execution: unknown '{execution}'; known: {', '.join(_KEEP)}")
        self._keep = _KEEP[execution]
        self._first_step = 0
        self._actions: NDArray[np.floating] | None = None

    def __len__(self) -> int:
        """Number of actions still queued."""
        return 0 if self._actions is None else len(self._actions)

    def reset(self) -> None:
        """Drop everything, as at the start of an episode."""
        self._actions = None

    def put(self, chunk: ActionChunk) -> None:
        """Merge a new chunk; where it overlaps queued actions the execution rule decides."""
        merged = np.array(chunk.actions, dtype=np.float64)
        if self._actions is not None and self._keep > 0.0:
            shift = chunk.first_step - self._first_step
            start, stop = max(shift, 0), min(shift + len(merged), len(self._actions))
            if start < stop:
                new = slice(start - shift, stop - shift)
                merged[new] = (
                    self._keep * self._actions[start:stop] + (1.0 - self._keep) * merged[new]
                )
        self._first_step = chunk.first_step
        self._actions = merged

    def pop(self, step: int) -> NDArray[np.float64] | None:
        """Return the action [D_act] of control step ``step``, or None when there is none.

        Earlier actions have expired and are dropped.
        """
        if self._actions is None:
            return None
        expired = step - self._first_step
        if expired < 0:
            return None
        if expired >= len(self._actions):
            self._actions = None
            return None
        action = np.asarray(self._actions[expired], dtype=np.float64)
        self._actions = self._actions[expired + 1 :]
        self._first_step = step + 1
        if len(self._actions) == 0:
            self._actions = None
        return action

    def planned(self) -> NDArray[np.float64]:
        """Return a copy of the actions [n, D_act] still queued; [0, 0] when there are none."""
        if self._actions is None:
            return np.zeros((0, 0))
        return np.array(self._actions, dtype=np.float64)
