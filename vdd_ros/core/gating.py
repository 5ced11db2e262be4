"""Which expert acts: the choice made outside the network, seeded, so a run can be replayed.

``sample`` draws from the gate at every step (the published rule), ``argmax`` takes the likeliest,
``sticky`` keeps the last expert while the gate still finds it plausible, ``pinned`` always takes
the one the operator asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError

SelectionRule = Literal["sample", "argmax", "sticky", "pinned"]


@dataclass(frozen=True)
class SelectionSettings:
    """How the expert is chosen."""

    rule: SelectionRule = "sample"
    """sample, argmax, sticky or pinned."""
    seed: int = 0
    """Seed of the generator; the same seed and observations replay the same experts."""
    sticky_ratio: float = 0.25
    """sticky: keep the expert while its probability is at least this fraction of the largest."""
    pinned_expert: int = 0
    """pinned: the expert to use."""
    temperature: float = 1.0
    """Divides the gating logits before sampling; below 1 prefers likely experts."""


class ExpertSelector:
    """Chooses one expert per row of gating logits; rows are independent robots."""

    def __init__(self, settings: SelectionSettings, n_experts: int) -> None:
        """Check the settings against the number of experts.

        Raises:
            VddError: the pinned expert does not exist, or a number is out of range.
        """
        if settings.rule == "pinned" and not 0 <= settings.pinned_expert < n_experts:
            raise VddError(
                f"pinned_expert: got {settings.pinned_expert}, the policy has experts 0 to "
                f"{n_experts - 1}"
            )
        if settings.temperature <= 0:
            raise VddError(f"temperature: got {settings.temperature}, expected > 0")
        if not 0 <= settings.sticky_ratio <= 1:
            raise VddError(f"sticky_ratio: got {settings.sticky_ratio}, expected 0 to 1")
        self.settings = settings
        self._rng = np.random.default_rng(settings.seed)
        self._last: NDArray[np.int64] | None = None

    def reset(self, seed: int | None = None) -> None:
        """Start a new episode: a sticky choice is forgotten; the random stream goes on.

        With ``seed`` the stream starts anew as well, so that what follows can be replayed.
        """
        self._last = None
        if seed is not None:
            self._rng = np.random.default_rng(seed)

    def select(self, gating_logits: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the expert [B] for gating logits [B, K]."""
        rule = self.settings.rule
        if rule == "pinned":
            return np.full(len(gating_logits), self.settings.pinned_expert, dtype=np.int64)
        if rule == "argmax":
            return np.argmax(gating_logits, axis=-1).astype(np.int64)
        weights = self._weights(gating_logits)
        cumulative = np.add.accumulate(weights, axis=-1)
        draw = self._rng.random((len(weights), 1)) * cumulative[:, -1:]
        chosen = np.minimum((cumulative <= draw).sum(-1), weights.shape[-1] - 1)
        if rule == "sticky":
            last = self._last
            if last is not None and last.shape == chosen.shape:
                kept = weights[np.arange(len(chosen)), last] >= self.settings.sticky_ratio
                chosen = np.where(kept, last, chosen)
            self._last = chosen
        return chosen.astype(np.int64)

    def select_one(self, gating_logits: NDArray[np.floating]) -> tuple[int, NDArray[np.float64]]:
        """Return (expert, gate [K]) for the logits [K] of one robot, without batch overhead.

        The same choice from the same random stream as `select` gives for that one row, bit for
        bit (both take the same steps in the same precision), at a fraction of the time: on a
        control tick this runs after every network pass. The gate is the softmax of the logits
        over the temperature: the probabilities that `sample` draws from.
        """
        # `_weights` of one row: numpy's reductions cost more than all the rest on a short row,
        # argmax does not.
        wide = gating_logits.astype(np.float64)
        np.subtract(wide, wide[wide.argmax()], wide)
        if self.settings.temperature != 1.0:
            wide /= self.settings.temperature
        weights = np.exp(wide, wide)
        cumulative = np.add.accumulate(weights)
        total = cumulative[-1]
        gate = weights / total
        rule = self.settings.rule
        if rule == "pinned":
            return self.settings.pinned_expert, gate
        if rule == "argmax":
            return int(gating_logits.argmax()), gate
        draw = self._rng.random() * total
        # The likeliest weighs 1, so a smaller total means NaN, where `select` takes expert 0.
        below = int(cumulative.searchsorted(draw, "right")) if total >= 1.0 else 0
        chosen = min(below, len(weights) - 1)
        if rule == "sticky":
            last = self._last
            if last is not None and last.shape == (1,):
                kept = weights[last[0]] >= self.settings.sticky_ratio
                chosen = int(last[0]) if kept else chosen
            self._last = np.array([chosen])
        return chosen, gate

    def _weights(self, gating_logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return exp((logits - max) / temperature) in float64; the likeliest expert weighs 1."""
        wide = gating_logits.astype(np.float64)
        # reduce and accumulate are what max and cumsum call after argument handling that costs
        # as much as the work itself on one short row.
        wide -= np.maximum.reduce(wide, axis=-1, keepdims=True)
        if self.settings.temperature != 1.0:
            wide /= self.settings.temperature
        return np.exp(wide, out=wide)
