"""`vdd train-teacher`: demonstrations to a diffusion teacher. Needs torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdd_ros.cli.command import Answer, OptionalNumber, Shipped, as_typed, require_at_least, say
from vdd_ros.core.errors import VddError

if TYPE_CHECKING:
    from vdd_ros.data.demonstrations import Demonstrations

DEFAULT_CONFIG = "config/train/avoiding_scripted.yaml"


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where demonstrations come from, and how a run is watched; shared by both trainings."""

    data: str = "scripted"
    """`scripted`, or the path of an .npz with demonstrations."""
    task: str = "avoiding"
    """The task of the scripted expert and of --evaluate-every."""
    level: str = "ideal"
    """Degree of realism; for avoiding: ideal or panda."""
    episodes: int = 480
    """Scripted demonstrations to make."""
    data_seed: int = 0
    """Seed of the scripted demonstrations."""
    seed: OptionalNumber = None
    """Seed of the training; that of the settings file by default."""
    iterations: OptionalNumber = None
    """Training iterations; that of the settings file by default."""
    evaluate_every: int = 0
    """Roll out in closed loop every so many iterations, into metrics.jsonl; 0 for never."""
    n_action_steps: int = 1
    """Actions of every predicted chunk that are executed in those rollouts."""
    resume: bool = False
    """Continue the run in --out, with the same options."""
    json: bool = False
    """Print one JSON object: run, training_cpu_s, data_hash, settings and more."""

    def demonstrations(self) -> Demonstrations:
        """Load or make the demonstrations.

        Raises:
            VddError: no such file, unusable contents, unknown task or level.
        """
        from vdd_ros.data.npz import load_demonstrations

        require_at_least(1, episodes=self.episodes, n_action_steps=self.n_action_steps)
        require_at_least(0, data_seed=self.data_seed, evaluate_every=self.evaluate_every)
        demos = load_demonstrations(
            self.data,
            task=self.task,
            level=self.level,
            n=self.episodes,
            seed=self.data_seed,
            # Recordings of any robot may be learnt from; rolled out are those of the task alone.
            fit_task=self.evaluate_every > 0,
        )
        say(f"{demos.n_episodes} demonstrations, {len(demos)} steps: {demos.source}")
        return demos

    def inspect(self, demos: Demonstrations, *, horizon: int, pad: bool) -> tuple[str, ...]:
        """Say what is odd about the demonstrations, before time is spent on them."""
        from vdd_ros.data.inspection import oddities

        notes = oddities(demos, horizon=horizon, pad=pad)
        for note in notes:
            say(f"note: {note}")
        return notes

    def same_data(self) -> str:
        """Return the options that make another command use the same demonstrations."""
        words: list[str] = []
        for name in ("data", "task", "level", "episodes", "data_seed"):
            value, default = getattr(self, name), getattr(DataOptions, name)
            if value != default:
                words += [f"--{name.replace('_', '-')}", str(value)]
        return f" {shlex.join(words)}" if words else ""

    def overrides(self) -> dict[str, int]:
        """Settings given as options instead of in the settings file."""
        given = {"seed": self.seed, "n_iters": self.iterations}
        return {name: value for name, value in given.items() if value is not None}

    def closed_loop(self, policy: Callable[[Any], Any]) -> Callable[[Any], Mapping[str, float]]:
        """Return the evaluation that training calls now and then.

        Args:
            policy: turns a torch model into a policy for rollouts.
        """

        def evaluate(model: Any) -> Mapping[str, float]:  # noqa: ANN401 - teacher or student
            from vdd_ros.distill.judging.closed_loop import closed_loop

            figures = closed_loop(
                policy(model),
                task=self.task,
                level=self.level,
                rollouts=240,
                seed=0,
                n_obs_steps=model.n_obs_steps,
                n_action_steps=self.n_action_steps,
            )
            say(
                f"closed loop: success {figures['success']:.3f}, "
                f"entropy {figures['entropy']:.3f}, reward {figures['reward']:.3f}"
            )
            return figures

        return evaluate


@dataclass(frozen=True, kw_only=True)
class TrainTeacher(DataOptions):
    """Train a diffusion teacher on demonstrations; Ctrl-C saves, --resume continues."""

    config: Shipped = None
    """Settings (YAML)."""
    out: Path = Path("runs/teacher")
    """Run folder to make."""

    def run(self) -> Answer:
        """Train."""
        require_torch("vdd train-teacher")
        from vdd_ros.core.config_io import load_yaml, to_dict
        from vdd_ros.core.shipped import shipped_file
        from vdd_ros.distill.judging.closed_loop import teacher_policy
        from vdd_ros.distill.pipeline import train_teacher
        from vdd_ros.distill.teachers.edm import TeacherSettings

        settings = load_yaml(TeacherSettings, self.config or shipped_file(DEFAULT_CONFIG))
        settings = replace(settings, **self.overrides())  # type: ignore[arg-type]
        demos = self.demonstrations()
        notes = self.inspect(demos, horizon=settings.horizon, pad=settings.pad)
        with resume_line(as_typed("train-teacher", self, resume=True)):
            result = train_teacher(
                demos,
                settings,
                self.out,
                resume=self.resume,
                evaluate=self.closed_loop(teacher_policy),
                evaluate_every=self.evaluate_every,
            )
        for note in result.notes:
            say(f"note: {note}")
        data = {
            "run": str(result.folder),
            "training_cpu_s": result.training_cpu_s,
            "data_hash": demos.data_hash(),
            "settings": to_dict(settings),
            "notes": [*notes, *result.notes],
        }
        text = f"teacher in {result.folder}, {result.training_cpu_s:.0f} CPU-seconds"
        return Answer(
            data=data,
            text=text,
            next_commands=(
                f"vdd distill --teacher {shlex.quote(str(self.out))}{self.same_data()}",
                f"vdd export {self.out} --out teacher.onnx",
            ),
        )


@contextmanager
def resume_line(command: str) -> Iterator[None]:
    """Say how to go on when a training is interrupted after it has been saved."""
    from vdd_ros.distill.training.trainer import TrainingInterrupted

    try:
        yield
    except TrainingInterrupted as stop:
        say(f"{stop}\nnext: {command}")
        raise


def require_torch(command: str) -> None:
    """Refuse to go on without torch.

    Raises:
        VddError: torch cannot be imported; the message says how to get it.
    """
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:
        raise VddError(
            f"'{command}' needs torch, which cannot be imported ({error}); install it with 'make "
            "distill' or 'pip install torch==2.13.0 onnx onnxscript safetensors jaxtyping'"
        ) from None
