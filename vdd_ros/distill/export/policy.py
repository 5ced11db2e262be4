r"""From a run folder to a policy file: one ONNX model that describes and tests itself.

Normalisation is inside the graph, raw units in and raw units out; metadata carries the contract,
the provenance and a golden sample. A student's graph ends in all experts' proposals (the expert is
chosen outside, seeded, so that a run can be replayed); a teacher's graph holds the denoiser and,
beside it, whole Euler samplers unrolled over the same weights. The runtime prunes the graph to the
outputs it uses, so one file costs nothing at run time.

Nothing is written unless ONNX Runtime computes what torch computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vdd_ros.core.config_io import dump_json, write_atomic
from vdd_ros.core.contract import PolicyContract
from vdd_ros.distill import loading
from vdd_ros.distill.export.fitting import fit_contract
from vdd_ros.distill.export.metadata import describe, origin, tensors
from vdd_ros.distill.export.parity import (
    PARITY,
    Arrays,
    check_parity,
    denoiser_sample,
    run_torch,
    trial_windows,
)
from vdd_ros.distill.export.student_graph import StudentGraph
from vdd_ros.distill.export.teacher_graph import TeacherGraph
from vdd_ros.distill.export.tracing import to_onnx
from vdd_ros.distill.methods.jumps import JumpModel
from vdd_ros.distill.teachers.base import DenoisingTeacher
from vdd_ros.distill.training import checkpoint


@dataclass(frozen=True)
class ExportResult:
    """A written policy file."""

    path: Path
    """The file."""
    kind: str
    """``moe`` or ``denoiser``."""
    n_bytes: int
    """Its size."""
    parity_max_abs: float
    """Largest difference between torch and ONNX Runtime over all outputs and inputs tried."""


@dataclass(frozen=True)
class _Draft:
    """What goes into a policy file, before it is traced and tested."""

    graph: nn.Module
    """The computation."""
    samples: list[Arrays]
    """Inputs to test it on; the first become the golden ones."""
    output_names: list[str]
    """Its outputs in order."""
    contract: PolicyContract
    """The robot's, with the model's window and chunk."""
    provenance: dict[str, Any]
    """What this kind of policy adds to where the weights come from."""


def export_policy(
    folder: str | Path,
    contract: PolicyContract,
    out: str | Path,
    *,
    density: bool = False,
    unroll: Sequence[int] | None = None,
    n_action_steps: int | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> ExportResult:
    """Write a run folder, student or teacher, as a policy file.

    A consistency model has the form of a denoiser and is written as one, with one Euler step.

    Args:
        folder: run folder of a distillation or a teacher.
        contract: topics, units and limits; window and chunk are taken from the model.
        out: the file to write.
        density: student: add ``expert_scale`` for log q(a|s).
        unroll: teacher: numbers of Euler steps whose whole samplers the file holds as well; None
            takes 1, 4 and 16, or for a U-Net 1 alone: beside its pass the cost of a call is
            nothing, and 21 copies of its many nodes take minutes to trace.
        n_action_steps: actions of each chunk that will be executed; None takes the contract's.
        evaluation: figures of this model, kept in the provenance.

    Raises:
        VddError: not a run folder, contract and model do not fit, or torch and ONNX Runtime
            disagree; nothing is written.
    """
    info = checkpoint.read_info(folder)
    if info.kind == "student":
        draft = _draft_student(folder, contract, n_action_steps, density=density)
    elif info.kind == "consistency":
        # The only number of steps that a consistency model's form as a denoiser is good for.
        model = loading.load_consistency(folder)
        draft = _draft_denoiser(model, folder, contract, n_action_steps, unroll=(1,))
        draft.provenance["n_steps"] = 1
    else:
        teacher = loading.load_teacher(folder)
        if unroll is None:
            unroll = (1,) if teacher.settings.backbone == "unet" else (1, 4, 16)
        draft = _draft_denoiser(teacher, folder, contract, n_action_steps, unroll=unroll)
    provenance = origin(folder, info, evaluation) | draft.provenance
    return _write(draft, provenance, Path(out))


def _draft_student(
    folder: str | Path, contract: PolicyContract, n_action_steps: int | None, *, density: bool
) -> _Draft:
    """Return a mixture of experts as a policy file has it."""
    student = loading.load_student(folder)
    contract = fit_contract(contract, student, n_action_steps)
    windows = trial_windows(student, checkpoint.read_examples(folder))
    return _Draft(
        graph=StudentGraph(student, horizon=contract.horizon, density=density),
        samples=[{"observation": window} for window in windows],
        output_names=["gating_logits", "expert_actions", *(["expert_scale"] if density else [])],
        contract=contract,
        provenance={
            "kind": "moe",
            "n_experts": student.settings.n_experts,
            "trained_horizon": student.horizon,
        },
    )


def _draft_denoiser(
    model: DenoisingTeacher | JumpModel,
    folder: str | Path,
    contract: PolicyContract,
    n_action_steps: int | None,
    *,
    unroll: Sequence[int],
) -> _Draft:
    """Return a teacher, or a consistency model in its form, as a policy file has it."""
    windows = trial_windows(model, checkpoint.read_examples(folder))
    return _Draft(
        graph=TeacherGraph(model, unroll),
        samples=[denoiser_sample(model, w, with_noise=bool(unroll)) for w in windows],
        output_names=["denoised", "action", *(f"sampled_action_{n}" for n in unroll)],
        contract=fit_contract(contract, model, n_action_steps),
        provenance={
            "kind": "denoiser",
            "sigma_min": model.sigma_min,
            "sigma_max": model.sigma_max,
            "sigma_schedule": model.schedule,
            "unroll": list(unroll),
        },
    )


def _write(draft: _Draft, provenance: Mapping[str, Any], out: Path) -> ExportResult:
    """Export, compare, describe, write."""
    graph, names, golden = draft.graph.eval(), draft.output_names, draft.samples[0]
    model = to_onnx(graph, golden, names)
    parity = check_parity(graph, model.SerializeToString(), draft.samples, names)
    outputs = run_torch(graph, golden, names)
    describe(
        model,
        contract=dump_json(draft.contract),
        provenance=dump_json(provenance),
        golden=dump_json({"inputs": tensors(golden), "outputs": tensors(outputs), "atol": PARITY}),
    )
    content = model.SerializeToString()
    write_atomic(out, content)
    return ExportResult(out, provenance["kind"], len(content), parity)
