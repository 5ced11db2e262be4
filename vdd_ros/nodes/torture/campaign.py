"""The campaign: every kind of fault in a seeded order, within a bounded time, counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vdd_ros.core.config_io import load_yaml
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.core.shipped import shipped_file
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.torture.benches import BENCHES
from vdd_ros.nodes.torture.faults import Fault, Outcome
from vdd_ros.nodes.torture.judge import Findings
from vdd_ros.nodes.torture.registry import FAULTS
from vdd_ros.nodes.torture.rig import Rig

_TAIL_LINES = 6
_AGAIN = 5
"""How often a message that no node was handed is sent anew."""


@dataclass
class Row:
    """What came out for one kind of fault."""

    fault: str
    """Its name."""
    injected: int = 0
    """Times it was injected."""
    planned: int = 0
    """Times it should have been; more than ``injected`` where the time was over before."""
    detected: int = 0
    """Times it was told of, as its definition says."""
    detect_p50_ms: float | None = None
    """Median time from injection to detection; None where nothing was detected."""
    detect_max_ms: float | None = None
    """The longest."""
    outside: int = 0
    """Commands out of limits; must be 0."""
    lost: int = 0
    """Observations that were due an answer and got none; must be 0."""
    unseen: int = 0
    """Observations that no node was handed: replaced by the next one, or lost on their way. A
    message that was to be a fault is injected again then."""
    twice: int = 0
    """Observations with more than one command; must be 0."""
    recovered: int = 0
    """Times the node acted again."""
    crashes: int = 0
    """Times the node ended though nobody ended it; must be 0."""
    silent: int = 0
    """Holds without a published reason; must be 0."""
    examples: list[str] = field(default_factory=list)
    """What was wrong, in words: the first few."""

    @property
    def passed(self) -> bool:
        """Tell whether nothing was wrong and everything was detected and recovered from."""
        wrong = self.outside or self.lost or self.twice or self.crashes or self.silent
        whole = self.injected == self.detected == self.recovered
        return not wrong and whole and self.injected > 0


@dataclass(frozen=True)
class Report:
    """The result of a campaign."""

    seed: int
    rate_hz: float
    seconds: float
    """How long it took."""
    rows: tuple[Row, ...]
    commands: int
    """Commands that were checked."""
    interrupted: bool = False
    """Somebody ended it before its time."""

    @property
    def injected(self) -> int:
        """All injections."""
        return sum(row.injected for row in self.rows)

    @property
    def passed(self) -> bool:
        """Tell whether every kind passed."""
        return bool(self.rows) and all(row.passed for row in self.rows)


def chosen(names: Sequence[str]) -> list[Fault]:
    """Return the kinds of these names, or all.

    Raises:
        VddError: no such kind.
    """
    for name in names:
        if name not in FAULTS:
            raise VddError(f"no fault '{name}'{did_you_mean(name, FAULTS)}")
    return [FAULTS[name] for name in names] if names else list(FAULTS.values())


def run_campaign(
    faults: Sequence[Fault],
    *,
    minutes: float,
    seed: int,
    rate_hz: float,
    scale: float = 1.0,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Run the campaign in a ROS domain of its own, on this machine only.

    Args:
        faults: which kinds.
        minutes: it ends by then, whatever is left.
        seed: decides the order and everything random in the faults.
        rate_hz: observations per second.
        scale: multiplies how often each kind is injected; once at least.
        say: told how far it is.

    Raises:
        VddError: a node does not start.
    """
    begun = time.monotonic()
    end_s = begun + 60.0 * minutes
    rows = {f.name: Row(f.name, planned=max(1, round(f.count * scale))) for f in faults}
    times: dict[str, list[float]] = {f.name: [] for f in faults}
    commands = 0
    interrupted = False
    groups: dict[str, list[Fault]] = {}
    for fault in faults:
        groups.setdefault(fault.bench, []).append(fault)
    rng = np.random.default_rng(seed)
    for position, (bench, members) in enumerate(groups.items()):
        # What a group does not use of its share is the next one's.
        left = list(groups.values())[position:]
        weight = [sum(f.cost_s * rows[f.name].planned for f in group) for group in left]
        share_s = (end_s - time.monotonic()) * weight[0] / max(sum(weight), 1e-9)
        say(f"{bench}: {', '.join(f.name for f in members)}")
        stop_s = time.monotonic() + share_s
        try:
            commands += _run_group(bench, members, rows, times, rng, stop_s, rate_hz, say)
        except KeyboardInterrupt:
            # The nodes have ended; what was measured so far is worth its table.
            interrupted = True
            break
    for name, row in rows.items():
        if times[name]:
            row.detect_p50_ms = float(np.median(times[name]) * 1e3)
            row.detect_max_ms = float(max(times[name]) * 1e3)
    seconds = time.monotonic() - begun
    return Report(seed, rate_hz, seconds, tuple(rows.values()), commands, interrupted)


