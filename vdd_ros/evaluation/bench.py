"""What one decision costs: the student beside its teacher, on one engine, without ROS.

All candidates are measured in turns in one process, so that a disturbance of the machine hits
all of them. Twice: back to back, which compares the work, and paced, one decision per control
period, which is what a robot pays: a core that slept between two ticks answers later.

The teacher runs in every variant it has, and is judged by its best: against a teacher in an
eager framework loop the student would look ten times better than it is.
"""

from __future__ import annotations

import gc
import itertools
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.core.gating import SelectionSettings
from vdd_ros.core.latency import summarize
from vdd_ros.runtime.diffusion_policy import VARIANTS, DiffusionPolicy, DiffusionSettings, Variant
from vdd_ros.runtime.moe_policy import MoePolicy
from vdd_ros.runtime.policy_file import PolicyFile
from vdd_ros.runtime.session import SessionSettings

# Calls in a row per turn, after one that is not timed: the caches then hold this candidate's
# weights, as they do on a robot that runs nothing else.
_BLOCK = 10


@dataclass
class _Candidate:
    """One policy under measurement."""

    policy: MoePolicy | DiffusionPolicy
    windows: list[NDArray[np.float32]]
    act_ns: list[int] = field(default_factory=list)
    network_ns: list[int] = field(default_factory=list)
    paced_ns: list[int] = field(default_factory=list)
    _turn: int = 0

    def act(self) -> int:
        """Decide once on the next recorded observation; return the nanoseconds it took."""
        window = self.windows[self._turn % len(self.windows)]
        self._turn += 1
        return _timed(lambda: self.policy.act(window))

    def figures(self) -> dict[str, Any]:
        """Return the measured figures in microseconds."""
        return {
            **_percentiles(self.act_ns),
            "network_p50_us": _percentiles(self.network_ns)["p50_us"],
            "calls": len(self.act_ns),
            "paced": {**_percentiles(self.paced_ns), "calls": len(self.paced_ns)},
        }


def bench(
    student_path: str | Path | PolicyFile,
    teacher_path: str | Path | PolicyFile,
    *,
    nfe: Sequence[int] = (4, 16),
    rate_hz: float = 100.0,
    calls: int = 1000,
    paced_s: float = 12.0,
    limit_s: float = 30.0,
    session: SessionSettings | None = None,
) -> dict[str, Any]:
    """Measure one decision of the student and of the teacher in all its variants.

    Args:
        student_path: policy file of kind moe.
        teacher_path: policy file of kind denoiser.
        nfe: Euler steps of the teacher, one network pass each.
        rate_hz: control rate of the paced measurement.
        calls: back-to-back decisions per candidate.
        paced_s: seconds of paced measurement; the candidates take the ticks in turns.
        limit_s: seconds after which the back-to-back measurement stops with what it has.
        session: provider and threads, the same for all.

    Returns:
        Plain JSON types. ``student`` and each entry of ``teacher``: p50_us, p99_us and max_us of
        a whole decision (what a node pays: copying in, network, sampler or choice of the
        expert), ``network_p50_us`` of the network passes and sampler alone, and ``paced``. In
        ``ratio``, per nfe, ``p50`` is the back-to-back p50 of the teacher's best variant over the
        student's, ``paced_p50`` the same for the best paced variant. ``parity_max_abs`` is the
        largest absolute difference of any output from the values recorded at export.

    Raises:
        VddError: a file is refused or of the wrong kind, or a number is out of range.
    """
    _check(nfe, rate_hz=rate_hz, calls=calls, paced_s=paced_s)
    student_file, teacher_file = _open(student_path), _open(teacher_path)
    _check_same_robot(student_file, teacher_file)
    session = session or SessionSettings()
    student = _candidate(MoePolicy(student_file, selection=SelectionSettings(), session=session))
    teachers = [
        _candidate(DiffusionPolicy(teacher_file, settings, session=session))
        for settings in _variants(teacher_file, nfe)
    ]
    candidates = [student, *teachers]
    load_before = os.getloadavg()[0]
    gc.collect()
    _measure_back_to_back(candidates, calls=calls, limit_s=limit_s)
    _measure_paced(candidates, rate_hz=rate_hz, n_ticks=round(paced_s * rate_hz))
    rows = [_teacher_row(candidate) for candidate in teachers]
    return {
        "student": student.figures(),
        "teacher": rows,
        "ratio": [_ratio(n, rows, student.figures()) for n in nfe],
        "parity_max_abs": max(c.policy.file.golden_error(c.policy.session) for c in candidates),
        "rate_hz": rate_hz,
        "provider": student.policy.provider,
        "machine": {**_machine(), "load_before": load_before},
    }


