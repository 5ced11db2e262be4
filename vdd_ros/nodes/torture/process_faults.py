"""Faults of processes: killed, stopped and ended nodes, alone and with a standby."""

from __future__ import annotations

import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter

from vdd_ros.core.shipped import STUDENT, shipped_file
from vdd_ros.nodes.torture.faults import DETECT_S, RECOVER_S, Fault, Outcome, told
from vdd_ros.nodes.torture.rig import START_S, Rig

STANDBY = "teacher"
"""Name of the standby beside the node under test."""
_STORM = 25


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
class StandbyGone(Fault):
    """The standby is killed; the commanding node must not mind."""

    def inject(self, rig: Rig) -> Outcome:
        """Kill it, watch the commander, start it again."""
        rig.ticks(5)
        rig.settle_commands()
        begun, lost = time.monotonic(), rig.judge.finding().lost
        code = rig.kill(STANDBY)
        took_s = time.monotonic() - begun
        rig.ticks(30)
        rig.settle_commands()
        kept = rig.judge.finding().lost == lost and not rig.judge.waiting
        rig.launch(STANDBY)
        # A node that starts takes the machine for itself: the other's lease may run out.
        back = rig.pace(lambda: in_order(rig), timeout_s=START_S, due=False)
        known = kept and code == -signal.SIGKILL
        return Outcome(took_s if known else None, back and self.recovered(rig))


@dataclass(frozen=True)
class ParameterStorm(Fault):
    """Parameters set as fast as they are answered, allowed and forbidden ones."""

    def inject(self, rig: Rig) -> Outcome:
        """Every request must be answered: the good ones taken, the bad ones refused with why."""
        begun, right = time.monotonic(), True
        bad = (
            ("selection.sticky_ratio", 7.0),
            ("selection.rule", "whatever"),
            ("selection.seed", "text"),
            ("rate_hz", -1.0),
            ("role", "king"),
        )
        for _ in range(_STORM):
            good = bool(rig.rng.integers(2))
            if good:
                name, value = "selection.seed", int(rig.rng.integers(1000))
            else:
                name, value = bad[int(rig.rng.integers(len(bad)))]  # type: ignore[assignment]
            message = Parameter(name, value=value).to_parameter_msg()
            answer = rig.call(
                SetParameters, "set_parameters", SetParameters.Request(parameters=[message])
            )
            result = answer.results[0] if answer is not None else None
            right &= result is not None and result.successful == good
            right &= result is not None and (good or bool(result.reason))
        took_s = time.monotonic() - begun
        return Outcome(took_s if right else None, self.recovered(rig))


@dataclass(frozen=True)
class WrongFile(Fault):
    """Another policy file is asked for that is none, in the middle of the stream."""

    kind: str = "missing"
    """``missing``, ``cut``, ``foreign`` or ``damaged``."""

    def inject(self, rig: Rig) -> Outcome:
        """Ask for it; it must be refused with a reason while every state is answered."""
        rig.ticks(2)
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="vdd_ros_") as folder:
            path = Path(folder) / "policy.onnx"
            whole = shipped_file(STUDENT).read_bytes()
            at = int(rig.rng.integers(len(whole) // 8, len(whole) * 7 // 8))
            if self.kind == "cut":
                path.write_bytes(whole[:at])
            elif self.kind == "foreign":
                path.write_bytes(rig.rng.bytes(4096))
            elif self.kind == "damaged":
                path.write_bytes(whole[:at] + rig.rng.bytes(256) + whole[at + 256 :])
            message = Parameter("policy", value=str(path)).to_parameter_msg()
            request = SetParameters.Request(parameters=[message])
            answer = rig.call(SetParameters, "set_parameters", request, timeout_s=DETECT_S)
        result = answer.results[0] if answer is not None else None
        refused = result is not None and not result.successful and bool(result.reason)
        took_s = time.monotonic() - begun
        return Outcome(took_s if refused else None, self.recovered(rig))


@dataclass(frozen=True)
class Lifecycle(Fault):
    """Down some rungs of the lifecycle and up again, at any moment."""

    def inject(self, rig: Rig) -> Outcome:
        """Deactivate, perhaps clean up and configure, activate; the state must be told each time.

        No answer is due meanwhile.
        """
        rig.ticks(2)
        rig.settle_commands()
        begun = time.monotonic()
        down = Transition.TRANSITION_DEACTIVATE
        steps = [(down, "inactive")]
        if rig.rng.integers(2):
            steps += [
                (Transition.TRANSITION_CLEANUP, "unconfigured"),
                (Transition.TRANSITION_CONFIGURE, "inactive"),
            ]
        steps.append((Transition.TRANSITION_ACTIVATE, "active"))
        right = True
        for number, goal in steps:
            rig.judge.reborn(time.monotonic())
            request = ChangeState.Request(transition=Transition(id=number))
            rig.call(ChangeState, "change_state", request, due=False, timeout_s=RECOVER_S)
            state = rig.call(GetState, "get_state", GetState.Request(), due=False)
            right &= state is not None and state.current_state.label == goal
        took_s = time.monotonic() - begun
        rig.await_answer()
        return Outcome(took_s if right else None, self.recovered(rig))


def commands(rig: Rig, name: str) -> bool:
    """Tell whether a node says that it commands."""
    return bool(rig.rows.get(name, {}).get("commanding"))


def in_order(rig: Rig) -> bool:
    """Tell whether the node under test commands and the standby is ready."""
    standby = rig.rows.get(STANDBY, {})
    quiet = bool(standby.get("ready")) and not standby.get("commanding")
    return commands(rig, rig.settings.node) and quiet


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
    ParameterStorm(
        "parameter-storm",
        f"{_STORM} parameters set in a row, about half of them wrong",
        "good ones are taken, wrong ones refused with a reason, no answer is missing",
        count=8,
        cost_s=1.0,
    ),
    *(
        WrongFile(
            f"{kind}-file",
            f"a reload of a policy file that is {kind}",
            "it is refused with a reason, and no answer is lost meanwhile",
            kind=kind,
            count=15,
            cost_s=0.3,
        )
        for kind in ("missing", "cut", "foreign", "damaged")
    ),
    Lifecycle(
        "lifecycle-storm",
        "deactivate, perhaps cleanup and configure, activate",
        "the state is the one asked for after every transition",
        _BACK,
        count=8,
        cost_s=1.5,
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
    StandbyGone(
        "killed-standby",
        "SIGKILL to the standby",
        "whoever started it sees its end; no answer of the other is lost",
        _RETURNED,
        bench="pair",
        count=5,
        cost_s=3.0,
    ),
)
"""Kinds made of signals and services."""
