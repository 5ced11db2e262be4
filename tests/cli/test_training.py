"""From demonstrations to a policy file through the command line, and back out of every mistake."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import ROOT
from vdd_ros.cli import main as cli
from vdd_ros.cli.train import TrainTeacher
from vdd_ros.tasks.avoiding_expert import scripted_demonstrations

pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("onnxscript", reason="exporting needs onnxscript")

TEACHER_YAML = """
n_obs_steps: 1
width: 32
depth: 2
n_iters: 60
batch_size: 128
"""
STUDENT_YAML = """
student: {n_experts: 4, width: 32, depth: 2, head_width: 16}
n_iters: 40
warm_start_iters: 20
cache_states: 256
cache_samples: 2
cache_steps: 2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with two small settings files."""
    (tmp_path / "teacher.yaml").write_text(TEACHER_YAML, encoding="utf-8")
    (tmp_path / "student.yaml").write_text(STUDENT_YAML, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(words: str, capfd: pytest.CaptureFixture[str]) -> tuple[dict[str, object], str]:
    """Run a command in this process (torch is imported once); its object and the other stream."""
    capfd.readouterr()
    code = cli.main([*shlex.split(words), "--json"])
    captured = capfd.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out), captured.err


def test_demonstrations_become_a_policy_file(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """train-teacher, distill, export, evaluate: each takes what the one before has made."""
    taught, said = _run(
        "train-teacher --config teacher.yaml --episodes 24 --out teacher --evaluate-every 40",
        capfd,
    )
    assert taught["run"] == "teacher"
    assert "next: vdd distill --teacher teacher" in said
    assert "closed loop: success" in said
    metrics = (folder / "teacher" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert any("success" in json.loads(line) for line in metrics)

    learned, said = _run(
        "distill --teacher teacher --config student.yaml --episodes 24 --out student --seed 5",
        capfd,
    )
    assert learned["method"] == "vdd"
    assert learned["settings"]["seed"] == 5  # type: ignore[index]
    assert learned["data_hash"] == taught["data_hash"]
    assert "next: vdd export student" in said

    written, said = _run("export student --out student.onnx --rollouts 12 --density", capfd)
    assert written["kind"] == "moe"
    assert written["bytes"] == (folder / "student.onnx").stat().st_size
    assert float(written["parity_max_abs"]) <= 1e-4  # type: ignore[arg-type]
    assert "next: vdd evaluate student.onnx" in said

    shown, _ = _run("inspect student.onnx", capfd)
    assert shown["provenance"]["evaluation"]["rollouts"] == 12  # type: ignore[index]
    assert shown["provenance"]["data_hash"] == taught["data_hash"]  # type: ignore[index]
    assert "expert_scale" in {t["name"] for t in shown["outputs"]}  # type: ignore[attr-defined]
    figures, _ = _run("evaluate student.onnx --rollouts 8", capfd)
    assert figures["rollouts"] == 8


def test_a_teacher_is_exported_too_but_has_no_density(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The density of a diffusion model is refused by name, and nothing is written."""
    _run("train-teacher --config teacher.yaml --episodes 24 --out t --iterations 20", capfd)
    assert cli.main(shlex.split("export t --out t.onnx --density --rollouts 0")) == 2
    assert "no closed form" in capfd.readouterr().err
    assert not (folder / "t.onnx").exists()
    written, _ = _run("export t --out t.onnx --rollouts 0", capfd)
    assert written["kind"] == "denoiser"
    assert written["evaluation"] == {}


