"""What a recording is like, field by field: rates, gaps, ages, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

MAX_REASONS = 50
"""Different reasons kept; the rest is counted together."""
_GAP = 2.5
"""Median intervals above which two messages have a gap between them: at least one is missing."""


class Reasons:
    """Counts texts, few of them however many come."""

    def __init__(self) -> None:
        """Begin with none."""
        self.counts: Counter[str] = Counter()

    def add(self, reason: str) -> None:
        """Count one."""
        if reason not in self.counts and len(self.counts) >= MAX_REASONS:
            reason = "other reasons"
        self.counts[reason] += 1


@dataclass(frozen=True)
class FieldAudit:
    """One topic of the contract in one or more bags."""

    keys: tuple[str, ...]
    """Fields that come from it."""
    topic: str
    """The contract's topic."""
    type: str
    """Message type."""
    role: str
    """observation or action."""
    messages: int
    """How many were recorded."""
    malformed: int
    """Of these, bytes that are no message of the type."""
    faults: dict[str, int]
    """Messages that lack what the contract selects, for example a joint, by reason."""
    rate_hz: float
    """Messages per second, from the median interval; 0 where there are fewer than two."""
    gaps: int
    """Intervals of more than two and a half times the median."""
    longest_gap_s: float
    """The longest interval."""
    age_p50_ms: float
    """Age of the sample when a row was made of it: half of them are younger. NaN without rows."""
    age_p99_ms: float
    """Ninety-nine of a hundred are younger."""
    age_max_ms: float
    """The oldest."""


@dataclass(frozen=True)
class Audit:
    """What became of a recording."""

    bags: tuple[str, ...]
    """Where it came from."""
    fields: tuple[FieldAudit, ...]
    """By topic."""
    rows: int
    """Rows that became demonstrations."""
    episodes: int
    """Episodes they make."""
    dropped: dict[str, int]
    """Rows left out, by reason."""
    paired_by: str
    """How the command of a row was found: stamp, next or latest."""
    rate_hz: float
    """Rows per second, from the median interval inside episodes."""
    contract_rate_hz: float
    """What the contract says."""

    @property
    def warnings(self) -> list[str]:
        """What a person should look at before training on it."""
        found = []
        for entry in self.fields:
            found += [f"{entry.topic}: {n} x {text}" for text, n in entry.faults.items()]
            if entry.malformed:
                found.append(
                    f"{entry.topic}: {entry.malformed} of {entry.messages} messages are damaged"
                )
        if self.rate_hz and abs(np.log(self.rate_hz / self.contract_rate_hz)) > np.log(1.1):
            found.append(
                f"rows come at {self.rate_hz:.3g} Hz, the contract says "
                f"{self.contract_rate_hz:.3g}; give --rate-hz to sample at the contract's rate"
            )
        lost = sum(self.dropped.values())
        if lost > 0.05 * max(self.rows, 1):
            found.append(f"{lost} rows were left out for {self.rows} that were kept")
        return found


@dataclass
class TopicTally:
    """What is counted of one topic while a recording is read."""

    keys: tuple[str, ...]
    topic: str
    type: str
    role: str
    malformed: int = 0
    faults: Reasons = field(default_factory=Reasons)
    times_ns: list[int] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    ages_ns: list[int] = field(default_factory=list)

    def summary(self) -> FieldAudit:
        """Return the figures."""
        # Where a bag ends and the next begins there is no interval.
        parts = np.split(np.array(self.times_ns, np.int64), self.breaks)
        steps = np.concatenate([np.diff(part) for part in parts] or [np.zeros(0, np.int64)])
        positive = steps[steps > 0]
        median = float(np.median(positive)) if len(positive) else 0.0
        ages = np.array(self.ages_ns, np.float64) * 1e-6 if self.ages_ns else np.full(1, np.nan)
        return FieldAudit(
            keys=self.keys,
            topic=self.topic,
            type=self.type,
            role=self.role,
            messages=len(self.times_ns),
            malformed=self.malformed,
            faults=dict(self.faults.counts),
            rate_hz=1e9 / median if median else 0.0,
            gaps=int((positive > _GAP * median).sum()),
            longest_gap_s=float(positive.max()) * 1e-9 if len(positive) else 0.0,
            age_p50_ms=float(np.percentile(ages, 50)),
            age_p99_ms=float(np.percentile(ages, 99)),
            age_max_ms=float(ages.max()),
        )


def median_rate(stamps_ns: Sequence[int], starts: Sequence[int]) -> float:
    """Rows per second from stamps (ns) of rows, ``starts`` being first rows of episodes."""
    parts = np.split(np.array(stamps_ns, np.int64), list(starts))
    steps = np.concatenate([np.diff(part) for part in parts] or [np.zeros(0, np.int64)])
    steps = steps[steps > 0]
    return float(1e9 / np.median(steps)) if len(steps) else 0.0
