"""A study without a simulator: nobody learns from what is judged on, and less is better."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vdd_ros.core.config_io import dump_json, dump_yaml, from_dict, write_atomic
from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.npz import load_npz, save_npz
from vdd_ros.distill.methods.mixture_training import DistillSettings
from vdd_ros.distill.mixtures.student import StudentSettings
from vdd_ros.distill.study.judging import HeldOutEpisodes, Judging, SimulatedRobots, make_judge
from vdd_ros.distill.study.render import render_study
from vdd_ros.distill.study.rows import CurvePoint, StudyRow, append_row, read_rows
from vdd_ros.distill.study.runner import check, run_study
from vdd_ros.distill.study.settings import StudySettings, StudyTask
from vdd_ros.distill.study.summary import TaskSummary, cpu_s_to_almost, summarise
from vdd_ros.distill.teachers.settings import TeacherSettings

DISTRIBUTION = {"energy_score", "energy_score_acting", "rmse_acting", "rmse_mean"}
DENSITY = {"nll", "coverage_50", "coverage_90", "rmse_nearest"}


def walks(n: int = 10, length: int = 30) -> Demonstrations:
    """Smooth random paths in the plane whose action is the next position."""
    generator = np.random.default_rng(0)
    angle = (
        generator.uniform(0, 6, (n, 1))
        + np.arange(length + 1) * generator.normal(0, 0.2, n)[:, None]
    )
    paths = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], -1), axis=1)
    return Demonstrations(
        observation=paths[:, :-1].reshape(-1, 2),
        action=paths[:, 1:].reshape(-1, 2),
        episode_ends=length * np.arange(1, n + 1),
        mode=None,
        source="walks",
    )


@pytest.fixture
def tiny(tmp_path: Path) -> StudySettings:
    """A study of seconds with every kind of row."""
    save_npz(walks(), tmp_path / "walks.npz")
    teacher = TeacherSettings(width=8, depth=1, n_iters=4, batch_size=8, horizon=2, sigma_max=9.0)
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
        task="held-out",
        name="walks",
        data=str(tmp_path / "walks.npz"),
        teacher=str(tmp_path / "teacher.yaml"),
        distill=str(tmp_path / "student.yaml"),
        windows=40,
        samples=4,
        relative=True,
    )
    rows = ("persistence", "climatology", "linear", "teacher", "vdd", "em", "cd")
    return StudySettings(
        tasks=(task,),
        rows=dict.fromkeys(rows),
        seeds=(0, 1),
        nfe=2,
        curve_points=2,
        curve_rollouts=16,
    )


def test_a_study_without_a_simulator_has_every_kind_of_row(
    tiny: StudySettings, tmp_path: Path
) -> None:
    """Samples for all, densities for mixtures, no training for references; clean tables."""
    out = tmp_path / "study"
    text = run_study(tiny, out).read_text()
    rows = {(row.row, row.seed): row for row in read_rows(out)}
    assert len(rows) == 14
    for row in rows.values():
        is_mixture = row.method in ("vdd", "em")
        assert set(row.figures) == DISTRIBUTION | (DENSITY if is_mixture else set())
        assert all(map(math.isfinite, row.figures.values()))
        assert (row.n_judged, row.n_modes) == (40, None)
        untrained = row.method in ("persistence", "climatology", "linear")
        assert (row.nfe == 0, row.n_iters == 0, row.curve == ()) == (untrained,) * 3
        assert row.training_cpu_s == 0 if untrained else row.training_cpu_s > 0
    curve = rows["VDD", 0].curve
    assert [set(point.figures) for point in curve] == [
        {"energy_score", "energy_score_acting", "nll", "coverage_90"}
    ] * 2
    assert set(rows["teacher", 0].curve[0].figures) == {"energy_score", "energy_score_acting"}
    assert "40 windows of the 20 % of episodes held out" in text
    assert "| policy | passes | seeds | energy score | energy score as executed |" in text
    assert not any(word in text for word in ("success", "entropy", "rollouts", "modes", "nan"))
    teacher = next(line for line in text.splitlines() if line.startswith("| teacher |"))
    assert " - |" in teacher  # it has no density
    results = json.loads((out / "results.json").read_text())
    assert len(results["pictures"]) == 2
    for picture in results["pictures"]:
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert run_study(tiny, out).read_text() == text  # nothing is computed again


def test_nobody_learns_from_the_episodes_that_are_judged_on(
    tiny: StudySettings, tmp_path: Path
) -> None:
    """What is recorded in the run folders is the training part, another one for every seed."""
    run_study(tiny, tmp_path / "study", rows=("teacher", "em"))
    hashes = []
    for seed in tiny.seeds:
        judge = make_judge(tiny, tiny.tasks[0], seed=seed)
        assert judge.demos.n_episodes == 8
        here = tmp_path / "study" / f"walks-seed{seed}"
        for run in ("teachers/base", "students/EM-on-data"):
            info = json.loads((here / run / "settings.json").read_text())
            assert info["data_hash"] == judge.demos.data_hash()
        hashes.append(judge.demos.data_hash())
    assert len(set(hashes)) == 2


def test_references_are_what_their_formulas_say(tiny: StudySettings) -> None:
    """Staying put errs by the way made; going on as before is linear and nearly exact here."""
    judge = HeldOutEpisodes(tiny, tiny.tasks[0], seed=0)
    rows = {row.method: row for row in tiny.resolved()}
    stay, _ = judge.figures(None, rows["persistence"])
    # Every step of the walk has length 1: two coordinates, root of one half.
    assert stay["rmse_acting"] == pytest.approx(math.sqrt(0.5), rel=1e-5)
    absolute = replace(tiny.tasks[0], relative=False)
    plain, _ = HeldOutEpisodes(tiny, absolute, seed=0).figures(None, rows["persistence"])
    # Without differences the second command of a chunk is two steps away, or somewhat less.
    assert stay["rmse_acting"] < plain["rmse_acting"] < math.sqrt((1 + 4) / 2 / 2)
    linear, _ = judge.figures(None, rows["linear"])
    other, _ = judge.figures(None, rows["climatology"])
    assert linear["energy_score"] < 0.5 * min(stay["energy_score"], other["energy_score"])


def test_both_judges_are_one_kind_of_thing(tiny: StudySettings) -> None:
    robots = StudyTask(teacher="t.yaml", distill="d.yaml", episodes=4)
    simulated = make_judge(StudySettings((robots,), {"em": None}), robots, seed=0)
    held_out = make_judge(tiny, tiny.tasks[0], seed=0)
    assert isinstance(simulated, SimulatedRobots)
    assert isinstance(held_out, HeldOutEpisodes)
    assert isinstance(simulated, Judging)
    assert isinstance(held_out, Judging)
    assert (simulated.n_modes, held_out.n_modes) == (24, None)


# --- less is better ------------------------------------------------------------------------------


def judged(scores: dict[str, list[float]]) -> TaskSummary:
    """The table of a study with these energy scores, seed by seed."""
    task = StudyTask(task="held-out", name="x", data=None, teacher="t.yaml", distill="d.yaml")
    settings = StudySettings((task,), {"persistence": None, "vdd": None, "em": None, "cd": None})
    known = {row.name: row for row in settings.resolved()}
    rows = [
        StudyRow(
            task="x",
            row=name,
            method=known[name].method,
            teacher="edm",
            seed=seed,
            nfe=known[name].nfe,
            figures={"energy_score": score, "rmse_acting": 0.04567},
            n_judged=99,
            n_iters=10,
            training_cpu_s=30.0,
            curve=(CurvePoint(5, 10.0, {"energy_score": 2 * score}),),
        )
        for name, values in scores.items()
        for seed, score in enumerate(values)
    ]
    (table,) = summarise(settings, rows)
    return table


def test_the_lowest_energy_score_is_the_best_and_references_do_not_compete() -> None:
    table = judged({"staying put": [0.1, 0.1], "VDD": [0.5, 0.51], "EM on data": [0.3, 0.31]})
    assert (table.best, table.runner_up, table.separated) == ("EM on data", "VDD", True)
    gaps = {d.row: d.figures["energy_score"].mean for d in table.differences}
    assert gaps == pytest.approx({"staying put": -0.205, "VDD": 0.2})
    assert judged({"VDD": [0.2, 0.6], "EM on data": [0.3, 0.31]}).separated is False


def test_statements_say_that_less_is_better_and_what_was_not_beaten(tmp_path: Path) -> None:
    table = judged({"staying put": [0.1, 0.1], "VDD": [0.5, 0.51], "EM on data": [0.3, 0.31]})
    task = table.task
    settings = StudySettings((task,), {"persistence": None, "vdd": None, "em": None})
    write_atomic(tmp_path / "study.json", dump_json(settings))
    for line in table.rows:
        for seed, score in enumerate(line.figures["energy_score"].values):
            row = StudyRow(
                task="x",
                row=line.row,
                method=line.method,
                teacher="edm",
                seed=seed,
                nfe=line.nfe,
                figures={"energy_score": score, "rmse_acting": 0.04567},
                n_judged=99,
                n_iters=10,
                training_cpu_s=30.0,
            )
            append_row(tmp_path / "a" / "rows.jsonl", row)
    text = render_study(tmp_path).read_text()
    assert "Best one-pass policy on energy score (less is better): EM on data, 0.305" in text
    assert "staying put -0.205" in text
    assert "| 0.0457 ± 0.0000 |" in text  # errors in rad need a fourth digit


def test_a_falling_score_arrives_when_it_stays_within_a_hundredth() -> None:
    """From 1 at 10 s straight to .5 at 20 s: .5 / .99 lies .4949/.5 of the way."""
    points = [
        CurvePoint(i, cpu, {"energy_score": value})
        for i, (cpu, value) in enumerate([(10.0, 1.0), (20.0, 0.5), (30.0, 0.5)])
    ]
    share = (1.0 - 0.5 / 0.99) / 0.5
    assert cpu_s_to_almost(points, "energy_score") == pytest.approx(10.0 + 10.0 * share)
    assert math.isnan(cpu_s_to_almost(points, "score"))  # which no point has


# --- what came before, and mistakes --------------------------------------------------------------


def test_rows_of_earlier_studies_are_read(tmp_path: Path) -> None:
    """Their figures were fields; a folder may hold both, and goes on with the new ones."""
    old = {
        "task": "pusht-ideal",
        "row": "EM on data",
        "method": "em",
        "teacher": "edm",
        "seed": 0,
        "nfe": 1,
        "success": 0.5,
        "entropy": 0.4,
        "modes": 3,
        "n_modes": 4,
        "score": 0.48,
        "reward": 0.8,
        "n_rollouts": 240,
        "n_iters": 100,
        "training_cpu_s": 45.0,
        "budget_cpu_s": 45.0,
        "extra": {"coverage": 0.75},
        "curve": [
            {
                "iteration": 50,
                "cpu_s": 20.0,
                "success": 0.25,
                "entropy": 0.3,
                "score": 0.26,
                "reward": 0.5,
            }
        ],
    }
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "rows.jsonl").write_text(json.dumps(old) + "\n")
    (row,) = read_rows(tmp_path)
    assert (row.n_judged, row.n_modes, row.budget_cpu_s) == (240, 4, 45.0)
    assert row.figures == {
        "success": 0.5,
        "entropy": 0.4,
        "modes": 3,
        "score": 0.48,
        "reward": 0.8,
        "coverage": 0.75,
    }
    curve = {"success": 0.25, "entropy": 0.3, "score": 0.26, "reward": 0.5}
    assert row.curve == (CurvePoint(50, 20.0, curve),)
    append_row(tmp_path / "a" / "rows.jsonl", replace(row, seed=1))
    assert list(read_rows(tmp_path)) == [row, replace(row, seed=1)]
    task = {"task": "pusht", "teacher": "t", "distill": "d", "judge": "reward"}
    settings = from_dict(StudySettings, {"tasks": [task], "rows": {"em": None}})
    write_atomic(tmp_path / "study.json", dump_json(settings))
    text = render_study(tmp_path).read_text()
    assert "| success | entropy | modes of 4 | score | reward | coverage |" in text
    (tmp_path / "a" / "rows.jsonl").write_text("{\n")
    with pytest.raises(VddError, match=r"rows\.jsonl:1: not valid JSON"):
        list(read_rows(tmp_path))


HELD_OUT = {"task": "held-out", "name": "x", "data": None, "teacher": "t", "distill": "d"}


@pytest.mark.parametrize(
    ("tasks", "rows", "message"),
    [
        ([HELD_OUT | {"name": ""}], {"em": None}, "a task without a simulator needs one"),
        ([HELD_OUT | {"data": "scripted"}], {"em": None}, "nothing can be scripted"),
        ([HELD_OUT | {"rollouts": 7}], {"em": None}, "rollouts would change nothing"),
        ([HELD_OUT | {"judge": "score"}], {"em": None}, "expected energy_score without"),
        ([HELD_OUT | {"held_out": 1.0}], {"em": None}, "a share between 0 and 1"),
        ([HELD_OUT | {"samples": 1}], {"em": None}, "at least 2 samples"),
        ([{"teacher": "t", "distill": "d", "relative": True}], {"em": None}, "with a simulator"),
        ([{"teacher": "t", "distill": "d", "judge": "energy_score"}], {"em": None}, "with one"),
        ([{"teacher": "t", "distill": "d"}], {"persistence": None}, "without a simulator, but"),
        ([HELD_OUT], {"linear": {"overrides": {"n_iters": 1}}}, "nothing is trained for it"),
        ([HELD_OUT], {"climatology": {"nfe": 1}}, "nothing is trained for it"),
    ],
)
def test_what_would_be_ignored_is_refused(tasks, rows, message) -> None:
    with pytest.raises(VddError, match=message):
        from_dict(StudySettings, {"tasks": tasks, "rows": rows})


def test_too_few_episodes_are_named_before_anything_is_trained(
    tiny: StudySettings, tmp_path: Path
) -> None:
    check(tiny)
    one = load_npz(tmp_path / "walks.npz").take(np.array([0]))
    save_npz(one, tmp_path / "one.npz")
    short = replace(tiny, tasks=(replace(tiny.tasks[0], data=str(tmp_path / "one.npz")),))
    with pytest.raises(VddError, match="cannot split 1 episodes"):
        check(short)


def test_what_is_odd_about_recordings_is_said_once_before_anything_is_trained(
    tiny: StudySettings, tmp_path: Path
) -> None:
    """It may be meant, so the study goes on; asked of every row, told once."""
    assert check(tiny) == ()
    still = load_npz(tmp_path / "walks.npz")
    still = replace(still, observation=np.column_stack([still.observation, np.ones(len(still))]))
    save_npz(still, tmp_path / "still.npz")
    task = replace(tiny.tasks[0], data=str(tmp_path / "still.npz"), relative=False)
    said: list[str] = []
    odd = replace(tiny, tasks=(task,), seeds=(0,))
    run_study(odd, tmp_path / "study", rows=("persistence", "linear"), say=said.append)
    assert len(said) == 1
    assert "never changes: it tells nothing" in said[0]
    assert len(list(read_rows(tmp_path / "study"))) == 2
