"""PolicyContract: what a policy reads, what it writes, and how fast.

A contract maps topics to tensors, once. The same contract is written by hand as YAML for a robot,
carried as JSON inside every policy file, used live by the nodes and offline by evaluation. It is
checked in full when it is built: a contract that exists is a contract that fits together.

The observation vector is the concatenation of the observation fields in the order they are
declared; the action vector that of the action fields.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from vdd_ros.core.errors import VddError, did_you_mean

Execution = Literal["latest_only", "weighted_average", "average", "conservative"]
SafetyAction = Literal["hold", "zeros", "none"]


@dataclass(frozen=True)
class Limits:
    """Bounds of one action field, one value per component, in the unit of the command."""

    min: tuple[float, ...] = ()
    """Lowest allowed command; empty for no bound."""
    max: tuple[float, ...] = ()
    """Highest allowed command; empty for no bound."""
    max_rate: tuple[float, ...] = ()
    """Largest allowed change of the command per second; empty for no bound."""


@dataclass(frozen=True)
class TopicField:
    """One piece of a vector and where it stands in the messages of a topic."""

    key: str
    """Name of the field, unique in the contract."""
    dim: int
    """Number of values."""
    topic: str = ""
    """Relative topic name; empty where the policy is only evaluated offline."""
    type: str = ""
    """Message type, for example ``sensor_msgs/msg/JointState``."""
    select: tuple[str, ...] = ()
    """Where the values stand in the message, by path and NAME, for example ``position.joint1``."""
    unit: str = ""
    """Unit of the values, for example ``m`` or ``rad``."""


@dataclass(frozen=True)
class ObservationField(TopicField):
    """One piece of the observation vector and the topic it comes from."""

    max_age_ms: float = 200.0
    """Older than this the observation is stale and the robot holds."""


@dataclass(frozen=True)
class ActionField(TopicField):
    """One piece of the action vector and the topic it goes to; ``unit`` is the command's."""

    relative_to: str = ""
    """Observation key this action is an increment of: command = observation + action.

    Empty for actions that are commands already.
    """
    measured: str = ""
    """Observation key that measures what this command sets; seeds the limiter and the hold."""
    limits: Limits = field(default_factory=Limits)
    """Bounds of the COMMAND (after ``relative_to`` was added)."""


@dataclass(frozen=True)
class Safety:
    """What the node does when it may not act."""

    on_stale: SafetyAction = "hold"
    """Sent while observations are missing or stale. ``zeros`` is a slam under position control."""
    on_stop: SafetyAction = "hold"
    """Sent last, on deactivate and on shutdown."""
    max_hold_s: float = 2.0
    """Holding longer than this raises the level from HOLD to SAFE."""


