"""Pickles are read without being executed: real ones come back, hostile ones are refused."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vdd_ros.core.errors import VddError
from vdd_ros.data.plain_pickle import parse_plain_pickle, read_plain_pickle

TABLE = np.arange(12.0).reshape(4, 3)
ARRAYS: dict[str, np.ndarray] = {
    "float64": TABLE,
    "float32": TABLE.astype(np.float32),
    "big endian": TABLE.astype(">f4"),
    "fortran": np.asfortranarray(TABLE),
    "strided": TABLE[::2, ::-1],
    "integers": np.arange(5, dtype=np.int16),
    "bools": np.array([True, False]),
    "empty": np.zeros((0, 7)),
    "no axis": np.array(3.5),
    "complex": np.array([1 + 2j]),
}


def same(a: Any, b: Any) -> bool:
    """Equal, arrays in shape and kind as well."""
    if isinstance(a, np.ndarray):
        fits = isinstance(b, np.ndarray) and a.shape == b.shape
        return fits and a.dtype.kind == b.dtype.kind and bool(np.array_equal(a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_what_pickle_wrote_comes_back(protocol: int, core: str) -> None:
    """Every protocol, module paths of numpy 1 and 2, and arrays of all plain kinds."""
    episode = {
        "robot": {"c_pos": TABLE, "again": TABLE, "n": 2**70, "name": "é", "raw": b"\xff\x00"},
        "list": [None, True, False, 1.5, -3, (), ("a", ("b",)), [], {}],
        **ARRAYS,
    }
    written = pickle.dumps(episode, protocol)
    ours = b"numpy._core" if b"numpy._core" in written else b"numpy.core"
    if protocol < 4:
        written = written.replace(ours, core.encode())
    else:  # names are counted strings, and frames count bytes
        for module in ("multiarray", "numeric"):
            old, new = ours + b"." + module.encode(), f"{core}.{module}".encode()
            written = written.replace(bytes([len(old)]) + old, bytes([len(new)]) + new)
    assert same(episode, parse_plain_pickle(written))


@pytest.mark.parametrize("protocol", range(6))
def test_shared_and_scalar_values_come_back(protocol: int) -> None:
    """One array twice stays one array; numpy's scalars become Python's numbers."""
    value = {"a": TABLE, "b": TABLE, "s": [np.float32(0.5), np.int64(-2), np.bool_(True)]}
    read = parse_plain_pickle(pickle.dumps(value, protocol))
    assert read["a"] is read["b"]
    assert read["s"] == [0.5, -2, True]


def test_reading_leaves_numpys_own_types_alone() -> None:
    """BUILD sets a byte order in place: it must not be that of numpy's float32."""
    parse_plain_pickle(pickle.dumps(TABLE.astype(">f4"), 2))
    assert np.dtype("f4").isnative
    assert np.array([1.0], "f4").tobytes() == struct.pack("=f", 1.0)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=plain, protocol=st.integers(0, 5))
def test_any_plain_value_comes_back(value: Any, protocol: int) -> None:
    """Against the standard library."""
    assert same(value, parse_plain_pickle(pickle.dumps(value, protocol)))


