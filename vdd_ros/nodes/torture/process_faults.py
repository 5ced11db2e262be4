"""Faults of processes: killed, stopped and ended nodes, alone and with a standby."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

from vdd_ros.nodes.torture.faults import DETECT_S, Fault, Outcome, told
from vdd_ros.nodes.torture.rig import START_S, Rig

STANDBY = "teacher"
"""Name of the node beside the node under test: its standby, or a shadow of it."""
_SLICE_S = 0.02


@dataclass(frozen=True)
class Stalled(Fault):
    """SIGSTOP, SIGCONT: as if the machine had been somewhere else."""

    def inject(self, rig: Rig) -> Outcome:
        """Stop the node while states go on."""
        rig.ticks(3)
        rig.settle_commands()
        process, missed = rig.processes[rig.settings.node], rig.row["missed"]
        process.send(signal.SIGSTOP)
        try:
            rig.rest(float(rig.rng.uniform(0.05, 0.5)), due=False)
        finally:
            process.send(signal.SIGCONT)
        begun = time.monotonic()
        said = rig.pace(lambda: rig.row["missed"] > missed, timeout_s=DETECT_S, due=False)
        took_s = time.monotonic() - begun
        return Outcome(took_s if said else None, self.recovered(rig))


@dataclass(frozen=True)
class Ended(Fault):
    """A node without a standby ends, and is started again."""

    number: signal.Signals = signal.SIGKILL
    """By which signal."""

    def inject(self, rig: Rig) -> Outcome:
        """End it in the middle of the stream."""
        rig.ticks(3)
        rig.settle_commands()
        begun, name = time.monotonic(), rig.settings.node
        code = rig.kill(name, self.number)
        took_s = time.monotonic() - begun
        if self.number == signal.SIGKILL:
            known = code == -signal.SIGKILL
        else:
            said = told(rig, begun, "STOP", sending=False)
            known = code == 0 and said is not None
        rig.judge.excuse()
        rig.launch(name)
        rig.await_answer()
        return Outcome(took_s if known else None, self.recovered(rig))


@dataclass(frozen=True)
class Replaced(Fault):
    """The commanding node is killed or stopped; its standby must command."""

    number: signal.Signals = signal.SIGKILL
    """SIGKILL, or SIGSTOP with a SIGCONT when the standby commands."""

    def inject(self, rig: Rig) -> Outcome:
        """Do it, wait for the standby, and for the command to come back."""
        name = rig.settings.node
        rig.ticks(5)
        rig.settle_commands()
        rig.judge.excuse()
        begun = time.monotonic()
        if self.number == signal.SIGKILL:
            rig.kill(name)
        else:
            rig.processes[name].send(signal.SIGSTOP)
        try:
            taken = rig.pace(lambda: commands(rig, STANDBY), timeout_s=DETECT_S, due=False)
            took_s = time.monotonic() - begun
            first = next((at for at, _ in rig.judge.command_times if at > begun), None)
            rig.rest(0.1, due=False)
        finally:
            if self.number == signal.SIGKILL:
                rig.launch(name)
            else:
                rig.processes[name].send(signal.SIGCONT)
        back = rig.pace(lambda: in_order(rig), timeout_s=START_S, due=False)
        if first is not None:
            took_s = first - begun
        return Outcome(took_s if taken else None, back and self.recovered(rig))


@dataclass(frozen=True)
class Throttled(Fault):
    """SIGSTOP and SIGCONT in turn: everything the node does takes several periods."""

    def inject(self, rig: Rig) -> Outcome:
        """Let it run a third of the time for half a second, while states go on."""
        rig.ticks(3)
        rig.settle_commands()
        process, missed = rig.processes[rig.settings.node], rig.row["missed"]
        begun = time.monotonic()
        try:
            while time.monotonic() - begun < 0.5:
                process.send(signal.SIGSTOP)
                rig.rest(2 * _SLICE_S, due=False)
                process.send(signal.SIGCONT)
                rig.rest(_SLICE_S, due=False)
        finally:
            process.send(signal.SIGCONT)
        said = rig.pace(lambda: rig.row["missed"] > missed, timeout_s=DETECT_S, due=False)
        took_s = time.monotonic() - begun
        return Outcome(took_s if said else None, self.recovered(rig))


@dataclass(frozen=True)
class OtherGone(Fault):
    """The standby or shadow is killed or stopped; the commanding node must not mind."""

    number: signal.Signals = signal.SIGKILL
    """SIGKILL, or SIGSTOP with a SIGCONT."""

    def inject(self, rig: Rig) -> Outcome:
        """Do it, and let it come back, while every state must be answered all the time."""
        rig.ticks(5)
        rig.settle_commands()
        begun, lost = time.monotonic(), rig.judge.finding().lost
        killed = self.number == signal.SIGKILL
        if killed:
            known = rig.kill(STANDBY) == -signal.SIGKILL
            took_s = time.monotonic() - begun
        else:
            rig.processes[STANDBY].send(signal.SIGSTOP)
        try:
            rig.ticks(30)
            rig.settle_commands()
            kept = rig.judge.finding().lost == lost and not rig.judge.waiting
        finally:
            if not killed:
                rig.processes[STANDBY].send(signal.SIGCONT)
        if killed:
            rig.launch(STANDBY)
        else:
            silent = time.monotonic()
            known = rig.pace(lambda: rig.heard_s.get(STANDBY, 0.0) > silent, timeout_s=DETECT_S)
            took_s = time.monotonic() - begun
        back = rig.pace(lambda: in_order(rig), timeout_s=START_S)
        return Outcome(took_s if known and kept else None, back and self.recovered(rig))


def commands(rig: Rig, name: str) -> bool:
    """Tell whether a node says that it commands."""
    return bool(rig.rows.get(name, {}).get("commanding"))


def in_order(rig: Rig) -> bool:
    """Tell whether the node under test commands, and the other one is ready and does not."""
    other = rig.rows.get(STANDBY, {})
    standby = "partner" in rig.settings.parameters
    quiet = bool(other and (other.get("ready") or not standby)) and not other.get("commanding")
    return commands(rig, rig.settings.node) and quiet and rig.hears_all()


_BACK = "the node acts again"
_RETURNED = "the node under test commands again, the standby is ready"
PROCESS_FAULTS: tuple[Fault, ...] = (
    Stalled(
        "stopped-node",
        "SIGSTOP for up to half a second, SIGCONT",
        "the count of missed ticks has grown",
        _BACK,
        count=30,
        cost_s=0.4,
    ),
    Throttled(
        "throttled-node",
        "the node runs 20 ms of every 60 ms, for half a second: each answer takes periods",
        "the count of missed ticks has grown",
        _BACK,
        count=15,
        cost_s=0.7,
    ),
    Ended(
        "killed-node",
        "SIGKILL, and another start",
        "whoever started it sees its end",
        _BACK,
        count=6,
        cost_s=2.5,
    ),
    Ended(
        "interrupted-node",
        "SIGINT, and another start",
        "it says STOP and ends with exit code 0",
        _BACK,
        number=signal.SIGINT,
        count=4,
        cost_s=2.5,
    ),
    Ended(
        "terminated-node",
        "SIGTERM, and another start",
        "it says STOP and ends with exit code 0",
        _BACK,
        number=signal.SIGTERM,
        count=4,
        cost_s=2.5,
    ),
    Replaced(
        "killed-commander",
        "SIGKILL to a commanding node with a standby",
        "the standby commands (time: to the first command)",
        _RETURNED,
        bench="pair",
        count=6,
        cost_s=5.0,
    ),
    Replaced(
        "stopped-commander",
        "SIGSTOP to a commanding node with a standby, SIGCONT 0.1 s after it was replaced",
        "the standby commands (time: to the first command)",
        _RETURNED,
        number=signal.SIGSTOP,
        bench="pair",
        count=10,
        cost_s=2.0,
    ),
    *(
        OtherGone(
            f"{verb}-{what}",
            f"{number.name} to the {what}, "
            + ("and another start" if verb == "killed" else "SIGCONT 30 states later"),
            ("whoever started it sees its end" if verb == "killed" else "it is heard again")
            + "; no answer of the other is lost",
            _RETURNED if what == "standby" else "both run again, the node under test commands",
            number=number,
            bench="pair" if what == "standby" else "shadow",
            count=5,
            cost_s=3.0 if verb == "killed" else 1.0,
        )
        for what in ("standby", "shadow")
        for verb, number in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP))
    ),
)
"""Kinds made of signals."""
