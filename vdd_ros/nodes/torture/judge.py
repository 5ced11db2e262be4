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
from vdd_ros.nodes.torture.ledger import Ledger

PATIENCE_S = 1.0
"""A due command that is later than this is lost."""
GRACE_S = 0.5
"""A held tick whose reason is later than this was silent."""
HEARD_S = 6.0
"""Longest wait for the first reasons of a node that was just started: two may take seconds to
find each other on one topic when they exchange messages on another one already."""
SEED_S = 2.0
"""How long after a node forgot its past a command may start from the measured state instead."""
TOLERANCE = 1e-6
"""Observations are single precision, commands double."""
HOLD, CLAMP = 2, 1
_TOLD_S = 0.2
"""What a node told before anybody listened comes within so much time."""
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
    """Observations that a node was handed, that were due an answer, and got none."""
    unseen: int = 0
    """Observations that no node was handed: replaced by the next one, or lost on their way."""
    twice: int = 0
    """Observations with more than one command, as of two nodes that both command."""
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
    number: int


@dataclass(frozen=True)
class _Held:
    at_s: float
    stamp_ns: int
    level: int
    label: str
    node: str
    commanding: bool
    life: int


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
        """Time and text of the newest reasons of all nodes."""
        self.rows: deque[tuple[float, int, int]] = deque(maxlen=_MEMORY)
        """Time, stamp and level of the newest status rows of commanding nodes."""
        self.ledger = Ledger()
        self._lives: dict[str, int] = {}
        self._reasons_of: dict[tuple[str, int], deque[tuple[float, str]]] = {}
        self._answers: dict[int, NDArray[np.float64]] = {}
        self.last_command: NDArray[np.float64] | None = None
        self.command_times: deque[tuple[float, int]] = deque(maxlen=_MEMORY)
        """Time and stamp of the newest commands."""
        self._seeded_until_s = -np.inf
        self._due: dict[int, _Sent] = {}
        self._measured: dict[int, NDArray[np.float64]] = {}
        self._held: deque[_Held] = deque()
        self._commanded_s = np.inf
        """When the node sent its first command since it was reborn."""

    def finding(self, label: str = "") -> Findings:
        """Return what is charged to a kind, by default the present one."""
        return self.findings.setdefault(label or self.label, Findings())

    def sent(
        self, stamp_ns: int, measured: Sequence[float], at_s: float, *, due: bool = True
    ) -> int:
        """Take note of an observation and return its number.

        Args:
            stamp_ns: its stamp.
            measured: where the robot is [D_act], empty where the message does not tell.
            at_s: when.
            due: a command with its stamp must follow.
        """
        if len(measured):
            self._measured[stamp_ns] = np.asarray(measured, np.float64)
            _trim(self._measured)
        number = self.ledger.sent(stamp_ns)
        if due:
            self._due[stamp_ns] = _Sent(at_s, self.label, number)
        return number

    def excuse(self) -> None:
        """What has not been answered yet need not be: the node was ended or told to forget."""
        self._due.clear()
        self.ledger.forget()

    def skipped(self, number: int) -> bool:
        """Tell, once, whether no node was handed an observation; it is counted then."""
        if not self.ledger.claim(number):
            return False
        self.finding().unseen += 1
        return True

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
        if stamp_ns in self._answers and stamp_ns in self._measured:
            self.finding().twice += 1
            self.finding().note("two commands for one observation")
        self._answers[stamp_ns] = command
        _trim(self._answers)
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

    def status(
        self,
        stamp_ns: int,
        level: int,
        at_s: float,
        *,
        received: int = -1,
        commanding: bool = True,
        node: str = "",
    ) -> None:
        """Take note of a status row.

        Args:
            stamp_ns: the observation it answers.
            level: of the tick.
            at_s: when it came.
            received: the node's count of observations, or -1.
            commanding: the node commands; where it does not, only its reasons are judged.
            node: its name.
        """
        if commanding:
            self.rows.append((at_s, stamp_ns, level))
            if received >= 0:
                self.ledger.row(stamp_ns, received)
        if level >= HOLD:
            life = self._lives.get(node, 0)
            self._held.append(_Held(at_s, stamp_ns, level, self.label, node, commanding, life))

    def born(self, node: str) -> None:
        """A node is started, perhaps again: what it was before explains nothing now."""
        self._lives[node] = self._lives.get(node, 0) + 1

    def hears(self, node: str) -> bool:
        """Tell whether a reason of the node has come since it was started."""
        return (node, self._lives.get(node, 0)) in self._reasons_of

    def reason(self, text: str, at_s: float, *, node: str = "") -> None:
        """Take note of a published reason, level first."""
        self.reasons.append((at_s, text))
        life = node, self._lives.get(node, 0)
        self._reasons_of.setdefault(life, deque(maxlen=_MEMORY)).append((at_s, text))

    def wonders(self, until_s: float) -> bool:
        """Tell whether the reason of a tick held by then has not come yet."""
        return any(held.at_s <= until_s for held in self._held)

    @property
    def waiting(self) -> bool:
        """Tell whether something that is due has not been answered yet."""
        return bool(self._due)

    def answered(self, stamp_ns: int) -> bool:
        """Tell whether an observation has been answered."""
        return stamp_ns in self._answers

    def answer(self, stamp_ns: int) -> NDArray[np.float64] | None:
        """Return the command [D_act] that answers an observation; None without one."""
        return self._answers.get(stamp_ns)

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
        for held in [held for held in self._held if now_s - held.at_s > GRACE_S]:
            own = self._reasons_of.get((held.node, held.life))
            heard = own is not None and now_s - own[0][0] > _TOLD_S
            if heard or now_s - held.at_s > HEARD_S:
                self._held.remove(held)
                self._judge_held(held)
        late = [stamp for stamp, sent in self._due.items() if now_s - sent.at_s > PATIENCE_S]
        for stamp in late:
            sent = self._due.pop(stamp)
            finding = self.finding(sent.label)
            if self.ledger.claim(sent.number):
                finding.unseen += 1
                continue
            finding.lost += 1
            finding.note("an observation that was due an answer got none")
            end_s = sent.at_s + PATIENCE_S
            if not any(sent.at_s <= at <= end_s and lv >= HOLD for at, _, lv in self.rows):
                finding.silent += 1

    def _judge_held(self, held: _Held) -> None:
        finding, level = self.finding(held.label), LEVELS[held.level]
        sent = held.commanding and held.stamp_ns and held.at_s > self._commanded_s
        if sent and not self.answered(held.stamp_ns):
            finding.lost += 1
            finding.note(f"a tick at level {level} without a command that holds")
        if not self._explained(held):
            finding.silent += 1
            finding.note(f"a tick at level {level} without a published reason")

    def _explained(self, held: _Held) -> bool:
        """Tell whether the node's reason in force, or one right after, names the level."""
        own = self._reasons_of.get((held.node, held.life))
        if not own:
            return False
        first_s = own[0][0]
        if held.at_s < first_s:
            # Nothing was heard of its reasons until then; what it had told before came at once.
            return any(at <= first_s + _TOLD_S and _explains(t, held.level) for at, t in own)
        before = ""
        for when, text in own:
            if when <= held.at_s:
                before = text
            elif when <= held.at_s + GRACE_S and _explains(text, held.level):
                return True
        return _explains(before, held.level)


def _explains(text: str, level: int) -> bool:
    name, _, why = text.partition(": ")
    return name == LEVELS[level] and bool(why.strip())


def _bounds(contract: PolicyContract, name: str, default: float) -> NDArray[np.float64]:
    values: list[float] = []
    for action in contract.actions:
        values += getattr(action.limits, name) or [default] * action.dim
    return np.array(values)


def _trim(kept: dict[int, NDArray[np.float64]]) -> None:
    if len(kept) > _MEMORY:
        del kept[next(iter(kept))]
