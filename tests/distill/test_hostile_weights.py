"""Weights that somebody else wrote: read, or refused with a reason; never a surprise."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.distill.loading import load_teacher
from vdd_ros.distill.pipeline import train_teacher
from vdd_ros.distill.teachers.edm import TeacherSettings
from vdd_ros.distill.training import checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small teacher."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, 2)).astype(np.float32)
    demos = Demonstrations(rows, rows[::-1].copy(), np.array([30, 60]), None, "made up")
    small = TeacherSettings(width=16, depth=2, n_iters=20, batch_size=16)
    return train_teacher(demos, small, tmp_path_factory.mktemp("run") / "run").folder


@pytest.fixture(scope="module")
def whole(run: Path) -> bytes:
    return (run / checkpoint.WEIGHTS).read_bytes()


@pytest.fixture
def weights(run: Path, whole: bytes) -> Iterator[Path]:
    """The file to damage; whole again afterwards."""
    path = run / checkpoint.WEIGHTS
    yield path
    path.unlink(missing_ok=True)
    path.write_bytes(whole)


def taken_apart(whole: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", whole[:8])
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def put_together(header: str, data: bytes) -> bytes:
    return struct.pack("<Q", len(header.encode())) + header.encode() + data


def refused(run: Path) -> str:
    with pytest.raises(VddError) as caught:
        load_teacher(run)
    text = str(caught.value)
    assert str(run) in text
    return text


def test_a_header_of_any_length_is_refused(run: Path, whole: bytes, weights: Path) -> None:
    """Also one that promises more than memory holds: nothing is made room for."""

    @settings(max_examples=60, deadline=None)
    @example(2**64 - 1)
    @example(2**63)
    @example(100_000_000)
    @example(0)
    @given(length=st.integers(0, 2**64 - 1))
    def check(length: int) -> None:
        if length != struct.unpack("<Q", whole[:8])[0]:
            weights.write_bytes(struct.pack("<Q", length) + whole[8:])
            refused(run)

    check()


def test_a_file_cut_anywhere_is_refused(run: Path, whole: bytes, weights: Path) -> None:
    """In the length, in the header, between two tensors or within one."""

    @settings(max_examples=60, deadline=None)
    @given(cut=st.integers(0, len(whole) - 1))
    def check(cut: int) -> None:
        weights.write_bytes(whole[:cut])
        refused(run)

    check()


def test_a_changed_byte_is_read_or_refused(run: Path, whole: bytes, weights: Path) -> None:
    """What is read holds finite numbers of the model's own shapes and types."""

    @settings(max_examples=150, deadline=None)
    @given(at=st.integers(0, min(len(whole) - 1, 4000)), value=st.integers(0, 255))
    def check(at: int, value: int) -> None:
        damaged = bytearray(whole)
        damaged[at] = value
        weights.write_bytes(damaged)
        try:
            teacher = load_teacher(run)
        except VddError:
            return
        assert all(t.isfinite().all() for t in teacher.state_dict().values())

    check()


def test_offsets_shapes_and_types_that_contradict_each_other_are_refused(
    run: Path, whole: bytes, weights: Path
) -> None:
    """Beyond the file, backwards, onto one another, negative, or of another size."""
    header, data = taken_apart(whole)
    names = [name for name in header if name != "__metadata__"]
    for change in (
        {"data_offsets": [0, 2**62]},
        {"data_offsets": [len(data), len(data) + 64]},
        {"data_offsets": [64, 0]},
        {"data_offsets": [-64, 0]},
        {"data_offsets": header[names[-1]]["data_offsets"]},
        {"shape": [2**62, 2**62]},
        {"shape": [-1]},
        {"dtype": "F1024"},
        {"dtype": "BOOL"},
    ):
        entry = {**header[names[0]], **change}
        if entry == header[names[0]]:
            continue
        weights.write_bytes(put_together(json.dumps({**header, names[0]: entry}), data))
        refused(run)


def test_a_tensor_that_is_there_twice_is_refused_or_no_other(
    run: Path, whole: bytes, weights: Path
) -> None:
    """Two entries of one name must not let two readers see two networks."""
    header, data = taken_apart(whole)
    name = next(n for n in header if n != "__metadata__")
    text = json.dumps(header)
    again = {**header[name], "data_offsets": [len(data), len(data) + 4], "shape": [1]}
    doubled = f"{text[:-1]}, {json.dumps(name)}: {json.dumps(again)}}}"
    weights.write_bytes(put_together(doubled, data + b"\0\0\0\0"))
    refused(run)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(run: Path, weights: Path, value: float) -> None:
    """A single one, in any tensor; the tensor is named."""
    whole_tensors, _ = checkpoint.read_tensors(weights)
    for name, tensor in whole_tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        damaged = tensor.clone()
        damaged.view(-1)[-1] = value
        checkpoint.write_tensors(weights, {**whole_tensors, name: damaged})
        assert f"'{name}' holds values that are not finite" in refused(run)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32])
def test_weights_of_another_type_are_refused(run: Path, weights: Path, dtype: torch.dtype) -> None:
    """Converted in silence they would be another network."""
    tensors, _ = checkpoint.read_tensors(weights)
    name = next(n for n, t in tensors.items() if t.dtype == torch.float32)
    checkpoint.write_tensors(weights, {**tensors, name: tensors[name].to(dtype)})
    assert f"'{name}' is {dtype}, expected torch.float32" in refused(run)


def test_names_are_names_and_never_paths(run: Path, weights: Path) -> None:
    """A tensor called like a file elsewhere is one the model does not have; nothing is written."""
    tensors, _ = checkpoint.read_tensors(weights)
    for name in ("../../outside", "/tmp/outside", "a\0b", ""):
        before = set(run.parent.rglob("*"))
        weights.write_bytes(safetensors.torch.save({**tensors, name: torch.zeros(1)}))
        refused(run)
        assert set(run.parent.rglob("*")) == before


def test_links_lead_to_files_or_to_a_refusal(
    run: Path, whole: bytes, weights: Path, tmp_path: Path
) -> None:
    """To the weights: read; to nowhere, in a circle, to a folder, a pipe or a device: refused."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(whole)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    weights.unlink()
    weights.symlink_to(elsewhere)
    assert load_teacher(run) is not None
    for target in (tmp_path / "nowhere", weights, tmp_path, pipe, Path("/dev/zero")):
        weights.unlink()
        weights.symlink_to(target)
        refused(run)
