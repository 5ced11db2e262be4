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
from vdd_ros.core.mixture import log_softmax, sample_categorical

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

    def reset(self) -> None:
        """Start a new episode: a sticky choice is forgotten; the random stream goes on."""
        self._last = None

    def select(self, gating_logits: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the expert [B] for gating logits [B, K]."""
        rule = self.settings.rule
        if rule == "pinned":
            return np.full(len(gating_logits), self.settings.pinned_expert, dtype=np.int64)
        if rule == "argmax":
            return np.argmax(gating_logits, axis=-1).astype(np.int64)
        log_gate = log_softmax(gating_logits / self.settings.temperature)
        chosen = sample_categorical(log_gate, self._rng)
        if rule == "sticky":
            last = self._last
            if last is not None and last.shape == chosen.shape:
                rows = np.arange(len(chosen))
                with np.errstate(divide="ignore"):
                    bar = log_gate.max(-1) + np.log(self.settings.sticky_ratio)
                chosen = np.where(log_gate[rows, last] >= bar, last, chosen)
            self._last = chosen
        return chosen
