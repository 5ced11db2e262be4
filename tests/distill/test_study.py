"""A study compares on equal terms, states its spread, and never computes a row twice."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vdd_ros.core.config_io import dump_json, dump_yaml, from_dict, load_yaml, write_atomic
from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.npz import save_npz
from vdd_ros.distill.methods.mixture_training import DistillSettings, MixtureTraining
from vdd_ros.distill.mixtures.student import StudentSettings
from vdd_ros.distill.pipeline import distill, train_teacher
from vdd_ros.distill.study import published
from vdd_ros.distill.study.budget import fit, fit_once
from vdd_ros.distill.study.changes import chosen, conflicts, with_data, with_overrides
from vdd_ros.distill.study.pair import Pair
from vdd_ros.distill.study.render import markdown, render_study, statements
from vdd_ros.distill.study.rows import (
    CurvePoint,
    Failure,
    StudyRow,
    append_row,
    read_failures,
    read_rows,
)
from vdd_ros.distill.study.runner import check, in_processes, run_study
from vdd_ros.distill.study.settings import StudySettings, StudyTask
from vdd_ros.distill.study.summary import (
    Interval,
    TaskSummary,
    cpu_s_to_almost,
    interval,
    mean_and_interval,
    summarise,
)
from vdd_ros.distill.study.variants import Variant
from vdd_ros.distill.teachers.settings import TeacherSettings
from vdd_ros.distill.training.targets import data_targets
from vdd_ros.distill.training.tracking import read_lines
from vdd_ros.distill.training.trainer import LoopSettings, train

CONFIGS = [
    path
    for path in sorted((Path(__file__).parents[2] / "config" / "study").glob("*.yaml"))
    if "\ntasks:" in path.read_text(encoding="utf-8")
]
TASK = StudyTask(teacher="t.yaml", distill="d.yaml")
ROW = StudyRow(
    task="avoiding-ideal",
    row="EM on data",
    method="em",
    teacher="edm",
    seed=0,
    nfe=1,
    figures={"success": 0.9, "entropy": 0.5, "modes": 20, "score": 0.82, "reward": 0.9},
    n_judged=480,
    n_iters=100,
    training_cpu_s=30.0,
    n_modes=24,
)


def study_of(**settings: object) -> StudySettings:
    return from_dict(
        StudySettings,
        {
            "tasks": [{"teacher": "t.yaml", "distill": "d.yaml", "published": "avoiding"}],
            "rows": {"teacher": None, "vdd": None, "em": None},
            **settings,
        },
    )


def with_figures(row: StudyRow, **figures: float) -> StudyRow:
    return replace(row, figures=row.figures | figures)


def rows_of(scores: dict[str, list[float]]) -> list[StudyRow]:
    """Rows of the plain study with the given scores, one per seed."""
    methods = {"teacher": ("teacher", 16), "VDD": ("vdd", 1), "EM on data": ("em", 1)}
    return [
        replace(
            with_figures(ROW, score=score),
            row=name,
            method=methods[name][0],
            nfe=methods[name][1],
            seed=s,
        )
        for name, values in scores.items()
        for s, score in enumerate(values)
    ]


def table_of(scores: dict[str, list[float]]) -> TaskSummary:
    (table,) = summarise(study_of(), rows_of(scores))
    return table


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
    assert interval([0.7]).overlaps(interval([0.1, 0.2])) is None
    table = table_of({"VDD": [0.9], "EM on data": [0.8]})
    assert "nan" not in markdown(table)
    assert "one seed has no interval" in statements(table)[0]


def test_the_table_holds_a_line_for_every_policy_in_the_order_of_the_settings() -> None:
    rows = [ROW, replace(with_figures(ROW, success=1.0), seed=1)]
    rows += [replace(ROW, row="teacher", method="teacher", nfe=16), replace(ROW, row="gone")]
    (table,) = summarise(study_of(), rows)
    lines = [line for line in markdown(table).splitlines() if line.startswith("| ")][1:]
    assert [line.split(" | ")[0] for line in lines] == ["| teacher", "| EM on data"]
    assert "0.950 ± 0.635" in lines[1]  # (.9, 1.): 12.706 * .0707 / sqrt 2
    assert "modes of 24" in markdown(table)


def test_the_best_one_pass_row_is_named_and_whether_it_is_separated() -> None:
    """A teacher of many passes competes in another class, however good it is."""
    apart = table_of({"teacher": [1.0, 1.0], "VDD": [0.90, 0.91], "EM on data": [0.5, 0.51]})
    assert (apart.best, apart.runner_up, apart.separated) == ("VDD", "EM on data", True)
    assert "do not overlap" in statements(apart)[0]
    close = table_of({"VDD": [0.90, 0.91], "EM on data": [0.87, 0.88]})
    assert (close.best, close.separated) == ("VDD", False)
    assert "not separated" in statements(close)[0]


def test_paired_differences_cancel_what_seeds_share() -> None:
    """Both rows swing by .3 with the seed, their difference by .01: only pairing sees it."""
    table = table_of({"VDD": [0.60, 0.90, 0.75], "EM on data": [0.55, 0.84, 0.70]})
    assert table.separated is False
    (difference,) = (d for d in table.differences if d.row == "EM on data")
    gap = difference.figures["score"]
    assert gap.mean == pytest.approx(-0.16 / 3)
    assert gap.mean + gap.half < 0
    assert difference.reference == "VDD"


def test_a_student_is_compared_with_the_teacher_it_came_from_and_no_other() -> None:
    rows = {
        "teacher": None,
        "vdd": None,
        "wide teacher": {"method": "teacher", "teacher_overrides": {"width": 9}},
        "VDD of it": {"method": "vdd", "teacher_overrides": {"width": 9}},
    }
    made = [
        replace(ROW, row=name, method=method, nfe=nfe)
        for name, method, nfe in (
            ("teacher", "teacher", 16),
            ("VDD", "vdd", 1),
            ("wide teacher", "teacher", 16),
            ("VDD of it", "vdd", 1),
        )
    ]
    (table,) = summarise(study_of(rows=rows), made)
    pairs = {(d.row, d.reference) for d in table.differences}
    assert {("VDD", "teacher"), ("VDD of it", "wide teacher")} <= pairs
    assert not {("VDD", "wide teacher"), ("VDD of it", "teacher")} & pairs


def test_a_tasks_own_figures_have_columns_and_a_graded_task_shows_its_reward() -> None:
    rows = [replace(with_figures(ROW, reward=0.95, winding=0.4 + s / 10), seed=s) for s in (0, 1)]
    (table,) = summarise(study_of(), rows)
    header, _, line = (text for text in markdown(table).splitlines() if text.startswith("|"))
    cells = dict(zip(header.split("|"), line.split("|"), strict=True))
    assert cells[" reward "] == " 0.950 ± 0.000 "
    assert cells[" winding "] == " 0.450 ± 0.635 "
    # Where the reward says what the success says, it is not said twice.
    assert " reward " not in markdown(table_of({"VDD": [0.5, 0.6]}))


def curve(*points: tuple[float, float]) -> list[CurvePoint]:
    return [CurvePoint(i, cpu, {"score": score}) for i, (cpu, score) in enumerate(points)]


@pytest.mark.parametrize(
    ("points", "seconds"),
    [
        # .99 of 1 lies nine tenths of the way from .9 at 10 s to 1 at 20 s.
        ([(10, 0.9), (20, 1.0), (30, 1.0)], 19.0),
        # An early visit does not count: it has to stay.
        ([(10, 1.0), (20, 0.5), (30, 0.995), (40, 1.0)], 20 + 10 * 0.49 / 0.495),
        ([(10, 1.0), (20, 1.0)], 10.0),
        ([(10, 1.0)], math.nan),
        ([(10, 0.0), (20, 0.0)], math.nan),
    ],
)
def test_the_time_to_the_final_score_is_when_the_curve_arrives_for_good(points, seconds) -> None:
    found = cpu_s_to_almost(curve(*points), "score")
    assert found == pytest.approx(seconds, nan_ok=True)


def test_a_curve_ends_at_the_rows_own_figures_and_its_band_is_the_spread_of_seeds() -> None:
    points = tuple(replace(p, iteration=50 * (p.iteration + 1)) for p in curve((5, 0.2), (9, 0.3)))
    rows = [
        replace(ROW, curve=points),
        replace(with_figures(ROW, score=0.92), seed=1, curve=points),
    ]
    (table,) = summarise(study_of(), rows)
    (line,) = table.rows
    # The second point was taken after the last iteration: the row's own figures stand there.
    assert [band.cpu_s for band in line.curve] == [5.0, 30.0]
    assert line.curve[0].figures["score"] == Interval(0.2, 0.0, (0.2, 0.2))
    assert line.curve[1].figures["score"] == line.figures["score"]


# --- what was published --------------------------------------------------------------------------


def test_the_published_table_is_complete_and_holds_what_the_page_says() -> None:
    assert all(
        set(cells) == set(published.METHODS) - {"VDD"} for cells in published.TASKS.values()
    )
    avoiding = published.TASKS["avoiding"]
    assert str(avoiding["VDD-BESO"]) == "VDD-BESO 0.95 ± 0.01"
    assert (avoiding["DDPM-1"].value, avoiding["DDPM-1"].std) == (0.09, None)
    assert (avoiding["IMC-GPT"].value, avoiding["IMC-GPT"].std) == (0.75, 0.08)
    assert published.TASKS["kitchen"]["EM-GPT"].value == 3.62
    assert published.TASKS["stacking-image"]["VDD-DDPM"].value == 0.78


def test_a_published_cell_stands_beside_the_same_method_and_teacher_only() -> None:
    rows = {
        "teacher": None,
        "teacher-1": None,
        "vdd": None,
        "vdd-forward": None,
        "em-teacher": None,
        "ctm": None,
        "mine": {"method": "vdd", "overrides": {"seed": 1}, "published": "VDD"},
    }
    beside = {row.name: row.published_method for row in study_of(rows=rows).resolved()}
    found = {name: (of("edm"), of("ddpm"), of("flow")) for name, of in beside.items()}
    assert found == {
        "teacher": ("BESO", "DDPM", None),
        "teacher, one step": ("BESO-1", "DDPM-1", None),
        "VDD": ("VDD-BESO", "VDD-DDPM", None),
        "VDD + forward KL": (None, None, None),
        "EM on teacher samples": (None, None, None),
        "consistency trajectory model": ("CTM", "CTM", "CTM"),
        "mine": ("VDD-BESO", "VDD-DDPM", None),
    }


def test_published_figures_are_marked_footnoted_and_outside_ours(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(dump_json(study_of()))
    for row in rows_of({"VDD": [0.9, 0.8], "EM on data": [0.7, 0.8]}):
        append_row(tmp_path / "a" / "rows.jsonl", row)
    text = render_study(tmp_path).read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("| VDD |"))
    assert line.endswith("| VDD-BESO 0.95 ± 0.01 [p] |")
    assert "\n[p] Published success" in text
    assert "not measured here" in text
    (table,) = json.loads((tmp_path / "results.json").read_text())["tables"]
    vdd = next(row for row in table["rows"] if row["row"] == "VDD")
    assert vdd["published"]["published"] is True
    assert "arXiv:2406.12538" in vdd["published"]["source"]
    assert vdd["figures"]["success"]["values"] == [0.9, 0.9]
    # Without a task it can be held against, the column is not there at all.
    plain = replace(study_of(), tasks=(TASK,))
    (table,) = summarise(plain, rows_of({"VDD": [0.9, 0.8]}))
    assert "published" not in markdown(table)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": {"vddd": None}}, r"row 'vddd': not a known row.*did you mean 'vdd'"),
        ({"rows": {"x": {"method": "vvd"}}}, r"rows\.x\.method.*did you mean 'vdd'"),
        ({"rows": {"x": {"overides": {}}}}, r"unknown key 'overides'; did you mean 'overrides'"),
        ({"rows": {"VDD, 1": {"method": "vdd"}, "vdd-1": {"method": "em"}}}, "cannot be told"),
        ({"rows": {"vdd": {"nfe": 2}}}, "acts in one pass"),
        ({"rows": {"vdd": {"cpu_s": -1.0}}}, "cpu_s: got -1"),
        ({"rows": {"teacher": {"overrides": {"a": 1}}}}, "write teacher_overrides"),
        ({"rows": {"vdd": {"published": "VDD-BSO"}}}, "did you mean 'VDD-BESO'"),
        ({"rows": {}}, "at least one seed, one task and one row"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [-1]}, "different numbers of at least 0"),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"cpu_s": 0.0}, "cpu_s: got 0, expected a positive number"),
        ({"tasks": [{"teacher": "t", "distill": "d", "episodes": 0}]}, "episodes: got 0"),
        ({"tasks": [{"teacher": "t", "distill": "d", "published": "avoidin"}]}, "'avoiding'"),
        ({"tasks": [{"teacher": "t", "distill": "d"}] * 2}, "cannot be told apart"),
    ],
)
def test_a_mistake_in_a_study_is_named_before_anything_is_trained(wrong, message) -> None:
    with pytest.raises(VddError, match=message):
        study_of(**wrong)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"student.n_expert": 1}, r"my row: unknown key 'student.n_expert'; did you mean 'n_exp"),
        ({"studnt.n_experts": 1}, "did you mean 'student'"),
        ({"n_iters.x": 1}, "nothing is inside 'n_iters'"),
        ({"student": {"n_experts": 1}}, "'student' is a group"),
        ({"student.n_experts": "many"}, r"student\.n_experts: expected int"),
        ({"student.n_experts": 0}, "n_experts: got 0"),
    ],
)
def test_an_override_that_does_not_fit_is_named(overrides, message) -> None:
    with pytest.raises(VddError, match=message):
        with_overrides(DistillSettings(), overrides, where="my row")


def test_an_override_changes_what_it_names_and_nothing_else() -> None:
    base = DistillSettings(student=StudentSettings(width=77))
    changed = with_overrides(base, {"student.n_experts": 3, "forward_kl": 0.25}, where="")
    assert changed == replace(base, student=replace(base.student, n_experts=3), forward_kl=0.25)


def test_data_goes_to_the_named_task_or_to_those_that_have_none() -> None:
    tasks = [{"teacher": "t", "distill": "d", "level": level, "data": None} for level in "ab"]
    study = study_of(tasks=tasks)
    assert [t.data for t in with_data(study, ["x.npz"]).tasks] == ["x.npz", "x.npz"]
    both = with_data(study, ["avoiding-a=x.npz", "avoiding-b=y=1.npz"])
    assert [t.data for t in both.tasks] == ["x.npz", "y=1.npz"]
    tasks[0]["data"] = "scripted"
    mixed = study_of(tasks=tasks)
    assert [t.data for t in with_data(mixed, ["x.npz"]).tasks] == ["scripted", "x.npz"]
    assert with_data(study_of(), ["x.npz"]).tasks[0].data == "x.npz"
    with pytest.raises(VddError, match="no task 'avoidin-a' here; did you mean 'avoiding-a'"):
        with_data(study, ["avoidin-a=x.npz"])


def test_a_task_without_data_is_named_unless_it_is_left_out(tiny: StudySettings) -> None:
    without = replace(tiny.tasks[0], name="human", data=None)
    study = replace(tiny, tasks=(*tiny.tasks, without))
    with pytest.raises(VddError, match=r"task 'human' has no demonstrations.*--tasks"):
        check(study)
    check(study, *chosen(study, ["avoiding-ideal"], []))
    assert list(conflicts(study, with_data(study, ["x.npz"]))) == []


def test_rows_are_chosen_by_either_of_their_names() -> None:
    study = study_of()
    names = [[row.name for row in chosen(study, [], asked)[1]] for asked in (["em"], ["VDD"], [])]
    assert names == [["EM on data"], ["VDD"], ["teacher", "VDD", "EM on data"]]
    with pytest.raises(VddError, match="no row 'vdx' in this study; did you mean 'vdd'"):
        chosen(study, [], ["vdx"])
    with pytest.raises(VddError, match="no task 'avoiding-panda' in this study"):
        chosen(study, ["avoiding-panda"], [])


def test_a_folder_takes_more_rows_and_seeds_but_no_changed_ones() -> None:
    old = study_of()
    more = replace(old, seeds=(0, 1, 2, 3), rows={**old.rows, "cd": None})
    assert list(conflicts(old, more)) == []
    assert list(conflicts(more, old)) == []
    task = replace(old.tasks[0], rollouts=7)
    changed = replace(
        old, cpu_s=3.0, tasks=(task,), rows=old.rows | {"em": Variant(overrides={"n_iters": 3})}
    )
    named = ["cpu_s", "tasks.avoiding-ideal.rollouts", "rows.EM on data"]
    assert list(conflicts(old, changed)) == named


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_study_could_start(path: Path, tmp_path: Path) -> None:
    """Its settings files are there, and every override of every row fits them."""
    study = load_yaml(StudySettings, path)
    without = [task.name for task in study.tasks if task.data is None]
    poses = Demonstrations(
        observation=np.zeros((12, 2)),
        action=np.zeros((12, 2)),
        episode_ends=np.array([6, 12]),
        mode=None,
        source="poses",
    )
    save_npz(poses, tmp_path / "poses.npz")
    recorded = {task.name: str(tmp_path / "poses.npz") for task in study.tasks if task.is_held_out}
    check(with_data(study, [f"{name}={recorded.get(name, 'scripted')}" for name in without]))


# --- budgets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("preparation", [0.0, 7.0, 40.0])
@pytest.mark.parametrize(("warm", "main"), [(0.01, 0.01), (0.004, 0.02), (0.05, 0.01)])
def test_the_iterations_that_are_chosen_land_on_the_stated_time(preparation, warm, main) -> None:
    """Within 25 %, for trainings whose two phases differ in cost."""
    share = 0.4

    def spent(n_iters: int, done: int) -> float:
        in_warm = min(done, round(share * n_iters))
        return preparation + warm * in_warm + main * (done - in_warm)

    def probe(n_iters: int) -> list[tuple[int, float]]:
        return [(i, spent(n_iters, i)) for i in range(1, n_iters + 1)]

    budget = fit(60.0, probe, what="toy")
    assert spent(budget.n_iters, budget.n_iters) == pytest.approx(60.0, rel=0.25)
    assert budget.preparation_cpu_s == pytest.approx(preparation, abs=0.1)


def test_a_budget_that_preparation_eats_is_refused_with_the_figures() -> None:
    with pytest.raises(VddError, match=r"toy: 5 processor seconds.*takes 8\.0 s"):
        fit(5.0, lambda n: [(1, 8.1), (n, 8.0 + 0.1 * n)], what="toy")


def test_a_budget_is_measured_once(tmp_path: Path) -> None:
    """A slower machine, or a busier one, does not change what a study has begun with."""
    record = tmp_path / "budgets" / "row.json"
    first = fit_once(record, 10.0, lambda n: [(1, 0.1), (n, 0.1 * n)], what="x")
    again = fit_once(record, 10.0, lambda n: pytest.fail("measured twice"), what="x")
    assert (first.n_iters, again) == (100, first)
    with pytest.raises(VddError, match="measured for 10 s, now 20 s"):
        fit_once(record, 20.0, lambda n: [], what="x")


# --- running -------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> StudySettings:
    """A study of seconds: two seeds, four iterations, four rollouts."""
    teacher = TeacherSettings(width=8, depth=1, n_iters=4, batch_size=8)
    student = DistillSettings(
        student=StudentSettings(n_experts=2, width=8, depth=1, head_width=4),
        n_iters=4,
        warm_start_iters=2,
        batch_size=8,
        cache_states=8,
        cache_samples=1,
        cache_steps=1,
    )
    (tmp_path / "teacher.yaml").write_text(dump_yaml(teacher))
    (tmp_path / "student.yaml").write_text(dump_yaml(student))
    task = StudyTask(
        teacher=str(tmp_path / "teacher.yaml"),
        distill=str(tmp_path / "student.yaml"),
        episodes=24,
        rollouts=4,
    )
    return StudySettings(
        tasks=(task,),
        rows={
            "teacher": None,
            "teacher-1": None,
            "vdd": None,
            "VDD, 1 expert": Variant(
                method="vdd", overrides={"student.n_experts": 1, "experts_per_state": 1}
            ),
            "em": None,
        },
        seeds=(0, 1),
        nfe=2,
        curve_points=2,
        curve_rollouts=2,
    )


def test_a_study_computes_every_row_once_and_continues_where_it_stopped(
    tiny: StudySettings, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    # A study that failed before its first training has claimed the folder, and leaves it free.
    write_atomic(out / "study.json", dump_json(study_of()))
    table = run_study(tiny, out)
    rows = list(read_rows(out))
    names = [row.name for row in tiny.resolved()]
    assert [(r.seed, r.row) for r in rows] == [(s, n) for s in (0, 1) for n in names]
    assert all(r.n_judged == 4 for r in rows)
    assert [len(r.curve) for r in rows] == [2] * len(rows)
    assert all(0 < r.curve[0].cpu_s <= r.curve[1].cpu_s <= r.training_cpu_s for r in rows)
    assert all(name in table.read_text() for name in names)
    results = json.loads((out / "results.json").read_text())
    assert [line["row"] for line in results["tables"][0]["rows"]] == names
    for picture in results["pictures"]:
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert len(results["pictures"]) == 2
    # The two forms of VDD differ in what the row says and in nothing else.
    runs = out / "avoiding-ideal-seed0" / "students"
    plain, single = (
        json.loads((runs / name / "settings.json").read_text())["training"]
        for name in ("VDD", "VDD-1-expert")
    )
    assert (plain["student"].pop("n_experts"), single["student"].pop("n_experts")) == (2, 1)
    assert (plain.pop("experts_per_state"), single.pop("experts_per_state")) == (2, 1)
    assert plain == single

    rows_file = out / "avoiding-ideal-seed1" / "rows.jsonl"
    lines = rows_file.read_text().splitlines(keepends=True)
    rows_file.write_text("".join(lines[:-1]))  # as if it had been stopped before the last row
    more = replace(tiny, rows=tiny.rows | {"em-teacher": None})
    run_study(more, out)
    again = list(read_rows(out))
    assert [r.row for r in again] == [*names, "EM on teacher samples"] * 2
    assert [r for r in again if r.method != "em-teacher"][:-1] == rows[:-1]
    assert again[-2] == rows[-1]  # the training was there; its rollouts are repeated

    with pytest.raises(VddError, match=r"other settings or data \(nfe, rows.teacher\)"):
        run_study(replace(more, nfe=3), out)


def test_a_budget_decides_the_iterations_and_every_seed_gets_the_same(
    tiny: StudySettings, tmp_path: Path, monkeypatch
) -> None:
    """On a clock of our own: 2 s of preparation, .2 s an iteration, 10 s allotted."""
    clock = _Clock()
    monkeypatch.setattr("vdd_ros.distill.training.trainer.time.process_time", clock)
    step, steps = MixtureTraining.step, []

    def costly(self: MixtureTraining, iteration: int):
        clock.now += 0.2
        steps.append(iteration)
        return step(self, iteration)

    monkeypatch.setattr(MixtureTraining, "step", costly)
    monkeypatch.setattr("vdd_ros.distill.pipeline.data_targets", _costing(clock, 2.0))
    rows = {"em": None, "short": Variant(method="em", overrides={"n_iters": 6})}
    settings = replace(tiny, rows=rows, cpu_s=10.0, curve_points=0)
    for seed in (0, 1):
        Pair(settings, tmp_path, settings.tasks[0], seed).run()
    by_row = {(r.row, r.seed): r for r in read_rows(tmp_path)}
    for seed in (0, 1):
        row = by_row["EM on data", seed]
        assert row.budget_cpu_s == 10.0
        assert row.n_iters == pytest.approx(40, abs=1)
        assert row.training_cpu_s == pytest.approx(10.0, rel=0.25)
        # Named iterations win over the budget, and the phases keep their shares.
        assert (by_row["short", seed].n_iters, by_row["short", seed].budget_cpu_s) == (6, None)
        run = tmp_path / f"avoiding-ideal-seed{seed}" / "students" / "short" / "settings.json"
        assert json.loads(run.read_text())["training"]["warm_start_iters"] == 3
    assert by_row["EM on data", 0].n_iters == by_row["EM on data", 1].n_iters
    budgeted = by_row["EM on data", 0].n_iters
    assert len(steps) == 120 + 2 * (budgeted + 6)  # one short training, not one per seed


def test_rows_with_the_same_teacher_share_it_and_no_other_is_trained(
    tiny: StudySettings, tmp_path: Path
) -> None:
    wide = {"width": 16}
    rows = {
        "wide teacher": Variant(method="teacher", teacher_overrides=wide, sampler="heun"),
        "VDD of it": Variant(method="vdd", teacher_overrides=wide),
        "EM of it": Variant(method="em-teacher", teacher_overrides=wide),
        "CTM of it": Variant(method="ctm", teacher_overrides=wide),
        "VDD of a file": Variant(method="vdd", teacher=str(tmp_path / "other.yaml")),
    }
    other = TeacherSettings(width=8, depth=1, n_iters=4, batch_size=8, family="ddpm")
    (tmp_path / "other.yaml").write_text(dump_yaml(other))
    settings = replace(tiny, rows=rows, curve_points=0)
    Pair(settings, tmp_path, settings.tasks[0], 0).run()
    here = tmp_path / "avoiding-ideal-seed0"
    assert {folder.name for folder in (here / "teachers").iterdir()} == {"width=16", "other"}
    widths = {}
    for run in (here / "students").iterdir():
        info = json.loads((run / "settings.json").read_text())
        widths[run.name] = info["teacher"]["settings"]["width"]
    assert widths == {"VDD-of-it": 16, "EM-of-it": 16, "CTM-of-it": 16, "VDD-of-a-file": 8}
    found = list(read_rows(tmp_path))
    assert [row.teacher for row in found] == ["edm"] * 4 + ["ddpm"]
    assert all(row.curve == () for row in found)


def test_a_half_trained_teacher_is_finished_before_anybody_learns_from_it(
    tiny: StudySettings, tmp_path: Path, monkeypatch
) -> None:
    """Also where the study has no row that rolls it out."""
    settings = replace(tiny, rows={"vdd": None}, seeds=(0,))

    def stop(self, method, *args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vdd_ros.distill.pipeline.TeacherTraining.step", stop)
        with pytest.raises(KeyboardInterrupt):
            Pair(settings, tmp_path, settings.tasks[0], 0).run()
    folder = tmp_path / "avoiding-ideal-seed0" / "teachers" / "base"
    assert (folder / "settings.json").exists()
    assert not (folder / "weights.safetensors").exists()
    Pair(settings, tmp_path, settings.tasks[0], 0).run()
    assert len(list(read_rows(tmp_path))) == 1
    assert read_lines(folder / "metrics.jsonl")[-1]["iteration"] == 4


def test_a_row_that_diverges_is_named_and_keeps_no_other_from_being_computed(
    tiny: StudySettings, tmp_path: Path
) -> None:
    """It is tried again by the next run, and by one of other rows left as it is."""
    hopeless = {"learning_rate": 1e30, "gate_learning_rate": 1e30, "n_iters": 30}
    rows = {"bad": Variant(method="em", overrides=hopeless), "em": None}
    settings = replace(tiny, rows=rows, curve_points=0)
    write_atomic(tmp_path / "study.json", dump_json(settings))
    Pair(settings, tmp_path, settings.tasks[0], 0).run()
    assert [row.row for row in read_rows(tmp_path)] == ["EM on data"]
    (failure,) = read_failures(tmp_path)
    assert (failure.row, failure.seed) == ("bad", 0)
    assert "diverged" in failure.message
    assert "Not finished: bad on avoiding-ideal, seed 0: " in render_study(tmp_path).read_text()
    Pair(settings, tmp_path, settings.tasks[0], 0, rows=["EM on data"]).run()
    assert list(read_failures(tmp_path)) == [failure]


def test_a_process_that_is_ended_from_outside_ends_the_study_instead_of_hanging_it() -> None:
    with pytest.raises(VddError, match="ended from outside"):
        in_processes(os._exit, [(1,)], jobs=1)


def _press_ctrl_c() -> None:
    # A shell's background processes ignore Ctrl-C, and so do their children until told otherwise.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def hold_open(fifo: str) -> None:
    """Write to a pipe and keep it open until Ctrl-C; what the next test lets a process do."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(fifo, "wb", buffering=0) as pipe:
        pipe.write(b"here")
        threading.Event().wait()


