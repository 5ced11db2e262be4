"""Contracts and configuration: strict in, unchanged out, every mistake named."""

import dataclasses
import errno
import os

import numpy as np
import pytest
import yaml

from vdd_ros.core.config_io import (
    dump_json,
    dump_yaml,
    from_dict,
    load_json,
    load_yaml,
    to_dict,
    write_atomic,
)
from vdd_ros.core.contract import ActionField, Limits, ObservationField, PolicyContract
from vdd_ros.core.errors import VddError

AVOIDING = "config/contracts/avoiding.yaml"


@pytest.fixture
def avoiding(pytestconfig):
    return load_yaml(PolicyContract, pytestconfig.rootpath / AVOIDING)


def test_the_shipped_contract_survives_yaml_and_json(avoiding):
    assert (avoiding.dim_obs, avoiding.dim_act) == (4, 2)
    assert avoiding.step_s == pytest.approx(0.035)
    assert load_json(PolicyContract, dump_json(avoiding), where="json") == avoiding
    assert from_dict(PolicyContract, yaml.safe_load(dump_yaml(avoiding))) == avoiding


def test_slices_are_the_declared_order(avoiding):
    assert avoiding.observation_slice("desired") == slice(0, 2)
    assert avoiding.observation_slice("measured") == slice(2, 4)
    assert avoiding.action_slice("step") == slice(0, 2)
    with pytest.raises(VddError, match="did you mean 'measured'"):
        avoiding.observation_slice("mesured")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("rate_hz",), 0.0, "positive number of hertz"),
        (("rate_hz",), "fast", "expected float, got str 'fast'"),
        (("n_obs_step",), 5, "unknown key 'n_obs_step'; did you mean 'n_obs_steps'"),
        (("n_action_steps",), 2, "n_action_steps <= horizon"),
        (("execution",), "newest", "execution: got str 'newest'"),
        (("observations",), [], "at least one observation"),
        (("actions", 0, "relative_to"), "desird", "did you mean 'desired'"),
        (("actions", 0, "limits", "min"), [0.0], "1 values, expected 2"),
        (("actions", 0, "limits", "min"), [0.9, 0.0], "not below limits.max"),
        (("actions", 0, "limits", "max_rate"), [0.0, 1.0], "must be positive"),
        (("actions", 0, "limits", "max_acceleration"), [1.0], "1 values, expected 2"),
        (("actions", 0, "limits", "max_jerk"), [-1.0, 1.0], "must be positive"),
        (("safety", "ramp_s"), -1.0, "expected 0 or more seconds"),
        (("observations", 1, "key"), "desired", "used twice"),
        (("observations", 0, "topic"), "/state", "absolute"),
        (("observations", 0, "select"), ["a"], "one path per value"),
        (("observations", 0, "dim"), True, "expected int, got bool"),
        (("observations", 0, "max_age_ms"), float("nan"), "expected a finite number, got nan"),
        (("observations", 0, "max_age_ms"), -1.0, "positive number of milliseconds"),
        (("safety", "max_hold_s"), float("inf"), "expected a finite number, got inf"),
        (("safety", "max_hold_s"), -1.0, "0 or more seconds"),
    ],
)
def test_every_mistake_is_named_with_its_place(avoiding, path, value, message):
    raw = to_dict(avoiding)
    node = raw
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(VddError, match=message):
        from_dict(PolicyContract, raw, where="robot.yaml")


def test_a_missing_key_and_a_missing_file_say_what_was_expected(tmp_path):
    with pytest.raises(VddError, match="missing key 'rate_hz'"):
        from_dict(PolicyContract, {"name": "x"})
    with pytest.raises(VddError, match="no such file"):
        load_yaml(PolicyContract, tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1, 2")
    with pytest.raises(VddError, match="not valid YAML"):
        load_yaml(PolicyContract, broken)


def test_a_key_that_stands_twice_is_refused_not_overruled(avoiding, tmp_path):
    """YAML keeps the last of two in silence: the limits someone reads are not those that act."""
    path = tmp_path / "robot.yaml"
    path.write_text(dump_yaml(avoiding) + "rate_hz: 500.0\n", encoding="utf-8")
    with pytest.raises(VddError, match="the key 'rate_hz' stands here twice"):
        load_yaml(PolicyContract, path)


def test_a_number_that_yaml_reads_as_text_is_answered_with_how_to_write_it(avoiding, tmp_path):
    """YAML 1.1 takes 1e-3 for text; the number in the advice is read as a number."""
    path = tmp_path / "robot.yaml"
    text = dump_yaml(dataclasses.replace(avoiding, rate_hz=25.0))
    path.write_text(text.replace("rate_hz: 25.0", "rate_hz: 1e-3"), encoding="utf-8")
    with pytest.raises(VddError, match="to YAML '1e-3' is text: write ") as refusal:
        load_yaml(PolicyContract, path)
    assert yaml.safe_load(str(refusal.value).split()[-1]) == 1e-3


def test_nan_limits_are_refused():
    with pytest.raises(VddError, match="NaN"):
        PolicyContract(
            name="x",
            rate_hz=10,
            observations=(ObservationField("o", 1),),
            actions=(ActionField("a", 1, limits=Limits(min=(float("nan"),))),),
        )


def test_json_holds_no_nan():
    assert (
        dump_json({"a": float("nan"), "b": [float("inf"), 1.0]}) == '{"a": null, "b": [null, 1.0]}'
    )


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    target = tmp_path / "file.json"
    write_atomic(target, "old")

    def full(_fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VddError, match="No space left"):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_file_takes_its_name_in_one_step_or_not_at_all(tmp_path, monkeypatch):
    """The new content is never written into the old file, however far the write has come."""
    target = tmp_path / "file.json"
    write_atomic(target, "old")

    def interrupted(_source, _target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(VddError, match="nothing was changed"):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_writing_below_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(VddError, match="cannot write here"):
        write_atomic(tmp_path / "file" / "below.json", "y")


def test_dataclasses_with_arrays_are_not_silently_serialised():
    @dataclasses.dataclass(frozen=True)
    class Holder:
        value: object

    with pytest.raises(TypeError):
        dump_json(Holder(np.zeros(2)))
