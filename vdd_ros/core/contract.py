"""PolicyContract: what a policy reads, what it writes, and how fast.

A contract maps topics to tensors, once. The same contract is written by hand as YAML for a robot,
carried as JSON inside every policy file, used live by the nodes and offline by evaluation. It is
checked in full when it is built: a contract that exists is a contract that fits together.

The observation vector is the concatenation of the observation fields in the order they are
declared; the action vector that of the action fields.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.core.operators import Operators, parse_operators

Execution = Literal[
    "latest_only", "weighted_average", "average", "conservative", "temporal_ensemble"
]
SafetyAction = Literal["hold", "zeros", "none"]
Reliability = Literal["", "reliable", "best_effort"]
Durability = Literal["", "volatile", "transient_local"]

_LONGEST = 4096
"""Most values of a field: more is a mistyped number, and memory laid out for nothing."""
_SLOWEST, _FASTEST = 1e-15, 1e15
"""Limits of motion that can be counted with: beyond them products of two limits lose their
digits, and no robot moves that little or that fast."""
_DEEPEST = 1000
"""Longest queue of a topic: more is a mistyped number, and minutes of old samples."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one action field, one value per component, in the field's ``unit``.

    That is the policy's unit: bounds hold before ``apply`` is undone for the message.
    """

    min: tuple[float, ...] = ()
    """Lowest allowed command; empty for no bound."""
    max: tuple[float, ...] = ()
    """Highest allowed command; empty for no bound."""
    max_rate: tuple[float, ...] = ()
    """Largest allowed change of the command per second; empty for no bound."""
    max_acceleration: tuple[float, ...] = ()
    """Largest allowed change of the command's rate per second; empty for no bound."""
    max_jerk: tuple[float, ...] = ()
    """Largest allowed change of the command's acceleration per second; empty for no bound."""


@dataclass(frozen=True)
class Qos:
    """Quality of service of a topic; what is left out is the default of its role.

    Observations are taken best effort and one deep, which hears every publisher; commands are
    sent reliably and one deep.
    """

    reliability: Reliability = ""
    """``reliable`` or ``best_effort``."""
    durability: Durability = ""
    """``volatile``, or ``transient_local`` for an observation that is published once and kept."""
    depth: int = 0
    """Samples the queue holds."""


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
    """Unit of the values as the policy sees them, for example ``m`` or ``rad``."""
    apply: tuple[str, ...] = ()
    """Operators from the message's values to the policy's, in order, for example ``deg2rad`` or
    ``scale 0.001``; a command is sent through their inverse."""
    qos: Qos = field(default_factory=Qos)
    """Quality of service of the topic, where the default does not fit."""

    def __post_init__(self) -> None:
        """Check what can be checked of one field alone, and name everything that is wrong."""
        problems = list(self._problems())
        if problems:
            raise VddError(*problems)

    def _problems(self) -> Iterator[str]:
        if not self.key:
            yield "field key '' is empty; every field has a name"
        if not 1 <= self.dim <= _LONGEST:
            # What follows lays out vectors of this length.
            yield f"field '{self.key}': dim is {self.dim}, expected at least 1, at most {_LONGEST}"
            return
        if self.select and len(self.select) != self.dim:
            yield (
                f"field '{self.key}': select names {len(self.select)} values, dim says "
                f"{self.dim}; expected one path per value"
            )
        if self.topic.startswith("/"):
            yield (
                f"field '{self.key}': topic '{self.topic}' is absolute; use a relative name and "
                "remap it or set a namespace, so that two robots can share a machine"
            )
        if not 0 <= self.qos.depth <= _DEEPEST:
            yield (
                f"field '{self.key}': qos.depth is {self.qos.depth}, expected 1 to {_DEEPEST}, or "
                "0 for the default"
            )
        try:
            operators = parse_operators(self.apply, self.dim)
        except VddError as error:
            yield f"field '{self.key}': {error}"
        else:
            yield from self._operator_problems(operators)

    def _operator_problems(self, operators: Operators) -> Iterator[str]:
        yield from ()


@dataclass(frozen=True)
class ObservationField(TopicField):
    """One piece of the observation vector and the topic it comes from."""

    max_age_ms: float = 200.0
    """Older than this the observation is stale and the robot holds. 0 for what is said once and
    holds until it is said anew (a goal, a mode): it is never stale and no tick waits for it."""
    max_skew_ms: float = 0.0
    """Older than the newest observation by more than this, the robot holds: the two are not one
    moment. 0: not checked."""

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        for name in ("max_age_ms", "max_skew_ms"):
            value = getattr(self, name)
            # NaN would compare as never stale, and the robot would act on it for ever.
            if not (math.isfinite(value) and value >= 0):
                yield (
                    f"observation '{self.key}': {name} is {value}, expected a positive number of "
                    "milliseconds, or 0 for no limit"
                )
        if self.max_skew_ms and not self.max_age_ms:
            yield (
                f"observation '{self.key}': max_skew_ms is {self.max_skew_ms}, but with "
                "max_age_ms 0 the sample may be as old as it likes; give one or the other"
            )


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
    threshold: float = 0.5
    """A ``std_msgs/msg/Bool`` is sent true from this value on, in the message's unit."""

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        for name in ("min", "max", "max_rate", "max_acceleration", "max_jerk"):
            values = getattr(self.limits, name)
            if values and len(values) != self.dim:
                yield (
                    f"action '{self.key}': limits.{name} has {len(values)} values, expected "
                    f"{self.dim} (one per component) or none"
                )
            if any(math.isnan(v) for v in values):
                yield f"action '{self.key}': limits.{name} holds NaN"
            if name.startswith("max_") and any(v <= 0 for v in values):
                yield f"action '{self.key}': limits.{name} must be positive, got {list(values)}"
            elif name.startswith("max_") and any(
                v < _SLOWEST or _FASTEST < v < math.inf for v in values
            ):
                yield (
                    f"action '{self.key}': limits.{name} is {list(values)}, expected values from "
                    f"{_SLOWEST:g} to {_FASTEST:g}; leave out what is not limited"
                )
        for low, high in zip(self.limits.min, self.limits.max, strict=False):
            if low >= high:
                yield f"action '{self.key}': limits.min {low} is not below limits.max {high}"
        if not math.isfinite(self.threshold):
            yield f"action '{self.key}': threshold is {self.threshold}, not a number"
        if self.qos.durability == "transient_local":
            yield (
                f"action '{self.key}': qos.durability is transient_local; expected volatile: a "
                "command kept for latecomers moves a robot that was just started"
            )

    def _operator_problems(self, operators: Operators) -> Iterator[str]:
        if operators.clamps:
            yield (
                f"action '{self.key}': apply {list(self.apply)}: a clamp cannot be undone for a "
                "command; bound the command with limits.min and limits.max"
            )