def test_a_study_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    """The end of the pipe says that its only writer is gone; nothing else ends it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    lines = (
        "from tests.distill.test_study import hold_open",
        "from vdd_ros.distill.study.runner import in_processes",
        f"in_processes(hold_open, [({str(fifo)!r},)], jobs=1)",
    )
    study = subprocess.Popen([sys.executable, "-c", "\n".join(lines)])
    with fifo.open("rb") as pipe:
        assert pipe.read(4) == b"here"
        study.kill()
        study.wait()
        assert pipe.read() == b""


def test_ctrl_c_in_a_process_is_ctrl_c_for_the_study() -> None:
    with pytest.raises(KeyboardInterrupt):
        in_processes(_press_ctrl_c, [(), ()], jobs=1)


def test_an_override_that_does_not_fit_stops_the_study_before_it_starts(
    tiny: StudySettings, tmp_path: Path
) -> None:
    rows = {"vdd": None, "mine": Variant(method="vdd", overrides={"student.n_expert": 3})}
    with pytest.raises(VddError, match=r"row 'mine', overrides: unknown key 'student\.n_e"):
        run_study(replace(tiny, rows=rows), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_mistake_in_data_or_options_leaves_nothing_behind(
    tiny: StudySettings, tmp_path: Path
) -> None:
    """A mistyped path does not bar the folder from the right one; nor do zero workers claim it."""
    out = tmp_path / "out"
    with pytest.raises(VddError, match="jobs: got 0, expected at least 1"):
        run_study(tiny, out, jobs=0)
    with pytest.raises(VddError, match=r"first\.npz: no such file"):
        run_study(with_data(tiny, [str(tmp_path / "first.npz")]), out)
    assert not out.exists()


def test_what_is_no_study_is_not_rendered(tmp_path: Path) -> None:
    with pytest.raises(VddError, match=r"not the folder of a study \(no study.json\)"):
        render_study(tmp_path)
    (tmp_path / "study.json").write_text(dump_json(study_of()))
    with pytest.raises(VddError, match="no row of this study has finished yet"):
        render_study(tmp_path)
    failure = Failure("avoiding-ideal", "VDD", 0, "the disk is full")
    write_atomic(tmp_path / "a" / "failed.jsonl", dump_json(failure) + "\n")
    with pytest.raises(VddError, match="finished yet: VDD, seed 0: the disk is full"):
        render_study(tmp_path)


def test_without_matplotlib_there_are_tables_but_no_pictures(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (tmp_path / "study.json").write_text(dump_json(study_of()))
    append_row(tmp_path / "a" / "rows.jsonl", ROW)
    assert "EM on data" in render_study(tmp_path).read_text()
    assert json.loads((tmp_path / "results.json").read_text())["pictures"] == []


# --- what a study needs from training ------------------------------------------------------------


class _Clock:
    """A processor that works one second per iteration and a hundred per evaluation."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _costing(clock: _Clock, seconds: float):
    """Preparing targets, and what it costs."""

    def targets(*args):
        clock.now += seconds
        return data_targets(*args)

    return targets


