"""`vdd audit`: which scores log q(a|s) are nominal for a student. Needs neither torch nor ROS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdd_ros.cli.command import Answer, File, OptionalPath, require_at_least, say, table

if TYPE_CHECKING:
    from vdd_ros.evaluation.audit import HeldOut
    from vdd_ros.runtime.density import Calibration
    from vdd_ros.runtime.policy_file import PolicyFile

_SHOWN = (0, 10, 50, 90, 100)


@dataclass(frozen=True)
class Audit:
    """Calibrate the teacher audit of a student: how it scores what it should agree with.

    Held-out demonstrations, which the student has not seen, say which values of log q(a|s) are
    nominal. With --write they are kept in the policy file, and policy_node, run with a teacher in
    shadow, reports when the teacher's actions become unlikely and stay so. Needs a file exported
    with --density.
    """

    file: File
    """The student's policy file (.onnx)."""
    data: str = "scripted"
    """Held-out demonstrations: the path of a recording, or `scripted`."""
    teacher: OptionalPath = None
    """Policy file of the teacher that will run beside the student: its samples at the
    demonstrated states are scored, as on the robot. Without it, the demonstrated actions are."""
    nfe: int = 16
    """Sampler steps of the teacher."""
    task: str = "avoiding"
    """The task of the scripted expert."""
    level: str = "ideal"
    """Degree of realism of the scripted demonstrations, and of recordings that come in several."""
    episodes: int = 100
    """Scripted demonstrations to make."""
    data_seed: int = 1
    """Seed of the scripted demonstrations; another one than they were trained with."""
    write: bool = False
    """Keep the calibration in the policy file."""
    json: bool = False
    """Print one JSON object: file, written, audit."""

    def run(self) -> Answer:
        """Score, calibrate, and write if asked."""
        from vdd_ros.core.config_io import to_dict
        from vdd_ros.data.npz import load_demonstrations
        from vdd_ros.evaluation.audit import calibrate_file
        from vdd_ros.runtime.diffusion_policy import DiffusionPolicy, DiffusionSettings
        from vdd_ros.runtime.policy_file import PolicyFile

        require_at_least(1, nfe=self.nfe, episodes=self.episodes)
        file = PolicyFile.open(self.file)
        demos = load_demonstrations(
            self.data, task=self.task, level=self.level, n=self.episodes, seed=self.data_seed
        )
        say(f"{demos.n_episodes} demonstrations, {len(demos)} steps: {demos.source}")
        warn_if_trained_on(file, demos.data_hash())
        teacher = None
        if self.teacher:
            opened = PolicyFile.open(self.teacher)
            steps = opened.n_steps or self.nfe
            teacher = DiffusionPolicy(opened, DiffusionSettings(n_steps=steps, variant="loop"))
        calibration, scores = calibrate_file(file, held_out(file, demos), teacher=teacher)
        if self.write:
            write_calibration(file, calibration)
        data = {"file": str(self.file), "written": self.write, "audit": to_dict(calibration)}
        say(f"{len(scores)} scores")
        beside = f" --teacher {self.teacher}" if self.teacher else ""
        again = f"vdd audit {self.file} --data {self.data}{beside} --write"
        return Answer(
            data=data,
            text=_describe(self.file, calibration),
            next_commands=(f"vdd inspect {self.file}",) if self.write else (again,),
        )


def held_out(file: PolicyFile, demos: Any) -> HeldOut:  # noqa: ANN401 - Demonstrations
    """Return the windows of demonstrations as the policy sees them.

    Raises:
        VddError: the recording is of another robot, or its episodes are too short.
    """
    from vdd_ros.core.errors import VddError
    from vdd_ros.data.windows import make_windows
    from vdd_ros.evaluation.audit import HeldOut

    contract = file.contract
    if (demos.dim_obs, demos.dim_act) != (contract.dim_obs, contract.dim_act):
        raise VddError(
            f"{demos.source}: {demos.dim_obs} observation and {demos.dim_act} action values, the "
            f"policy has {contract.dim_obs} and {contract.dim_act}; use demonstrations of the "
            "robot it was trained for"
        )
    windows = make_windows(demos, n_obs_steps=contract.n_obs_steps, horizon=contract.horizon)
    return HeldOut(windows.observation, windows.action, windows.episode, demos.data_hash())


def warn_if_trained_on(file: PolicyFile, data_hash: str) -> None:
    """Say so where the demonstrations are the training data: their scores are too good."""
    if file.provenance.get("data_hash") == data_hash:
        say(
            "warning: the student was trained on these very demonstrations; scores of data it has "
            "seen are too high, and alarms will be too frequent: give others"
        )


def write_calibration(file: PolicyFile, calibration: Calibration) -> None:
    """Keep a calibration in a policy file, whole or not at all."""
    from vdd_ros.core.config_io import dump_json, write_atomic
    from vdd_ros.runtime.density import calibrated
    from vdd_ros.runtime.graph import with_metadata

    provenance = dump_json(calibrated(file, calibration))
    write_atomic(file.path, with_metadata(file.model, "vdd_ros.provenance", provenance))


def _describe(path: Path, calibration: Calibration) -> str:
    kind = "teacher samples" if calibration.actions == "teacher" else "demonstrated actions"
    steps = len(calibration.quantiles) - 1
    rows = [
        (f"{percent} % are below", f"{calibration.quantiles[percent * steps // 100]:.2f}")
        for percent in _SHOWN
    ]
    return "\n".join(
        [
            f"{path}: {calibration.n} scores of {kind}, {calibration.n_episodes} episodes, "
            f"{calibration.steps_apart} steps apart",
            "",
            table(rows, header=("log q(a|s)", "nats")),
            "",
            f"a drop is a score below {calibration.threshold:.2f}: at most "
            f"{100 * calibration.level:g} % of nominal scores "
            f"({100 * calibration.confidence:g} % sure)",
        ]
    )
