"""Statements of a study, where its other tests would not notice a slip."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from vdd_ros.core.config_io import from_dict
from vdd_ros.distill.study.rows import CurvePoint, StudyRow
from vdd_ros.distill.study.settings import StudySettings
from vdd_ros.distill.study.summary import Interval, TaskSummary, cpu_s_to_almost, summarise

FIGURES = {"success": 0.9, "entropy": 0.5, "modes": 20, "score": 0.8, "reward": 0.9}
ROW = StudyRow(
    task="avoiding-ideal", row="EM on data", method="em", teacher="edm", seed=0, nfe=1,
    figures=FIGURES, n_judged=480, n_iters=100, training_cpu_s=30.0, n_modes=24,
)  # fmt: skip


def point(iteration: int, cpu_s: float, score: float) -> CurvePoint:
    return CurvePoint(iteration, cpu_s, FIGURES | {"score": score})


def table(*rows: StudyRow) -> TaskSummary:
    settings = {
        "tasks": [{"teacher": "t.yaml", "distill": "d.yaml"}], "rows": {"em": None},
        "seeds": [0, 1],
    }  # fmt: skip
    (made,) = summarise(from_dict(StudySettings, settings), rows)
    return made


@pytest.mark.parametrize(("gap", "shared"), [(0.29, True), (0.31, False)])
def test_intervals_overlap_until_their_means_are_both_halves_apart(gap: float, shared: bool):
    """.2 and .1: the wider one alone does not reach."""
    first, second = Interval(0.5, 0.2, (0.5, 0.5)), Interval(0.5 + gap, 0.1, (0.8, 0.8))
    assert first.overlaps(second) is second.overlaps(first) is shared


def test_a_curve_arrives_after_its_last_dip_and_not_after_its_first():
    """Under .99 at 10 s and again at 30 s: there at .49/.5 of the way from 30 to 40."""
    curve = [point(i, 10.0 * (i + 1), s) for i, s in enumerate((0.5, 1.0, 0.5, 1.0))]
    assert cpu_s_to_almost(curve, "score") == pytest.approx(30 + 10 * 0.49 / 0.5)


def test_one_seed_that_arrives_nowhere_leaves_the_row_without_a_time():
    """Its mean would be that of the others and pass for the mean of all."""
    arrives = replace(ROW, curve=(point(1, 5.0, 0.1), point(2, 10.0, 0.8)))
    none = replace(ROW, seed=1, figures=FIGURES | {"score": 0.0}, curve=(point(1, 5.0, 0.0),))
    (both,) = table(arrives, none).rows
    assert both.cpu_s_to_almost is None
    (alone,) = table(arrives).rows
    assert alone.cpu_s_to_almost is not None
    assert not math.isnan(alone.cpu_s_to_almost.mean)


def test_a_moment_of_a_band_is_the_mean_time_of_its_seeds():
    first = replace(ROW, curve=(point(1, 4.0, 0.1),))
    second = replace(ROW, seed=1, curve=(point(1, 8.0, 0.3),))
    (line,) = table(first, second).rows
    assert line.curve[0].cpu_s == pytest.approx(6.0)
    assert line.curve[0].figures["score"].mean == pytest.approx(0.2)


def test_seeds_that_are_not_asked_for_are_left_out():
    """A folder may hold more seeds than the settings name."""
    (line,) = table(ROW, replace(ROW, seed=1), replace(ROW, seed=7)).rows
    assert line.seeds == (0, 1)
