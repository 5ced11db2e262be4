"""A report of one policy: figures of merit as JSON, and pictures, in one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.config_io import dump_json, write_atomic
from vdd_ros.core.mixture import entropy
from vdd_ros.evaluation import figures
from vdd_ros.evaluation.figures import Ways
from vdd_ros.runtime.policy_file import PolicyFile
from vdd_ros.runtime.session import SessionSettings
from vdd_ros.tasks import avoiding
from vdd_ros.tasks.metrics import mode_counts
from vdd_ros.tasks.protocol import make_task
from vdd_ros.tasks.rollouts import RolloutResult

# Fine enough to show the rim of an obstacle (4 cm), coarse enough to be computed at once.
_STEP_M = 0.005


@dataclass(frozen=True)
class GateMap:
    """How undecided the gate is where the robot may be."""

    x: NDArray[np.float64]
    """[X] columns in metres."""
    y: NDArray[np.float64]
    """[Y] rows in metres."""
    entropy: NDArray[np.float64]
    """[Y, X] gate entropy as a share of log n_experts: 0 decided, 1 all experts alike."""


def gate_map(file: PolicyFile, *, step_m: float = _STEP_M) -> GateMap:
    """Ask the gate everywhere on the table, the robot standing still where it was told to be.

    Args:
        file: a mixture of experts for the task `avoiding`.
        step_m: distance between two points.
    """
    x = np.arange(figures.X_RANGE[0], figures.X_RANGE[1] + step_m / 2, step_m)
    y = np.arange(figures.Y_RANGE[0], figures.Y_RANGE[1] + step_m / 2, step_m)
    plane = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    # Desired and measured position are the same, now and all through the window.
    windows = np.repeat(np.tile(plane, 2)[:, None, :], file.contract.n_obs_steps, axis=1)
    session = file.session(("gating_logits",), SessionSettings(warm_up_runs=0)).session
    (logits,) = session.run({"observation": windows.astype(np.float32)}, ("gating_logits",))
    share = entropy(logits.astype(np.float64)) / np.log(max(file.n_experts, 2))
    return GateMap(x=x, y=y, entropy=share.reshape(len(y), len(x)))


def ways_of(result: RolloutResult) -> Ways:
    """Return rollouts in the form they are drawn."""
    return Ways(result.trajectory, result.expert, result.success, result.mode)


def write_report(
    folder: Path,
    *,
    file: PolicyFile,
    metrics: dict[str, Any],
    result: RolloutResult,
    teacher_metrics: dict[str, Any] | None = None,
    teacher_result: RolloutResult | None = None,
) -> list[Path]:
    """Write ``report.json`` and the pictures; returns what was written.

    The table, the ways and the gate over the plane are drawn for the task avoiding alone.

    Args:
        folder: created where missing; files of an earlier report are replaced.
        file: the policy that was evaluated.
        metrics: its figures, as `evaluate_policy` returns them.
        result: its rollouts.
        teacher_metrics: the same of the policy it is compared with.
        teacher_result: and that one's rollouts.

    Raises:
        VddError: the folder cannot be written, or matplotlib is missing.
    """
    n_modes = make_task(metrics["task"], level=metrics["level"]).n_modes
    counts = mode_counts(result, n_modes)
    teacher_counts = None if teacher_result is None else mode_counts(teacher_result, n_modes)
    document: dict[str, Any] = {
        "policy": {"path": str(file.path), "sha256": file.sha256, "kind": file.kind},
        "metrics": metrics,
        "mode_counts": counts.tolist(),
        "expert_steps": _expert_steps(result, file.n_experts),
        "teacher_metrics": teacher_metrics,
        "teacher_mode_counts": None if teacher_counts is None else teacher_counts.tolist(),
        "provenance": file.provenance,
    }
    pictures: dict[str, bytes] = {}
    if metrics["task"] == avoiding.AvoidingTask.name:
        pictures = _pictures(metrics, result, teacher_result)
        if file.kind == "moe":
            gate = gate_map(file)
            document["gate_entropy_mean"] = float(gate.entropy.mean())
            pictures["gate_entropy.png"] = figures.gate_figure(
                gate.entropy, x=gate.x, y=gate.y, title="How undecided the gate is"
            )
    # The JSON names the pictures, so it is written when all of them are there.
    written = []
    for name, png in pictures.items():
        write_atomic(folder / name, png)
        written.append(folder / name)
    document["figures"] = list(pictures)
    write_atomic(folder / "report.json", dump_json(document, indent=2) + "\n")
    return [folder / "report.json", *written]


def _pictures(
    metrics: dict[str, Any], result: RolloutResult, teacher_result: RolloutResult | None
) -> dict[str, bytes]:
    """Draw rollouts of avoiding; PNGs by file name."""
    headline = (
        f"{metrics['task']} {metrics['level']}, {len(result.success)} rollouts: success "
        f"{metrics['success']:.3f}, entropy {metrics['entropy']:.3f}, {metrics['modes']} modes"
    )
    teacher_counts = (
        None if teacher_result is None else mode_counts(teacher_result, avoiding.N_MODES)
    )
    title = headline.replace(": ", ":\n")
    pictures = {
        "trajectories.png": figures.trajectory_figure(ways_of(result), title=title),
        "modes.png": figures.mode_figure(
            mode_counts(result, avoiding.N_MODES), teacher_counts=teacher_counts, title=headline
        ),
    }
    if teacher_result is not None:
        pictures["teacher_trajectories.png"] = figures.trajectory_figure(
            ways_of(teacher_result), title="the teacher's rollouts"
        )
    return pictures


def _expert_steps(result: RolloutResult, n_experts: int) -> list[int]:
    acted = result.expert[result.expert >= 0]
    counts: list[int] = np.bincount(acted, minlength=n_experts).tolist()
    return counts
