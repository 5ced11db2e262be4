"""A contract that loads stays itself; one that does not is refused with all that is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vdd_ros.codecs.check import check_contract, check_file, compare
from vdd_ros.core.config_io import dump_json, dump_yaml, from_dict, load_json, load_yaml, to_dict
from vdd_ros.core.contract import (
    ActionField,
    Limits,
    ObservationField,
    PolicyContract,
    Qos,
    Safety,
)
from vdd_ros.core.errors import VddError
from vdd_ros.core.shipped import shipped_file

CONTRACTS = ("avoiding", "franka", "mobile_base", "pusht", "unitree_g1")
NAME = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1)
POSITIVE = st.floats(1e-3, 1e6)
APPLY = st.lists(st.sampled_from(("deg2rad", "negate", "scale 0.5", "offset -2")), max_size=2)


def shipped(name: str) -> PolicyContract:
    return load_yaml(PolicyContract, shipped_file(f"config/contracts/{name}.yaml"))


@st.composite
def contracts(draw: st.DrawFn) -> PolicyContract:
    keys = draw(st.lists(NAME, min_size=2, max_size=4, unique=True))
    dims = [draw(st.integers(1, 3)) for _ in keys]
    observations = tuple(
        ObservationField(
            key,
            dim,
            topic=f"topic{i}",
            unit=draw(NAME),
            apply=tuple(draw(APPLY)),
            qos=Qos(draw(st.sampled_from(("", "reliable"))), "", draw(st.integers(0, 9))),
            max_age_ms=draw(POSITIVE),
            max_skew_ms=draw(st.just(0.0) | POSITIVE),
        )
        for i, (key, dim) in enumerate(zip(keys, dims, strict=True))
    )
    low = tuple(draw(st.floats(-1e6, 0)) for _ in range(dims[0]))
    action = ActionField(
        draw(NAME),
        dims[0],
        apply=tuple(draw(APPLY)),
        measured=draw(st.sampled_from(("", keys[0]))),
        limits=Limits(low, tuple(v + 1 for v in low), max_jerk=tuple(abs(v) + 1 for v in low)),
    )
    horizon = draw(st.integers(1, 20))
    return PolicyContract(
        name=draw(NAME),
        rate_hz=draw(POSITIVE),
        observations=observations,
        actions=(action,),
        horizon=horizon,
        n_action_steps=draw(st.integers(1, horizon)),
        safety=Safety(ramp_s=draw(st.floats(0, 10))),
    )


@given(contracts())
@settings(max_examples=80, deadline=None)
def test_a_contract_survives_yaml_and_json(contract: PolicyContract) -> None:
    """YAML -> dataclass -> JSON -> dataclass: nothing is lost, nothing is added."""
    again = from_dict(PolicyContract, yaml.safe_load(dump_yaml(contract)))
    assert load_json(PolicyContract, dump_json(again), where="json") == contract


TREE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@given(st.sampled_from(CONTRACTS), st.data())
@settings(max_examples=250, deadline=None)
def test_wrong_contracts_are_refused_and_never_crash(name: str, data: st.DataObject) -> None:
    """One value of a good contract replaced by anything: it loads, or says what is wrong."""
    raw: Any = to_dict(shipped(name))
    node = raw
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(TREE)
    refusal = ""
    try:
        contract = from_dict(PolicyContract, raw, where="robot.yaml")
    except VddError as error:
        refusal = str(error)
    else:
        check_contract(contract)
    assert not refusal or "robot.yaml" in refusal


@given(st.text(max_size=120) | st.binary(max_size=120))
@settings(max_examples=200, deadline=None)
def test_any_file_is_refused_with_its_name(tmp_path_factory: Any, content: str | bytes) -> None:
    """Bytes that are no contract end in one readable error, whatever they are."""
    path = tmp_path_factory.mktemp("c") / "robot.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    try:
        report = check_file(path)
    except VddError as error:
        refusals = (str(error),)
    else:
        refusals = report.misfits
    assert refusals
    assert "robot.yaml" in refusals[0]


def test_a_few_lines_that_stand_for_billions_are_refused_at_once(tmp_path: Path) -> None:
    """Aliases multiply: the message about such a value must not write all of it out."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    path = tmp_path / "robot.yaml"
    path.write_text("\n".join([*lines, "name: *a11"]))
    report = check_file(path)
    assert any("expected str, got list" in text for text in report.misfits)
    assert max(map(len, report.misfits)) < 500


@pytest.mark.parametrize("name", CONTRACTS)
def test_shipped_contracts_fit_without_a_remark(name: str) -> None:
    """What ships has every type, path, limit and reference in order."""
    report = check_contract(shipped(name))
    assert report.misfits == ()
    assert report.notes == ()


def test_every_misfit_is_named_in_one_run(tmp_path: Path) -> None:
    """Wrong keys, values, paths and types, in one file and at once."""
    raw = to_dict(shipped("franka"))
    raw["n_obs_step"] = 3
    raw["rate_hz"] = "fast"
    raw["observations"][0]["select"][2] = "positon.panda_joint3"
    raw["observations"][2]["max_age_ms"] = -1
    raw["actions"][0]["limits"]["max_jerk"] = [1.0]
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(raw))
    text = "\n".join(check_file(path).misfits)
    for expected in (
        "did you mean 'n_obs_steps'",
        "expected float, got str 'fast'",
        "positon.panda_joint3",
        "max_age_ms is -1.0",
        "limits.max_jerk has 1 values, expected 7",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"type": "trajectory_msgs/msg/JointTrajectry"}, "did you mean"),
        ({"select": tuple(f"velocities.j{i}" for i in range(7))}, "by 'positions.<joint>' only"),
        ({"select": ("positions.j",) * 7}, "commanded twice"),
        ({"type": "", "select": ()}, "no type; a node needs both"),
        ({"threshold": 0.7}, "is not a switch"),
    ],
)
def test_what_a_message_type_cannot_carry_is_a_misfit(
    change: dict[str, Any], expected: str
) -> None:
    contract = shipped("franka")
    action = dataclasses.replace(contract.actions[0], **change)
    report = check_contract(dataclasses.replace(contract, actions=(action,)))
    assert any(expected in text for text in report.misfits), report.misfits


def test_a_policy_made_for_other_joints_is_a_misfit() -> None:
    """The same joints in another order are another policy: it would move the wrong ones."""
    ours = shipped("franka")
    joints = ours.observations[0]
    turned = dataclasses.replace(joints, select=joints.select[::-1], unit="deg")
    theirs = dataclasses.replace(ours, observations=(turned, *ours.observations[1:]), horizon=8)
    text = "\n".join(compare(ours, theirs).misfits)
    assert "in another order" in text
    assert "unit is 'rad', the policy was made with 'deg'" in text
    assert "horizon: the contract says 16, the policy has 8" in text
    assert compare(ours, ours).misfits == ()


def test_zeros_under_position_control_are_pointed_out() -> None:
    contract = dataclasses.replace(shipped("franka"), safety=Safety(on_stale="zeros"))
    assert any("on_stale is zeros" in text for text in check_contract(contract).notes)


def test_age_limits_of_zero_need_another_field_that_has_one() -> None:
    """A contract whose every sample may be old would never notice that the robot fell silent."""
    contract = shipped("mobile_base")
    kept = [dataclasses.replace(o, max_age_ms=0.0, max_skew_ms=0.0) for o in contract.observations]
    with pytest.raises(VddError, match="at least one needs an age limit"):
        dataclasses.replace(contract, observations=tuple(kept))
