"""`vdd demo`: the simulated robot, the policy and its teacher, over real DDS."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdd_ros.cli.command import (
    Answer,
    Shipped,
    microseconds,
    require_at_least,
    require_writable,
    say,
    table,
)

if TYPE_CHECKING:
    from vdd_ros.evaluation.figures import Ways
    from vdd_ros.nodes.demo_driver import DemoResult, EpisodeOutcome, Latency


@dataclass(frozen=True)
class Demo:
    """Drive the simulated robot with the shipped policy, its diffusion teacher in shadow.

    Starts three nodes as processes, runs closed-loop episodes over real DDS, stops them, and ends
    with a table and a picture. Needs no torch and no network.
    """

    episodes: int = 48
    """Closed-loop episodes to run."""
    student: Shipped = None
    """Policy file to drive with."""
    teacher: Shipped = None
    """Policy file of the teacher in shadow."""
    nfe: int = 16
    """Sampler steps of the teacher."""
    level: str = "ideal"
    """Degree of realism of the simulated robot: ideal or panda."""
    seed: int = 0
    """Seed of the expert choice and of the teacher's noise."""
    out: Path = Path("demo_output")
    """Folder for the picture (demo.png) and the figures (demo.json)."""
    json: bool = False
    """Print one JSON object: the figures of the table, and where the picture is."""

    def run(self) -> Answer:
        """Run the demo."""
        from vdd_ros.cli.ros import require_policies, require_ros
        from vdd_ros.core.config_io import dump_json, write_atomic
        from vdd_ros.core.shipped import STUDENT, TEACHER, shipped_file
        from vdd_ros.tasks.avoiding import AvoidingTask

        require_ros("vdd demo")
        from vdd_ros.nodes.demo_driver import run_demo

        # Found out before the minute of driving, not after it.
        require_at_least(1, episodes=self.episodes, nfe=self.nfe)
        require_at_least(0, seed=self.seed)
        AvoidingTask(level=self.level)  # refuses a level it does not know
        student = self.student or shipped_file(STUDENT)
        teacher = self.teacher or shipped_file(TEACHER)
        require_policies(student, teacher, self.nfe)
        require_writable(self.out)
        say(f"{self.episodes} episodes: simulated robot, policy, teacher in shadow ...")
        result = run_demo(
            episodes=self.episodes,
            student=student,
            teacher=teacher,
            nfe=self.nfe,
            level=self.level,
            seed=self.seed,
            progress=self._progress,
        )
        ways = _ways(result)
        data = _figures(result, ways)
        picture = self._picture(result, ways, data)
        data["picture"] = None if picture is None else str(picture)
        write_atomic(self.out / "demo.json", dump_json(data, indent=2) + "\n")
        text = _describe(data)
        if picture is not None:
            text += f"\n\npicture: {picture}"
        return Answer(
            data=data,
            text=text,
            next_commands=("vdd bench", "vdd compare"),
        )

    def _progress(self, number: int, outcome: EpisodeOutcome) -> None:
        every = max(1, self.episodes // 8)
        if number % every == 0 or number == self.episodes:
            ended = outcome.mode_name if outcome.success else "did not reach the goal"
            say(f"episode {number:>3} of {self.episodes}: {ended}")

    def _picture(self, result: DemoResult, ways: Ways, data: dict[str, Any]) -> Path | None:
        from vdd_ros.core.config_io import write_atomic
        from vdd_ros.core.errors import VddError
        from vdd_ros.evaluation.figures import demo_figure

        title = (
            f"{data['episodes']} closed-loop episodes over DDS: {100 * data['success']:.0f} % "
            f"success, {data['modes']} of {data['n_modes']} ways"
        )
        caption = (
            f"The policy decides in one network pass, {microseconds(data['policy']['p50_us'])} "
            f"(p50); its diffusion teacher, {data['teacher']['nfe']} steps in shadow, takes "
            f"{data['ratio']['teacher_over_policy_p50']:.1f} times as long."
        ).replace(" us", " µs")
        latency = {"policy": result.policy.infer_us, "teacher": result.teacher.infer_us}
        try:
            png = demo_figure(
                ways,
                latency_us=latency,
                title=title,
                caption=caption,
                policy_sha256=data["policy"]["sha256"],
            )
        except VddError as error:  # the run is worth its table without a picture, too
            say(f"no picture: {error}")
            return None
        path = self.out / "demo.png"
        write_atomic(path, png)
        return path


def _ways(result: DemoResult) -> Ways:
    """Pad the episodes to one length, as rollouts are drawn."""
    import numpy as np

    from vdd_ros.evaluation.figures import Ways

    n = len(result.outcomes)
    longest = max(2, *(len(path) for path in result.trajectories))
    trajectory = np.full((n, longest, 2), np.nan)
    expert = np.full((n, longest - 1), -1, np.int64)
    for i, (path, acted) in enumerate(zip(result.trajectories, result.experts, strict=True)):
        trajectory[i, : len(path)] = path
        # The expert that answered a position took the step away from it.
        steps = acted[: max(len(path) - 1, 0)]
        expert[i, : len(steps)] = steps
    return Ways(
        trajectory=trajectory,
        expert=expert,
        success=np.array([o.success for o in result.outcomes]),
        mode=np.array([o.mode for o in result.outcomes]),
    )


def _figures(result: DemoResult, ways: Ways) -> dict[str, Any]:
    from vdd_ros.tasks.avoiding import N_MODES
    from vdd_ros.tasks.metrics import mode_entropy, wilson_ci95

    counts = ways.mode_counts(N_MODES)
    n, successes = len(result.outcomes), int(ways.success.sum())
    return {
        "episodes": n,
        "success": successes / n,
        "success_ci95": list(wilson_ci95(successes, n)),
        "entropy": float(mode_entropy(counts)),
        "modes": int((counts > 0).sum()),
        "n_modes": N_MODES,
        "missed": sum(o.missed for o in result.outcomes),
        "policy": {**_latency(result.policy), "sha256": _sha256(result.student_path)},
        "teacher": {**_latency(result.teacher), "sha256": _sha256(result.teacher_path)},
        "ratio": {"teacher_over_policy_p50": result.ratio_p50},
    }


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _latency(latency: Latency) -> dict[str, Any]:
    return {
        "nfe": latency.nfe,
        "ticks": latency.infer.n,
        "p50_us": latency.infer.p50_us,
        "p99_us": latency.infer.p99_us,
        "tick_p50_us": latency.tick.p50_us,
        "tick_p99_us": latency.tick.p99_us,
    }


def _describe(data: dict[str, Any]) -> str:
    low, high = data["success_ci95"]
    outcome = [
        ("success", f"{data['success']:.3f} [{low:.3f}, {high:.3f}]"),
        ("modes reached", f"{data['modes']} of {data['n_modes']}"),
        ("entropy", f"{data['entropy']:.3f}"),
        ("steps without a command in time", str(data["missed"])),
    ]
    policy, teacher = data["policy"], data["teacher"]
    latency = [
        (name, microseconds(policy[key]), microseconds(teacher[key]))
        for name, key in (
            ("inference p50", "p50_us"),
            ("inference p99", "p99_us"),
            ("whole tick p50", "tick_p50_us"),
            ("whole tick p99", "tick_p99_us"),
        )
    ]
    return "\n".join(
        [
            table(
                outcome, header=(f"{data['episodes']} episodes, closed loop over DDS", "policy")
            ),
            "",
            table(
                latency,
                header=(
                    "latency per action",
                    "policy, one pass",
                    f"teacher in shadow, {teacher['nfe']} steps",
                ),
            ),
            "",
            f"the teacher takes {data['ratio']['teacher_over_policy_p50']:.1f} times as long as "
            "the policy (p50 of inference)",
        ]
    )
