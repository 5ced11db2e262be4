"""`vdd diagnose` and `vdd toys` from the command line, and back out of every mistake."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from vdd_ros.cli import main as cli
from vdd_ros.tasks.avoiding_expert import scripted_demonstrations

pytest.importorskip("torch", reason="training needs torch")

TEACHER_YAML = """
width: 16
depth: 2
n_iters: 30
batch_size: 64
"""
STUDENT_YAML = """
student: {n_experts: 4, width: 16, depth: 1, head_width: 8}
n_iters: 20
warm_start_iters: 10
cache_states: 64
cache_samples: 2
cache_steps: 2
"""
DATA = "--episodes 24"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher, its student, and another teacher."""
    made = tmp_path_factory.mktemp("runs")
    (made / "teacher.yaml").write_text(TEACHER_YAML, encoding="utf-8")
    (made / "student.yaml").write_text(STUDENT_YAML, encoding="utf-8")
    lines = [
        f"train-teacher {DATA} --config {made}/teacher.yaml --out {made}/teacher",
        f"train-teacher --episodes 24 --data-seed 5 --config {made}/teacher.yaml "
        f"--out {made}/other",
        f"distill {DATA} --teacher {made}/teacher --config {made}/student.yaml "
        f"--out {made}/student",
    ]
    for line in lines:
        assert cli.main([*shlex.split(line), "--json"]) == 0
    return made


def _run(words: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capfd.readouterr()
    code = cli.main(shlex.split(words))
    captured = capfd.readouterr()
    return code, captured.out, captured.err


LOOK = f"{DATA} --states 8 --samples 16"


def test_a_student_is_judged_line_by_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = f"diagnose {folder}/student --teacher {folder}/teacher {LOOK}"
    code, out, _ = _run(words, capfd)
    assert code == 0
    assert "the demonstrations it was trained on" in out
    for name in ("gate", "experts", "coverage of the teacher", "Stein discrepancy at sigma 0.1"):
        (line,) = [line for line in out.splitlines() if line.startswith(name)]
        assert "fine" in line or "look at this" in line


def test_the_same_as_one_object(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = f"diagnose {folder}/student --teacher {folder}/teacher {LOOK} --json"
    code, out, _ = _run(words, capfd)
    answer = json.loads(out)
    assert code == 0
    assert answer["same_data"] is True
    assert len(answer["figures"]["gate"]["usage"]) == 4
    assert answer["figures"]["teacher"]["stein"][0]["sigma"] == 0.1
    assert all(bool(f["remedy"]) != f["fine"] for f in answer["findings"])


def test_other_demonstrations_are_known_as_such_and_need_no_teacher(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = f"diagnose {folder}/student --episodes 24 --data-seed 9 --states 8 --json"
    code, out, _ = _run(words, capfd)
    answer = json.loads(out)
    assert code == 0
    assert answer["same_data"] is False
    assert answer["figures"]["teacher"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("diagnose {0}/student --teacher {0}/other", "normalises observations differently"),
        ("diagnose {0}/teacher", "expected a student"),
        ("diagnose {0}/nowhere", "not a run folder"),
        ("diagnose {0}/student --samples 3", "--samples: got 3"),
        ("diagnose {0}/student --states 1", "--states: got 1"),
        ("toys --toys rong --out {0}/toys", "did you mean 'ring'"),
        ("toys --seeds 0 --out {0}/toys", "--seeds: got 0"),
    ],
)
def test_mistakes_are_named(
    folder: Path, capfd: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    code, out, err = _run(words.format(folder) + (f" {DATA}" if "diag" in words else ""), capfd)
    assert code == 2
    assert message in err
    assert out == ""


def test_demonstrations_in_other_units_are_refused(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    demos = scripted_demonstrations(4, seed=0)
    np.savez(
        folder / "millimetres.npz",
        observation=1000 * demos.observation,
        action=1000 * demos.action,
        episode_ends=demos.episode_ends,
    )
    words = f"diagnose {folder}/student --data {folder}/millimetres.npz --states 8"
    code, _, err = _run(words, capfd)
    assert code == 2
    assert "millimetres.npz: observation column" in err
    assert "does not fit the student" in err


def test_toys_print_their_table(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = folder / "toys.yaml"
    student = "{n_experts: 2, width: 8, depth: 1, head_width: 4}"
    config.write_text(
        f"distill: {{student: {student}, n_iters: 2, warm_start_iters: 1, cache_states: 16}}\n"
        "sampler_steps: 2\n",
        encoding="utf-8",
    )
    words = f"toys --toys ring --seeds 1 --config {config} --out {folder}/toys"
    code, out, _ = _run(words, capfd)
    assert code == 0
    assert "| ring | VDD, diffused (default) | 1 |" in out
    code, out, _ = _run(f"{words} --json", capfd)
    answer = json.loads(out)
    assert Path(answer["figure"]).is_file()
    assert [row["variant"] for row in answer["rows"]] == ["vdd-diffused"]
