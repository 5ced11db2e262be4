"""Where sampling has to start: well above the spread of a whole chunk."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.distill.test_training import TINY_TEACHER
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.distill.denoisers import sample_actions
from vdd_ros.distill.pipeline import train_teacher
from vdd_ros.distill.teachers.analytic import AnalyticTeacher
from vdd_ros.distill.teachers.training import sampling_notes

# Eight actions that go one way together: every component has unit variance, the chunk as a whole
# has eight times as much along the direction (1, ..., 1).
HORIZON = 8
SPREAD = math.sqrt(HORIZON)


def together(n: int) -> torch.Tensor:
    """Return chunks [N, 1, H, 1] of one number each, repeated."""
    return torch.randn(n, 1, 1, 1).expand(n, 1, HORIZON, 1)


@pytest.mark.parametrize(("start", "noted"), [(2.0, True), (8.0, True), (9.0, False)])
def test_a_start_below_three_spreads_is_noted_with_the_remedy(start: float, noted: bool) -> None:
    """The spread is that of the chunk as a whole, 2.8 where every component has 1."""
    notes = sampling_notes(start, together(50_000))
    assert bool(notes) == noted
    if noted:
        assert f"sigma_max {start:g} is less than 3 times" in notes[0]
        assert "(2.8)" in notes[0]
        assert "set sigma_max to 8.5 or more" in notes[0]


@pytest.mark.parametrize("start", [2.0, 3 * SPREAD])
def test_samples_are_narrower_by_what_the_start_lacks(start: float) -> None:
    """An exact teacher and many steps: the loss is s0 / sqrt(s0^2 + spread^2), nothing else."""
    covariance = torch.ones(1, HORIZON, HORIZON) + 1e-4 * torch.eye(HORIZON)
    teacher = AnalyticTeacher(torch.ones(1), torch.zeros(1, HORIZON, 1), covariance)
    n = 4000
    samples = sample_actions(
        teacher, torch.zeros(n, 1, 1), torch.randn(n, HORIZON, 1), n_steps=60, sigma_min=0.01,
        sigma_max=start, kind="heun",
    )  # fmt: skip
    along = samples.sum((1, 2)) / math.sqrt(HORIZON)
    wanted = SPREAD * start / math.sqrt(start**2 + SPREAD**2)
    assert float(along.std()) == pytest.approx(wanted, rel=0.04)


def test_training_says_so(tmp_path: Path, demos: Demonstrations) -> None:
    """The result carries the note; a start that suits the data leaves none."""
    low = replace(TINY_TEACHER, horizon=8, sigma_max=1.0)
    high = replace(low, sigma_max=40.0)
    assert train_teacher(demos, low, tmp_path / "low").notes
    assert not train_teacher(demos, high, tmp_path / "high").notes
