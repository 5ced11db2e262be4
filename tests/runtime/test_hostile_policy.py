"""Policy files that contradict themselves: refused with a reason before anything runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.policy_files import MoeTwin, numpy_helper, onnx, save
from vdd_ros.core.errors import VddError
from vdd_ros.runtime.policy_file import PolicyFile


def changed(moe: MoeTwin) -> Any:
    """A model of its own to change."""
    model = onnx.ModelProto()
    model.CopyFrom(moe.model)
    return model


def written(moe: MoeTwin, path: Path, model: Any) -> Path:
    return save(path, model, contract=moe.contract, provenance=moe.provenance, golden=moe.golden)


def refused(path: Path) -> str:
    with pytest.raises(VddError) as caught:
        PolicyFile.open(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def floats(model: Any) -> list[Any]:
    return [w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT]


@settings(max_examples=60, deadline=None)
@given(
    which=st.integers(0, 10**6),
    at=st.integers(0, 10**6),
    value=st.sampled_from([float("nan"), float("inf"), -float("inf"), 3e38]),
)
def test_a_weight_that_is_no_number_is_refused(
    moe: MoeTwin, tmp_path_factory: pytest.TempPathFactory, which: int, at: int, value: float
) -> None:
    """One of them anywhere: the golden sample passes every weight of a dense network."""
    model = changed(moe)
    weights = floats(model)
    weight = weights[which % len(weights)]
    values = numpy_helper.to_array(weight).copy()
    values.flat[at % values.size] = value
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    refused(written(moe, tmp_path_factory.getbasetemp() / "no_number.onnx", model))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.int64, np.bool_])
def test_a_weight_of_another_type_is_refused(moe: MoeTwin, here: Path, dtype: Any) -> None:
    """Whichever it is; the runtime converts nothing in silence."""
    for index in range(len(floats(moe.model))):
        model = changed(moe)
        weight = floats(model)[index]
        values = numpy_helper.to_array(weight).astype(dtype)
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        refused(written(moe, here, model))


@settings(max_examples=60, deadline=None)
@example([2**40])
@example([2**31, 2**31])
@example([-1])
@example([0])
@given(dims=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
def test_a_weight_that_claims_another_size_is_refused(
    moe: MoeTwin, tmp_path_factory: pytest.TempPathFactory, dims: list[int]
) -> None:
    """Nothing is made room for before the bytes are counted."""
    model = changed(moe)
    weight = floats(model)[0]
    if dims == list(weight.dims):
        return
    del weight.dims[:]
    weight.dims.extend(dims)
    refused(written(moe, tmp_path_factory.getbasetemp() / "claims.onnx", model))


def _twice_initializer(graph: Any) -> None:
    graph.initializer.append(graph.initializer[0])


def _twice_changed(graph: Any) -> None:
    again = numpy_helper.to_array(graph.initializer[1]) + np.float32(1)
    graph.initializer.append(numpy_helper.from_array(again, graph.initializer[1].name))


def _twice_input(graph: Any) -> None:
    graph.input.append(graph.input[0])


def _twice_output(graph: Any) -> None:
    graph.output.append(graph.output[0])


def _twice_node(graph: Any) -> None:
    graph.node.append(graph.node[0])


@pytest.mark.parametrize(
    "change", [_twice_initializer, _twice_changed, _twice_input, _twice_output, _twice_node]
)
def test_a_name_that_is_there_twice_is_refused(moe: MoeTwin, here: Path, change: Any) -> None:
    """Which of the two counts could differ from reader to reader."""
    model = changed(moe)
    change(model.graph)
    refused(written(moe, here, model))


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "weights.bin", ""])
def test_weights_in_other_files_are_refused_wherever_they_are(
    moe: MoeTwin, here: Path, location: str
) -> None:
    """Beside the model, above it or anywhere: one file is what was checked, and what runs."""
    (here.parent / "weights.bin").write_bytes(bytes(4096))
    model = changed(moe)
    weight = floats(model)[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "4096")):
        weight.external_data.add(key=key, value=value)
    refused(written(moe, here, model))


@settings(max_examples=100, deadline=None)
@example(at=1, length=2**64 - 1)
@example(at=1, length=2**63)
@given(at=st.integers(0, 400), length=st.integers(2**20, 2**64 - 1))
def test_a_length_beyond_the_file_is_refused(
    moe: MoeTwin, tmp_path_factory: pytest.TempPathFactory, at: int, length: int
) -> None:
    """A field that claims more bytes than there are, wherever it is put."""
    data = moe.path.read_bytes()
    varint = bytearray()
    while length > 0x7F:
        varint.append(0x80 | length & 0x7F)
        length >>= 7
    varint.append(length)
    path = tmp_path_factory.getbasetemp() / "lengths.onnx"
    # Field 7, the graph, with that length; the rest of the file behind it.
    path.write_bytes(data[: at % len(data)] + b"\x3a" + bytes(varint) + data[at % len(data) :])
    refused(path)


def test_links_lead_to_files_or_to_a_refusal(moe: MoeTwin, here: Path, tmp_path: Path) -> None:
    """To a policy: opened; to nowhere, in a circle, to a folder, a pipe or a device: refused."""
    pipe = tmp_path / "a pipe"
    os.mkfifo(pipe)
    here.symlink_to(moe.path)
    assert PolicyFile.open(here).contract == moe.contract
    for target in (tmp_path / "nowhere", here, tmp_path, pipe, Path("/dev/zero")):
        here.unlink()
        here.symlink_to(target)
        refused(here)
