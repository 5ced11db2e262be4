"""A reader of pickles that holds numbers, words and numpy arrays, and runs nothing.

The recordings of D3IL are pickles, and unpickling a file executes what the file says. This reader
walks the opcodes with `pickletools.genops`, which only parses, and builds what the standard
library's machine would build, but from a fixed set of things: None, booleans, numbers, str, bytes,
tuple, list, dict, and numpy arrays, dtypes and scalars. A pickle names the functions that make the
latter; those names (`numpy.core` as numpy 1 wrote them and `numpy._core` as numpy 2 does) are
compared with a table and stand for code of this file: nothing is ever imported by a name from the
stream. Every other name is refused with that name, even where it would never be called.

What a hostile file can still cost is bounded by its own size: lengths are checked against what is
there, arrays may not hold more bytes in all than the file does, and keys of dicts are plain.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vdd_ros.core.errors import VddError

MAX_BYTES = 1 << 28
"""Largest file read: a thousand times an episode of D3IL."""

_RECONSTRUCT, _SCALAR, _FROMBUFFER, _NDARRAY, _DTYPE, _ENCODE, _BYTES = range(7)
_GLOBALS = {
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
_PLAIN_KEYS = (str, bytes, int, float, type(None))


class _Named:
    """Stands for one of the known functions; never leaves the reader."""

    def __init__(self, which: int, name: str) -> None:
        self.which, self.name = which, name


class _Arguments(tuple[Any, ...]):
    """A tuple with a known function in it: what `numpy` is called with, and no data."""


class _Refused(Exception):  # noqa: N818 - a reason, turned into a VddError with the file's name
    """Why a pickle is not read."""


def read_plain_pickle(path: str | Path) -> Any:  # noqa: ANN401 - whatever plain data is in it
    """The plain data of one pickle file, protocols 0 to 5.

    Raises:
        VddError: no such file, too large, damaged, or holding anything but plain data; the message
            names the function or class that the file asks for.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise VddError(f"{path}: {size} bytes; expected a pickle of at most {MAX_BYTES}")
        return parse_plain_pickle(path.read_bytes(), name=str(path))
    except OSError as error:
        raise VddError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def parse_plain_pickle(data: bytes, *, name: str = "pickle") -> Any:  # noqa: ANN401
    """Like `read_plain_pickle`, from bytes; `name` is for the messages."""
    try:
        return _Machine(data).run()
    except _Refused as error:
        raise VddError(
            f"{name}: {error}; only pickles of numbers, strings, lists, dicts and numpy arrays "
            "are read, and nothing in them is executed"
        ) from None
    except (ValueError, TypeError, LookupError, OverflowError, EOFError) as error:
        raise VddError(f"{name}: not a readable pickle ({error}); download it anew") from None


