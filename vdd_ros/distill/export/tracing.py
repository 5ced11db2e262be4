"""From a torch graph to an ONNX model that carries its weights and no trace of this machine."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch
from torch import nn

from vdd_ros.distill.export.parity import Arrays

# The newest whose operators every ONNX Runtime we support has; 25 expands attention to 445 nodes.
OPSET = 20


def to_onnx(graph: nn.Module, inputs: Arrays, output_names: list[str]) -> onnx.ModelProto:
    """Trace a graph with a free batch; weights inside, no paths of this machine in it."""
    batch = torch.export.Dim("B")
    with _quietly():
        program = torch.onnx.export(
            graph,
            tuple(torch.from_numpy(value) for value in inputs.values()),
            input_names=list(inputs),
            output_names=output_names,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None  # dynamo=True always returns one
    model: onnx.ModelProto = program.model_proto
    model.doc_string = ""
    model.graph.doc_string = ""
    # The tracer notes the source line of every node, with absolute paths.
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for entry in (*model.graph.value_info, *model.graph.initializer):
        entry.doc_string = ""
        del entry.metadata_props[:]
    return model


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's progress off standard output, which may carry a JSON report."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
