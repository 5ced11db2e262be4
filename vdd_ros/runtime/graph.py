"""ONNX files as bytes: looked through before they are trusted, and cut to the outputs in use.

Three jobs need the inside of a model, and none needs the onnx package on the robot:

- `scan` reads what the file says about itself and what its graph would do, before ONNX Runtime
  sees one byte of it. A file that points to other files, or that holds loops (whose time has no
  bound), is refused here.
- `prune` keeps only what some outputs depend on. ONNX Runtime computes EVERY output's path, no
  matter which outputs are asked for, also with ``RunOptions.only_execute_path_to_fetches``
  (measured with 1.32: the denoiser of a file that also holds 4 and 16 unrolled steps takes
  204 us as stored and 11 us pruned). So one file can hold a denoiser, its unrolled samplers and
  a student's covariance, and each path costs what it alone needs.
- `with_metadata` changes what a file says about itself.

The field numbers are those of onnx.proto (ONNX IR version 3 and later); `wire.py` reads the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from vdd_ros.core.errors import VddError
from vdd_ros.runtime.wire import (
    BYTES,
    VARINT,
    MalformedError,
    as_integer,
    as_message,
    as_text,
    fields,
    tag_bytes,
    text_field,
    varint_bytes,
)

FLOAT32 = 1
"""``TensorProto.FLOAT``."""

_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL
_MAX_DEPTH = 16  # subgraphs in subgraphs; real models have one or two levels
_UNBOUNDED = frozenset({"Loop", "Scan"})


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of a graph input or output."""

    name: str
    """Tensor name."""
    elem_type: int
    """``TensorProto.DataType``; 1 is float32."""
    shape: tuple[int | str, ...]
    """Sizes; a name (possibly empty) where the size is free."""


@dataclass(frozen=True)
class Summary:
    """What a model file says about itself."""

    inputs: tuple[TensorSpec, ...]
    """Graph inputs that must be fed (initializers excluded)."""
    outputs: tuple[TensorSpec, ...]
    """Graph outputs."""
    metadata: dict[str, str]
    """``metadata_props``."""


@dataclass
class _Node:
    raw: bytes
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)


def scan(model: bytes) -> Summary:
    """Read a model's interface and metadata, and refuse what must not reach ONNX Runtime.

    Raises:
        MalformedError: not an ONNX model, or one that ends too early.
        VddError: data kept in other files, or a loop.
    """
    metadata: dict[str, str] = {}
    graphs: list[memoryview] = []
    ir_version = 0
    for number, wire, value, _ in fields(memoryview(model)):
        if number == 1 and wire == VARINT:
            ir_version = as_integer(value)
        elif number == 7:
            graphs.append(as_message(value))
        elif number == 14:
            key, text = _key_value(as_message(value))
            if key in metadata:
                raise VddError(f"metadata '{key}' is there twice; expected once")
            metadata[key] = text
        elif number == 25:
            for inner, _, node, _ in fields(as_message(value)):
                if inner == 7:
                    _check_node(as_message(node), depth=1)
    if len(graphs) != 1 or ir_version < 3:
        raise MalformedError("not an ONNX model: expected an IR version and one graph")
    return _scan_graph(graphs[0], metadata)


def prune(model: bytes, outputs: Iterable[str]) -> bytes:
    """Return the model cut down to ``outputs`` and everything they depend on.

    Nodes keep their order, so a sorted graph stays sorted. Shapes recorded for inner tensors are
    dropped; ONNX Runtime infers them again.

    Raises:
        MalformedError: not an ONNX model.
        VddError: an output that the graph does not have.
    """
    parts: list[bytes] = []
    wanted = list(outputs)
    for number, wire, value, raw in fields(memoryview(model)):
        if number == 7 and wire == BYTES:
            graph = _prune_graph(as_message(value), wanted)
            parts.append(tag_bytes(7, BYTES) + varint_bytes(len(graph)) + graph)
        else:
            parts.append(bytes(raw))
    return b"".join(parts)


def with_metadata(model: bytes, key: str, text: str) -> bytes:
    """Return the model with one entry of its metadata replaced; all else stays byte for byte.

    Raises:
        MalformedError: not an ONNX model.
    """
    parts = [
        bytes(raw)
        for number, wire, value, raw in fields(memoryview(model))
        if not (number == 14 and wire == BYTES and _key_value(as_message(value))[0] == key)
    ]
    entry = b"".join(
        tag_bytes(number, BYTES) + varint_bytes(len(content)) + content
        for number, content in ((1, key.encode()), (2, text.encode()))
    )
    return b"".join([*parts, tag_bytes(14, BYTES), varint_bytes(len(entry)), entry])


def _scan_graph(graph: memoryview, metadata: dict[str, str]) -> Summary:
    _check_graph(graph, depth=0)
    stored: set[str] = set()
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for number, _, value, _ in fields(graph):
        if number == 5:
            stored.add(text_field(as_message(value), 8))
        elif number == 11:
            inputs.append(_tensor_spec(as_message(value)))
        elif number == 12:
            outputs.append(_tensor_spec(as_message(value)))
    fed = tuple(spec for spec in inputs if spec.name not in stored)
    return Summary(fed, tuple(outputs), metadata)


