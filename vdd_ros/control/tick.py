"""What the control loop needs of its surroundings, and what it says about a tick."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.safety import SafetyLevel
from vdd_ros.runtime.policy import PolicyOutput

NEVER = -1
"""A stamp before any stamp."""


class Actor(Protocol):
    """What the loop needs of a policy; every runtime policy is one."""

    def act(self, window: NDArray[np.float32]) -> PolicyOutput:
        """Decide from an observation window [n_obs_steps, D_obs]."""
        ...

    def reset(self) -> None:
        """Start a new episode."""
        ...


@dataclass
class Tick:
    """What the last tick did; one object, overwritten by every tick."""

    stamp_ns: int = 0
    """Stamp of the observation answered, 0 for a hold that answers none."""
    level: SafetyLevel = SafetyLevel.STOP
    """Rung of the safety ladder."""
    reason: str = "not active"
    """Why not ACT; empty when acting freely."""
    expert: int = -1
    """Expert that acted; -1 without one."""
    gate: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """[K] gate probabilities, [0] without experts."""
    window: NDArray[np.float32] | None = None
    """[n_obs_steps, D_obs] what was observed up to ``observed_ns``, a view valid until the next
    tick; None for a hold."""
    observed_ns: int = 0
    """Stamp of the newest observation in ``window``."""
    output: PolicyOutput | None = None
    """The newest prediction, views valid until the next one; None before the first, and after a
    hold."""
    predicted_ns: int = 0
    """Stamp of the observation that ``output`` answers: it changes with every prediction."""
    age_ns: int = 0
    """Age of the observation when the tick began."""
    decode_ns: int = 0
    """Receipt of the message to a complete observation vector."""
    infer_ns: int = 0
    """The policy; 0 where it was not asked."""
    safety_ns: int = 0
    """The safety ladder."""
    publish_ns: int = 0
    """Filling and publishing the command."""
    total_ns: int = 0
    """Receipt to published."""
    count: int = 0
    """Ticks since activation."""
    held: int = 0
    """Ticks since activation at level HOLD or above."""
    missed: int = 0
    """Ticks since activation that should have happened and did not."""
    received: int = 0
    """Observation messages since activation, used or not: fewer than were sent where one was
    replaced by the next, or lost, before the node saw it."""
    plan_age: int = -1
    """Control steps since the observation that the action was planned from; -1 for a hold."""
    queued: int = 0
    """Actions planned for later steps."""
    expired: int = 0
    """Planned actions since activation that were dropped because their step had passed."""

    def take(self, output: PolicyOutput, observed_ns: int) -> None:
        """Keep a new prediction, which answers the observation of that stamp."""
        self.expert, self.gate = output.expert, output.gate
        self.output, self.predicted_ns = output, observed_ns

    def forget(self) -> None:
        """Keep nothing of what an earlier tick observed, decided and took: this one holds."""
        self.expert, self.gate, self.plan_age = -1, self.gate[:0], -1
        self.window = self.output = None
        self.age_ns = self.decode_ns = self.infer_ns = self.safety_ns = self.publish_ns = 0


class Sink(Protocol):
    """Writes commands into the message of one topic."""

    @property
    def planned(self) -> bool:
        """The message has a time axis and takes the whole plan."""
        ...

    def write(self, rows: NDArray[np.float64], stamp_ns: int) -> Any:  # noqa: ANN401
        """Return the message for commands [T, D_act]."""
        ...


class Collector(Protocol):
    """Keeps the newest sample of every observed topic."""

    row: NDArray[np.float32]
    """[D_obs] the newest values; overwritten in place."""
    max_age_ns: int
    """The strictest limit of all."""

    @property
    def accept(self) -> Callable[[Any, Any, int], bool]:
        """Take a source, its message and the time; True when every topic has a new sample."""
        ...

    def take(self) -> int:
        """Mark the samples as used and return the oldest stamp among them (ns)."""
        ...

    def problem(self, now_ns: int) -> str:
        """Return why the vector may not be acted on; empty when it may."""
        ...

    def non_finite(self) -> str:
        """Name the components that are no numbers; empty when all are."""
        ...

    def reset(self, now_ns: int = NEVER) -> None:
        """Forget all samples, and ignore those stamped up to ``now_ns``."""
        ...
