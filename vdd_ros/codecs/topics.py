"""A contract's fields, topic by topic: what is read from one message, what one message carries.

Several fields may share one topic: its messages are decoded once, and one message carries all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vdd_ros.codecs.decoders import Decoder, Values
from vdd_ros.codecs.encoders import Empty, Encoder, Rows
from vdd_ros.codecs.schemas import has_header
from vdd_ros.codecs.table import make_decoder, make_encoder
from vdd_ros.core.contract import ActionField, Qos, TopicField
from vdd_ros.core.errors import VddError
from vdd_ros.core.operators import Operators, parse_operators

Columns = slice | NDArray[np.intp]
"""Where values stand in a vector."""

F = TypeVar("F", bound=TopicField)

_NS = 1_000_000_000


@dataclass(frozen=True, eq=False)
class TopicReader:
    """One topic and the part of a vector its messages fill."""

    topic: str
    """Relative topic name."""
    type: str
    """Message type."""
    keys: tuple[str, ...]
    """Contract fields that come from this topic."""
    columns: Columns
    """Where the values go in the vector of all fields."""
    read: Callable[[Any], Values]
    """From a message to the values [D] in the policy's units; raises `VddError` where it lacks
    one. Valid until the next call."""
    stamped: bool
    """Messages carry a header."""
    qos: Qos
    """What the contract says of the topic's quality of service."""


@dataclass(frozen=True, eq=False)
class TopicWriter:
    """One topic and the part of a vector its messages carry."""

    topic: str
    """Relative topic name."""
    type: str
    """Message type."""
    keys: tuple[str, ...]
    """Contract fields that go to this topic."""
    columns: Columns
    """Where the values stand in the vector of all fields."""
    encoder: Encoder
    """Owns the message and writes it."""
    operators: Operators | None
    """What the values are taken back through; None where they are sent as they are."""
    stamped: bool
    """The message carries a header."""
    planned: bool
    """The message has a time axis and takes the whole plan."""
    qos: Qos
    """What the contract says of the topic's quality of service."""

    def write(self, rows: Rows, stamp_ns: int) -> Any:  # noqa: ANN401
        """Fill the message from vectors [T, D_all] of finite numbers and return it."""
        rows = rows[:, self.columns]
        self.encoder.write(rows if self.operators is None else self.operators.inverse(rows))
        message = self.encoder.message
        if self.stamped:
            stamp = message.header.stamp
            stamp.sec, stamp.nanosec = divmod(stamp_ns, _NS)
        return message


def topic_readers(fields: Sequence[TopicField]) -> list[TopicReader]:
    """Build the readers of observation or action fields, one per topic.

    Raises:
        VddError: a field without topic or type, one topic with two types, or a selection the type
            does not have.
    """
    places = _places(fields)
    return [_reader(group, places) for group in group_by_topic(fields)]


def topic_writers(
    fields: Sequence[TopicField],
    *,
    empty: Empty,
    horizon: int = 1,
    step_s: float = 1.0,
    frame_id: str = "",
) -> list[TopicWriter]:
    """Build the writers of action (or, for a robot, observation) fields, one per topic.

    Args:
        fields: name topics, types and selections.
        empty: makes an empty message of a type, see `encoders.Empty`.
        horizon: rows of the longest plan.
        step_s: seconds between two rows, the spacing of a plan's points.
        frame_id: put into the header of stamped messages.

    Raises:
        VddError: as `topic_readers`.
    """
    places = _places(fields)
    writers = []
    for group in group_by_topic(fields):
        first = group[0]
        threshold = first.threshold if isinstance(first, ActionField) else 0.5
        try:
            encoder = make_encoder(
                first.type,
                joint_selection(group),
                sum(f.dim for f in group),
                empty=empty,
                horizon=horizon,
                step_s=step_s,
                threshold=threshold,
            )
        except VddError as error:
            raise VddError(f"topic '{first.topic}': {error}") from None
        stamped = has_header(first.type)
        if stamped:
            encoder.message.header.frame_id = frame_id
        writers.append(
            TopicWriter(
                topic=first.topic,
                type=first.type,
                keys=tuple(f.key for f in group),
                columns=columns_of([places[f.key] for f in group]),
                encoder=encoder,
                operators=topic_operators(group),
                stamped=stamped,
                planned=first.type == "trajectory_msgs/msg/JointTrajectory",
                qos=first.qos,
            )
        )
    return writers


def stamp_of(message: Any) -> int:  # noqa: ANN401
    """Return the header's stamp in ns; 0 where the driver does not stamp."""
    stamp = message.header.stamp
    return int(stamp.sec * _NS + stamp.nanosec)


def columns_of(slices: list[slice]) -> Columns:
    """Join slices of a vector: one slice where they are adjacent, else their indices."""
    indices = np.concatenate([np.arange(s.start, s.stop) for s in slices])
    if np.array_equal(indices, np.arange(indices[0], indices[0] + len(indices))):
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def group_by_topic(fields: Sequence[F]) -> list[list[F]]:
    """Group contract fields by topic, in order of first appearance.

    Raises:
        VddError: a field without topic or type, or one topic with two types.
    """
    groups: dict[str, list[F]] = {}
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


def joint_selection(fields: Sequence[TopicField]) -> tuple[str, ...]:
    """Concatenate the selections of fields that share a topic.

    Raises:
        VddError: a field among several selects nothing, so that its values are undefined.
    """
    if len(fields) > 1 and not all(f.select for f in fields):
        bare = next(f.key for f in fields if not f.select)
        raise VddError(f"field '{bare}' shares topic '{fields[0].topic}' and needs 'select'")
    return tuple(path for f in fields for path in f.select)


def topic_operators(fields: Sequence[TopicField]) -> Operators | None:
    """Join the operators of fields that share a topic; None where no value is changed."""
    parts = [parse_operators(f.apply, f.dim) for f in fields]
    if all(part.identity for part in parts):
        return None
    return Operators(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("scale", "offset", "low", "high")
        )
    )


def _reader(fields: list[TopicField], places: dict[str, slice]) -> TopicReader:
    first = fields[0]
    try:
        decoder = make_decoder(first.type, joint_selection(fields), sum(f.dim for f in fields))
    except VddError as error:
        raise VddError(f"topic '{first.topic}': {error}") from None
    return TopicReader(
        topic=first.topic,
        type=first.type,
        keys=tuple(f.key for f in fields),
        columns=columns_of([places[f.key] for f in fields]),
        read=_through(decoder, topic_operators(fields)),
        stamped=has_header(first.type),
        qos=first.qos,
    )


def _through(decoder: Decoder, operators: Operators | None) -> Callable[[Any], Values]:
    if operators is None:
        return decoder.read
    read, forward = decoder.read, operators.forward
    return lambda message: forward(read(message))


def _places(fields: Sequence[TopicField]) -> dict[str, slice]:
    places, start = {}, 0
    for entry in fields:
        places[entry.key] = slice(start, start + entry.dim)
        start += entry.dim
    return places
