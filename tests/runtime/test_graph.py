"""Scanning and pruning ONNX bytes, against the onnx package as the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tests.policy_files import FLOAT, DenoiserTwin, Graph, MoeTwin, helper, onnx
from vdd_ros.core.errors import VddError
from vdd_ros.runtime.graph import prune, scan


def test_scan_reads_what_the_onnx_package_reads(denoiser: DenoiserTwin) -> None:
    """Inputs, outputs, shapes, types and metadata agree with the onnx package."""
    data = denoiser.path.read_bytes()
    model, summary = onnx.load_from_string(data), scan(data)
    for specs, wanted in (
        (summary.inputs, model.graph.input),
        (summary.outputs, model.graph.output),
    ):
        assert [s.name for s in specs] == [w.name for w in wanted]
        for spec, want in zip(specs, wanted, strict=True):
            dims = want.type.tensor_type.shape.dim
            assert spec.shape == tuple(d.dim_param or d.dim_value for d in dims)
            assert spec.elem_type == want.type.tensor_type.elem_type
    assert summary.metadata == {p.key: p.value for p in model.metadata_props}


@pytest.mark.parametrize(
    ("outputs", "inputs"),
    [
        (["denoised", "action"], ["noisy_action", "sigma", "observation"]),
        (["sampled_action_4"], ["observation", "noise"]),
    ],
)
def test_pruned_graph_holds_one_path_and_computes_the_same(
    denoiser: DenoiserTwin, outputs: list[str], inputs: list[str]
) -> None:
    """Pruning keeps exactly the nodes an output depends on, and its values bit for bit."""
    data = denoiser.path.read_bytes()
    pruned = prune(data, outputs)
    model = onnx.load_from_string(pruned)
    onnx.checker.check_model(model, full_check=True)
    assert [o.name for o in model.graph.output] == outputs
    assert [i.name for i in model.graph.input] == inputs
    extractor = onnx.utils.Extractor(onnx.load_from_string(data))
    expected = extractor.extract_model(inputs, outputs)
    assert [n.output for n in model.graph.node] == [n.output for n in expected.graph.node]
    feed = {
        n: np.array(t["data"], np.float32).reshape(t["shape"])
        for n, t in denoiser.golden["inputs"].items()
    }
    whole = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(outputs, feed)
    part = ort.InferenceSession(pruned, providers=["CPUExecutionProvider"]).run(
        outputs, {n: feed[n] for n in inputs}
    )
    for a, b in zip(whole, part, strict=True):
        assert_array_equal(a, b)


def test_pruning_drops_the_covariance_from_the_acting_path(dense_moe: MoeTwin) -> None:
    """A student's Cholesky factors cost nothing to a policy that only acts."""
    pruned = onnx.load_from_string(
        prune(dense_moe.path.read_bytes(), ["gating_logits", "expert_actions"])
    )
    assert not any("expert_scale" in n.output for n in pruned.graph.node)
    assert len(pruned.graph.initializer) < len(dense_moe.model.graph.initializer)


def test_names_captured_by_a_branch_are_kept() -> None:
    """An If branch reads outer tensors without listing them as inputs; pruning keeps them."""
    graph = Graph()
    graph.op("Mul", "x", np.float32(2), out="doubled")
    graph.op("Neg", "x", out="unused_by_y")
    flag = graph.op("Greater", graph.op("ReduceSum", "x", keepdims=0), np.float32(0))

    def branch(name: str, kind: str) -> onnx.GraphProto:
        node = helper.make_node(kind, ["doubled", "weight"], [name])
        return helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(name, FLOAT, None)]
        )

    graph.constants["weight"] = onnx.numpy_helper.from_array(np.float32(10), "weight")
    graph.op(
        "If", flag, out="y", then_branch=branch("up", "Add"), else_branch=branch("down", "Sub")
    )
    model = graph.build({"x": ["B"]}, {"y": ["B"], "unused_by_y": ["B"]})
    pruned = prune(model.SerializeToString(), ["y"])
    assert len(onnx.load_from_string(pruned).graph.node) == len(model.graph.node) - 1
    session = ort.InferenceSession(pruned, providers=["CPUExecutionProvider"])
    x = np.array([1.0, 2.0], np.float32)
    assert_allclose(session.run(None, {"x": x})[0], 2 * x + 10)
    assert_allclose(session.run(None, {"x": -x})[0], -2 * x - 10)


def test_an_unknown_output_is_named_with_those_that_exist(moe: MoeTwin) -> None:
    with pytest.raises(VddError, match="no output 'logits'; it has: gating_logits"):
        prune(moe.path.read_bytes(), ["logits"])


@pytest.mark.parametrize("place", ["initializer", "constant", "branch", "function"])
def test_data_in_other_files_is_refused_wherever_it_hides(place: str, moe: MoeTwin) -> None:
    """No tensor may point outside the file: not a weight, not in a node, branch or function."""
    tensor = onnx.TensorProto(
        name="secret", data_type=FLOAT, dims=[1], data_location=onnx.TensorProto.EXTERNAL
    )
    for key, value in (("location", "../../etc/passwd"), ("offset", "0"), ("length", "4")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    model = onnx.ModelProto()
    model.CopyFrom(moe.model)
    constant = helper.make_node("Constant", [], ["secret"], value=tensor)
    if place == "initializer":
        model.graph.initializer.append(tensor)
    elif place == "constant":
        model.graph.node.append(constant)
    elif place == "branch":
        inner = helper.make_graph([constant], "inner", [], [])
        model.graph.node.append(
            helper.make_node("If", ["flag"], ["z"], then_branch=inner, else_branch=inner)
        )
    else:
        model.functions.append(
            helper.make_function(
                "local", "f", [], ["secret"], [constant], [helper.make_opsetid("", 20)]
            )
        )
    with pytest.raises(VddError, match="data in other files"):
        scan(model.SerializeToString())


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_loops_are_refused_because_their_time_has_no_bound(kind: str, moe: MoeTwin) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(moe.model)
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node(kind, ["", "", "observation"], ["z"], body=body))
    with pytest.raises(VddError, match=f"holds a {kind}"):
        scan(model.SerializeToString())


def test_deep_nesting_ends_in_an_error_not_in_a_crash(moe: MoeTwin) -> None:
    """A file cannot exhaust the stack by nesting graphs."""
    inner = helper.make_graph([], "inner", [], [])
    for _ in range(20):
        node = helper.make_node("If", ["flag"], ["z"], then_branch=inner)
        inner = helper.make_graph([node], "outer", [], [])
    model = onnx.ModelProto()
    model.CopyFrom(moe.model)
    model.graph.node.extend(inner.node)
    with pytest.raises(VddError, match="nested more than"):
        scan(model.SerializeToString())


@given(data=st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_refused_with_a_clear_error(data: bytes) -> None:
    """Nothing but VddError ever leaves the scanner."""
    with pytest.raises(VddError):
        scan(data)


@given(at=st.integers(0, 10**9), value=st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_is_read_or_refused(moe_bytes: bytes, at: int, value: int) -> None:
    """Flipping any byte gives a model that scans and prunes, or a VddError; never a crash."""
    data = bytearray(moe_bytes)
    data[at % len(data)] = value
    try:
        summary = scan(bytes(data))
        prune(bytes(data), [spec.name for spec in summary.outputs])
    except VddError:
        return
    assert summary.metadata is not None


@pytest.fixture(scope="module")
def moe_bytes(moe: MoeTwin) -> bytes:
    """The bytes of a good file."""
    return Path(moe.path).read_bytes()
