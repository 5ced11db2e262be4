"""What the functions that a pickle of numpy data names stand for: code of this file.

A pickle names the functions that make its arrays, dtypes and scalars (`numpy.core` as numpy 1
wrote them, `numpy._core` as numpy 2 does). Those names are compared with a table; nothing is ever
imported by a name from the stream, and arrays may not hold more bytes in all than the file does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

MAX_BYTES = 1 << 28
"""Largest pickle read: a thousand times an episode of D3IL; nothing in one can be larger."""

_RECONSTRUCT, _SCALAR, _FROMBUFFER, _NDARRAY, _DTYPE, _ENCODE, _BYTES = range(7)
_NAMES = {
    **{f"numpy.{core}.multiarray._reconstruct": _RECONSTRUCT for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _SCALAR for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _FROMBUFFER for core in ("core", "_core")},
    "numpy.ndarray": _NDARRAY,
    "numpy.dtype": _DTYPE,
    # How protocols 0 to 2, which know no bytes, write them.
    "_codecs.encode": _ENCODE,
    "__builtin__.bytes": _BYTES,
    "builtins.bytes": _BYTES,
}
# Plain numbers of fixed size; no objects ("O"), no records, no strings.
_NUMBER = re.compile(r"b1|[iu][1248]|f[248]|c8|c16")


class Named:
    """Stands for one of the known functions; never leaves the reader."""

    def __init__(self, which: int, name: str) -> None:
        self.which, self.name = which, name


class Arguments(tuple[Any, ...]):
    """A tuple with a known function in it: what `numpy` is called with, and no data."""


class Refused(Exception):  # noqa: N818 - a reason, turned into a VddError with the file's name
    """Why a pickle is not read."""


def known(name: str) -> Named:
    """Return what stands for the function or class of this name.

    Raises:
        Refused: it is none of those that make numpy data.
    """
    if name not in _NAMES:
        raise Refused(f"it asks for {name[:100]!r}, which is not plain data")
    return Named(_NAMES[name], name)


def bundle(items: list[Any]) -> tuple[Any, ...]:
    """The items as a tuple, marked where one of them is no data."""
    bare = not any(isinstance(item, Named | Arguments) for item in items)
    return tuple(items) if bare else Arguments(items)


class Maker:
    """Makes arrays, dtypes and scalars, of no more bytes than the file has."""

    def __init__(self, n_bytes: int) -> None:
        """Prepare for a pickle of so many bytes."""
        # Twice: protocol 2 writes the bytes of an array as a string, to be encoded first.
        self._budget = 2 * n_bytes

    def call(self, function: Named, args: tuple[Any, ...]) -> Any:  # noqa: ANN401
        """Return what a known function makes of its arguments."""
        maker = _MAKERS.get(function.which)
        if maker is None:
            raise Refused(f"it calls {function.name}")
        return maker(self, *args)

    def build(self, target: Any, state: object) -> None:  # noqa: ANN401 - checked here
        """Give an array its contents, or a dtype its byte order, as its own state says."""
        if issubclass(type(target), np.dtype) and isinstance(state, tuple):
            if len(state) < 5 or state[1] not in ("<", ">", "|") or state[2:5] != (None,) * 3:
                raise Refused("it holds a type that is not of numbers")
            target.__setstate__((3, state[1], None, None, None, -1, -1, 0))
        elif issubclass(type(target), np.ndarray) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, fortran, raw = state
            target.__setstate__(self._state(dtype, shape, _as_bytes(raw), fortran=bool(fortran)))
        else:
            raise Refused(f"it sets the state of a {type(target).__name__}")

    def reconstruct(self, kind: object, shape: object, code: object) -> np.ndarray[Any, Any]:
        """An empty array, to be filled by BUILD."""
        if not (isinstance(kind, Named) and kind.which == _NDARRAY):
            raise Refused("it makes an array of another class than numpy.ndarray")
        return np.ndarray((0,), np.int8)

    def dtype(self, code: object, align: object = False, copy: object = True) -> np.dtype[Any]:
        """A dtype of its own, for BUILD sets the byte order in place."""
        if not (isinstance(code, str) and _NUMBER.fullmatch(code)):
            raise Refused(f"it holds an array of type {code!r:.40}, not of numbers")
        return np.dtype(code, copy=True)

    def encode(self, text: object, encoding: object = "latin1") -> bytes:
        """Bytes, written as a string of code points up to 255."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise Refused("it encodes something else than bytes")
        self._spend(len(text))
        return text.encode("latin1")

    def empty_bytes(self) -> bytes:
        """No bytes at all."""
        return b""

    def scalar(self, dtype: object, raw: object) -> Any:  # noqa: ANN401
        """A numpy scalar, as the Python number of the same value."""
        return self._array(dtype, (), _as_bytes(raw)).item()

    def from_buffer(
        self, raw: object, dtype: object, shape: object, order: object
    ) -> np.ndarray[Any, Any]:
        """An array as protocol 5 writes it."""
        if order not in ("C", "F"):
            raise ValueError("an array of unknown order")
        return self._array(dtype, shape, _as_bytes(raw), fortran=order == "F")

    def _array(
        self, dtype: object, shape: object, raw: bytes, *, fortran: bool = False
    ) -> np.ndarray[Any, Any]:
        """An array of these bytes."""
        array: Any = np.ndarray((0,), np.int8)
        array.__setstate__(self._state(dtype, shape, raw, fortran=fortran))
        return array

    def _state(
        self, dtype: object, shape: object, raw: bytes, *, fortran: bool
    ) -> tuple[int, tuple[int, ...], np.dtype[Any], bool, bytes]:
        """What numpy restores an array from, once shape, type and bytes fit each other."""
        if not isinstance(dtype, np.dtype):
            raise ValueError("an array without a type")
        whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not isinstance(shape, tuple) or not whole or len(shape) > 32:
            raise ValueError("an array without a shape")
        if math.prod(shape) * dtype.itemsize != len(raw) or (max(shape, default=0) > MAX_BYTES):
            raise ValueError(f"an array of shape {shape} and type {dtype} in {len(raw)} bytes")
        self._spend(len(raw))
        return 1, shape, dtype, fortran, raw

    def _spend(self, n_bytes: int) -> None:
        """Account for bytes that are built, so that no few bytes unfold to many."""
        self._budget -= n_bytes
        if self._budget < 0:
            raise Refused("its arrays claim more bytes than the file has")


def _as_bytes(raw: object) -> bytes:
    """Raw bytes, which Python 2 wrote as a string."""
    if isinstance(raw, str):
        return raw.encode("latin1")
    if not isinstance(raw, bytes | bytearray):
        raise ValueError("an array without bytes")
    return bytes(raw)


_MAKERS: dict[int, Callable[..., Any]] = {
    _RECONSTRUCT: Maker.reconstruct,
    _SCALAR: Maker.scalar,
    _FROMBUFFER: Maker.from_buffer,
    _DTYPE: Maker.dtype,
    _ENCODE: Maker.encode,
    _BYTES: Maker.empty_bytes,
}
