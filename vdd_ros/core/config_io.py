"""Frozen dataclasses to and from YAML and JSON, strictly.

Strict means: an unknown key is an error that names the nearest known one, a missing key without a
default is an error, a value of the wrong type is an error. The path to the culprit is always in
the message (``distill.yaml: unknown key 'student.n_expert'; did you mean 'n_experts'?``).

Only the field types this project uses are understood: ``bool int float str``, optional values,
``Literal``, tuples, dictionaries and nested dataclasses.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import reprlib
import tempfile
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from vdd_ros.core.errors import VddError, did_you_mean

T = TypeVar("T")

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 61, 61, 61


def to_dict(value: Any) -> Any:  # noqa: ANN401 - any JSON-able tree goes in and comes out
    """Turn a (nested) dataclass into plain JSON types; tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): to_dict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(v) for v in value]
    return value


def from_dict(cls: type[T], raw: Any, *, where: str = "config") -> T:  # noqa: ANN401
    """Build dataclass ``cls`` from plain data.

    Args:
        cls: a frozen dataclass.
        raw: a mapping, as parsed from YAML or JSON.
        where: the name of the source, put in front of every message.

    Raises:
        VddError: unknown or missing keys, or values of the wrong type: all of them.
    """
    if not isinstance(raw, dict):
        raise VddError(f"{where}: expected a mapping of {cls.__name__} keys, got {_show(raw)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    problems = [
        f"{where}: unknown key '{key}'{did_you_mean(str(key), fields)}"
        for key in raw
        if key not in fields
    ]
    kwargs = {}
    for name, field in fields.items():
        if name in raw:
            try:
                kwargs[name] = _convert(hints[name], raw[name], f"{where}.{name}")
            except VddError as error:
                problems.extend(error.args)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{where}: missing key '{name}' ({_type_name(hints[name])})")
    if problems:
        raise VddError(*problems)
    try:
        return cls(**kwargs)
    except VddError as error:
        raise VddError(*(f"{where}: {problem}" for problem in error.args)) from None


class _Loader(yaml.SafeLoader):
    """Plain data only, and every key once: YAML keeps the last of two without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a mapping that names a key twice."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands here twice; keep one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load_yaml(cls: type[T], path: str | Path) -> T:
    """Read ``path`` into dataclass ``cls``.

    Raises:
        VddError: the file is missing, is not YAML, or does not fit ``cls``.
    """
    return from_dict(cls, read_yaml(path, what=cls.__name__), where=str(path))


def read_yaml(path: str | Path, *, what: str) -> Any:  # noqa: ANN401
    """Read a YAML file as plain data, every key once; an empty file is an empty mapping.

    Args:
        path: the file.
        what: what it should hold, for the message.

    Raises:
        VddError: the file is missing or is not YAML.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise VddError(f"{path}: no such file; expected a {what} YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise VddError(f"{path}: cannot be read as text ({error})") from None
    try:
        raw = yaml.load(text, _Loader)
    # A date that does not exist and a file nested without end escape the parser as they are.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise VddError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    return {} if raw is None else raw


def dump_yaml(value: Any) -> str:  # noqa: ANN401
    """Return the YAML text of a dataclass, keys in declaration order."""
    return yaml.safe_dump(to_dict(value), sort_keys=False, allow_unicode=True)


def load_json(cls: type[T], text: str, *, where: str) -> T:
    """Parse JSON text into dataclass ``cls``; raises `VddError` like `from_dict`."""
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise VddError(f"{where}: not valid JSON ({error})") from None
    return from_dict(cls, raw, where=where)


def dump_json(value: Any, *, indent: int | None = None) -> str:  # noqa: ANN401
    """Return the JSON text of a dataclass or plain tree; NaN and infinities become ``null``."""
    return json.dumps(_finite(to_dict(value)), indent=indent, ensure_ascii=False)


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write a file so that no reader and no interruption ever sees half of it.

    The content goes to a temporary file in the same folder, is flushed to disk, then takes the
    name in one step. On any failure the old file stays as it was.

    Raises:
        VddError: the folder does not exist, is not writable, or the disk is full.
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise VddError(
            f"{path}: cannot write here ({error.strerror}); choose a writable folder"
        ) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a result is for everyone the umask allows.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise VddError(
            f"{path}: could not be written ({error.strerror}); nothing was changed; free some "
            "space or choose another folder"
        ) from None
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _finite(value: Any) -> Any:  # noqa: ANN401
    # JSON has no NaN: a strict reader at the other end would refuse the whole object.
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _convert(hint: Any, raw: Any, where: str) -> Any:  # noqa: ANN401
    """Check ``raw`` against a type hint and convert lists to tuples and dicts to dataclasses."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if raw is None and type(None) in args:
            return None
        (inner,) = [a for a in args if a is not type(None)]
        return _convert(inner, raw, where)
    if origin is typing.Literal:
        if raw in args:
            return raw
        known = [str(a) for a in args]
        raise VddError(f"{where}: got {_show(raw)}{did_you_mean(str(raw), known)}")
    if origin is tuple:
        if not isinstance(raw, (list, tuple)):
            raise VddError(f"{where}: expected a list, got {_show(raw)}")
        return _items(args[0], raw, where)
    if origin is dict:
        if not isinstance(raw, dict):
            raise VddError(f"{where}: expected a mapping, got {_show(raw)}")
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in raw.items()}
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), raw, where=where)
    return _scalar(hint, raw, where)


def _items(hint: Any, raw: Any, where: str) -> tuple[Any, ...]:  # noqa: ANN401
    items: list[Any] = []
    problems: list[Any] = []
    for i, value in enumerate(raw):
        try:
            items.append(_convert(hint, value, f"{where}[{i}]"))
        except VddError as error:
            problems.extend(error.args)
    if problems:
        raise VddError(*problems)
    return tuple(items)


def _scalar(hint: Any, raw: Any, where: str) -> Any:  # noqa: ANN401
    if hint is float and isinstance(raw, (int, float)) and not isinstance(raw, bool):
        try:
            number = float(raw)
        except OverflowError:  # a whole number of hundreds of digits
            number = math.inf
        # No range check downstream sees NaN, and JSON carries neither it nor infinity.
        if not math.isfinite(number):
            raise VddError(f"{where}: expected a finite number, got {number}")
        return number
    if hint is int and isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if hint in (bool, str) and isinstance(raw, hint):
        return raw
    if hint is Any:
        return raw
    raise VddError(f"{where}: expected {_type_name(hint)}, got {_show(raw)}{_hint(hint, raw)}")


def _hint(hint: Any, raw: Any) -> str:  # noqa: ANN401
    """For a number that YAML 1.1 reads as text: 1e-3 lacks the point."""
    if hint is not float or not isinstance(raw, str):
        return ""
    try:
        number = float(raw)
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    return f"; to YAML '{raw}' is text: write {yaml.safe_dump(number).split()[0]}"


def _type_name(hint: Any) -> str:  # noqa: ANN401
    return getattr(hint, "__name__", str(hint)).replace("typing.", "")


def _show(raw: Any) -> str:  # noqa: ANN401
    # A few lines of YAML can stand for a billion values: never write out all of them.
    text = _SHORT.repr(raw)
    return f"{type(raw).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
