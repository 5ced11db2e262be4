"""A study compares on equal terms, states its spread, and never computes a row twice."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from vdd_ros.core.config_io import dump_yaml
from vdd_ros.core.errors import VddError
from vdd_ros.distill.mixture_training import DistillSettings
from vdd_ros.distill.student import StudentSettings
from vdd_ros.distill.study import (
    StudyRow,
    StudySettings,
    mean_and_interval,
    read_rows,
    render,
    run_study,
)
from vdd_ros.distill.teachers.edm import TeacherSettings


def test_the_interval_is_students_t() -> None:
    """Two values 1 apart: mean in the middle, half width 12.706 * (1/sqrt 2) / sqrt 2."""
    mean, half = mean_and_interval([0.0, 1.0])
    assert mean == 0.5
    assert half == pytest.approx(12.706 / 2, rel=1e-4)
    assert mean_and_interval([2.0, 2.0, 2.0]) == (2.0, 0.0)


def test_one_seed_has_no_interval_rather_than_a_false_one() -> None:
    mean, half = mean_and_interval([0.7])
    assert mean == 0.7
    assert math.isnan(half)


def test_the_table_holds_a_line_for_every_policy_in_reading_order() -> None:
    row = StudyRow("ideal", "em", 0, 1, 0.9, 0.5, 20, 0.82, 30.0, 480)
    rows = [row, replace(row, seed=1, success=1.0), replace(row, method="teacher", nfe=16)]
    lines = render(rows).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == ["teacher", "EM on data"]
    assert "0.950 ± 0.635" in lines[1]


@pytest.fixture
def tiny(tmp_path: Path) -> StudySettings:
    (tmp_path / "teacher.yaml").write_text(
        dump_yaml(TeacherSettings(width=8, depth=1, n_iters=3, batch_size=8))
    )
    student = DistillSettings(
        student=StudentSettings(n_experts=2, width=8, depth=1, head_width=4),
        n_iters=3,
        warm_start_iters=1,
        batch_size=8,
        cache_states=8,
        cache_samples=1,
        cache_steps=1,
    )
    (tmp_path / "student.yaml").write_text(dump_yaml(student))
    return StudySettings(
        teacher=str(tmp_path / "teacher.yaml"),
        distill=str(tmp_path / "student.yaml"),
        episodes=24,
        seeds=(0,),
        nfe=2,
        rollouts=4,
    )


def test_a_study_computes_every_row_once_and_continues_where_it_stopped(
    tiny: StudySettings, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    table = run_study(tiny, "scripted", out)
    rows = list(read_rows(out))
    assert [r.method for r in rows] == list(tiny.rows)
    assert all(r.n_rollouts == 4 for r in rows)
    assert "VDD" in table.read_text()
    # The two forms of VDD differ in the objective and in nothing else.
    plain, forward = (
        json.loads((out / "ideal-seed0" / m / "settings.json").read_text())["training"]
        for m in ("vdd", "vdd-forward")
    )
    assert (plain.pop("forward_kl"), forward.pop("forward_kl")) == (0.0, 0.5)
    assert plain == forward

    rows_file = next(out.glob("*/rows.jsonl"))
    lines = rows_file.read_text().splitlines(keepends=True)
    rows_file.write_text("".join(lines[:-1]))  # as if it had been stopped before the last row
    run_study(tiny, "scripted", out)
    again = list(read_rows(out))
    assert again[:-1] == rows[:-1]
    assert replace(again[-1], training_cpu_s=0.0) == replace(rows[-1], training_cpu_s=0.0)

    with pytest.raises(VddError, match="other settings or data"):
        run_study(replace(tiny, nfe=3), "scripted", out)


def test_an_empty_study_is_refused() -> None:
    with pytest.raises(VddError, match="at least one seed"):
        StudySettings(teacher="t", distill="d", seeds=())


def test_a_study_that_failed_at_once_leaves_its_folder_free(tmp_path: Path) -> None:
    """A mistyped path does not bar the folder from the right one; nor do zero workers claim it."""
    settings = StudySettings(teacher="none.yaml", distill="none.yaml")
    with pytest.raises(VddError, match="jobs: got 0, expected at least 1"):
        run_study(settings, "scripted", tmp_path, jobs=0)
    assert not any(tmp_path.iterdir())
    for name in ("first.npz", "second.npz"):
        with pytest.raises(VddError, match=f"{name}: no such file"):
            run_study(settings, str(tmp_path / name), tmp_path)
