"""Opening policy files: good ones say what they are, all others are refused with a reason."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policy_files import DenoiserTwin, MoeTwin, helper, make_contract, onnx, save
from vdd_ros.core.errors import VddError
from vdd_ros.runtime import policy_file
from vdd_ros.runtime.loading import load_policy
from vdd_ros.runtime.policy_file import PolicyFile
from vdd_ros.runtime.session import SessionSettings


def test_a_good_student_says_what_it_is(dense_moe: MoeTwin) -> None:
    file = PolicyFile.open(dense_moe.path)
    assert file.kind == "moe"
    assert file.n_experts == dense_moe.n_experts
    assert file.contract == dense_moe.contract
    assert file.sha256 == hashlib.sha256(dense_moe.path.read_bytes()).hexdigest()
    assert file.verify() <= 1e-6


def test_a_good_teacher_says_what_it_is(denoiser: DenoiserTwin) -> None:
    file = PolicyFile.open(denoiser.path)
    assert file.kind == "denoiser"
    assert file.n_experts == 0
    assert {s.name for s in file.outputs} >= {"denoised", "action", "sampled_action_16"}
    assert file.verify() <= 1e-5


def test_a_tampered_golden_sample_is_refused(moe: MoeTwin, here: Path) -> None:
    golden = copy.deepcopy(moe.golden)
    golden["outputs"]["expert_actions"]["data"][5] += 1e-3
    moe.save_as(here, golden=golden)
    with pytest.raises(VddError, match=r"'expert_actions' .* off by 0\.001.*export it again"):
        PolicyFile.open(here)
    with pytest.raises(VddError, match="off by"):
        PolicyFile.open(here, verify=False).verify()


def test_the_tolerance_follows_the_scale_of_each_output(moe: MoeTwin, here: Path) -> None:
    """An action of millimetres is held to a share of millimetres, not of the logits.

    Regressions pinned: one absolute tolerance of 1e-4 let actions of a centimetre be off by one
    percent.
    """
    model = onnx.ModelProto()
    model.CopyFrom(moe.model)
    weight = model.graph.initializer[2]
    small = onnx.numpy_helper.to_array(weight) * np.float32(0.001)
    weight.CopyFrom(onnx.numpy_helper.from_array(small, weight.name))
    golden = copy.deepcopy(moe.golden)
    golden["atol"] = 1e-4
    data = golden["outputs"]["expert_actions"]["data"]
    data[:] = [value * 0.001 for value in data]
    path = save(here, model, contract=moe.contract, provenance=moe.provenance, golden=golden)
    assert PolicyFile.open(path).verify() < 1e-6
    data[0] += 1e-5
    save(here, model, contract=moe.contract, provenance=moe.provenance, golden=golden)
    with pytest.raises(VddError, match=r"output 'expert_actions'.*off by 1e-05"):
        PolicyFile.open(here)


def test_a_changed_weight_is_refused(moe: MoeTwin, here: Path) -> None:
    """The golden sample sees a single wrong weight: damage is found before the robot moves."""
    model = onnx.ModelProto()
    model.CopyFrom(moe.model)
    weight = model.graph.initializer[1]
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.05
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    save(here, model, contract=moe.contract, provenance=moe.provenance, golden=moe.golden)
    with pytest.raises(VddError, match="golden sample"):
        PolicyFile.open(here)


def _text(path: Path) -> None:
    path.write_text("observation: 4\naction: 2\n")


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'true'\ntR.")


def _npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


def _ort_format(path: Path) -> None:
    path.write_bytes(b"\x18\x00\x00\x00ORTM" + bytes(200))


FOREIGN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda p: None, "no such file"),
    "empty": (lambda p: p.touch(), "empty"),
    "directory": (Path.mkdir, "cannot be read|regular file"),
    "text": (_text, "not an ONNX model"),
    "zip": (_zip, "not an ONNX model"),
    "npz": (_npz, "not an ONNX model"),
    "ort_format": (_ort_format, "not an ONNX model"),
    "random": (lambda p: p.write_bytes(np.random.default_rng(0).bytes(4096)), "not an ONNX model"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_files_are_refused_by_name_and_reason(what: str, here: Path) -> None:
    make, message = FOREIGN[what]
    make(here)
    with pytest.raises(VddError, match=message) as caught:
        PolicyFile.open(here)
    assert str(here) in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_device_is_refused_without_reading_it(here: Path) -> None:
    """/dev/zero never ends: only regular files are read."""
    with pytest.raises(VddError, match="regular file"):
        PolicyFile.open("/dev/zero")


def test_an_oversized_file_is_refused_unread(
    moe: MoeTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_file, "MAX_BYTES", 100)
    with pytest.raises(VddError, match="at most"):
        PolicyFile.open(moe.path)


def test_a_plain_onnx_model_is_refused(moe: MoeTwin, here: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(moe.model)
    del model.metadata_props[:]
    here.write_bytes(model.SerializeToString())
    with pytest.raises(VddError, match=r"without 'vdd_ros.contract'.*vdd export"):
        PolicyFile.open(here)


@pytest.mark.parametrize("kind", ["moe", "denoiser"])
def test_every_truncation_is_refused(
    kind: str, here: Path, request: pytest.FixtureRequest
) -> None:
    """A file cut anywhere, also exactly between two fields, is refused and never crashes."""
    data = request.getfixturevalue(kind).path.read_bytes()
    cuts = sorted({*range(0, len(data), 64), *range(len(data) - 64, len(data))})
    for cut in cuts:
        here.write_bytes(data[:cut])
        with pytest.raises(VddError):
            PolicyFile.open(here)


@given(at=st.integers(0, 10**9), bit=st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_never_escapes_as_anything_but_a_refusal(
    moe: MoeTwin, tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    """Damage is refused, or harmless: the golden sample still comes out within its tolerance."""
    data = bytearray(moe.path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.onnx"
    path.write_bytes(data)
    try:
        file = PolicyFile.open(path)
    except VddError:
        return
    assert file.verify() <= file.golden.atol * 10


PROVENANCE = [
    ({"format_version": 2}, "format_version: got 2.*install"),
    ({"format_version": "1"}, "format_version: got '1'"),
    ({"format_version": True}, "format_version: got True"),
    ({"kind": "flow"}, "kind: got 'flow'; known: moe, denoiser"),
    ({"n_experts": 5}, r"gating_logits.*\[B, 4\].*\[B, 5\]"),
    ({"n_experts": 0}, "n_experts: got 0"),
    ({"kind": "denoiser"}, "sigma_min: got None"),
]


@pytest.mark.parametrize(("change", "message"), PROVENANCE)
def test_provenance_must_fit(
    moe: MoeTwin, here: Path, change: dict[str, Any], message: str
) -> None:
    moe.save_as(here, provenance={**moe.provenance, **change})
    with pytest.raises(VddError, match=message):
        PolicyFile.open(here)


DENOISER = [
    ({"sigma_min": 3.0}, "sigma_min 3.0 is above sigma_max 2.0"),
    ({"sigma_max": -1}, "sigma_max: got -1"),
    ({"sigma_max": 10**400}, "sigma_max: got 1000"),
    ({"sigma_schedule": "cosine"}, "sigma_schedule: got 'cosine'; known: linear"),
    ({"sigma_schedule": []}, "sigma_schedule: got a list, expected positive finite numbers"),
    ({"sigma_schedule": [0.5, -1.0]}, "sigma_schedule: got a list, expected positive"),
    ({"sigma_schedule": [0.5, "x"]}, "sigma_schedule: got a list, expected positive"),
    ({"unroll": [1, 4, 16, 32]}, "outputs: .*sampled_action_32"),
    ({"unroll": [1, 4, "16"]}, "unroll: got"),
]


@pytest.mark.parametrize(("change", "message"), DENOISER)
def test_denoiser_provenance_must_fit(
    denoiser: DenoiserTwin, here: Path, change: dict[str, Any], message: str
) -> None:
    denoiser.save_as(here, provenance={**denoiser.provenance, **change})
    with pytest.raises(VddError, match=message):
        PolicyFile.open(here)


@pytest.mark.parametrize("field", ["n_obs_steps", "dim_obs", "horizon", "dim_act"])
def test_contract_and_tensors_must_agree(moe: MoeTwin, here: Path, field: str) -> None:
    """A contract of another size than the network is refused with both shapes."""
    sizes = {"n_obs_steps": 2, "dim_obs": 3, "horizon": 2, "dim_act": 2}
    other = make_contract(**{**sizes, field: sizes[field] + 1})
    moe.save_as(here, contract=other)
    with pytest.raises(VddError, match=r"shape \[.*the contract expects \["):
        PolicyFile.open(here)


def test_a_contract_that_contradicts_itself_is_refused(moe: MoeTwin, here: Path) -> None:
    raw = json.loads(onnx.load(moe.path).metadata_props[0].value)
    for change, message in (
        ({"rate_hz": -1.0}, "rate_hz: got -1.0"),
        ({"n_obs_step": 3}, "did you mean 'n_obs_steps'"),
        ({"rate_hz": float("nan")}, "rate_hz"),
    ):
        moe.save_as(here, contract={**raw, **change})
        with pytest.raises(VddError, match=message):
            PolicyFile.open(here)


def test_a_fixed_batch_is_refused(moe: MoeTwin, here: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(moe.model)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    save(here, model, contract=moe.contract, provenance=moe.provenance, golden=moe.golden)
    with pytest.raises(VddError, match="free batch B"):
        PolicyFile.open(here)


def test_another_element_type_is_refused(moe: MoeTwin, here: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(moe.model)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    save(here, model, contract=moe.contract, provenance=moe.provenance, golden=moe.golden)
    with pytest.raises(VddError, match="expected float32"):
        PolicyFile.open(here)


def test_an_operator_unknown_to_the_runtime_is_refused(moe: MoeTwin, here: Path) -> None:
    """What ONNX Runtime itself refuses arrives as a VddError with its first line."""
    model = onnx.ModelProto()
    model.CopyFrom(moe.model)
    model.graph.node[0].op_type = "NoSuchOperator"
    save(here, model, contract=moe.contract, provenance=moe.provenance, golden=moe.golden)
    with pytest.raises(VddError, match=r"onnxruntime .* refuses the model"):
        PolicyFile.open(here)


def test_a_network_that_fails_on_its_own_sample_is_refused(moe: MoeTwin, here: Path) -> None:
    """A failure while running is as clear as one while loading."""
    model = onnx.ModelProto()
    model.CopyFrom(moe.model)
    shape = onnx.numpy_helper.from_array(np.array([0, 5]), model.graph.initializer[0].name)
    model.graph.initializer[0].CopyFrom(shape)
    save(here, model, contract=moe.contract, provenance=moe.provenance, golden=moe.golden)
    with pytest.raises(VddError, match=r"own golden sample|refuses the model"):
        PolicyFile.open(here)


GOLDEN = [
    (lambda g: g["inputs"].pop("observation"), "golden inputs"),
    (lambda g: g["outputs"].pop("gating_logits"), "golden outputs"),
    (lambda g: g.pop("atol"), "vdd_ros.golden: 'atol'"),
    (lambda g: g.update(atol=1e6), "golden atol: got 1000000.0"),
    (lambda g: g.update(atol=0), "golden atol: got 0"),
    (lambda g: g.update(atol=float("nan")), "golden atol: got nan"),
    (lambda g: g["inputs"]["observation"].update(shape=[3, 6]), "graph has"),
    (lambda g: g["inputs"]["observation"].update(shape=[-3, 2, -3]), "positive integers"),
    (lambda g: g["inputs"]["observation"].update(data=[1.0]), "expected 18 numbers"),
    (lambda g: g["inputs"]["observation"].update(data=["x"] * 18), "expected 18 numbers"),
    (lambda g: g["inputs"]["observation"].update(data=[1e300] * 18), "not finite"),
    (lambda g: g["outputs"]["gating_logits"]["data"].__setitem__(0, None), "golden"),
    (lambda g: g.update(inputs=[1, 2]), "golden"),
]


@pytest.mark.parametrize(("change", "message"), GOLDEN)
def test_a_golden_sample_that_cannot_check_anything_is_refused(
    moe: MoeTwin, here: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    """Missing, vacuous or malformed self-tests are as bad as failed ones."""
    golden = copy.deepcopy(moe.golden)
    change(golden)
    moe.save_as(here, golden=golden)
    with pytest.raises(VddError, match=message):
        PolicyFile.open(here)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "format_version",
                    "kind",
                    "n_experts",
                    "inputs",
                    "outputs",
                    "atol",
                    "shape",
                    "data",
                    "observation",
                    "gating_logits",
                    "name",
                    "rate_hz",
                    "observations",
                    "actions",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(
    key=st.sampled_from(["vdd_ros.contract", "vdd_ros.provenance", "vdd_ros.golden"]),
    text=json_values.map(json.dumps) | st.text(max_size=40) | st.just("[" * 100000),
)
@settings(max_examples=200, deadline=None)
def test_arbitrary_metadata_is_refused(
    moe: MoeTwin, tmp_path_factory: pytest.TempPathFactory, key: str, text: str
) -> None:
    """Whatever stands in the metadata, only VddError comes out."""
    model = onnx.load(moe.path)
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = text
    path = tmp_path_factory.getbasetemp() / "fuzzed.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(VddError):
        PolicyFile.open(path)


def test_metadata_given_twice_is_refused(moe: MoeTwin, here: Path) -> None:
    """Two contracts in one file would let two readers see two policies."""
    model = onnx.load(moe.path)
    model.metadata_props.append(model.metadata_props[0])
    here.write_bytes(model.SerializeToString())
    with pytest.raises(VddError, match="there twice"):
        PolicyFile.open(here)


def test_what_was_checked_is_what_runs(moe: MoeTwin, here: Path) -> None:
    """The file is read once: replacing it after the check changes nothing."""
    here.write_bytes(moe.path.read_bytes())
    file = PolicyFile.open(here)
    here.write_bytes(b"replaced")
    window = np.ones((2, 3), np.float32)
    expected = load_policy(moe.path).act(window).proposals
    np.testing.assert_array_equal(load_policy(file).act(window).proposals, expected)


def test_the_file_is_frozen(moe: MoeTwin) -> None:
    file = PolicyFile.open(moe.path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        file.kind = "denoiser"  # type: ignore[misc]


def test_extra_inputs_are_refused(moe: MoeTwin, here: Path) -> None:
    """An input nobody feeds would fail at the first tick; it fails at the door instead."""
    model = onnx.ModelProto()
    model.CopyFrom(moe.model)
    model.graph.input.append(helper.make_tensor_value_info("extra", 1, ["B"]))
    save(here, model, contract=moe.contract, provenance=moe.provenance, golden=moe.golden)
    with pytest.raises(VddError, match="inputs: the graph has extra, observation"):
        PolicyFile.open(here)


def test_the_golden_error_of_a_gate_is_that_of_its_probabilities(moe: MoeTwin) -> None:
    """Logits are defined up to a constant: adding one is no error, a changed gate is one."""
    file = PolicyFile.open(moe.path)
    session = file.session(("gating_logits", "expert_actions"), SessionSettings()).session
    recorded = file.golden.outputs["gating_logits"]

    def error_against(logits: np.ndarray) -> float:
        outputs = file.golden.outputs | {"gating_logits": logits.astype(np.float32)}
        golden = dataclasses.replace(file.golden, outputs=outputs)
        return dataclasses.replace(file, golden=golden).golden_error(session)

    assert error_against(recorded + 50.0) < 1e-5
    other = recorded.copy()
    other[:, 0] += 1.0
    assert error_against(other) > 1e-2
