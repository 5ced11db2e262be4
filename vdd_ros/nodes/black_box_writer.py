"""The black box on disk: a process of its own that turns a stream of messages into an MCAP bag.

Apart from the node, so that neither the import of the bag library nor a slow or full disk costs
it a tick. Reads from standard input a line of JSON (`Order`) and then frames, each `FRAME` and as
many bytes of a serialized message as it says. A stream that ends early, because the node died, is
written as far as it came. Answers with one line: the path of the bag, or why there is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import struct
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

FRAME = struct.Struct("<qHI")
"""Of every frame: time (ns), number of the channel, bytes of the message that follows."""
_NAME = re.compile(r"black_box_[A-Za-z0-9_]+_\d{8}T\d{6}_\d{6}Z(\.partial)?")
"""Folders that are this program's own, and may be removed when there are too many."""
_STALE_S = 600.0
"""An unfinished bag older than this was left by a writer that died."""


@dataclass(frozen=True)
class Order:
    """What shall be written, and how much may be kept."""

    folder: str
    """Where the bags are kept; made where it is absent."""
    node: str
    """Letters, digits and underscores, part of the bag's name."""
    channels: tuple[tuple[str, str], ...]
    """Topic and message type of every channel."""
    max_dumps: int
    """Bags kept in the folder, this one included; the oldest go first."""
    max_bytes: int
    """Bytes kept in the folder, this bag included; the oldest go first."""

    def line(self) -> bytes:
        """Return it as the first line of the stream."""
        return json.dumps(asdict(self)).encode() + b"\n"


def write(order: Order, stream: BinaryIO) -> Path:
    """Write the bag of a stream, whole or not at all, and remove the oldest ones.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
        ImportError: the bag library is absent.
    """
    # An optional library of the robot's side, and a slow one: imported by the child alone.
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    folder = Path(order.folder)
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f"_{int(now % 1 * 1e6):06d}Z"
    final = folder / f"black_box_{order.node}_{stamp}"
    partial = final.with_name(f"{final.name}.partial")
    try:
        writer = Writer(partial, version=8, storage_plugin=StoragePlugin.MCAP)
        types = get_typestore(Stores.ROS2_JAZZY)
        with writer:
            channels = [
                writer.add_connection(topic, kind, typestore=types)
                for topic, kind in order.channels
            ]
            while len(head := stream.read(FRAME.size)) == FRAME.size:
                stamp_ns, channel, size = FRAME.unpack(head)
                body = stream.read(size)
                if len(body) == size:
                    body = _trimmed(types, body, order.channels[channel][1])
                    writer.write(channels[channel], stamp_ns, body)
        # The bag's file has the name of its folder, which is about to change.
        inner = partial / f"{partial.name}.mcap"
        metadata = partial / "metadata.yaml"
        inner.rename(partial / f"{final.name}.mcap")
        metadata.write_text(metadata.read_text().replace(inner.name, f"{final.name}.mcap"))
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _prune(folder, final, order)
    return final


def _trimmed(types: Typestore, body: bytes, kind: str) -> bytes:
    """Cut off what stands behind a message: rclpy serializes into buffers that are too large.

    ROS reads on regardless, other readers of bags take the rest for damage.
    """
    definition = types.get_msgdef(kind)
    read = definition.deserialize_cdr_le if body[1] else definition.deserialize_cdr_be
    _, end = read(body[4:], 0, definition.cls, types)
    return body[: 4 + end]


def _prune(folder: Path, newest: Path, order: Order) -> None:
    """Remove the oldest bags until number and size are within bounds; never the newest."""
    bags = []
    for entry in folder.iterdir():
        if not _NAME.fullmatch(entry.name) or entry.is_symlink() or not entry.is_dir():
            continue
        if entry.suffix == ".partial":
            if time.time() - entry.stat().st_mtime > _STALE_S:
                shutil.rmtree(entry, ignore_errors=True)
            continue
        size = sum(file.stat().st_size for file in entry.iterdir())
        # Bags of several nodes share a folder: the age is at the end of the name.
        bags.append((entry.name.rsplit("_", 2)[1:], entry, size))
    bags.sort(reverse=True)
    kept = total = 0
    for _, bag, size in bags:
        kept, total = kept + 1, total + size
        if (kept > order.max_dumps or total > order.max_bytes) and bag != newest:
            with contextlib.suppress(OSError):
                shutil.rmtree(bag)


def _answer(line: str) -> None:
    """Tell the node that started this process; its log is where people read it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Write one bag; the return value is the exit code."""
    with contextlib.suppress(OSError):
        os.nice(10)  # the control loop next door goes first
    try:
        given = json.loads(sys.stdin.buffer.readline())
        given["channels"] = tuple((topic, kind) for topic, kind in given["channels"])
        _answer(str(write(Order(**given), sys.stdin.buffer)))
    except ImportError as error:
        _answer(f"the library for bags is missing ({error})")
        return 1
    except OSError as error:
        reason = error.strerror or str(error)
        _answer(f"{error.filename or 'the bag'}: {reason}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