def _run_group(
    bench: str,
    members: list[Fault],
    rows: Mapping[str, Row],
    times: Mapping[str, list[float]],
    rng: np.random.Generator,
    stop_s: float,
    rate_hz: float,
    say: Callable[[str], None],
) -> int:
    """Run the kinds of one bench, mixed; return how many commands were checked."""
    contract = load_yaml(PolicyContract, shipped_file("config/contracts/avoiding.yaml"))
    with (
        # A node killed while it holds the middleware's shared memory silences the others.
        Driver("torture", own_domain=True, shared_memory=False) as driver,
        BENCHES[bench](driver, contract, rate_hz, rng) as rig,
    ):
        rig.start()
        try:
            _inject_all(members, rows, times, rig, stop_s, say)
            rig.conclude()
        finally:
            for fault in members:
                _charge(rows[fault.name], rig.judge.finding(fault.name))
        return rig.judge.commands


def _inject_all(
    members: list[Fault],
    rows: Mapping[str, Row],
    times: Mapping[str, list[float]],
    rig: Rig,
    stop_s: float,
    say: Callable[[str], None],
) -> None:
    for fault in _order(members, rows, rig.rng):
        row = rows[fault.name]
        if time.monotonic() > stop_s and row.injected:
            continue
        rig.judge.label = fault.name
        outcome = _injected(fault, rig, row)
        for _ in range(_AGAIN):
            if not outcome.unseen or not outcome.recovered:
                break
            outcome = _injected(fault, rig, row)
        row.injected += 1
        row.recovered += outcome.recovered
        if outcome.detected_s is not None:
            row.detected += 1
            times[fault.name].append(outcome.detected_s)
        elif outcome.recovered:
            heard = "; ".join(text for _, text in list(rig.judge.reasons)[-_TAIL_LINES:])
            unseen = ", never handed to the node" if outcome.unseen else ""
            row.examples.append(f"not detected{unseen}; the last reasons: {heard}")
        if not outcome.recovered:
            say(f"{fault.name}: not recovered, the node is started again")
            row.examples.append(f"not recovered; last lines: {_tail(rig)}")
            rig.restart()


def _order(members: list[Fault], rows: Mapping[str, Row], rng: np.random.Generator) -> list[Fault]:
    """Each kind once, then all the others, mixed: one fault must not hide behind another."""
    first = [members[i] for i in rng.permutation(len(members))]
    rest = [fault for fault in members for _ in range(rows[fault.name].planned - 1)]
    return first + [rest[i] for i in rng.permutation(len(rest))]


def _injected(fault: Fault, rig: Rig, row: Row) -> Outcome:
    try:
        outcome = fault.inject(rig)
    except VddError as error:
        row.examples.append(str(error))
        outcome = Outcome(None, recovered=False)
    if not rig.alive:
        row.crashes += 1
        row.examples.append(f"the node ended; last lines: {_tail(rig)}")
        return Outcome(outcome.detected_s, recovered=False)
    return outcome


def _tail(rig: Rig) -> str:
    return rig.process.tail(_TAIL_LINES) if rig.process is not None else "none"


def _charge(row: Row, finding: Findings) -> None:
    row.outside += finding.outside
    row.lost += finding.lost
    row.unseen += finding.unseen
    row.twice += finding.twice
    row.silent += finding.silent
    row.examples += finding.examples
