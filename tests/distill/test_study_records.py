"""Records of studies, and the tables that pages take from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vdd_ros.core.config_io import dump_json, write_atomic
from vdd_ros.core.errors import VddError
from vdd_ros.distill.study.records import fill_page, keep_record, record_tables, refresh_page
from vdd_ros.distill.study.render import render_study
from vdd_ros.distill.study.rows import CLAIM, ROWS, StudyRow, append_row, read_rows, read_settings
from vdd_ros.distill.study.settings import StudySettings, StudyTask
from vdd_ros.distill.study.variants import Variant

_TASK = StudyTask(teacher="t.yaml", distill="d.yaml", data="/somebody/home/people.npz")
_ROW = StudyRow(
    task=_TASK.name,
    row="EM on data",
    method="em",
    teacher="edm",
    seed=0,
    nfe=1,
    figures={"success": 0.5, "entropy": 0.25, "modes": 3.0, "score": 0.45},
    n_judged=480,
    n_iters=10,
    training_cpu_s=1.0,
    n_modes=24,
)
_PAGE = "Words.\n<!-- study: record/avoiding-ideal -->\nold\n<!-- end of study -->\nMore words.\n"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study of one row and three seeds, with its weights beside the rows."""
    folder = tmp_path / "study"
    settings = StudySettings(tasks=(_TASK,), rows={"em": Variant()}, seeds=(0, 1, 2, 3))
    write_atomic(folder / CLAIM, dump_json(settings))
    for seed, success in enumerate((0.5, 0.75, 1.0)):
        row = replace(_ROW, seed=seed, figures=_ROW.figures | {"success": success})
        append_row(folder / f"avoiding-ideal-seed{seed}" / ROWS, row)
    write_atomic(folder / "avoiding-ideal-seed0" / "weights.safetensors", b"heavy")
    return folder


def test_a_record_holds_the_rows_and_nothing_of_the_machine(study: Path, tmp_path: Path) -> None:
    """Two small files; the same rows; demonstrations by name, not by path."""
    record = keep_record(study, tmp_path / "record")
    assert sorted(path.name for path in record.iterdir()) == [ROWS, CLAIM]
    assert list(read_rows(record)) == list(read_rows(study))
    assert read_settings(record).tasks[0].data == "people.npz"
    assert "somebody" not in (record / CLAIM).read_text() + (record / ROWS).read_text()


def test_a_record_has_the_table_of_its_study(study: Path, tmp_path: Path) -> None:
    """Rendered from either, the table is the same, word for word."""
    record = keep_record(study, tmp_path / "record")
    table = record_tables(record)["record/avoiding-ideal"]
    assert table == render_study(study).read_text(encoding="utf-8").strip()
    assert "0.750 ± 0.621" in table  # 4.303 * .25 / sqrt(3)


def test_a_record_is_renewed_and_nothing_else_is_overwritten(study: Path, tmp_path: Path) -> None:
    """Another study, or a folder with anything else in it, is not taken for a record."""
    record = keep_record(study, tmp_path / "record")
    append_row(study / "avoiding-ideal-seed0" / ROWS, replace(_ROW, seed=3))
    assert len(list(read_rows(keep_record(study, record)))) == 4
    with pytest.raises(VddError, match="holds more than a record"):
        keep_record(study, study)
    with pytest.raises(VddError, match="not the folder of a study"):
        keep_record(tmp_path / "nothing", tmp_path / "other")


def test_a_page_gets_its_tables_and_keeps_its_words(study: Path, tmp_path: Path) -> None:
    """What people wrote stays; a second time nothing changes."""
    record = keep_record(study, tmp_path / "record")
    page = tmp_path / "page.md"
    page.write_text(_PAGE, encoding="utf-8")
    assert refresh_page(page, [record])
    text = page.read_text(encoding="utf-8")
    assert text.startswith("Words.\n<!-- study: record/avoiding-ideal -->\n\n**avoiding-ideal**")
    assert text.endswith("<!-- end of study -->\nMore words.\n")
    assert "old" not in text
    assert not refresh_page(page, [record])
    append_row(study / "avoiding-ideal-seed0" / ROWS, replace(_ROW, seed=3))
    keep_record(study, record)
    assert refresh_page(page, [record])


def test_tables_of_other_studies_stay_as_they_are() -> None:
    """A page may take from several records, renewed one at a time."""
    assert fill_page(_PAGE, {"another/avoiding-ideal": "table"}, where="page") == _PAGE


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (_PAGE.replace("/avoiding-ideal", "/avoiding-idael"), "did you mean 'record/avoiding-id"),
        (_PAGE.replace("<!-- end of study -->", ""), "at least one does not"),
        (_PAGE.replace("<!-- study: record/", "<!-- study: "), "at least one does not"),
    ],
)
def test_a_place_that_cannot_be_filled_is_named(text: str, problem: str) -> None:
    """A misspelt table must not stay old unnoticed."""
    with pytest.raises(VddError, match=problem):
        fill_page(text, {"record/avoiding-ideal": "table"}, where="page.md")


def test_a_page_that_is_not_there_is_named(study: Path, tmp_path: Path) -> None:
    """The path stands in the message."""
    with pytest.raises(VddError, match=r"absent\.md: cannot be read"):
        refresh_page(tmp_path / "absent.md", [study])
