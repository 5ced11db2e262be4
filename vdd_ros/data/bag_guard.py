"""What must be true of a bag file before the library for bags may open it.

A recording may come from anywhere, and the library trusts sizes that stand in it. Here they are
compared with the file: nothing is decompressed beyond what it claims, no part is larger than
`PART_BYTES`, and a database is refused that computes its rows instead of holding them.
"""

from __future__ import annotations

import importlib
import os
import re
import sqlite3
import struct
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vdd_ros.core.errors import VddError

PART_BYTES = 64 * 2**20
"""Largest chunk or message that is read; recorders write chunks of one to four megabytes."""
OPEN_BYTES = 512 * 2**20
"""Most that chunks which overlap in time may hold together, since all of them are open at once."""

_MAGIC = b"\x89MCAP0\r\n"
_CHUNK, _CHUNK_INDEX = 0x06, 0x08
_HEAD = struct.Struct("<BQ")
_CHUNK_HEAD = struct.Struct("<QQQII")
_INDEX_HEAD = struct.Struct("<QQQQ")
_TEXT = struct.Struct("<I")


def check_file(path: Path) -> None:
    """Refuse a bag file that is damaged, or made to exhaust the machine.

    Raises:
        VddError: names the file and the reason.
    """
    try:
        if path.suffix == ".mcap":
            with path.open("rb") as file:
                _check_mcap(file)
        else:
            _check_sqlite(path)
    except PermissionError:
        raise VddError(f"{path}: no permission to read it; change its mode or owner") from None
    except Exception as error:  # a damaged database may bring up any error, a text that is none
        raise unreadable(path, error) from None


def unreadable(path: Path, reason: object) -> VddError:
    """Say that a bag cannot be read, and what to do."""
    text = " ".join(str(reason).split())[:300] or type(reason).__name__
    return VddError(
        f"{path}: not a readable bag ({text}); copy it again, or repair it with "
        "'ros2 bag reindex' or 'mcap recover'"
    )


class _RefusedError(Exception):
    """A reason; becomes a `VddError` that names the file."""


@dataclass(frozen=True)
class _Chunk:
    start_ns: int
    end_ns: int
    size: int
    packed: int
    compression: str


def _check_mcap(file: BinaryIO) -> None:
    size = os.fstat(file.fileno()).st_size
    if file.read(8) != _MAGIC:
        raise _RefusedError("it does not begin as an MCAP file does" if size else "it is empty")
    file.seek(-min(8, size), os.SEEK_END)
    if file.read(8) != _MAGIC or size < 8 + 37:
        raise _RefusedError("it ends before its footer: the recording was cut off")
    chunks: dict[int, _Chunk] = {}
    for place, kind, length in _records(file, size - 8):
        if kind == _CHUNK:
            chunks[place] = _chunk(file, length)
        elif kind == _CHUNK_INDEX:
            _check_index(file, length, chunks)
        elif length > PART_BYTES:
            raise _RefusedError(f"a record of {length} bytes; at most {PART_BYTES} are read")
    _check_overlap(list(chunks.values()))


