"""The observation vector, collected from its topics: latest sample of each, with its age.

Several fields may share one topic: it is subscribed once and decoded once. Nothing here knows
rclpy, so all of it is tested without a robot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.contract import ActionField, ObservationField, PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.nodes.codec_families import Decoder
from vdd_ros.nodes.codecs import has_header, make_decoder

NEVER = -1
"""A stamp before any stamp."""


@dataclass(eq=False)
class Source:
    """One observed topic and the part of the observation vector it fills."""

    topic: str
    """Relative topic name."""
    type: str
    """Message type."""
    keys: tuple[str, ...]
    """Contract fields that come from this topic."""
    columns: slice | NDArray[np.intp]
    """Where the values go in the observation vector."""
    max_age_ns: int
    """The strictest ``max_age_ms`` of its fields."""
    decoder: Decoder
    """Reads the values."""
    stamped: bool
    """Messages carry a header."""
    stamp_ns: int = NEVER
    """Stamp of the sample in the vector, on the node's clock."""
    fresh: bool = False
    """A sample came in since the last tick."""
    fault: str = ""
    """Why the newest message could not be used; empty while all is well."""
    waiting: str = field(default="waiting for the first message")
    """Why there is no sample yet, in words; refined by the node from the ROS graph."""


class ObservationCollector:
    """Keeps the newest sample of every topic in one preallocated row."""

    def __init__(self, contract: PolicyContract) -> None:
        """Group the fields by topic and build the decoders.

        Raises:
            VddError: a field without topic or type, one topic with two types, or a selection the
                type does not have.
        """
        self.row: NDArray[np.float32] = np.zeros(contract.dim_obs, dtype=np.float32)
        """[D_obs] the newest values; overwritten in place."""
        self.labels = [f"{o.key}[{i}]" for o in contract.observations for i in range(o.dim)]
        """Name of every component, for messages."""
        self.sources = [_source(contract, fields) for fields in _by_topic(contract.observations)]
        self.max_age_ns = min(source.max_age_ns for source in self.sources)
        """The strictest limit of all."""
        self._not_before_ns = NEVER

    def accept(self, source: Source, message: Any, now_ns: int) -> bool:  # noqa: ANN401
        """Take a message; return True when every topic has a new sample.

        A sample from before the last `reset` is ignored: it was still on its way.

        The header's stamp counts where there is one; a zero stamp means the driver does not
        stamp, then and without a header the time of receipt counts.

        Raises:
            VddError: the message lacks a value the contract selects.
        """
        stamp_ns = now_ns
        if source.stamped:
            stamp = message.header.stamp
            stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec or now_ns
        # Older by more than an age: the clock was set back, and the limit means nothing any more.
        if 0 <= self._not_before_ns - stamp_ns < self.max_age_ns:
            return False
        try:
            self.row[source.columns] = source.decoder.read(message)
        except VddError as error:
            source.fault = f"{source.topic}: {error}"
            raise
        source.fault = ""
        source.stamp_ns = stamp_ns
        source.fresh = True
        return len(self.sources) == 1 or all(s.fresh for s in self.sources)

    def take(self) -> int:
        """Mark the samples as used and return the oldest stamp among them (ns)."""
        for source in self.sources:
            source.fresh = False
        return min(source.stamp_ns for source in self.sources)

    def problem(self, now_ns: int) -> str:
        """Return why the vector may not be acted on at ``now_ns``; empty when it may.

        The text is the same for as long as the cause is, so that a change of it is news.
        """
        for source in self.sources:
            if source.fault:
                return source.fault
            if source.stamp_ns == NEVER:
                return f"{source.topic}: {source.waiting}"
            age_ns = now_ns - source.stamp_ns
            if age_ns > source.max_age_ns:
                return (
                    f"{source.topic}: stale, the last sample is older than "
                    f"{source.max_age_ns / 1e6:g} ms"
                )
            if -age_ns > source.max_age_ns:
                return (
                    f"{source.topic}: stamped more than {source.max_age_ns / 1e6:g} ms in the "
                    "future; synchronise the clocks, or check use_sim_time"
                )
        return ""

    def non_finite(self) -> str:
        """Name the components that are NaN or infinite; empty when all are numbers."""
        if np.isfinite(self.row).all():
            return ""
        bad = [self.labels[i] for i in np.flatnonzero(~np.isfinite(self.row))]
        return f"non-finite observation {', '.join(bad)}"

    def reset(self, now_ns: int = NEVER) -> None:
        """Forget all samples, and ignore those stamped up to ``now_ns``."""
        self._not_before_ns = now_ns
        for source in self.sources:
            source.stamp_ns = NEVER
            source.fresh = False
            source.fault = ""


def columns_of(slices: list[slice]) -> slice | NDArray[np.intp]:
    """Join slices of a vector: one slice where they are adjacent, else their indices."""
    indices = np.concatenate([np.arange(s.start, s.stop) for s in slices])
    if np.array_equal(indices, np.arange(indices[0], indices[0] + len(indices))):
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def group_by_topic(
    fields: tuple[ObservationField, ...] | tuple[ActionField, ...],
) -> list[list[Any]]:
    """Group contract fields by topic, in order of first appearance.

    Raises:
        VddError: a field without topic or type, or one topic with two types.
    """
    groups: dict[str, list[Any]] = {}
    for entry in fields:
        if not entry.topic or not entry.type:
            raise VddError(
                f"field '{entry.key}' has no {'type' if entry.topic else 'topic'}; the contract "
                "of a node needs a topic and a message type for every field"
            )
        group = groups.setdefault(entry.topic, [])
        if group and group[0].type != entry.type:
            raise VddError(
                f"topic '{entry.topic}' is {group[0].type} for field '{group[0].key}' and "
                f"{entry.type} for field '{entry.key}'; a topic has one type"
            )
        group.append(entry)
    return list(groups.values())


def joint_selection(fields: list[Any]) -> tuple[str, ...]:
    """Concatenate the selections of fields that share a topic.

    Raises:
        VddError: a field among several selects nothing, so that its values are undefined.
    """
    if len(fields) > 1 and not all(f.select for f in fields):
        bare = next(f.key for f in fields if not f.select)
        raise VddError(f"field '{bare}' shares topic '{fields[0].topic}' and needs 'select'")
    return tuple(path for f in fields for path in f.select)


def _by_topic(fields: tuple[ObservationField, ...]) -> list[list[ObservationField]]:
    return group_by_topic(fields)


def _source(contract: PolicyContract, fields: list[ObservationField]) -> Source:
    first = fields[0]
    try:
        decoder = make_decoder(first.type, joint_selection(fields), sum(f.dim for f in fields))
    except VddError as error:
        raise VddError(f"observation topic '{first.topic}': {error}") from None
    return Source(
        topic=first.topic,
        type=first.type,
        keys=tuple(f.key for f in fields),
        columns=columns_of([contract.observation_slice(f.key) for f in fields]),
        max_age_ns=round(min(f.max_age_ms for f in fields) * 1e6),
        decoder=decoder,
        stamped=has_header(first.type),
    )
