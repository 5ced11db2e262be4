"""Faults of what a node is asked for through its services, and of what it writes."""

from __future__ import annotations

import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from vdd_ros.core.shipped import STUDENT, TEACHER, shipped_file
from vdd_ros.nodes.torture.faults import DETECT_S, RECOVER_S, Fault, Outcome, diagnosed
from vdd_ros.nodes.torture.rig import Rig

_STORM = 25
_FULL_BYTES = 4096
"""Less than any black box."""
_UNWRITTEN = "could not be written"
_WRITTEN_S = 15.0
"""Longest wait for a bag to be written, or given up, and for the next summary."""


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
    """``missing``, ``cut``, ``foreign``, ``damaged``, or ``incompatible``: a whole teacher."""

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
            elif self.kind == "incompatible":
                path.write_bytes(shipped_file(TEACHER).read_bytes())
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


@dataclass(frozen=True)
class Illegal(Fault):
    """Transitions that an active node cannot make."""

    def inject(self, rig: Rig) -> Outcome:
        """Ask for one; the node stays active, and every state is answered."""
        rig.ticks(2)
        begun = time.monotonic()
        wrong = (
            Transition.TRANSITION_CONFIGURE,
            Transition.TRANSITION_ACTIVATE,
            Transition.TRANSITION_CLEANUP,
            Transition.TRANSITION_DESTROY,
        )
        chosen = Transition(id=wrong[int(rig.rng.integers(len(wrong)))])
        request = ChangeState.Request(transition=chosen)
        answer = rig.call(ChangeState, "change_state", request, timeout_s=DETECT_S)
        refused = answer is not None and not answer.success
        state = rig.call(GetState, "get_state", GetState.Request())
        stays = state is not None and state.current_state.label == "active"
        took_s = time.monotonic() - begun
        return Outcome(took_s if refused and stays else None, self.recovered(rig))


@dataclass(frozen=True)
class FullDisk(Fault):
    """Nothing more can be written: every file that grows is refused by the kernel."""

    def inject(self, rig: Rig) -> Outcome:
        """Ask for a black box; that it failed must be told, and the next one must be written."""
        rig.ticks(5)
        process = rig.processes[rig.settings.node]
        before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        # Written by a process of its own, which inherits the limit.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (_FULL_BYTES, before[1]))
        begun = time.monotonic()
        try:
            rig.call(Trigger, "dump", Trigger.Request())
            detected_s = diagnosed(rig, begun, _UNWRITTEN, timeout_s=_WRITTEN_S)
        finally:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
        again = rig.call(Trigger, "dump", Trigger.Request())
        asked = time.monotonic()
        written = rig.pace(
            lambda: rig.diagnosed_s > asked and _UNWRITTEN not in rig.diagnostics,
            timeout_s=_WRITTEN_S,
        )
        free = again is not None and again.success and written
        return Outcome(detected_s, free and self.recovered(rig))


_BACK = "the node acts again"
SERVICE_FAULTS: tuple[Fault, ...] = (
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
        for kind in ("missing", "cut", "foreign", "damaged", "incompatible")
    ),
    Lifecycle(
        "lifecycle-storm",
        "deactivate, perhaps cleanup and configure, activate",
        "the state is the one asked for after every transition",
        _BACK,
        count=8,
        cost_s=1.5,
    ),
    Illegal(
        "illegal-transition",
        "a lifecycle transition that an active node cannot make",
        "the answer is no, the node says that it is active, and no command is lost",
        count=10,
        cost_s=0.5,
    ),
    FullDisk(
        "full-disk",
        "a black box while the kernel refuses files of more than 4 KiB",
        "/diagnostics says that it could not be written",
        "the next one is written, and the node acts",
        count=4,
        cost_s=5.0,
    ),
)
"""Kinds made of services."""
