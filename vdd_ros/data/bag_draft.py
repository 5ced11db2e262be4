"""A first contract for a robot, drafted from a recording of it.

What can be measured is: topics, types, joint names, rates, ranges. What cannot is marked with a
comment that begins with ``decide``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.codecs.decoders import Decoder
from vdd_ros.codecs.table import CODECS, make_decoder, selection
from vdd_ros.core.errors import VddError
from vdd_ros.data.bag_files import Bag

_COMMANDS = re.compile(r"cmd|command|trajectory|target|setpoint|action")
"""What commanded topics are usually called."""
_MOST = 20_000
"""Messages looked at per topic: minutes at any control rate."""
_AGE_PERIODS = 4.0
"""A sample is stale after this many of its own periods: longer than a stall of a busy machine."""
_MARGIN = 1e-5
"""Share of a recorded bound by which a drafted one is wider: more than rounding takes away."""
_STILL = 1e-12
"""A command that changes by less does not move."""


@dataclass(frozen=True)
class Draft:
    """A drafted contract."""

    text: str
    """YAML with comments."""
    observations: tuple[str, ...]
    """Topics that are observed."""
    actions: tuple[str, ...]
    """Topics that are commanded."""
    left_out: tuple[str, ...]
    """Topics that are neither, with the reason."""


@dataclass(eq=False)
class _Topic:
    """What was recorded of one topic."""

    name: str
    type: str
    select: tuple[str, ...] = ()
    decoder: Decoder | None = None
    times_ns: list[int] = field(default_factory=list)
    rows: list[NDArray[np.float64]] = field(default_factory=list)
    fault: str = ""
    key: str = ""

    @property
    def rate_hz(self) -> float:
        """Messages per second, by the median period; 0 where it was said once."""
        steps = np.diff(self.times_ns)
        steps = steps[steps > 0]
        return round(float(1e9 / np.median(steps)), 3) if len(steps) else 0.0

    def hear(self, message: Any, log_ns: int) -> None:  # noqa: ANN401 - a bag's message
        """Take a message; the first one decides what is selected."""
        try:
            if self.decoder is None:
                self.select = _everything(self.type, message)
                self.decoder = make_decoder(self.type, self.select, len(self.select))
            row = np.array(self.decoder.read(message), dtype=np.float64)
        except VddError as error:
            self.fault = self.fault or str(error)
            return
        self.times_ns.append(log_ns)
        if len(self.rows) < _MOST:
            self.rows.append(row)


def draft(bag: Bag, *, name: str, actions: Sequence[str] = ()) -> Draft:
    """Draft the contract of the robot in a recording.

    Args:
        bag: the recording.
        name: of the robot, for people.
        actions: topics that carry commands; guessed by name and type when none is given.

    Raises:
        VddError: nothing to observe or to command was recorded, or ``actions`` names no topic.
    """
    named = {f"/{topic.lstrip('/')}" for topic in actions}
    absent = sorted(named - {t for t, entry in bag.topics.items() if entry.type in CODECS})
    if absent:
        raise VddError(
            f"no topic {', '.join(absent)} of a type a contract may name in {bag.path}, which has "
            f"{', '.join(sorted(bag.topics)) or 'none'}"
        )
    heard, left_out = _listen(bag)
    commanded = [t for t in heard if (t.name in named if named else _is_command(t))]
    observed = [t for t in heard if t not in commanded]
    if not commanded or not observed:
        raise VddError(
            f"{bag.path}: found {len(observed)} topics to observe and {len(commanded)} to command "
            f"among {', '.join(sorted(bag.topics)) or 'none'}; expected at least one of each; "
            "name the commanded ones with --actions"
        )
    if not any(topic.rate_hz for topic in observed):
        raise VddError(f"{bag.path}: no observed topic was recorded more than once")
    for topics in (observed, commanded):
        _name(topics)
    return Draft(
        text=_yaml(name, str(bag.path.name), observed, commanded, left_out),
        observations=tuple(t.name for t in observed),
        actions=tuple(t.name for t in commanded),
        left_out=tuple(left_out),
    )


def _listen(bag: Bag) -> tuple[list[_Topic], list[str]]:
    left_out = [
        f"{entry.name} ({entry.type}): no codec for this type"
        for entry in bag.topics.values()
        if entry.type not in CODECS
    ]
    topics = {e.name: _Topic(e.name, e.type) for e in bag.topics.values() if e.type in CODECS}
    for recorded in bag.messages({t.name: t.type for t in topics.values()}):
        if recorded.message is not None:
            topics[recorded.topic].hear(recorded.message, recorded.log_ns)
    left_out += [
        f"{topic.name} ({topic.type}): {topic.fault or 'no messages'}"
        for topic in topics.values()
        if not topic.rows
    ]
    return [topic for topic in topics.values() if topic.rows], sorted(left_out)


def _everything(type_name: str, message: Any) -> tuple[str, ...]:  # noqa: ANN401
    """All values of a message that a policy would want, by path."""
    codec = CODECS[type_name]
    if codec.family == "joints":
        array = "position" if len(message.position) else "velocity"
        return tuple(f"{array}.{joint}" for joint in message.name)
    if codec.family == "trajectory":
        return tuple(f"positions.{joint}" for joint in message.joint_names)
    if codec.array:
        return selection(type_name, (), len(getattr(message, codec.array)))
    return codec.default


def _is_command(topic: _Topic) -> bool:
    return CODECS[topic.type].family == "trajectory" or bool(_COMMANDS.search(topic.name.lower()))


def _name(topics: list[_Topic]) -> None:
    used: set[str] = set()
    for topic in topics:
        plain = re.sub(r"\W+", "_", topic.name.strip("/")) or "topic"
        short = plain.rpartition("_")[2] if len(plain) > 40 else plain
        topic.key = short
        number = 2
        while topic.key in used:
            topic.key = f"{short}_{number}"
            number += 1
        used.add(topic.key)


def _yaml(
    name: str, source: str, observed: list[_Topic], commanded: list[_Topic], left_out: list[str]
) -> str:
    rates = [t.rate_hz for t in commanded if t.rate_hz] or [
        t.rate_hz for t in observed if t.rate_hz
    ]
    lines = [
        f"# Drafted from {json.dumps(source)}. What the recording cannot tell is marked 'decide'.",
        f"name: {json.dumps(name)}",
        f"rate_hz: {min(rates)!r} # measured; decide: the control rate",
        "observations: # decide: which of them the policy shall see",
    ]
    for topic in observed:
        lines += [*_field(topic), *_age(topic)]
    lines.append("actions:")
    for topic in commanded:
        lines += [*_field(topic), *_measured(topic, observed), *_limits(topic)]
    lines += [
        "n_obs_steps: 1 # decide: observations the policy sees",
        "horizon: 1 # decide: actions it predicts at once",
        "n_action_steps: 1 # decide: how many of them are executed",
        "safety:",
        "  on_stale: hold # decide: zeros stops a robot under velocity control",
        "  on_stop: hold",
        "  max_hold_s: 2.0",
        *(f"# left out: {' '.join(text.split())}" for text in left_out),
    ]
    return "\n".join(lines) + "\n"


def _field(topic: _Topic) -> list[str]:
    paths = ", ".join(json.dumps(path) for path in topic.select)
    return [
        f"  - key: {json.dumps(topic.key)}",
        f"    topic: {json.dumps(topic.name.lstrip('/'))}",
        f"    type: {topic.type}",
        f"    select: [{paths}]",
        f"    dim: {len(topic.select)}",
        '    unit: "" # decide',
    ]


def _age(topic: _Topic) -> list[str]:
    if not topic.rate_hz:
        return ["    max_age_ms: 0.0 # said once; decide: whether it holds until it is said anew"]
    age_ms = round(_AGE_PERIODS * 1e3 / topic.rate_hz, 1)
    return [f"    max_age_ms: {age_ms!r} # {_AGE_PERIODS:g} periods at {topic.rate_hz:g} Hz"]


def _measured(topic: _Topic, observed: list[_Topic]) -> list[str]:
    joints = [path.partition(".")[2] for path in topic.select]
    for other in observed:
        named = CODECS[other.type].family == "joints" and CODECS[topic.type].family != "path"
        if named and [path.partition(".")[2] for path in other.select] == joints:
            return [f"    measured: {json.dumps(other.key)}"]
    return ["    # decide: measured: the observation that measures what this commands"]


def _limits(topic: _Topic) -> list[str]:
    rows = np.stack([row for row in topic.rows if np.isfinite(row).all()] or [topic.rows[0]])
    low, high = rows.min(axis=0), rows.max(axis=0)
    # What changes by less is rounding, or beyond what can be limited.
    if not ((low + _STILL < high) & (high - low < 1.0 / _STILL)).all():
        return ["    # decide: limits; some of the recorded commands never change"]
    margin = _MARGIN * np.maximum(np.abs(low), np.abs(high))
    lines = [
        "    limits: # the recorded range; decide: the robot's own limits",
        f"      min: {_numbers(low - margin)}",
        f"      max: {_numbers(high + margin)}",
    ]
    steps = np.abs(np.diff(rows, axis=0)).max(axis=0) * (topic.rate_hz or 1.0)
    if (steps > _STILL).all():
        lines.append(f"      max_rate: {_numbers(steps)}")
    return lines


def _numbers(values: NDArray[np.floating]) -> str:
    """Write numbers with six digits; YAML takes one without a dot, such as 1e-05, for text."""
    texts = [repr(float(f"{value:.6g}")) for value in values.tolist()]
    parts = [text.partition("e") for text in texts]
    dotted = [whole if "." in whole else f"{whole}.0" for whole, _, _ in parts]
    return f"[{', '.join(d + e + p for d, (_, e, p) in zip(dotted, parts, strict=True))}]"
