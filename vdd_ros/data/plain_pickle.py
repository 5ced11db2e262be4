"""A reader of pickles that holds numbers, words and numpy arrays, and runs nothing.

The recordings of D3IL are pickles, and unpickling a file executes what the file says. This reader
walks the opcodes with `pickletools.genops`, which only parses, and builds what the standard
library's machine would build, but from a fixed set of things: None, booleans, numbers, str, bytes,
tuple, list, dict, and numpy arrays, dtypes and scalars. A pickle names the functions that make the
latter; those names stand for code of `pickled_numpy.py`, and nothing is ever imported by a name
from the stream. Every other name is refused with that name, even where it would never be called.

What a hostile file can still cost is bounded by its own size: lengths are checked against what is
there, arrays may not hold more bytes in all than the file does, and keys of dicts are plain.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vdd_ros.core.errors import VddError
from vdd_ros.data.pickled_numpy import MAX_BYTES, Arguments, Maker, Named, Refused, bundle, known

_PLAIN_KEYS = (str, bytes, int, float, type(None))


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
    except Refused as error:
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
        self._maker = Maker(len(data))

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
                raise Refused(f"it asks for {opcode.name}{asked}, which is not plain data")
        raise ValueError("it ends without STOP")

    def _plain(self, value: Any) -> Any:  # noqa: ANN401
        """Refuse one of the known functions where data belongs."""
        if isinstance(value, Named | Arguments):
            raise Refused("it holds a function itself")
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
            raise Refused(f"it adds items to a {type(top).__name__}")
        return top

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
        self._stack[at:] = [bundle(self._stack[at:])]

    def tuple_of(self, n: int) -> None:
        """TUPLE1, TUPLE2, TUPLE3."""
        items = [self._pop() for _ in range(n)]
        self._stack.append(bundle(items[::-1]))

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
            raise Refused("a dict has keys that are no strings or numbers")
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
        self._stack.append(known(name))

    def reduce(self, _: object) -> None:
        """REDUCE: a known function and its arguments become what that function makes."""
        args, function = self._pop(), self._pop()
        if not isinstance(function, Named) or not isinstance(args, tuple):
            raise Refused("it calls what is no function")
        self._stack.append(self._maker.call(function, args))

    def build(self, _: object) -> None:
        """BUILD: the contents of an array, or the byte order of a dtype."""
        state = self._pop()
        self._maker.build(self._stack[-1], state)


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