def _check_graph(graph: memoryview, *, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise VddError(f"graphs nested more than {_MAX_DEPTH} deep; expected a plain policy")
    made: set[str] = set()
    for number, _, value, _ in fields(graph):
        if number == 1:
            node = as_message(value)
            _check_node(node, depth=depth)
            for part, _, name, _ in fields(node):
                if part == 2:
                    _check_once(as_text(name), made)
        elif number == 5:
            _check_tensor(as_message(value))
            _check_once(text_field(as_message(value), 8), made)
        elif number == 15:
            _check_sparse(as_message(value))


def _check_once(name: str, made: set[str]) -> None:
    # An omitted optional output has the empty name: no tensor.
    if name and name in made:
        raise VddError(
            f"tensor '{name}' is there twice; expected once: which one counts would differ from "
            "reader to reader"
        )
    made.add(name)


def _check_node(node: memoryview, *, depth: int) -> None:
    for number, _, value, _ in fields(node):
        if number == 4 and as_text(value) in _UNBOUNDED:
            raise VddError(
                f"the graph holds a {as_text(value)}, whose running time has no bound; expected a "
                "network of constant time: export it unrolled"
            )
        if number == 5:
            _check_attribute(as_message(value), depth=depth)


def _check_attribute(attribute: memoryview, *, depth: int) -> None:
    for number, _, value, _ in fields(attribute):
        if number in (5, 10):
            _check_tensor(as_message(value))
        elif number in (6, 11):
            _check_graph(as_message(value), depth=depth + 1)
        elif number in (22, 23):
            _check_sparse(as_message(value))


def _check_sparse(sparse: memoryview) -> None:
    for number, _, value, _ in fields(sparse):
        if number in (1, 2):
            _check_tensor(as_message(value))


def _check_tensor(tensor: memoryview) -> None:
    for number, wire, value, _ in fields(tensor):
        if number == 13 or (number == 14 and wire == VARINT and value == _EXTERNAL):
            raise VddError(
                "the model keeps data in other files, which are never read; expected one "
                "self-contained file: export it with external_data=False"
            )


def _prune_graph(graph: memoryview, wanted: list[str]) -> bytes:
    nodes: list[_Node] = []
    specs: dict[str, bytes] = {}
    for number, _, value, raw in fields(graph):
        if number == 1:
            nodes.append(_read_node(as_message(value), bytes(raw)))
        elif number == 12:
            specs[text_field(as_message(value), 1)] = bytes(raw)
    missing = [name for name in wanted if name not in specs]
    if missing:
        raise VddError(f"the graph has no output '{missing[0]}'; it has: {', '.join(specs)}")
    needed = set(wanted)
    kept: list[bytes] = []
    for node in reversed(nodes):
        if node.writes & needed:
            needed |= node.reads
            kept.append(node.raw)
    parts = kept[::-1]
    for number, _, value, raw in fields(graph):
        name_field = {5: 8, 11: 1}.get(number)
        if name_field is None:
            # 2 is the graph's name, 15 sparse weights (whose names sit a level deeper).
            keep = number in (2, 15)
        else:
            keep = text_field(as_message(value), name_field) in needed
        if keep:
            parts.append(bytes(raw))
    return b"".join(parts + [specs[name] for name in wanted])


def _read_node(node: memoryview, raw: bytes) -> _Node:
    result = _Node(raw)
    for number, _, value, _ in fields(node):
        if number == 1:
            result.reads.add(as_text(value))
        elif number == 2:
            result.writes.add(as_text(value))
        elif number == 5:
            result.reads |= _captured(as_message(value), depth=0)
    # An omitted optional input or output has the empty name: no tensor.
    result.reads.discard("")
    result.writes.discard("")
    return result


def _captured(attribute: memoryview, *, depth: int) -> set[str]:
    """Return every name read inside an attribute's subgraphs: a superset of what they capture."""
    names: set[str] = set()
    if depth > _MAX_DEPTH:
        return names
    for number, _, value, _ in fields(attribute):
        if number not in (6, 11):
            continue
        for part, _, node, _ in fields(as_message(value)):
            if part == 12:
                # A branch may hand an outer tensor straight on as its output.
                names.add(text_field(as_message(node), 1))
            elif part == 1:
                for item, _, content, _ in fields(as_message(node)):
                    if item == 1:
                        names.add(as_text(content))
                    elif item == 5:
                        names |= _captured(as_message(content), depth=depth + 1)
    return names


def _tensor_spec(value_info: memoryview) -> TensorSpec:
    name, elem_type = "", 0
    shape: list[int | str] = []
    for number, _, value, _ in fields(value_info):
        if number == 1:
            name = as_text(value)
        elif number == 2:
            for kind, _, tensor, _ in fields(as_message(value)):
                if kind != 1:
                    continue
                for part, _, content, _ in fields(as_message(tensor)):
                    if part == 1:
                        elem_type = as_integer(content)
                    elif part == 2:
                        shape = [
                            _dimension(as_message(d))
                            for n, _, d, _ in fields(as_message(content))
                            if n == 1
                        ]
    return TensorSpec(name, elem_type, tuple(shape))


def _dimension(dimension: memoryview) -> int | str:
    size: int | str = ""
    for number, _, value, _ in fields(dimension):
        if number == 1:
            size = as_integer(value)
        elif number == 2:
            size = as_text(value)
    return size


def _key_value(entry: memoryview) -> tuple[str, str]:
    return text_field(entry, 1), text_field(entry, 2)