@dataclass(frozen=True)
class PolicyContract:
    """Topics to tensors and back, with rates and safety.

    Raises:
        VddError: when a name, a dimension, a limit or a reference does not fit.
    """

    name: str
    """Name of the task or robot, for people."""
    rate_hz: float
    """Control rate the demonstrations were recorded at."""
    observations: tuple[ObservationField, ...]
    """The observation vector, in order."""
    actions: tuple[ActionField, ...]
    """The action vector, in order."""
    n_obs_steps: int = 1
    """Observations the policy sees, oldest first."""
    horizon: int = 1
    """Actions the policy predicts at once."""
    n_action_steps: int = 1
    """Predicted actions that are executed before the next prediction."""
    execution: Execution = "latest_only"
    """How overlapping chunks are merged."""
    reset_topic: str = ""
    """Relative topic (``std_msgs/msg/Empty``) that starts a new episode: history is cleared."""
    safety: Safety = field(default_factory=Safety)
    """What happens when the policy may not act."""

    def __post_init__(self) -> None:
        """Check the contract in full."""
        if not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise VddError(f"rate_hz: got {self.rate_hz}, expected a positive number of hertz")
        for name in ("n_obs_steps", "horizon", "n_action_steps"):
            if getattr(self, name) < 1:
                raise VddError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if self.n_action_steps > self.horizon:
            raise VddError(
                f"n_action_steps: got {self.n_action_steps}, but the policy predicts only "
                f"horizon = {self.horizon} actions; expected n_action_steps <= horizon"
            )
        if not self.observations or not self.actions:
            raise VddError("a contract needs at least one observation and one action field")
        _check_fields(self.observations)
        _check_fields(self.actions)
        # NaN would compare as never stale, and the robot would act on old observations for ever.
        for observation in self.observations:
            if not (math.isfinite(observation.max_age_ms) and observation.max_age_ms > 0):
                raise VddError(
                    f"observation '{observation.key}': max_age_ms is {observation.max_age_ms}, "
                    "expected a positive number of milliseconds"
                )
        if not (math.isfinite(self.safety.max_hold_s) and self.safety.max_hold_s >= 0):
            raise VddError(
                f"safety.max_hold_s: got {self.safety.max_hold_s}, expected 0 or more seconds"
            )
        for action in self.actions:
            self._check_action(action)

    @property
    def dim_obs(self) -> int:
        """Length of the observation vector."""
        return sum(o.dim for o in self.observations)

    @property
    def dim_act(self) -> int:
        """Length of the action vector."""
        return sum(a.dim for a in self.actions)

    @property
    def step_s(self) -> float:
        """Seconds between two actions."""
        return 1.0 / self.rate_hz

    def observation_slice(self, key: str) -> slice:
        """Return where the observation field ``key`` stands in the observation vector."""
        return _slice(self.observations, key)

    def action_slice(self, key: str) -> slice:
        """Return where the action field ``key`` stands in the action vector."""
        return _slice(self.actions, key)

    def _check_action(self, action: ActionField) -> None:
        dims = {o.key: o.dim for o in self.observations}
        for role in ("relative_to", "measured"):
            key = getattr(action, role)
            if key and key not in dims:
                raise VddError(
                    f"action '{action.key}': {role} names no observation '{key}'"
                    f"{did_you_mean(key, dims)}"
                )
            if key and dims[key] != action.dim:
                raise VddError(
                    f"action '{action.key}' has {action.dim} values but its {role} '{key}' has "
                    f"{dims[key]}; expected the same number"
                )
        for name in ("min", "max", "max_rate"):
            values = getattr(action.limits, name)
            if values and len(values) != action.dim:
                raise VddError(
                    f"action '{action.key}': limits.{name} has {len(values)} values, expected "
                    f"{action.dim} (one per component) or none"
                )
            if any(math.isnan(v) for v in values):
                raise VddError(f"action '{action.key}': limits.{name} holds NaN")
        if any(v <= 0 for v in action.limits.max_rate):
            raise VddError(
                f"action '{action.key}': limits.max_rate must be positive, got "
                f"{list(action.limits.max_rate)}"
            )
        for low, high in zip(action.limits.min, action.limits.max, strict=False):
            if low >= high:
                raise VddError(
                    f"action '{action.key}': limits.min {low} is not below limits.max {high}"
                )


def _check_fields(fields: Sequence[TopicField]) -> None:
    seen: set[str] = set()
    for entry in fields:
        if not entry.key or entry.key in seen:
            raise VddError(f"field key '{entry.key}' is empty or used twice; keys are unique")
        seen.add(entry.key)
        if entry.dim < 1:
            raise VddError(f"field '{entry.key}': dim is {entry.dim}, expected at least 1")
        if entry.select and len(entry.select) != entry.dim:
            raise VddError(
                f"field '{entry.key}': select names {len(entry.select)} values, dim says "
                f"{entry.dim}; expected one path per value"
            )
        if entry.topic.startswith("/"):
            raise VddError(
                f"field '{entry.key}': topic '{entry.topic}' is absolute; use a relative name and "
                "remap it or set a namespace, so that two robots can share a machine"
            )


def _slice(fields: Sequence[TopicField], key: str) -> slice:
    start = 0
    for entry in fields:
        if entry.key == key:
            return slice(start, start + entry.dim)
        start += entry.dim
    raise VddError(f"no field '{key}'{did_you_mean(key, [f.key for f in fields])}")
