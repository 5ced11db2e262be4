"""The settings files of this room: every one of them loads, strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdd_ros.core.config_io import from_dict, load_yaml
from vdd_ros.core.errors import VddError
from vdd_ros.distill.methods.mixture_training import DistillSettings
from vdd_ros.distill.teachers.edm import TeacherSettings

CONFIG = Path(__file__).parents[2] / "config"


@pytest.mark.parametrize(
    ("folder", "settings"), [("train", TeacherSettings), ("distill", DistillSettings)]
)
def test_every_settings_file_loads(folder, settings):
    files = sorted((CONFIG / folder).glob("*.yaml"))
    assert files
    for path in files:
        load_yaml(settings, path)


def test_a_typo_in_a_settings_file_is_answered_with_the_right_name(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text("student:\n  n_expert: 8\n")
    with pytest.raises(VddError, match=r"n_expert'; did you mean 'n_experts'"):
        load_yaml(DistillSettings, path)


@pytest.mark.parametrize(
    ("settings", "wrong", "message"),
    [
        (TeacherSettings, {"learning_rate": float("nan")}, "finite number, got nan"),
        (TeacherSettings, {"sigma_max": float("inf")}, "finite number, got inf"),
        (TeacherSettings, {"dropout": 1.0}, "0 <= dropout < 1"),
        (TeacherSettings, {"n_heads": 0}, "n_heads: got 0"),
        (TeacherSettings, {"weight_decay": -0.1}, "0 or more"),
        (TeacherSettings, {"seed": -1}, "0 or more"),
        (DistillSettings, {"seed": -1}, "0 or more"),
        (DistillSettings, {"student": {"min_std": 0.0}}, "0 < min_std < init_std"),
        (DistillSettings, {"n_iters": 5}, "raise n_iters \\(--iterations\\)"),
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_is_trained(settings, wrong, message):
    """Each of these would end hours later in a traceback, or not at all."""
    with pytest.raises(VddError, match=message):
        from_dict(settings, wrong)