class _Machine:
    """The stack machine of the format: a stack, the marks on it, and the memo."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        # Twice: protocol 2 writes the bytes of an array as a string, to be encoded first.
        self._budget = 2 * len(data)

    def run(self) -> Any:  # noqa: ANN401
        """Execute the opcodes up to STOP and return the one object left."""
        for opcode, arg, _ in pickletools.genops(self._data):
            if opcode.name == "STOP":
                if len(self._stack) != 1 or self._marks:
                    raise ValueError("it ends with objects left over")
                return self._plain(self._stack[0])
            if opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name]())
            elif _ARGUMENT.fullmatch(opcode.name):
                self._stack.append(arg)
            elif opcode.name in _ACTIONS:
                _ACTIONS[opcode.name](self, arg)
            elif opcode.name not in ("PROTO", "FRAME"):
                asked = f" of {str(arg).replace(' ', '.')}" if opcode.name == "INST" else ""
                raise _Refused(f"it asks for {opcode.name}{asked}, which is not plain data")
        raise ValueError("it ends without STOP")

    def _plain(self, value: Any) -> Any:  # noqa: ANN401
        """Refuse one of the known functions where data belongs."""
        if isinstance(value, _Named | _Arguments):
            raise _Refused("it holds a function itself")
        return value

    def _pop(self) -> Any:  # noqa: ANN401
        """Take the top of the stack, which must be above the last mark."""
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("it takes more from its stack than it put there")
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        at = self._marks.pop()
        items = [self._plain(item) for item in self._stack[at:]]
        del self._stack[at:]
        return items

    def _top(self, kind: type) -> Any:  # noqa: ANN401
        """The top of the stack, which must be of this kind."""
        top = self._stack[-1]
        if not isinstance(top, kind):
            raise _Refused(f"it adds items to a {type(top).__name__}")
        return top

    def _spend(self, n_bytes: int) -> None:
        """Account for bytes that are built, so that no few bytes unfold to many."""
        self._budget -= n_bytes
        if self._budget < 0:
            raise _Refused("its arrays claim more bytes than the file has")

    def mark(self, _: object) -> None:
        """MARK."""
        self._marks.append(len(self._stack))

    def pop(self, _: object) -> None:
        """POP: takes off an object or, if none is above it, the mark."""
        if self._marks and len(self._stack) == self._marks[-1]:
            self._marks.pop()
        else:
            self._pop()

    def pop_mark(self, _: object) -> None:
        """POP_MARK."""
        self._pop_mark()

    def dup(self, _: object) -> None:
        """DUP."""
        self._stack.append(self._stack[-1])

    def put(self, key: int | None) -> None:
        """PUT, BINPUT, LONG_BINPUT and MEMOIZE, whose key is the next one."""
        self._memo[len(self._memo) if key is None else int(key)] = self._stack[-1]

    def get(self, key: int) -> None:
        """GET, BINGET, LONG_BINGET."""
        self._stack.append(self._memo[int(key)])

    def tuple_of_mark(self, _: object) -> None:
        """TUPLE; its items may be known functions, for these are what `numpy` is called with."""
        at = self._marks.pop()
        self._stack[at:] = [_tuple(self._stack[at:])]

    def tuple_of(self, n: int) -> None:
        """TUPLE1, TUPLE2, TUPLE3."""
        items = [self._pop() for _ in range(n)]
        self._stack.append(_tuple(items[::-1]))

    def list_of_mark(self, _: object) -> None:
        """LIST."""
        self._stack.append(self._pop_mark())

    def append(self, _: object) -> None:
        """APPEND."""
        item = self._plain(self._pop())
        self._top(list).append(item)

    def appends(self, _: object) -> None:
        """APPENDS."""
        items = self._pop_mark()
        self._top(list).extend(items)

    def dict_of_mark(self, _: object) -> None:
        """DICT."""
        items = self._pop_mark()
        self._stack.append({})
        self._set(items)

    def set_item(self, _: object) -> None:
        """SETITEM."""
        value, key = self._plain(self._pop()), self._pop()
        self._set([key, value])

    def set_items(self, _: object) -> None:
        """SETITEMS."""
        self._set(self._pop_mark())

    def _set(self, items: list[Any]) -> None:
        """Put keys and values, one after the other, into the dict on top."""
        target, keys = self._top(dict), items[::2]
        if len(items) % 2:
            raise ValueError("a key without a value")
        # Hashing a deeply nested tuple overflows the interpreter's own stack.
        if not all(isinstance(key, _PLAIN_KEYS) for key in keys):
            raise _Refused("a dict has keys that are no strings or numbers")
        target.update(zip(keys, items[1::2], strict=True))

    def name(self, arg: str | None) -> None:
        """GLOBAL ("module name") and STACK_GLOBAL (module and name on the stack)."""
        if arg is None:
            attribute, module = self._pop(), self._pop()
            if not (isinstance(module, str) and isinstance(attribute, str)):
                raise ValueError("a name that is no string")
            name = f"{module}.{attribute}"
        else:
            name = arg.replace(" ", ".")
        if name not in _GLOBALS:
            raise _Refused(f"it asks for {name[:100]!r}, which is not plain data")
        self._stack.append(_Named(_GLOBALS[name], name))

    def reduce(self, _: object) -> None:
        """REDUCE: a known function and its arguments become what that function makes."""
        args, function = self._pop(), self._pop()
        if not isinstance(function, _Named) or not isinstance(args, tuple):
            raise _Refused("it calls what is no function")
        maker = _MAKERS.get(function.which)
        if maker is None:
            raise _Refused(f"it calls {function.name}")
        self._stack.append(maker(self, *args))

    def reconstruct(self, kind: object, shape: object, code: object) -> np.ndarray[Any, Any]:
        """An empty array, to be filled by BUILD."""
        if not (isinstance(kind, _Named) and kind.which == _NDARRAY):
            raise _Refused("it makes an array of another class than numpy.ndarray")
        return np.ndarray((0,), np.int8)

    def dtype(self, code: object, align: object = False, copy: object = True) -> np.dtype[Any]:
        """A dtype of its own, for BUILD sets the byte order in place."""
        if not (isinstance(code, str) and _NUMBER.fullmatch(code)):
            raise _Refused(f"it holds an array of type {code!r:.40}, not of numbers")
        return np.dtype(code, copy=True)

    def encode(self, text: object, encoding: object = "latin1") -> bytes:
        """Bytes, written as a string of code points up to 255."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _Refused("it encodes something else than bytes")
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

    def build(self, _: object) -> None:
        """BUILD: the contents of an array, or the byte order of a dtype."""
        state = self._pop()
        target: Any = self._stack[-1]
        if issubclass(type(target), np.dtype) and isinstance(state, tuple):
            if len(state) < 5 or state[1] not in ("<", ">", "|") or state[2:5] != (None,) * 3:
                raise _Refused("it holds a type that is not of numbers")
            target.__setstate__((3, state[1], None, None, None, -1, -1, 0))
        elif issubclass(type(target), np.ndarray) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, fortran, raw = state
            target.__setstate__(self._state(dtype, shape, _as_bytes(raw), fortran=bool(fortran)))
        else:
            raise _Refused(f"it sets the state of a {type(target).__name__}")


def _tuple(items: list[Any]) -> tuple[Any, ...]:
    """The items as a tuple, marked where one of them is no data."""
    bare = not any(isinstance(item, _Named | _Arguments) for item in items)
    return tuple(items) if bare else _Arguments(items)


def _as_bytes(raw: object) -> bytes:
    """Raw bytes, which Python 2 wrote as a string."""
    if isinstance(raw, str):
        return raw.encode("latin1")
    if not isinstance(raw, bytes | bytearray):
        raise ValueError("an array without bytes")
    return bytes(raw)


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
}
_ARGUMENT = re.compile(
    r"(BIN)?INT[12]?|LONG[14]?|(BIN)?FLOAT|(SHORT_)?(BIN)?(STRING|UNICODE8?|BYTES8?)|BYTEARRAY8"
)
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.dup,
    **{name: _Machine.put for name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")},
    **{name: _Machine.get for name in ("GET", "BINGET", "LONG_BINGET")},
    "TUPLE": _Machine.tuple_of_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_of_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "DICT": _Machine.dict_of_mark,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
_MAKERS: dict[int, Callable[..., Any]] = {
    _RECONSTRUCT: _Machine.reconstruct,
    _SCALAR: _Machine.scalar,
    _FROMBUFFER: _Machine.from_buffer,
    _DTYPE: _Machine.dtype,
    _ENCODE: _Machine.encode,
    _BYTES: _Machine.empty_bytes,
}
