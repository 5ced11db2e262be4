"""Recordings of ROS topics as files: MCAP and sqlite3 bags, read and written without ROS.

Message definitions inside a bag are not used: the types a contract may name are known here, and a
definition from a stranger's file would be turned into code by the library.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from vdd_ros.codecs.instances import DataclassMessages
from vdd_ros.core.errors import VddError
from vdd_ros.data.bag_guard import check_file, unreadable

Storage = Literal["mcap", "sqlite3"]
"""How a bag is kept on disk."""

_SUFFIXES = (".mcap", ".db3")


@dataclass(frozen=True)
class BagTopic:
    """One topic of a recording."""

    name: str
    """Absolute name."""
    type: str
    """Message type."""
    count: int
    """Number of messages, as the file says."""


@dataclass(frozen=True)
class Recorded:
    """One message of a recording."""

    topic: str
    """Absolute name."""
    type: str
    """Message type."""
    log_ns: int
    """When it was recorded."""
    raw: bytes
    """Serialized, as it stands in the bag."""
    message: Any
    """The message; None where the bytes are no message of this type."""


@lru_cache(maxsize=1)
def message_types() -> Any:  # noqa: ANN401 - rosbags.typesys.Typestore
    """Return the message types of a ROS 2 distribution.

    Raises:
        VddError: the library for bags is absent.
    """
    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise VddError(
            f"bags are read and written by the Python package rosbags, which is missing ({error});"
            " install it with the extra [bags]: pip install 'vdd_ros[bags]'"
        ) from None
    return get_typestore(Stores.ROS2_JAZZY)


def empty_messages() -> DataclassMessages:
    """Return what makes empty messages, for writers of a contract's topics."""
    return DataclassMessages(message_types().types)


class Bag:
    """One recording: an .mcap or .db3 file, or the folder that rosbag2 makes of them."""

    def __init__(self, path: str | Path) -> None:
        """Check the files and read what topics there are.

        Raises:
            VddError: no such bag, or one that cannot be read; file and reason are named.
        """
        message_types()
        self.path = Path(path)
        self.files = _files_of(self.path)
        self.topics: dict[str, BagTopic] = {}
        """What was recorded, by absolute name."""
        for file in self.files:
            check_file(file)
            with _Opened(file) as reader:
                for entry in reader.connections:
                    self._add(file, str(entry.topic), str(entry.msgtype), int(entry.msgcount or 0))

    def messages(self, wanted: Mapping[str, str]) -> Iterator[Recorded]:
        """Yield the messages of these topics (name to type) in the order they were recorded.

        Raises:
            VddError: the bag is damaged.
        """
        types = message_types()
        for file in self.files:
            with _Opened(file) as reader:
                chosen = [c for c in reader.connections if wanted.get(c.topic) == c.msgtype]
                if not chosen:
                    continue
                for entry, log_ns, raw in _guarded(file, reader.messages(chosen)):
                    message = None
                    # Whatever the bytes are: to the reader they are no message of this type.
                    with suppress(Exception):
                        message = _decoded(types, bytes(raw), entry.msgtype)
                    yield Recorded(entry.topic, entry.msgtype, int(log_ns), bytes(raw), message)

    def _add(self, file: Path, name: str, kind: str, count: int) -> None:
        known = self.topics.get(name)
        if known is not None and known.type != kind:
            raise unreadable(file, f"topic '{name}' is recorded as {known.type} and as {kind}")
        self.topics[name] = BagTopic(name, kind, count + (known.count if known else 0))


