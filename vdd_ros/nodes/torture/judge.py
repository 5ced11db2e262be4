"""The judge: what a robot may demand of a node, checked from the outside.

Nothing of the nodes' own safety is used: the limits are read from the contract and checked here in
a few lines, so that a mistake there cannot hide itself. Times are steady seconds, handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.contract import PolicyContract

PATIENCE_S = 1.0
"""A due command that is later than this is lost."""
GRACE_S = 0.5
"""A held tick whose reason is later than this was silent."""
SEED_S = 2.0
"""How long after a node forgot its past a command may start from the measured state instead."""
TOLERANCE = 1e-6
"""Observations are single precision, commands double."""
HOLD, CLAMP = 2, 1
LEVELS = ("ACT", "CLAMP", "HOLD", "SAFE", "STOP")
"""Names of the levels in ``~/status``, as they stand at the beginning of ``~/reason``."""
_EXAMPLES = 5
_MEMORY = 4096


@dataclass
class Findings:
    """What was wrong while one kind of fault was injected."""

    outside: int = 0
    """Commands out of limits: not finite, out of position bounds, or too far from the last."""
    lost: int = 0
    """Observations that were due an answer and got none."""
    silent: int = 0
    """Held ticks without a published reason, and unanswered ones without even a held tick."""
    examples: list[str] = field(default_factory=list)
    """The first few, in words."""

    def note(self, text: str) -> None:
        """Keep an example."""
        if len(self.examples) < _EXAMPLES:
            self.examples.append(text)


@dataclass(frozen=True)
class _Sent:
    at_s: float
    label: str


class Judge:
    """Watches one robot's command topic and what its nodes say; see the module's docstring."""

    def __init__(self, contract: PolicyContract, *, rate_hz: float) -> None:
        """Read the limits.

        Args:
            contract: bounds of the commands.
            rate_hz: commands per second, by which the largest step follows from the largest rate.
        """
        self._low = _bounds(contract, "min", -np.inf)
        self._high = _bounds(contract, "max", np.inf)
        self._step = _bounds(contract, "max_rate", np.inf) / rate_hz + TOLERANCE
        self.findings: dict[str, Findings] = {}
        self.label = "start"
        """Kind of fault that everything found from now on is charged to."""
        self.commands = 0
        self.reasons: deque[tuple[float, str]] = deque(maxlen=_MEMORY)
        self.rows: deque[tuple[float, int, int]] = deque(maxlen=_MEMORY)
        """Time, stamp and level of the newest status rows."""
        self.last_command: NDArray[np.float64] | None = None
        self.command_times: deque[tuple[float, int]] = deque(maxlen=_MEMORY)
        """Time and stamp of the newest commands."""
        self._seeded_until_s = -np.inf
        self._due: dict[int, _Sent] = {}
        self._measured: dict[int, NDArray[np.float64]] = {}
        self._held: deque[tuple[float, int, int, str]] = deque()
        self._commanded_s = np.inf
        """When the node sent its first command since it was reborn."""

    def finding(self, label: str = "") -> Findings:
        """Return what is charged to a kind, by default the present one."""
        return self.findings.setdefault(label or self.label, Findings())

    def sent(
        self, stamp_ns: int, measured: Sequence[float], at_s: float, *, due: bool = True
    ) -> None:
        """Take note of an observation; ``due``: a command with its stamp must follow."""
        self._measured[stamp_ns] = np.asarray(measured, np.float64)
        if len(self._measured) > _MEMORY:
            del self._measured[next(iter(self._measured))]
        if due:
            self._due[stamp_ns] = _Sent(at_s, self.label)

    def excuse(self) -> None:
        """What has not been answered yet need not be: the node was ended or told to forget."""
        self._due.clear()

    def reborn(self, at_s: float) -> None:
        """The node forgets the last command now: the next may start from the measured state."""
        self._seeded_until_s = at_s + SEED_S
        self._commanded_s = np.inf

    def command(self, stamp_ns: int, values: Sequence[float], at_s: float) -> None:
        """Check a command [D_act] against the limits."""
        command = np.asarray(values, np.float64)
        self.commands += 1
        self.command_times.append((at_s, stamp_ns))
        self._commanded_s = min(self._commanded_s, at_s)
        self._due.pop(stamp_ns, None)
        wrong = self._wrong(stamp_ns, command, at_s)
        if wrong:
            finding = self.finding()
            finding.outside += 1
            finding.note(f"command {np.round(command, 5).tolist()} {wrong}")
        if np.isfinite(command).all():
            self.last_command = command

    def _wrong(self, stamp_ns: int, command: NDArray[np.float64], at_s: float) -> str:
        if not np.isfinite(command).all():
            return "is not finite"
        low, high = self._low - TOLERANCE, self._high + TOLERANCE
        if (command < low).any() or (command > high).any():
            return "is out of the position bounds"
        last = self.last_command
        if last is None or (np.abs(command - last) <= self._step).all():
            return ""
        measured = self._measured.get(stamp_ns)
        if at_s <= self._seeded_until_s and measured is not None:
            start = np.clip(measured, self._low, self._high)
            if (np.abs(command - start) <= self._step).all():
                self._seeded_until_s = -np.inf
                return ""
        return f"is too far from the one before, {np.round(last, 5).tolist()}"

    def status(self, stamp_ns: int, level: int, at_s: float) -> None:
        """Take note of a status row."""
        self.rows.append((at_s, stamp_ns, level))
        if level >= HOLD:
            self._held.append((at_s, stamp_ns, level, self.label))

    def reason(self, text: str, at_s: float) -> None:
        """Take note of a published reason, level first."""
        self.reasons.append((at_s, text))

    @property
    def waiting(self) -> bool:
        """Tell whether something that is due has not been answered yet."""
        return bool(self._due)

    def answered(self, stamp_ns: int) -> bool:
        """Tell whether an observation that was due has been answered."""
        return any(stamp == stamp_ns for _, stamp in self.command_times)

    def acted_since(self, at_s: float) -> bool:
        """Tell whether a command answered an observation freely after ``at_s``."""
        acting = {stamp for at, stamp, level in self.rows if at >= at_s and level <= CLAMP}
        return any(at >= at_s and stamp in acting for at, stamp in self.command_times)

    def level_since(self, at_s: float) -> int:
        """Return the highest level of the rows since ``at_s``; -1 without any."""
        return max((level for at, _, level in self.rows if at >= at_s), default=-1)

    def reason_since(self, at_s: float) -> list[str]:
        """Return the reasons published since ``at_s``."""
        return [text for at, text in self.reasons if at >= at_s]

    def settle(self, now_s: float) -> None:
        """Decide on everything whose time has come by ``now_s``."""
        while self._held and now_s - self._held[0][0] > GRACE_S:
            at_s, stamp_ns, level, label = self._held.popleft()
            finding = self.finding(label)
            if stamp_ns and at_s > self._commanded_s and not self.answered(stamp_ns):
                finding.lost += 1
                finding.note(f"a tick at level {LEVELS[level]} without a command that holds")
            if not self._explained(at_s, level):
                finding.silent += 1
                finding.note(f"a tick at level {LEVELS[level]} without a published reason")
        late = [stamp for stamp, sent in self._due.items() if now_s - sent.at_s > PATIENCE_S]
        for stamp in late:
            sent = self._due.pop(stamp)
            finding = self.finding(sent.label)
            finding.lost += 1
            finding.note("an observation that was due an answer got none")
            end_s = sent.at_s + PATIENCE_S
            if not any(sent.at_s <= at <= end_s and lv >= HOLD for at, _, lv in self.rows):
                finding.silent += 1

    def _explained(self, at_s: float, level: int) -> bool:
        """Tell whether the reason in force at ``at_s``, or one right after it, names the level."""
        before = ""
        for when, text in self.reasons:
            if when <= at_s:
                before = text
            elif when <= at_s + GRACE_S and _explains(text, level):
                return True
        return _explains(before, level)


def _explains(text: str, level: int) -> bool:
    name, _, why = text.partition(": ")
    return name == LEVELS[level] and bool(why.strip())


def _bounds(contract: PolicyContract, name: str, default: float) -> NDArray[np.float64]:
    values: list[float] = []
    for action in contract.actions:
        values += getattr(action.limits, name) or [default] * action.dim
    return np.array(values)
