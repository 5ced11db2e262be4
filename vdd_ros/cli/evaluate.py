"""`vdd evaluate`: how well a policy file does its task, and in how many ways."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vdd_ros.cli.command import (
    Answer,
    File,
    OptionalNumber,
    OptionalPath,
    require_at_least,
    require_writable,
    say,
    table,
)

if TYPE_CHECKING:
    from vdd_ros.runtime.policy_file import PolicyFile
    from vdd_ros.tasks.rollouts import RolloutResult

# What --json promises; the report holds more.
_KEYS = ("task", "level", "rollouts", "success", "success_ci95", "entropy", "modes", "score")
_GRADED = ("reward", "extra")


@dataclass(frozen=True)
class Evaluate:
    """Roll a policy file out in closed loop: success, diversity, confidence intervals.

    Works without torch and without ROS. The same file, task, level, rollouts and seed give the
    same figures.
    """

    file: File
    """The policy file (.onnx): a mixture of experts, a consistency model or a teacher."""
    task: str = "avoiding"
    """The simulated robot."""
    level: str = "ideal"
    """Degree of realism; for avoiding: ideal or panda, for others: ideal."""
    lag: bool = False
    """Observations are one control step old, as in the original simulator."""
    rollouts: int = 480
    """How many; entropy depends on the number, so compare equal ones only."""
    seed: int = 0
    """Seed of the rollouts and of the expert choice or the sampler's noise."""
    nfe: OptionalNumber = None
    """Sampler steps of a diffusion teacher; 16 by default. Nothing to choose for a mixture or a
    consistency model, which act with one."""
    selection: Literal["sample", "argmax", "sticky", "pinned"] = "sample"
    """How a mixture chooses its expert at every step."""
    expert: int = 0
    """The expert that `--selection pinned` uses."""
    teacher: OptionalPath = None
    """Policy file to roll out beside it, for the report."""
    report: OptionalPath = None
    """Folder for report.json and the pictures; needs matplotlib."""
    json: bool = False
    """Print one JSON object: task, level, rollouts, success and its interval, entropy, modes,
    score; of a task with figures of its own also reward and extra, those figures."""

    def run(self) -> Answer:
        """Roll out, and write the report if one is wanted."""
        from vdd_ros.core.errors import VddError
        from vdd_ros.runtime.policy_file import PolicyFile

        require_at_least(1, rollouts=self.rollouts, nfe=self.nfe)
        require_at_least(0, seed=self.seed)
        if self.report:
            require_writable(self.report)
        file = PolicyFile.open(self.file)
        if self.nfe is not None and file.kind == "moe":
            raise VddError(
                f"--nfe: {self.file} holds a mixture of experts, which needs one pass and has no "
                "sampler steps to choose; leave --nfe out"
            )
        other = PolicyFile.open(self.teacher) if self.teacher else None
        metrics, result = self._roll_out(file)
        teacher_metrics, teacher_result = self._roll_out(other) if other else (None, None)
        text = _describe(self.file, metrics, self.teacher, teacher_metrics)
        next_command = (
            f"vdd evaluate {self.file} --task {self.task} --level {self.level} --report report"
        )
        if self.report:
            from vdd_ros.evaluation.report import write_report

            written = write_report(
                self.report,
                file=file,
                metrics=metrics,
                result=result,
                teacher_metrics=teacher_metrics,
                teacher_result=teacher_result,
            )
            text += "\n\nwritten: " + ", ".join(str(path) for path in written)
            next_command = f"vdd bench {self.file}" if file.kind == "moe" else "vdd bench"
        keys = (*_KEYS, *_GRADED) if metrics["extra"] else _KEYS
        return Answer(
            data={key: metrics[key] for key in keys}, text=text, next_commands=(next_command,)
        )

    def _roll_out(self, file: PolicyFile) -> tuple[dict[str, Any], RolloutResult]:
        from vdd_ros.core.gating import SelectionSettings
        from vdd_ros.evaluation.closed_loop import evaluate_policy
        from vdd_ros.runtime.diffusion_policy import DiffusionSettings, default_settings
        from vdd_ros.runtime.loading import load_policy
        from vdd_ros.tasks.protocol import make_task

        task = make_task(self.task, level=self.level, lag=self.lag)
        policy = load_policy(
            file,
            selection=SelectionSettings(
                rule=self.selection, seed=self.seed, pinned_expert=self.expert
            ),
            diffusion=(
                DiffusionSettings(n_steps=self.nfe, seed=self.seed)
                if self.nfe
                else default_settings(file, seed=self.seed)
            ),
        )
        say(f"{self.rollouts} rollouts of {file.path} on {self.task} {self.level} ...")
        return evaluate_policy(policy, task, rollouts=self.rollouts, seed=self.seed)


def _describe(
    path: Path,
    metrics: dict[str, Any],
    teacher: Path | None,
    teacher_metrics: dict[str, Any] | None,
) -> str:
    columns = [(path.name, metrics)]
    if teacher and teacher_metrics:
        columns.append((teacher.name, teacher_metrics))
    rows = [
        ("success", *(_with_interval(m, "success") for _, m in columns)),
        ("entropy", *(_with_interval(m, "entropy") for _, m in columns)),
        ("modes", *(str(m["modes"]) for _, m in columns)),
        ("score", *(f"{m['score']:.3f}" for _, m in columns)),
    ]
    if metrics["extra"]:
        rows.append(("reward", *(f"{m['reward']:.3f}" for _, m in columns)))
    rows += [
        (name.replace("_", " "), *(f"{m['extra'][name]:.3f}" for _, m in columns))
        for name in metrics["extra"]
    ]
    head = f"{metrics['task']} {metrics['level']}, {metrics['rollouts']} rollouts"
    return table(rows, header=(head, *(name for name, _ in columns)))


def _with_interval(metrics: dict[str, Any], key: str) -> str:
    low, high = metrics[f"{key}_ci95"]
    return f"{metrics[key]:.3f} [{low:.3f}, {high:.3f}]"