class BagWriter:
    """Writes a bag, whole or not at all; a context manager."""

    def __init__(self, path: str | Path, *, storage: Storage = "mcap") -> None:
        """Prepare; the folder appears when the bag is complete.

        Raises:
            VddError: the folder exists already.
        """
        self.path = Path(path)
        self._storage = storage
        self._channels: dict[str, Any] = {}
        if self.path.exists():
            raise VddError(f"{self.path}: exists already; choose another name or remove it")
        self._partial = self.path.with_name(f".{self.path.name}.partial") / self.path.name

    def __enter__(self) -> BagWriter:
        """Open it."""
        types = message_types()
        from rosbags.rosbag2 import StoragePlugin, Writer

        self._types = types
        shutil.rmtree(self._partial.parent, ignore_errors=True)
        try:
            self._partial.parent.mkdir(parents=True)
            self._writer = Writer(
                self._partial, version=8, storage_plugin=StoragePlugin[self._storage.upper()]
            )
            self._writer.open()
        except OSError as error:
            raise self._refused(error) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish it, or leave nothing behind."""
        try:
            if kind is None:
                self._writer.close()
                self._partial.rename(self.path)
            else:
                self._writer.abort()
        except OSError as problem:
            raise self._refused(problem) from None
        finally:
            shutil.rmtree(self._partial.parent, ignore_errors=True)

    def write(self, topic: str, kind: str, log_ns: int, message: Any) -> None:  # noqa: ANN401
        """Append a message, or its bytes; the topic is made with its first message.

        Raises:
            VddError: the disk is full.
        """
        raw = message if isinstance(message, bytes) else self._types.serialize_cdr(message, kind)
        try:
            if topic not in self._channels:
                self._channels[topic] = self._writer.add_connection(
                    topic, kind, typestore=self._types
                )
            self._writer.write(self._channels[topic], log_ns, raw)
        except OSError as error:
            raise self._refused(error) from None

    def _refused(self, error: OSError) -> VddError:
        return VddError(
            f"{self.path}: cannot be written ({error.strerror or error}); choose a folder that is "
            "writable and has room"
        )


class _Opened:
    """The library's reader of one file; every error it may have is a `VddError` that names it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> Any:  # noqa: ANN401 - rosbags.rosbag2.Reader
        from rosbags.rosbag2 import Reader

        try:
            self._reader = Reader(self._file)
            self._reader.open()
        except Exception as error:  # a damaged file brings up any error in a trusting reader
            raise unreadable(self._file, error) from None
        return self._reader

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(Exception):
            self._reader.close()


def _decoded(types: Any, raw: bytes, kind: str) -> Any:  # noqa: ANN401
    """The message in these bytes; None where they are none.

    rclpy serializes into a buffer that may be larger than the message and leaves zeros behind it,
    which the library's own entry point refuses.
    """
    if raw[:2] not in (b"\x00\x00", b"\x00\x01"):
        return None
    definition = types.get_msgdef(kind)
    read = definition.deserialize_cdr_le if raw[1] else definition.deserialize_cdr_be
    message, end = read(raw[4:], 0, definition.cls, types)
    return message if end + 4 <= len(raw) and not any(raw[end + 4 :]) else None


def _guarded(file: Path, messages: Iterator[Any]) -> Iterator[Any]:
    """The library's messages; its errors name the file, those of the caller are left alone."""
    while True:
        try:
            entry = next(messages)
        except StopIteration:
            return
        except Exception as error:
            raise unreadable(file, error) from None
        yield entry


def _files_of(path: Path) -> list[Path]:
    """The storage files of a bag, in the order they were recorded."""
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise VddError(
                f"{path}: a file of type '{path.suffix}'; expected an .mcap or .db3 file, or the "
                "folder of a rosbag2 recording"
            )
        return [path]
    if not path.is_dir():
        raise VddError(f"{path}: no such bag; expected a rosbag2 folder, or an .mcap or .db3 file")
    entries = [entry for entry in path.iterdir() if entry.is_file()]
    files = sorted((e for e in entries if e.suffix in _SUFFIXES), key=_natural)
    if not files:
        packed = [e.name for e in entries if e.suffix == ".zstd"]
        hint = f"; decompress {packed[0]} with 'zstd -d' first" if packed else ""
        raise VddError(f"{path}: holds no .mcap and no .db3; expected a rosbag2 folder{hint}")
    if len({file.suffix for file in files}) > 1:
        raise VddError(f"{path}: holds .mcap and .db3 files; name the one that is meant")
    _refuse_packed_messages(path)
    return files


def _refuse_packed_messages(folder: Path) -> None:
    """Messages compressed one by one look like damage to who does not know it."""
    metadata = folder / "metadata.yaml"
    with suppress(OSError, UnicodeDecodeError):
        text = metadata.read_text(encoding="utf-8")[: 2**20]
        if re.search(r"compression_mode:\s*['\"]?message", text, re.IGNORECASE):
            raise VddError(
                f"{folder}: its messages are compressed one by one; write it anew with "
                "'ros2 bag convert', uncompressed or compressed by chunks"
            )


def _natural(path: Path) -> list[Any]:
    """Sort key in which bag_10 follows bag_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
