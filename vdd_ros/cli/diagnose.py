"""`vdd diagnose`: is this student any good, and if not, why? Needs torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vdd_ros.cli.command import Answer, OptionalPath, require_at_least, say
from vdd_ros.cli.train import require_torch

if TYPE_CHECKING:
    from torch import Tensor

    from vdd_ros.data.demonstrations import Demonstrations
    from vdd_ros.distill.diagnostics.opinion import Finding
    from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts
    from vdd_ros.distill.teachers.base import DenoisingTeacher

Run = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]


@dataclass(frozen=True, kw_only=True)
class Diagnose:
    """Measure a student against its teacher and data, with an opinion on every figure.

    Coverage of the teacher's modes, use of the experts, likelihood, calibration of log q, and the
    kernel Stein discrepancy from the teacher's score.
    """

    run_folder: Run
    """Run folder of a student."""
    teacher: OptionalPath = None
    """Run folder of its teacher; without it there are only figures of the data."""
    data: str = "scripted"
    """`scripted`, or the path of an .npz with demonstrations; held-out ones say more."""
    task: str = "avoiding"
    """The task of the scripted expert."""
    level: str = "ideal"
    """Degree of realism; for avoiding: ideal or panda."""
    episodes: int = 480
    """Scripted demonstrations to make."""
    data_seed: int = 0
    """Seed of the scripted demonstrations."""
    states: int = 256
    """States to look at."""
    samples: int = 64
    """Teacher and student samples per state."""
    seed: int = 0
    """Seed of all samples."""
    json: bool = False
    """Print one JSON object: run, same_data, figures, findings."""

    def run(self) -> Answer:
        """Measure."""
        require_torch("vdd diagnose")
        require_at_least(1, episodes=self.episodes)
        require_at_least(0, data_seed=self.data_seed, seed=self.seed)
        require_at_least(2, states=self.states)
        require_at_least(8, samples=self.samples)
        from vdd_ros.data.npz import load_demonstrations
        from vdd_ros.distill import loading
        from vdd_ros.distill.diagnostics.opinion import findings
        from vdd_ros.distill.diagnostics.report import DiagnosisSettings, diagnose
        from vdd_ros.distill.training import checkpoint

        student = loading.load_student(self.run_folder)
        info = checkpoint.read_info(self.run_folder)
        teacher = None if self.teacher is None else loading.load_teacher(self.teacher)
        demos = load_demonstrations(
            self.data,
            task=self.task,
            level=self.level,
            n=self.episodes,
            seed=self.data_seed,
            fit_task=False,
        )
        say(f"{demos.n_episodes} demonstrations, {len(demos)} steps: {demos.source}")
        if teacher is not None:
            require_same_units(student, teacher, where=f"{self.teacher}")
        obs, action = normalised_windows(student, demos)
        figures = diagnose(
            student,
            obs,
            action,
            teacher=teacher,
            settings=DiagnosisSettings(
                n_states=self.states, n_samples=self.samples, seed=self.seed
            ),
        )
        opinions = findings(figures, info.training)
        same = demos.data_hash() == info.data_hash
        return Answer(
            data={
                "run": str(self.run_folder),
                "same_data": same,
                "figures": asdict(figures),
                "findings": [asdict(finding) for finding in opinions],
            },
            text=report(opinions, figures.n_states, same_data=same),
        )


def normalised_windows(
    student: GaussianMixtureOfExperts, demos: Demonstrations
) -> tuple[Tensor, Tensor]:
    """Cut demonstrations into the student's windows, in its units.

    Raises:
        VddError: observations or actions of another length, or in other units.
    """
    import torch

    from vdd_ros.core.errors import VddError
    from vdd_ros.core.normalizer import Normalizer
    from vdd_ros.data.inspection import require_same_units
    from vdd_ros.data.windows import make_windows

    expected, found = (student.dim_obs, student.dim_act), (demos.dim_obs, demos.dim_act)
    if expected != found:
        raise VddError(
            f"{demos.source}: {found[0]} observation and {found[1]} action components, the "
            f"student has {expected[0]} and {expected[1]}; give the demonstrations of its task"
        )
    for table, affine, name in (
        (demos.observation, student.observation, "observation"),
        (demos.action, student.action, "action"),
    ):
        known = Normalizer(affine.offset.numpy(), affine.scale.numpy())
        require_same_units(table, known, what=f"{demos.source}: {name}", whose="the student")
    windows = make_windows(demos, n_obs_steps=student.n_obs_steps, horizon=student.horizon)
    with torch.no_grad():
        obs = student.observation.normalize(torch.as_tensor(windows.observation))
        return obs, student.action.normalize(torch.as_tensor(windows.action))


def require_same_units(
    student: GaussianMixtureOfExperts, teacher: DenoisingTeacher, *, where: str
) -> None:
    """Refuse a teacher of other dimensions, window or normalisation than the student.

    Raises:
        VddError: with what differs.
    """
    import torch

    from vdd_ros.core.errors import VddError

    for name in ("dim_obs", "dim_act", "n_obs_steps", "horizon"):
        mine, its = getattr(student, name), getattr(teacher, name)
        if mine != its:
            raise VddError(
                f"{where}: the teacher has {name} {its}, the student {mine}; give the teacher "
                "that it was distilled from"
            )
    for name in ("observation", "action"):
        mine, its = getattr(student, name).state_dict(), getattr(teacher, name).state_dict()
        if any(not torch.allclose(mine[key], its[key]) for key in mine):
            raise VddError(
                f"{where}: the teacher normalises {name}s differently from the student, so their "
                "actions cannot be compared; give the teacher that it was distilled from"
            )


def report(opinions: tuple[Finding, ...], n_states: int, *, same_data: bool) -> str:
    """Lay the findings out for reading."""
    width = max(len(finding.name) for finding in opinions)
    lines = [f"at {n_states} demonstrated states, in normalised actions"]
    if same_data:
        lines.append("these are the demonstrations it was trained on; others say more (--data)")
    for finding in opinions:
        verdict = "fine" if finding.fine else "look at this"
        lines.append(f"{finding.name.ljust(width)}  {verdict.ljust(12)}  {finding.figure}")
        if finding.remedy:
            lines.append(f"{'':{width}}  -> {finding.remedy}")
    return "\n".join(lines)