def test_what_an_evaluation_costs_is_not_training_time(tmp_path, monkeypatch) -> None:
    """Curves with more points must not look more expensive."""
    clock = _Clock()
    monkeypatch.setattr("vdd_ros.distill.training.trainer.time.process_time", clock)
    network = torch.nn.Linear(1, 1)

    class Counting:
        n_iters, teacher_queries = 6, 0

        def parts(self):
            return {"network": network}

        def optimizers(self):
            return {}

        def acting(self):
            return network

        def step(self, iteration):
            clock.now += 1.0
            return {"loss": 0.0}

    def evaluate(model):
        clock.now += 100.0
        return {"score": 0.5}

    cpu_s = train(
        Counting(),
        tmp_path,
        loop=LoopSettings(),
        resume=False,
        cpu_start_s=-3.0,
        evaluate=evaluate,
        evaluate_every=2,
    )
    assert cpu_s == 9.0  # three of preparation, six of iterations
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["cpu_s"] for line in lines] == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert [line["iteration"] for line in lines if "score" in line] == [2, 4, 6]


@pytest.mark.parametrize("method", ["vdd", "em"])
def test_an_unlearnt_gate_stays_uniform_while_the_experts_learn(demos, tmp_path, method) -> None:
    """The ablation of the paper's figure 4: the gate of every state is 1 / n_experts."""
    train_teacher(demos, TeacherSettings(width=8, depth=1, n_iters=3), tmp_path / "teacher")
    base = DistillSettings(
        student=StudentSettings(n_experts=3, width=8, depth=1, head_width=4, init_std=0.3),
        n_iters=20,
        warm_start_iters=4,
        batch_size=8,
        cache_states=8,
        cache_samples=2,
        cache_steps=2,
    )
    logits, means = {}, {}
    for learn in (True, False):
        result = distill(
            tmp_path / "teacher",
            demos,
            replace(base, learn_gate=learn),
            out_dir=tmp_path / str(learn),
            method=method,
        )
        obs = torch.randn(16, 1, demos.dim_obs)
        logits[learn], means[learn] = result.student.proposals(result.student.features(obs))
    assert torch.equal(logits[False], torch.zeros(16, 3))
    assert logits[True].abs().max() > 0.0
    assert means[False].std(0).max() > 1e-4  # the experts answer to the state