def _records(file: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """Place, kind and length of every record; the file stands behind its head meanwhile."""
    place = 8
    while place < end:
        file.seek(place)
        kind, length = _HEAD.unpack(file.read(_HEAD.size))
        if length > end - place - _HEAD.size:
            raise _RefusedError(f"the record at byte {place} is longer than the file")
        yield place, kind, length
        place += _HEAD.size + length


def _chunk(file: BinaryIO, length: int) -> _Chunk:
    start, end, size, _, text = _CHUNK_HEAD.unpack(file.read(_CHUNK_HEAD.size))
    if text > 16:
        raise _RefusedError("a chunk without the name of its compression")
    compression = file.read(text).decode("ascii", "replace")
    (packed,) = struct.unpack("<Q", file.read(8))
    if packed > length or max(packed, size) > PART_BYTES:
        raise _RefusedError(f"a chunk of {max(packed, size)} bytes; at most {PART_BYTES} are read")
    found = _unpacked_size(file.read(packed), compression, size)
    if found != size:
        raise _RefusedError(f"a chunk that says it holds {size} bytes and holds another number")
    return _Chunk(start, end, size, packed, compression)


def _unpacked_size(data: bytes, compression: str, limit: int) -> int:
    """Bytes in a chunk, counted up to one more than ``limit``."""
    if not compression:
        return len(data)
    if compression == "zstd":
        name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        unpack: Any = importlib.import_module(name).ZstdDecompressor()
    elif compression == "lz4":
        unpack = importlib.import_module("lz4.frame").LZ4FrameDecompressor()
    else:
        raise _RefusedError(f"chunks compressed with '{compression}'; known: zstd, lz4")
    try:
        return len(unpack.decompress(data, max_length=limit + 1))
    except Exception as error:  # the two libraries have errors of their own
        raise _RefusedError(f"a chunk cannot be decompressed: {error}") from None


def _check_index(file: BinaryIO, length: int, chunks: dict[int, _Chunk]) -> None:
    """Compare an entry of the index with the chunk it points to."""
    body = file.read(min(length, 2**20))
    _, _, place, _ = _INDEX_HEAD.unpack_from(body)
    (offsets,) = _TEXT.unpack_from(body, _INDEX_HEAD.size)
    at = _INDEX_HEAD.size + 4 + offsets + 8
    (text,) = _TEXT.unpack_from(body, at)
    compression = body[at + 4 : at + 4 + min(text, 16)].decode("ascii", "replace")
    packed, size = struct.unpack_from("<QQ", body, at + 4 + text)
    chunk = chunks.get(place)
    if chunk is None or (chunk.size, chunk.packed, chunk.compression) != (
        size,
        packed,
        compression,
    ):
        raise _RefusedError(f"its index names a chunk at byte {place} that is not there")


def _check_overlap(chunks: list[_Chunk]) -> None:
    edges = [(c.start_ns, c.size) for c in chunks] + [(c.end_ns + 1, -c.size) for c in chunks]
    held = 0
    for _, change in sorted(edges):
        held += change
        if held > OPEN_BYTES:
            raise _RefusedError(
                f"chunks that overlap in time hold more than {OPEN_BYTES} bytes together; "
                "write them anew in the order of time with 'ros2 bag convert'"
            )


_COMPUTED = re.compile(r"\b(generated|virtual|trigger|view)\b", re.IGNORECASE)


def _check_sqlite(path: Path) -> None:
    if set("?#%") & set(str(path)):
        raise _RefusedError("its path holds one of ? # %, which databases cannot be opened with")
    with closing(sqlite3.connect(f"file:{path}?immutable=1&mode=ro", uri=True)) as database:
        kinds = database.execute("SELECT type, name, sql FROM sqlite_master LIMIT 1000").fetchall()
        tables = {name for kind, name, _ in kinds if kind == "table"}
        if not {"topics", "messages"} <= tables:
            raise _RefusedError("it has no tables 'topics' and 'messages'")
        for kind, name, sql in kinds:
            if kind in ("view", "trigger") or _COMPUTED.search(sql or ""):
                raise _RefusedError(f"'{name}' in it is computed, not recorded")
        for table in sorted(tables):
            quoted = table.replace('"', '""')
            columns = database.execute(f'PRAGMA table_xinfo("{quoted}")').fetchall()
            if any(hidden for *_, hidden in columns):
                raise _RefusedError(f"table '{table}' has columns that are computed, not recorded")
        odd, largest = database.execute(
            "SELECT SUM(typeof(data) != 'blob' OR typeof(timestamp) != 'integer'), "
            "MAX(length(data)) FROM messages"
        ).fetchone()
        if odd:
            raise _RefusedError(f"{odd} rows of 'messages' hold no bytes, or no time")
        if (largest or 0) > PART_BYTES:
            raise _RefusedError(f"a message of {largest} bytes; at most {PART_BYTES} are read")