@dataclass(frozen=True)
class Safety:
    """What the node does when it may not act."""

    on_stale: SafetyAction = "hold"
    """Sent while observations are missing or stale. ``zeros`` is a slam under position control."""
    on_stop: SafetyAction = "hold"
    """Sent last, on deactivate and on shutdown."""
    max_hold_s: float = 2.0
    """Holding longer than this raises the level from HOLD to SAFE."""
    ramp_s: float = 0.0
    """Seconds after activation, a reset or a hold in which the allowed step grows from nothing to
    the whole of it; 0 for none."""

    def __post_init__(self) -> None:
        """Refuse times that compare as never over."""
        for name in ("max_hold_s", "ramp_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise VddError(f"safety.{name}: got {value}, expected 0 or more seconds")


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
    temporal_ensemble_coeff: float = 0.01
    """execution temporal_ensemble: prediction i of a step, the oldest first, weighs exp(-coeff i).
    0.01 is ACT's; below 0 newer ones weigh more."""
    reset_topic: str = ""
    """Relative topic (``std_msgs/msg/Empty``) that starts a new episode: history is cleared."""
    safety: Safety = field(default_factory=Safety)
    """What happens when the policy may not act."""

    def __post_init__(self) -> None:
        """Check the contract in full, and name everything that does not fit."""
        problems = list(self._problems())
        if problems:
            raise VddError(*problems)

    def _problems(self) -> Iterator[str]:
        if not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            yield f"rate_hz: got {self.rate_hz}, expected a positive number of hertz"
        for name in ("n_obs_steps", "horizon", "n_action_steps"):
            if getattr(self, name) < 1:
                yield f"{name}: got {getattr(self, name)}, expected at least 1"
        if self.n_action_steps > self.horizon:
            yield (
                f"n_action_steps: got {self.n_action_steps}, but the policy predicts only "
                f"horizon = {self.horizon} actions; expected n_action_steps <= horizon"
            )
        if not math.isfinite(self.temporal_ensemble_coeff):
            yield (
                f"temporal_ensemble_coeff: got {self.temporal_ensemble_coeff}, expected a number; "
                "0.01 is ACT's"
            )
        if self.reset_topic.startswith("/"):
            yield f"reset_topic: '{self.reset_topic}' is absolute; use a relative name"
        if not self.observations or not self.actions:
            yield "a contract needs at least one observation and one action field"
        yield from _check_fields(self.observations)
        yield from _check_fields(self.actions)
        if self.observations and not any(entry.max_age_ms for entry in self.observations):
            yield (
                "every observation has max_age_ms 0; at least one needs an age limit, or nobody "
                "would notice that the robot fell silent"
            )
        for action in self.actions:
            yield from self._check_action(action)

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

    def _check_action(self, action: ActionField) -> Iterator[str]:
        dims = {o.key: o.dim for o in self.observations}
        for role in ("relative_to", "measured"):
            key = getattr(action, role)
            if key and key not in dims:
                yield (
                    f"action '{action.key}': {role} names no observation '{key}'"
                    f"{did_you_mean(key, dims)}"
                )
            elif key and dims[key] != action.dim:
                yield (
                    f"action '{action.key}' has {action.dim} values but its {role} '{key}' has "
                    f"{dims[key]}; expected the same number"
                )


def _check_fields(fields: Sequence[TopicField]) -> Iterator[str]:
    seen: set[str] = set()
    first: dict[str, TopicField] = {}
    for entry in fields:
        if entry.key in seen:
            yield f"field key '{entry.key}' is used twice; keys are unique"
        seen.add(entry.key)
        other = first.setdefault(entry.topic, entry)
        if entry.topic and other.qos != entry.qos:
            yield (
                f"fields '{other.key}' and '{entry.key}' share topic '{entry.topic}' but not its "
                "qos; a topic is subscribed once: give both the same"
            )


def _slice(fields: Sequence[TopicField], key: str) -> slice:
    start = 0
    for entry in fields:
        if entry.key == key:
            return slice(start, start + entry.dim)
        start += entry.dim
    raise VddError(f"no field '{key}'{did_you_mean(key, [f.key for f in fields])}")
