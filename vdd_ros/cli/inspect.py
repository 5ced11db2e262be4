"""`vdd inspect`: what is in a policy file, and does it still do what it did?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vdd_ros.cli.command import Answer, File

if TYPE_CHECKING:
    from vdd_ros.core.contract import ActionField, ObservationField
    from vdd_ros.runtime.graph import TensorSpec
    from vdd_ros.runtime.policy_file import PolicyFile


@dataclass(frozen=True)
class Inspect:
    """Show a policy file: its contract, what it was made from, its tensors, its self-test.

    A foreign, truncated or changed file is refused with exit status 2.
    """

    file: File
    """The policy file (.onnx)."""
    json: bool = False
    """Print one JSON object: contract, provenance, inputs, outputs, golden_ok."""

    def run(self) -> Answer:
        """Open the file, which replays its golden sample, and describe it."""
        from vdd_ros.core.config_io import to_dict
        from vdd_ros.runtime.policy_file import PolicyFile

        file = PolicyFile.open(self.file)
        # An opened file has met its golden sample: one that does not is refused.
        data = {
            "contract": to_dict(file.contract),
            "provenance": file.provenance,
            "inputs": [_tensor(spec) for spec in file.inputs],
            "outputs": [_tensor(spec) for spec in file.outputs],
            "golden_ok": True,
        }
        return Answer(
            data=data,
            text=_describe(file),
            next_commands=(f"vdd evaluate {self.file}",),
        )


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    from vdd_ros.runtime.graph import FLOAT32

    kind = "float32" if spec.elem_type == FLOAT32 else f"ONNX type {spec.elem_type}"
    return {"name": spec.name, "shape": list(spec.shape), "dtype": kind}


def _describe(file: PolicyFile) -> str:
    contract, provenance = file.contract, file.provenance
    shown = ("kind", "n_experts")
    experts = f", {file.n_experts} experts" if file.n_experts else ""
    size_kb = len(file.model) / 1000
    rows = [
        ("file", f"{file.path} ({size_kb:.0f} kB, sha256 {file.sha256[:12]})"),
        ("kind", f"{file.kind}{experts}"),
        ("task", f"{contract.name} at {contract.rate_hz:.2f} Hz"),
        (
            "window",
            f"{contract.n_obs_steps} observations in, {contract.horizon} actions out, "
            f"{contract.n_action_steps} executed",
        ),
        *(("observation", _field(entry)) for entry in contract.observations),
        *(("action", _field(entry)) for entry in contract.actions),
        *(("input", _shape(spec)) for spec in file.inputs),
        *(("output", _shape(spec)) for spec in file.outputs),
        *((key, _short(value)) for key, value in provenance.items() if key not in shown),
        ("golden sample", "reproduced"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _field(entry: ObservationField | ActionField) -> str:
    where = f" <-> {entry.topic} ({entry.type})" if entry.topic else ""
    return f"{entry.key}[{entry.dim}] {entry.unit}{where}"


def _shape(spec: TensorSpec) -> str:
    return f"{spec.name} [{', '.join(str(s) or '?' for s in spec.shape)}]"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