def _check(nfe: Sequence[int], *, rate_hz: float, calls: int, paced_s: float) -> None:
    if not nfe or min(nfe) < 1 or len(set(nfe)) != len(nfe):
        raise VddError(f"nfe: got {list(nfe)}, expected different positive step counts")
    if not 0 < rate_hz <= 10000:
        raise VddError(f"rate_hz: got {rate_hz}, expected more than 0 and at most 10000 hertz")
    if calls < 1 or not 0 < paced_s <= 3600:
        raise VddError(f"calls: got {calls}, paced_s: got {paced_s}; expected positive numbers")


def _check_same_robot(student: PolicyFile, teacher: PolicyFile) -> None:
    """Refuse to compare policies that do not decide about the same thing.

    Raises:
        VddError: the lengths of observation or action differ.
    """
    for name in ("dim_obs", "dim_act"):
        ours, theirs = getattr(student.contract, name), getattr(teacher.contract, name)
        if ours != theirs:
            raise VddError(
                f"{student.path} has {name} = {ours}, {teacher.path} has {theirs}: they are for "
                "different robots; compare a student with the teacher it was distilled from"
            )


def _open(path: str | Path | PolicyFile) -> PolicyFile:
    return path if isinstance(path, PolicyFile) else PolicyFile.open(path)


def _variants(file: PolicyFile, nfe: Sequence[int]) -> list[DiffusionSettings]:
    held = file.provenance.get("unroll", [])
    offered: list[tuple[int, Variant]] = [
        (n, v) for n, v in itertools.product(nfe, VARIANTS) if v != "unrolled" or n in held
    ]
    return [DiffusionSettings(n_steps=n, variant=v) for n, v in offered]


def _candidate(policy: MoePolicy | DiffusionPolicy) -> _Candidate:
    # Observations the policy was recorded on, so that the gate is as undecided as in real use.
    return _Candidate(policy, list(policy.file.golden.inputs["observation"]))


def _measure_back_to_back(candidates: list[_Candidate], *, calls: int, limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while len(candidates[0].act_ns) < calls:
        n = min(_BLOCK, calls - len(candidates[0].act_ns))
        for candidate in candidates:
            candidate.act()
            candidate.act_ns.extend(candidate.act() for _ in range(n))
            network = candidate.policy.network_pass
            candidate.network_ns.extend(_timed(network) for _ in range(n))
        if time.monotonic() > end:
            return


def _measure_paced(candidates: list[_Candidate], *, rate_hz: float, n_ticks: int) -> None:
    """Give every control period to one candidate in turn, at absolute deadlines."""
    period = 1.0 / rate_hz
    n_ticks = max(n_ticks, len(candidates))
    deadline = time.monotonic()
    for tick in range(n_ticks):
        deadline += period
        now = time.monotonic()
        if deadline < now:
            # After a decision longer than a period, or a stall, the grid moves: a tick that
            # followed at once would find an awake core.
            deadline = now + period
        time.sleep(deadline - now)
        candidate = candidates[tick % len(candidates)]
        candidate.paced_ns.append(candidate.act())


def _timed(call: Callable[[], Any]) -> int:
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start


def _percentiles(samples_ns: list[int]) -> dict[str, float]:
    summary = summarize(np.array(samples_ns, dtype=np.int64))
    figures = {"p50_us": summary.p50_us, "p99_us": summary.p99_us, "max_us": summary.max_us}
    # Hundredths of a microsecond are already noise.
    return {name: round(value, 2) for name, value in figures.items()}


def _teacher_row(candidate: _Candidate) -> dict[str, Any]:
    policy = candidate.policy
    if not isinstance(policy, DiffusionPolicy):
        raise TypeError(f"expected a diffusion policy, got {type(policy).__name__}")
    return {"nfe": policy.nfe, "variant": policy.variant, **candidate.figures()}


def _ratio(nfe: int, rows: list[dict[str, Any]], student: dict[str, Any]) -> dict[str, Any]:
    """Compare the teacher's best variant with the student."""
    mine = [row for row in rows if row["nfe"] == nfe]
    best = min(mine, key=lambda row: row["p50_us"])
    paced = min(mine, key=lambda row: row["paced"]["p50_us"])
    return {
        "nfe": nfe,
        "best_variant": best["variant"],
        "p50": round(best["p50_us"] / student["p50_us"], 2),
        "paced_best_variant": paced["variant"],
        "paced_p50": round(paced["paced"]["p50_us"] / student["paced"]["p50_us"], 2),
    }


def _machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