class Call:
    """Pickles into a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.args


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Call(os.system, "touch executed"), r"(posix|nt|os)\.system"),
        (Call(eval, "open('executed', 'w')"), r"(builtins|__builtin__)\.eval"),
        ({"deep": [1, (Call(exec, "x = 1"),)]}, r"(builtins|__builtin__)\.exec"),
        (Call(np.load, "executed.npy"), "load"),
        (OrderedDict(a=1), r"collections\.OrderedDict"),
        (Path("x"), "pathlib"),
        ({1, 2}, "EMPTY_SET|set"),
    ],
)
def test_every_other_name_is_refused_with_that_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: Any,
    named: str,
    protocol: int,
) -> None:
    """By any protocol, at any depth, and nothing has happened."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VddError, match=named):
        parse_plain_pickle(pickle.dumps(value, protocol))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch executed'\ntR.",
        b"(S'touch executed'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch executed'\no.",
        b"cos\nsystem\n.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x01x\x85R.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"Psomething\n.",
        b"\x82\x01.",
        b"\x80\x05\x97.",
    ],
    ids=["reduce", "inst", "obj", "unused", "stack", "newobj", "persistent", "ext", "buffer"],
)
def test_no_opcode_reaches_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: bytes
) -> None:
    """Every opcode that could import, build or fetch something, written by hand."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VddError, match=r"only pickles of numbers|not a readable pickle"):
        parse_plain_pickle(program)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"cnumpy\ndtype\n.", "holds a function itself"),
        (b"cnumpy\ndtype\n\x85.", "holds a function itself"),
        (
            b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntC\x01btR.",
            "an array of another class",
        ),
        (b"}I1\na.", "adds items to a dict"),
        (b"]NNs.", "adds items to a list"),
        (b"]I1\n(a.", "takes more from its stack than it put there"),
    ],
    ids=["function", "function in a tuple", "class", "dict", "list", "below a mark"],
)
def test_known_names_and_containers_are_used_as_what_they_are(
    program: bytes, message: str
) -> None:
    """A known function never comes out as data, and nothing is done to the wrong container."""
    with pytest.raises(VddError, match=message):
        parse_plain_pickle(program)


def reconstructed(state: bytes) -> bytes:
    """A pickled array with this state tuple."""
    return (
        b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR(I1\n"
        + state
        + b"tb."
    )


DTYPE = b"cnumpy\ndtype\n(V%s\nI00\nI01\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (b"(I4\nt" + DTYPE % b"f8" + b"I00\nC\x08" + b"\0" * 8, r"shape \(4,\).*in 8 bytes"),
        (b"(I1\nt" + DTYPE % b"O8" + b"I00\n]", "type 'O8', not of numbers"),
        (b"(I1\nt" + DTYPE % b"V8" + b"I00\nC\x08" + b"\0" * 8, "type 'V8'"),
        (b"(I-1\nt" + DTYPE % b"f8" + b"I00\nC\x08" + b"\0" * 8, "without a shape"),
        (b"(L4611686018427387904L\nI4\nt" + DTYPE % b"f8" + b"I00\nC\0", "in 0 bytes"),
        (b"(I1\nt" + b"N" + b"I00\nC\x08" + b"\0" * 8, "without a type"),
        (b"(I1\nt" + DTYPE % b"f8" + b"I00\n]", "without bytes"),
    ],
)
def test_arrays_must_fit_their_bytes(state: bytes, message: str) -> None:
    """Sizes that lie, objects, records, and what is no array at all."""
    with pytest.raises(VddError, match=message):
        parse_plain_pickle(reconstructed(state))


def test_the_hand_written_array_is_otherwise_right() -> None:
    """The programs above fail for their one fault only."""
    raw = struct.pack("<d", 2.5)
    program = reconstructed(b"(I1\nt" + DTYPE % b"f8" + b"I00\nC\x08" + raw)
    assert parse_plain_pickle(program).tolist() == [2.5]


def test_few_bytes_cannot_unfold_to_many() -> None:
    """One buffer, made into an array again and again: refused once it exceeds the file."""
    raw = b"\0" * 4000
    build = b"(I1\n(I4000\nt" + DTYPE % b"i1" + b"I00\nh\x01tb"
    one = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR" + build
    program = b"(B" + struct.pack("<I", 4000) + raw + b"q\x01" + one * 20 + b"l."
    with pytest.raises(VddError, match="claim more bytes than the file has"):
        parse_plain_pickle(program)


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc",
        b"B" + struct.pack("<I", 2**31) + b"abc",
        b"\x8d" + struct.pack("<Q", 2**63 - 1),
        b"\x8b" + struct.pack("<i", 2**31 - 1),
        b"",
        b".",
        b"I1\nI2\n.",
        b"(I1\n.",
        b"0.",
        b"t.",
        b"h\x05.",
        b"\x80\x63I1\n.extra",
        b"N(I1\n0000.",
        b"]N\x86s.",
        b"}(NN\x86K\x01u.",
        b"\x80\x05\x95" + struct.pack("<Q", 2**60),
        b"\xff\xfe",
    ],
)
def test_damaged_streams_are_named(program: bytes) -> None:
    """Lengths beyond the end, stacks that run dry, tuples as keys, no pickle at all."""
    if program == b"\x80\x63I1\n.extra":
        assert parse_plain_pickle(program) == 1  # as the standard library: nothing after STOP
        return
    with pytest.raises(VddError, match=r"episode\.pkl: "):
        parse_plain_pickle(program, name="episode.pkl")


def test_a_truncated_pickle_is_refused_wherever_it_is_cut() -> None:
    """No prefix reads as something else."""
    written = pickle.dumps({"robot": {"c_pos": TABLE}}, 4)
    for end in range(len(written)):
        with pytest.raises(VddError):
            parse_plain_pickle(written[:end])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pickletools, for odd escapes
def test_flipped_bytes_end_in_data_or_in_a_named_error(data: st.DataObject) -> None:
    """Never in another exception."""
    written = bytearray(
        pickle.dumps({"robot": {"c_pos": TABLE, "n": (1, "x")}}, data.draw(st.integers(0, 5)))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        written[data.draw(st.integers(0, len(written) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(VddError):
        parse_plain_pickle(bytes(written))


def test_deeply_nested_data_does_not_overflow_the_stack() -> None:
    """A hundred thousand lists in each other, and tuples as far."""
    depth = 100_000
    for program in (b"]" * depth + b"a" * (depth - 1) + b".", b")" + b"\x85" * depth + b"."):
        parse_plain_pickle(program)


def test_a_file_that_is_too_large_is_not_even_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(list(range(100))))
    monkeypatch.setattr("vdd_ros.data.plain_pickle.MAX_BYTES", 100)
    with pytest.raises(VddError, match=r"a\.pkl: \d+ bytes; expected a pickle of at most 100"):
        read_plain_pickle(tmp_path / "a.pkl")


def test_files_are_named(tmp_path: Path) -> None:
    """Missing, and holding something else."""
    with pytest.raises(VddError, match=r"nothing\.pkl: cannot be read"):
        read_plain_pickle(tmp_path / "nothing.pkl")
    (tmp_path / "a.pkl").write_bytes(io.BytesIO(b"hello").getvalue())
    with pytest.raises(VddError, match=r"a\.pkl: "):
        read_plain_pickle(tmp_path / "a.pkl")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(["env_000_00.pkl"]))
    assert read_plain_pickle(tmp_path / "b.pkl") == ["env_000_00.pkl"]
