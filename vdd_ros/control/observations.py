"""The observation vector, collected from its topics: latest sample of each, with its age.

Several fields may share one topic: it is subscribed once and decoded once. Nothing here knows
rclpy, so all of it is tested without a robot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.codecs.topics import TopicReader, stamp_of, topic_readers
from vdd_ros.core.contract import ObservationField, PolicyContract, Qos
from vdd_ros.core.errors import VddError

NEVER = -1
"""A stamp before any stamp."""


@dataclass(eq=False)
class Source:
    """One observed topic and the newest sample of it."""

    reader: TopicReader
    """Reads its messages, and knows where the values go."""
    max_age_ns: int
    """The strictest ``max_age_ms`` of its fields; 0 where a sample holds until the next."""
    max_skew_ns: int
    """The strictest ``max_skew_ms`` of its fields; 0 for none."""
    stamp_ns: int = NEVER
    """Stamp of the sample in the vector, on the node's clock."""
    fresh: bool = False
    """A sample came in since the last tick."""
    fault: str = ""
    """Why the newest message could not be used; empty while all is well."""
    waiting: str = field(default="waiting for the first message")
    """Why there is no sample yet, in words; refined by the node from the ROS graph."""
    lost: str = ""
    """Why samples stopped, where the ROS graph tells; empty where it does not."""

    @property
    def topic(self) -> str:
        """Relative topic name."""
        return self.reader.topic

    @property
    def type(self) -> str:
        """Message type."""
        return self.reader.type

    @property
    def qos(self) -> Qos:
        """What the contract says of the topic's quality of service."""
        return self.reader.qos


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
        fields = {entry.key: entry for entry in contract.observations}
        self.sources = [
            _source(reader, [fields[key] for key in reader.keys])
            for reader in topic_readers(contract.observations)
        ]
        self._paced = [source for source in self.sources if source.max_age_ns]
        self._skewed = [source for source in self.sources if source.max_skew_ns]
        self.max_age_ns = min(source.max_age_ns for source in self._paced)
        """The strictest limit of all."""
        self._not_before_ns = NEVER

    def accept(self, source: Source, message: Any, now_ns: int) -> bool:  # noqa: ANN401
        """Take a message; return True when every topic with an age limit has a new sample.

        A sample from before the last `reset` is ignored: it was still on its way.

        The header's stamp counts where there is one; a zero stamp means the driver does not
        stamp, then and without a header the time of receipt counts.

        Raises:
            VddError: the message lacks a value the contract selects.
        """
        reader = source.reader
        # Before 1970 is stale, never mistaken for "no sample yet".
        stamp_ns = max(stamp_of(message) or now_ns, 1) if reader.stamped else now_ns
        # Older by more than an age: the clock was set back, and the limit means nothing any more.
        if 0 <= self._not_before_ns - stamp_ns < self.max_age_ns:
            return False
        try:
            self.row[reader.columns] = reader.read(message)
        except VddError as error:
            source.fault = f"{source.topic}: {error}"
            raise
        source.fault = source.lost = ""
        source.stamp_ns = stamp_ns
        source.fresh = True
        if len(self.sources) == 1:
            return True
        return source.max_age_ns > 0 and all(s.fresh for s in self._paced)

    def take(self) -> int:
        """Mark the samples as used; return the oldest stamp (ns) of those with an age limit."""
        for source in self._paced:
            source.fresh = False
        return min(source.stamp_ns for source in self._paced)

    def problem(self, now_ns: int) -> str:
        """Return why the vector may not be acted on at ``now_ns``; empty when it may.

        The text is the same for as long as the cause is, so that a change of it is news.
        """
        for source in self.sources:
            if source.fault:
                return source.fault
            if source.stamp_ns == NEVER:
                return f"{source.topic}: {source.waiting}"
            if not source.max_age_ns:
                continue
            age_ns = now_ns - source.stamp_ns
            if age_ns > source.max_age_ns:
                text = (
                    f"{source.topic}: stale, the last sample is older than "
                    f"{source.max_age_ns / 1e6:g} ms"
                )
                return f"{text}: {source.lost}" if source.lost else text
            if -age_ns > source.max_age_ns:
                return (
                    f"{source.topic}: stamped more than {source.max_age_ns / 1e6:g} ms in the "
                    "future; synchronise the clocks, or check use_sim_time"
                )
        return self._skew() if self._skewed else ""

    def _skew(self) -> str:
        newest_ns = max(source.stamp_ns for source in self._paced)
        for source in self._skewed:
            if newest_ns - source.stamp_ns > source.max_skew_ns:
                return (
                    f"{source.topic}: skewed, its sample is more than "
                    f"{source.max_skew_ns / 1e6:g} ms older than the newest observation"
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


def _source(reader: TopicReader, fields: list[ObservationField]) -> Source:
    # A topic is as strict as its strictest field; 0 means "no limit", not "the strictest".
    ages = [f.max_age_ms for f in fields if f.max_age_ms]
    skews = [f.max_skew_ms for f in fields if f.max_skew_ms]
    return Source(
        reader=reader,
        max_age_ns=round(min(ages, default=0.0) * 1e6),
        max_skew_ns=round(min(skews, default=0.0) * 1e6),
    )