@pytest.mark.parametrize("method", ["em", "em-teacher", "imc", "cd", "ctm"])
def test_a_rival_becomes_a_policy_file_that_acts(
    method: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Distilled, exported, rolled out, with the steps its file is made for."""
    _run("train-teacher --config teacher.yaml --episodes 24 --out t --iterations 20", capfd)
    words = f"distill --teacher t --method {method} --config student.yaml --episodes 24 --out r"
    learned, said = _run(f"{words} --evaluate-every 40", capfd)
    assert learned["method"] == method
    assert "closed loop: success" in said
    if method in ("cd", "ctm"):
        assert cli.main(shlex.split("export r --out r.onnx --density --rollouts 0")) == 2
        assert "no closed form" in capfd.readouterr().err
    written, _ = _run("export r --out r.onnx --rollouts 12", capfd)
    assert written["kind"] == ("denoiser" if method in ("cd", "ctm") else "moe")
    figures, _ = _run("evaluate r.onnx --rollouts 8", capfd)
    assert figures["rollouts"] == 8
    assert cli.main(shlex.split("evaluate r.onnx --rollouts 8 --nfe 16")) == 2
    assert "one pass" in (err := capfd.readouterr().err) or "set nfe to 1" in err


def _demonstrations(path: Path, *, spoil: bool = False) -> Path:
    demos = scripted_demonstrations(4, seed=0)
    observation = demos.observation.copy()
    if spoil:
        observation[17, 2] = np.nan
    np.savez(path, observation=observation, action=demos.action, episode_ends=demos.episode_ends)
    return path


def _arm(path: Path, *, odd: bool = False) -> None:
    """Recordings of a robot that is not simulated here: seven observed values, three actions."""
    rng = np.random.default_rng(0)
    observation, action = rng.normal(size=(40, 7)), rng.normal(size=(40, 3))
    if odd:
        observation[:, 4], action[:, 2] = 9.81, 0.0
    np.savez(path, observation=observation, action=action, episode_ends=[20, 23, 40])


def test_what_is_odd_about_demonstrations_is_said_before_training(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By file, table and column; a plain recording is passed without a word."""
    (folder / "chunks.yaml").write_text(TEACHER_YAML + "horizon: 4\n", encoding="utf-8")
    _arm(folder / "plain.npz")
    _arm(folder / "odd.npz", odd=True)
    words = "train-teacher --config {} --iterations 5 --data {} --out {}"
    quiet, said = _run(words.format("teacher.yaml", "plain.npz", "quiet"), capfd)
    assert "note" not in said
    assert quiet["notes"] == []
    for line, run in (
        (words.format("chunks.yaml", "odd.npz", "t"), "t"),
        ("distill --teacher t --config student.yaml --data odd.npz --out s", "s"),
    ):
        answer, said = _run(line, capfd)
        assert "odd.npz: observation column 4 (9.81) of 7 never changes" in said
        assert "odd.npz: action column 2 (0) of 3 never changes" in said
        assert "odd.npz: 1 of 3 episodes are shorter than the chunk of 4" in said
        assert len(answer["notes"]) == 3  # type: ignore[arg-type]
        assert answer["run"] == run


def test_a_robot_that_is_not_simulated_is_learnt_and_exported_too(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its recordings need not look like the simulated task's; its contract must fit them."""
    _arm(folder / "arm.npz")
    (folder / "arm.yaml").write_text(
        "name: arm\nrate_hz: 50.0\nobservations: [{key: state, dim: 7}]\n"
        "actions: [{key: step, dim: 3}]\n",
        encoding="utf-8",
    )
    _run("train-teacher --data arm.npz --config teacher.yaml --iterations 5 --out t", capfd)
    assert cli.main(shlex.split("export t --out wrong.onnx")) == 2
    assert "use the contract of the robot" in capfd.readouterr().err
    assert not (folder / "wrong.onnx").exists()
    assert cli.main(shlex.split("export t --contract arm.yaml --out .")) == 2
    assert "is a folder" in capfd.readouterr().err
    written, _ = _run("export t --contract arm.yaml --out arm.onnx", capfd)
    assert (written["kind"], written["evaluation"]) == ("denoiser", {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train-teacher --data nowhere.npz", "nowhere.npz: no such file"),
        ("train-teacher --data spoilt.npz", "row 17, column 2"),
        ("train-teacher --config typo.yaml", "did you mean 'n_iters'?"),
        ("train-teacher --config nowhere.yaml", "nowhere.yaml: no such file"),
        ("train-teacher --level ideel", "ideal"),
        ("distill --teacher nowhere", "nowhere: not a run folder"),
        ("distill", "needs a teacher"),
        ("distill --method ctm", "needs a teacher"),
        ("distill --config typo_cd.yaml --method cd", "did you mean 'n_scales'?"),
        ("export nowhere", "nowhere: not a run folder"),
        ("export nowhere --rollouts -1", "--rollouts: got -1, expected at least 0"),
        ("train-teacher --data-seed -1", "--data-seed: got -1, expected at least 0"),
        ("train-teacher --seed -1", "expected 0 or more"),
        ("train-teacher --episodes 0", "--episodes: got 0, expected at least 1"),
        ("train-teacher --evaluate-every -1", "--evaluate-every: got -1, expected at least 0"),
        ("train-teacher --data arm.npz --evaluate-every 5", "expects 4 and 2"),
        ("study --jobs 0", "--jobs: got 0, expected at least 1"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    words: str, message: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, what came and what was expected, no run folder."""
    _demonstrations(folder / "spoilt.npz", spoil=True)
    _arm(folder / "arm.npz")
    (folder / "typo.yaml").write_text("n_iter: 3\n", encoding="utf-8")
    (folder / "typo_cd.yaml").write_text("consistency: {n_scale: 3}\n", encoding="utf-8")
    before = sorted(folder.iterdir())
    assert cli.main([*shlex.split(words), "--json"]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert sorted(folder.iterdir()) == before


def test_a_second_run_does_not_overwrite_the_first(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run folder in use is named, with what to do instead."""
    words = "train-teacher --config teacher.yaml --episodes 24 --out t --iterations 20"
    _run(words, capfd)
    assert cli.main(shlex.split(words)) == 2
    assert "already holds a run" in capfd.readouterr().err


def test_ctrl_c_saves_says_how_to_go_on_and_the_line_works(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """SIGINT ends with 130 and the command that continues; that command finishes the run."""
    words = [
        "train-teacher", "--config", "teacher.yaml", "--episodes", "24", "--out", "a run",
        "--iterations", "1500", "--evaluate-every", "3",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "vdd_ros", *words, "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:  # the first evaluation: training is under way
        seen += line
        if "closed loop" in line:
            process.send_signal(signal.SIGINT)
            break
    out, rest = process.communicate(timeout=60)
    said = seen + rest
    assert process.returncode == 130, said
    assert out == ""
    assert "Traceback" not in said
    (line,) = [row.removeprefix("next: ") for row in said.splitlines() if row.startswith("next:")]
    assert shlex.split(line)[:2] == ["vdd", "train-teacher"]
    assert "--resume" in line
    # The same line, without the evaluations that only this test needed to see it run.
    words = line.removeprefix("vdd ").replace("--evaluate-every 3", "").replace("--json", "")
    finished, _ = _run(words, capfd)
    assert finished["run"] == "a run"


def test_the_next_line_distils_on_the_demonstrations_of_the_teacher() -> None:
    """Options that change the data are repeated; without them other data would be used."""
    options = TrainTeacher(episodes=24, data_seed=3, level="panda", out=Path("a b"))
    assert options.same_data() == " --level panda --episodes 24 --data-seed 3"
    assert TrainTeacher(data="my demos.npz").same_data() == " --data 'my demos.npz'"
    assert TrainTeacher().same_data() == ""
