r"""Action chunks and the queue they are executed from.

A policy may predict ``horizon`` actions at once. The queue keeps them by absolute control step, so
an action whose step has passed is dropped and counted, never executed late: the rule by which
diffusion_policy runs its robots (Chi et al. 2023). Where a new chunk overlaps the old one,
``execution`` says which value wins, by the names LeRobot's users know:

``latest_only``        the new chunk replaces the old one
``average``            equal mean of old and new
``weighted_average``   0.3 old + 0.7 new
``conservative``       0.7 old + 0.3 new
``temporal_ensemble``  mean of all predictions of a step, weighted by :math:`w_i = e^{-m i}` with
                       the oldest first (Zhao et al. 2023, ACT); m is ``temporal_ensemble_coeff``

All of them keep one value per step and mix the new prediction into it with a share s:

.. math:: \bar a \leftarrow (1 - s)\, \bar a + s\, a

s is fixed for the first four. For the last it is that of the newest weight in their sum,
:math:`s_n = w_n / \sum_{i \le n} w_i`, which follows from the one before without any sum that
could overflow: :math:`s_n = q / (1 + q)` with :math:`q = e^{-m} s_{n-1}` and :math:`s_0 = 1`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.contract import Execution
from vdd_ros.core.errors import VddError

_KEEP: dict[str, float] = {
    "latest_only": 0.0,
    "average": 0.5,
    "weighted_average": 0.3,
    "conservative": 0.7,
}
"""Share of the OLD value where two chunks overlap."""
_ENSEMBLE = "temporal_ensemble"
ACT_COEFF = 0.01
"""What ACT weights by: hardly less for a newer prediction than for an older one."""


@dataclass(frozen=True)
class ActionChunk:
    """Actions [horizon, D_act]; the first belongs to control step ``first_step``."""

    first_step: int
    actions: NDArray[np.floating]


class ActionQueue:
    """Holds the actions still to be executed, by control step.

    It reaches as far as the newest chunk: what older ones said of steps beyond it is dropped.
    """

    def __init__(
        self, execution: Execution = "latest_only", *, temporal_ensemble_coeff: float = ACT_COEFF
    ) -> None:
        """Choose the rule for overlaps.

        Args:
            execution: see the module's docstring.
            temporal_ensemble_coeff: m of the rule of that name; below 0 newer ones weigh more.

        Raises:
            VddError: unknown rule.
        """
        if execution != _ENSEMBLE and execution not in _KEEP:
            known = ", ".join((*_KEEP, _ENSEMBLE))
            raise VddError(f"execution: unknown '{execution}'; known: {known}")
        self._ensemble = execution == _ENSEMBLE
        self._keep = _KEEP.get(execution, 0.0)
        # Below that the newest prediction counts alone, in every digit, and nothing overflows.
        self._decay = math.exp(-max(temporal_ensemble_coeff, -100.0))
        self.expired = 0
        """Actions dropped because their step had passed, over the whole life."""
        self._now = 0
        self._first_step = 0
        self._actions: NDArray[np.float64] | None = None
        self._shares = np.zeros(0)

    def __len__(self) -> int:
        """Number of actions still queued."""
        return 0 if self._actions is None else len(self._actions)

    def reset(self) -> None:
        """Drop everything, as at the start of an episode; steps may start anew."""
        self._actions = None
        self._now = 0

    def put(self, chunk: ActionChunk) -> None:
        """Merge a new chunk; where it overlaps queued actions the execution rule decides.

        Its actions for steps that have passed are dropped and counted.
        """
        passed = min(max(self._now - chunk.first_step, 0), len(chunk.actions))
        self.expired += passed
        first = chunk.first_step + passed
        merged = np.array(chunk.actions[passed:], dtype=np.float64)
        shares = np.ones(len(merged)) if self._ensemble else self._shares
        old = self._actions
        if old is not None and (self._ensemble or self._keep > 0.0):
            shift = first - self._first_step
            start, stop = max(shift, 0), min(shift + len(merged), len(old))
            if start < stop:
                new = slice(start - shift, stop - shift)
                self._mix(old[start:stop], self._shares[start:stop], merged[new], shares[new])
        self._first_step, self._shares = first, shares
        self._actions = merged if len(merged) else None

    def advance(self, step: int) -> None:
        """Drop the actions of steps before ``step`` and count them; time does not go back."""
        if step <= self._now:
            return
        self._now = step
        late = min(step - self._first_step, len(self))
        if late > 0:
            self.expired += late
            self._drop(late)

    def pop(self, step: int) -> NDArray[np.float64] | None:
        """Return the action [D_act] of control step ``step``, or None when there is none.

        Earlier actions have expired: they are dropped and counted.
        """
        self.advance(step)
        if self._actions is None or step < self._now or step != self._first_step:
            return None
        action = self._actions[0]
        self._now = step + 1
        self._drop(1)
        return action

    def planned(self) -> NDArray[np.float64]:
        """Return a copy of the actions [n, D_act] still queued; [0, 0] when there are none."""
        if self._actions is None:
            return np.zeros((0, 0))
        return self._actions.copy()

    def _mix(
        self,
        old: NDArray[np.float64],
        old_shares: NDArray[np.float64],
        new: NDArray[np.float64],
        shares: NDArray[np.float64],
    ) -> None:
        """Turn new predictions [n, D_act] into the mixture with the old ones, in place."""
        keep: float | NDArray[np.float64] = self._keep
        # What is no number is no opinion: it is not to outlive the next prediction of its step.
        usable = np.logical_and.reduce(np.isfinite(old), axis=-1, keepdims=True)
        if self._ensemble:
            q = self._decay * old_shares
            shares[:] = np.where(usable[:, 0], q / (1.0 + q), 1.0)
            keep = 1.0 - shares[:, None]
        with np.errstate(invalid="ignore"):
            mixed = keep * old + (1.0 - keep) * new
        np.copyto(new, mixed, where=usable)

    def _drop(self, n: int) -> None:
        """Remove the first ``n`` actions."""
        rest = self._actions[n:] if self._actions is not None else None
        self._first_step += n
        self._actions = rest if rest is not None and len(rest) else None
        self._shares = self._shares[n:]
