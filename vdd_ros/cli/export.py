"""`vdd export`: a run folder to one self-describing policy file. Needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vdd_ros.cli.command import Answer, Shipped, require_at_least, say
from vdd_ros.cli.train import require_torch

if TYPE_CHECKING:
    from vdd_ros.distill.training.checkpoint import RunInfo

DEFAULT_CONTRACT = "config/contracts/avoiding.yaml"


@dataclass(frozen=True)
class Export:
    """Export a trained student or teacher as one .onnx that describes itself.

    Writes nothing unless ONNX Runtime computes what torch computes, within 1e-4 of the scale of
    the outputs.
    """

    run_folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Run folder of `vdd distill` or `vdd train-teacher`."""
    contract: Shipped = None
    """Contract (YAML): topics, units, limits, rate. Window and chunk are the model's."""
    out: Path = Path("policy.onnx")
    """The file to write."""
    density: bool = False
    """Student: also export the covariances, for log q(a|s). Acting does not pay for them."""
    audit_data: str | None = None
    """Student, with --density: held-out demonstrations to calibrate the teacher audit with, as
    `vdd audit POLICY --data ... --write` does."""
    n_action_steps: int | None = None
    """Actions of each predicted chunk that are executed; by default the contract's. A student's
    file holds no others, unless the contract blends overlapping chunks."""
    level: str = "ideal"
    """Degree of realism of the rollouts below."""
    rollouts: int = 480
    """Closed-loop rollouts whose figures go into the file, where the contract names a simulated
    task; 0 for none."""
    json: bool = False
    """Print one JSON object: file, kind, bytes, parity_max_abs, evaluation; with --audit-data also
    audit."""

    def run(self) -> Answer:
        """Export."""
        require_torch("vdd export")
        from vdd_ros.core.config_io import load_yaml
        from vdd_ros.core.contract import PolicyContract
        from vdd_ros.core.errors import VddError
        from vdd_ros.core.shipped import shipped_file
        from vdd_ros.distill.export import export_policy, fit_contract
        from vdd_ros.distill.training.checkpoint import read_info

        require_at_least(0, rollouts=self.rollouts)
        info = read_info(self.run_folder)
        if self.density and info.kind != "student":
            raise VddError(
                f"--density: the density of what {self.run_folder} holds ({info.method}) has no "
                "closed form; leave --density out"
            )
        if self.audit_data is not None and not self.density:
            raise VddError("--audit-data: the audit needs the density; add --density")
        # Found out before the rollouts, not after them.
        if self.out.is_dir():
            raise VddError(f"--out: {self.out} is a folder; expected the file to write")
        contract = load_yaml(PolicyContract, self.contract or shipped_file(DEFAULT_CONTRACT))
        n_action_steps = fit_contract(contract, info, self.n_action_steps).n_action_steps
        evaluation = self._evaluate(info, task=contract.name, n_action_steps=n_action_steps)
        result = export_policy(
            self.run_folder,
            contract,
            self.out,
            density=self.density,
            n_action_steps=n_action_steps,
            evaluation=evaluation,
        )
        data = {
            "file": str(result.path),
            "kind": result.kind,
            "bytes": result.n_bytes,
            "parity_max_abs": result.parity_max_abs,
            "evaluation": evaluation,
        }
        text = (
            f"{result.path}: {result.kind}, {result.n_bytes / 1000:.0f} kB, ONNX Runtime within "
            f"{result.parity_max_abs:.1e} of torch"
        )
        if self.audit_data is not None:
            from vdd_ros.cli.audit import Audit

            audited = Audit(self.out, data=self.audit_data, level=self.level, write=True).run()
            data["audit"] = audited.data["audit"]
            text += f"\n{audited.text}"
        following = (f"vdd inspect {result.path}", f"vdd evaluate {result.path}")
        return Answer(data=data, text=text, next_commands=following)

    def _evaluate(self, info: RunInfo, *, task: str, n_action_steps: int) -> dict[str, Any]:
        """Roll the torch model out where its contract is that of a simulated task."""
        from vdd_ros.distill import loading
        from vdd_ros.distill.judging.closed_loop import closed_loop, student_policy, teacher_policy
        from vdd_ros.tasks.protocol import TASKS

        if self.rollouts < 1:
            return {}
        if task not in TASKS:
            say(f"'{task}' is not a simulated task: no figures go into the file")
            return {}
        if info.kind == "teacher":
            policy = teacher_policy(loading.load_teacher(self.run_folder))
        else:
            policy = student_policy(loading.load_policy(self.run_folder))
        say(f"{self.rollouts} rollouts on {task} {self.level} ...")
        figures = closed_loop(
            policy,
            task=task,
            level=self.level,
            rollouts=self.rollouts,
            seed=0,
            n_obs_steps=info.n_obs_steps,
            n_action_steps=n_action_steps,
        )
        asked = {"task": task, "level": self.level, "rollouts": self.rollouts, "seed": 0}
        return {**asked, **figures}
