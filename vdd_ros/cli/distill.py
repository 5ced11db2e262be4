"""`vdd distill`: a diffusion teacher to a policy of one pass. Needs torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vdd_ros.cli.command import Answer, OptionalPath, Shipped, as_typed
from vdd_ros.cli.train import DataOptions, require_torch, resume_line

DEFAULT_CONFIG = "config/distill/avoiding_scripted.yaml"


@dataclass(frozen=True, kw_only=True)
class Distill(DataOptions):
    """Distil a teacher into a policy of one pass; Ctrl-C saves, --resume continues.

    vdd makes a Mixture of Experts. Its rivals share everything with it but what they are about:
    em (EM on the demonstrations), em-teacher (EM on teacher samples) and imc (Information
    Maximizing Curriculum) make mixtures, too; cd (Consistency Distillation) and ctm (Consistency
    Trajectory Model) make networks that turn noise into an action in one jump.
    """

    teacher: OptionalPath = None
    """Run folder of the teacher; methods em and imc do without."""
    method: Literal["vdd", "em", "em-teacher", "imc", "cd", "ctm"] = "vdd"
    """The objective."""
    config: Shipped = None
    """Settings (YAML)."""
    out: Path = Path("runs/student")
    """Run folder to make."""

    def run(self) -> Answer:
        """Distil."""
        require_torch("vdd distill")
        from vdd_ros.core.config_io import load_yaml, to_dict
        from vdd_ros.core.shipped import shipped_file
        from vdd_ros.distill.judging.closed_loop import student_policy
        from vdd_ros.distill.methods.mixture_training import DistillSettings
        from vdd_ros.distill.pipeline import distill
        from vdd_ros.distill.training import checkpoint

        settings = load_yaml(DistillSettings, self.config or shipped_file(DEFAULT_CONFIG))
        settings = replace(settings, **self.overrides())  # type: ignore[arg-type]
        demos = self.demonstrations()
        horizon = settings.horizon or (
            checkpoint.read_info(self.teacher).horizon if self.teacher else 1
        )
        notes = self.inspect(demos, horizon=horizon, pad=settings.pad)
        with resume_line(as_typed("distill", self, resume=True)):
            result = distill(
                self.teacher,
                demos,
                settings,
                out_dir=self.out,
                method=self.method,
                resume=self.resume,
                evaluate=self.closed_loop(student_policy),
                evaluate_every=self.evaluate_every,
            )
        data = {
            "run": str(result.folder),
            "method": self.method,
            "training_cpu_s": result.training_cpu_s,
            "data_hash": demos.data_hash(),
            "settings": to_dict(settings),
            "notes": list(notes),
        }
        text = f"{self.method} student in {result.folder}, {result.training_cpu_s:.0f} CPU-seconds"
        return Answer(
            data=data,
            text=text,
            next_commands=(f"vdd export {self.out} --out student.onnx",),
        )
