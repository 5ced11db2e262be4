"""A study compares on equal terms, states its spread, and never computes a row twice."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vdd_ros.core.config_io import dump_yaml
from vdd_ros.core.errors import VddError
from vdd_ros.distill.mixture_training import DistillSettings
from vdd_ros.distill.pipeline import distill, train_teacher
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
from vdd_ros.distill.tracking import read_lines
from vdd_ros.distill.trainer import LoopSettings, train


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


class _Clock:
    """A processor that works one second per iteration and a hundred per evaluation."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_an_evaluation_costs_is_not_training_time(tmp_path, monkeypatch) -> None:
    """Curves with more points must not look more expensive."""
    clock = _Clock()
    monkeypatch.setattr("vdd_ros.distill.trainer.time.process_time", clock)
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
    assert logits[True].abs().max() > 1e-3
    assert means[False].std(0).max() > 1e-4  # the experts answer to the state
