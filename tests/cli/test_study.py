"""`vdd study` from the command line: computed once, printed as often as one likes."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import ROOT, Vdd
from vdd_ros.cli import main as cli
from vdd_ros.core.config_io import dump_json, from_dict, write_atomic
from vdd_ros.distill.study.rows import StudyRow, append_row
from vdd_ros.distill.study.settings import StudySettings

pytest.importorskip("torch", reason="training needs torch")

STUDY_YAML = """
tasks:
  - {teacher: teacher.yaml, distill: student.yaml, episodes: 24, rollouts: 4}
rows:
  teacher:
  EM, one expert: {method: em, overrides: {student.n_experts: 1, experts_per_state: 1}}
seeds: [0]
nfe: 2
curve_points: 0
"""
TEACHER_YAML = "{width: 8, depth: 1, n_iters: 3, batch_size: 8}"
STUDENT_YAML = """
student: {n_experts: 2, width: 8, depth: 1, head_width: 4}
n_iters: 3
warm_start_iters: 1
batch_size: 8
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a study of seconds."""
    (tmp_path / "study.yaml").write_text(STUDY_YAML, encoding="utf-8")
    (tmp_path / "teacher.yaml").write_text(TEACHER_YAML, encoding="utf-8")
    (tmp_path / "student.yaml").write_text(STUDENT_YAML, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_study_is_computed_once_and_printed_without_torch(
    folder: Path, vdd: Vdd, capfd: pytest.CaptureFixture[str]
) -> None:
    """`--render-only` needs the rows alone: pages are made where nothing is trained."""
    assert cli.main(shlex.split("study --config study.yaml --out out")) == 0
    computed = capfd.readouterr().out
    assert "| teacher | 2 | 1 |" in computed
    assert "| EM, one expert | 1 | 1 |" in computed
    (folder / "out" / "table.md").unlink()
    blocked = folder / "blocked"
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise ImportError('blocked')", encoding="utf-8")
    path = os.pathsep.join([str(blocked), str(ROOT)])
    printed = vdd("study", "--render-only", "out", PYTHONPATH=path)
    assert (printed.code, printed.out.strip()) == (0, computed.strip()), printed.err
    assert (folder / "out" / "table.md").is_file()


def finished(folder: Path) -> None:
    """Two finished studies, `a` and `b`, of one row."""
    settings = from_dict(StudySettings, yaml.safe_load(STUDY_YAML))
    for name, success in (("a", 0.25), ("b", 0.75)):
        write_atomic(folder / name / "study.json", dump_json(settings))
        row = StudyRow(
            task="avoiding-ideal",
            row="teacher",
            method="teacher",
            teacher="edm",
            seed=0,
            nfe=2,
            figures={"success": success, "entropy": 0.5, "score": 0.8 * success + 0.1},
            n_judged=4,
            n_iters=3,
            training_cpu_s=1.0,
        )
        append_row(folder / name / "run" / "rows.jsonl", row)


def test_several_studies_are_one_object(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One entry per study, in the order they were named."""
    finished(folder)
    assert cli.main(shlex.split("study --render-only b a --json")) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["tables"] == [str(Path(name) / "table.md") for name in "ba"]
    rows = [study["tables"][0]["rows"][0] for study in answer["studies"]]
    assert [row["figures"]["success"]["mean"] for row in rows] == [0.75, 0.25]
    assert rows[0]["figures"]["success"]["half"] is None  # one seed has no interval


def test_a_kept_record_fills_a_page(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`--record` keeps the rows of one study, `--page` shows them; the page says if it changed."""
    finished(folder)
    page = folder / "page.md"
    page.write_text(
        "<!-- study: kept/avoiding-ideal -->\n<!-- end of study -->\n", encoding="utf-8"
    )
    assert cli.main(shlex.split("study --render-only a --record kept")) == 0
    assert {path.name for path in (folder / "kept").iterdir()} == {"study.json", "rows.jsonl"}
    for said in ("tables renewed", "its tables are as the rows say"):
        capfd.readouterr()
        assert cli.main(shlex.split("study --render-only kept --page page.md")) == 0
        assert said in capfd.readouterr().out
    assert "| teacher | 2 | 1 | 0.250 |" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("study --page page.md", "--page takes tables from the studies or records"),
        ("study --render-only a b --record kept", "not the folder of a study"),
        ("study --jobs 0", "--jobs: got 0, expected at least 1"),
        ("study --config study.yaml --data nowhere.npz", "nowhere.npz: no such file"),
        ("study --config study.yaml --data avoidin-ideal=x", "did you mean 'avoiding-ideal'"),
        ("study --config wrong.yaml", "row 'vddd': not a known row"),
        ("study --config teacher.yaml", "unknown key 'width'"),
        ("study --render-only nowhere", "nowhere: not the folder of a study"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    words: str, message: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, what came and what was expected, no folder of a study."""
    wrong = STUDY_YAML.replace("  teacher:\n", "  vddd:\n")
    (folder / "wrong.yaml").write_text(wrong, encoding="utf-8")
    before = sorted(folder.iterdir())
    assert cli.main([*shlex.split(words), "--json"]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert sorted(folder.iterdir()) == before
