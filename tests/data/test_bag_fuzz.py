"""A bag may come from anywhere: whatever its bytes are, it is read or refused by name."""

from __future__ import annotations

import importlib
import resource
import sqlite3
import struct
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags.rosbag2", reason="bags need the extra [bags]")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vdd_ros.core.contract import ActionField, ObservationField, PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.data import bag_guard
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.rosbag import load_bags
from vdd_ros.data.to_bag import write_bag

JOINTS = "sensor_msgs/msg/JointState"
SELECT = ("position.a", "position.b")
CONTRACT = PolicyContract(
    name="two joints",
    rate_hz=50.0,
    observations=(ObservationField("arm", 2, "joint_states", JOINTS, SELECT),),
    actions=(ActionField("goal", 2, "goal", JOINTS, SELECT),),
)
FORMATS = {"mcap": ".mcap", "sqlite3": ".db3"}
MORE_MB = 300
"""Resident memory that all hostile files together may add to the process."""
FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


# Values that damage has made too large for float32 become infinite, and are left out as such.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One good recording in both formats."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((30, 2)).astype(np.float32)
    demos = Demonstrations(rows, rows, np.array([30]), None, "made up")
    folder = tmp_path_factory.mktemp("originals")
    found = {}
    for storage, suffix in FORMATS.items():
        path = write_bag(demos, CONTRACT, folder / storage, storage=storage)  # type: ignore[arg-type]
        found[storage] = next(path.glob(f"*{suffix}")).read_bytes()
    return found


def read_or_refuse(path: Path) -> Demonstrations | None:
    """Read; a refusal must name the file. Any other error fails the test."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: Demonstrations | None = None
    said = f"{path}: it was read"
    try:
        found = load_bags([path], CONTRACT)[0]
    except VddError as error:
        said = str(error)
    assert str(path) in said
    assert len(said) > len(str(path)) + 10
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < MORE_MB * 1024
    return found


@pytest.mark.parametrize("storage", FORMATS)
def test_the_original_is_read(originals: dict[str, bytes], tmp_path: Path, storage: str) -> None:
    """What is damaged below is sound to begin with."""
    path = tmp_path / f"bag{FORMATS[storage]}"
    path.write_bytes(originals[storage])
    found = read_or_refuse(path)
    assert found is not None
    assert len(found) == 30


@pytest.mark.parametrize("storage", FORMATS)
@FUZZ
@given(data=st.data())
def test_a_cut_off_file_is_refused_or_read(
    originals: dict[str, bytes], tmp_path: Path, storage: str, data: st.DataObject
) -> None:
    """Wherever a copy stopped."""
    whole = originals[storage]
    path = tmp_path / f"bag{FORMATS[storage]}"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    found = read_or_refuse(path)
    assert found is None or storage == "sqlite3"


@pytest.mark.parametrize("storage", FORMATS)
@FUZZ
@given(data=st.data())
def test_overwritten_bytes_never_surprise(
    originals: dict[str, bytes], tmp_path: Path, storage: str, data: st.DataObject
) -> None:
    """Flipped bits, lengths and offsets of any size, anywhere in the file."""
    body = bytearray(originals[storage])
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(body) - 9))
        new = data.draw(
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.sampled_from([b"\xff" * 8, b"\x00" * 8, b"\xff\xff\xff\x7f", b"\x00" * 4]),
                st.integers(0, 2**63 - 1).map(lambda n: struct.pack("<Q", n)),
            )
        )
        body[place : place + len(new)] = new
    path = tmp_path / f"bag{FORMATS[storage]}"
    path.write_bytes(body)
    read_or_refuse(path)


@pytest.mark.parametrize("suffix", FORMATS.values())
@FUZZ
@given(body=st.binary(max_size=400), head=st.booleans())
def test_foreign_bytes_are_refused(tmp_path: Path, suffix: str, body: bytes, head: bool) -> None:
    """Noise, and noise that begins and ends as a bag does."""
    magic = b"\x89MCAP0\r\n" if suffix == ".mcap" else b"SQLite format 3\x00"
    path = tmp_path / f"bag{suffix}"
    path.write_bytes(magic + body + (magic if suffix == ".mcap" else b"") if head else body)
    assert read_or_refuse(path) is None


def mcap(*records: tuple[int, bytes]) -> bytes:
    """A file of these records between header and footer."""
    header = struct.pack("<I", 4) + b"ros2" + struct.pack("<I", 0)
    all_records = [(0x01, header), *records, (0x02, bytes(20))]
    body = b"".join(struct.pack("<BQ", kind, len(data)) + data for kind, data in all_records)
    return bag_guard._MAGIC + body + bag_guard._MAGIC


def chunk(packed: bytes, size: int, compression: str) -> bytes:
    name = compression.encode()
    head = struct.pack("<QQQII", 0, 1, size, 0, len(name)) + name
    return head + struct.pack("<Q", len(packed)) + packed


def zstd() -> Any:
    new = sys.version_info >= (3, 14)
    return importlib.import_module("compression.zstd" if new else "backports.zstd")


@pytest.mark.parametrize(
    ("claimed", "said"),
    [
        (1000, "says it holds 1000 bytes and holds another number"),
        (2**33, "at most 67108864 are read"),
    ],
)
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_bomb_is_not_unpacked(tmp_path: Path, claimed: int, said: str, compression: str) -> None:
    """A gigabyte in a small file, whether it admits to it or not, costs no memory."""
    block = bytes(2**24)
    if compression == "zstd":
        packer = zstd().ZstdCompressor()
        packed = b"".join(packer.compress(block) for _ in range(64)) + packer.flush()
    else:
        packer = importlib.import_module("lz4.frame").LZ4FrameCompressor()
        packed = packer.begin() + b"".join(packer.compress(block) for _ in range(64))
        packed += packer.flush()
    path = tmp_path / "bomb.mcap"
    path.write_bytes(mcap((0x06, chunk(packed, claimed, compression))))
    with pytest.raises(VddError, match=said):
        load_bags([path], CONTRACT)
    assert read_or_refuse(path) is None


def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    """Sizes in the index are those of the chunk, or the file is not opened."""
    index = struct.pack("<QQQQ", 0, 1, 12345, 10) + struct.pack("<I", 0)
    index += struct.pack("<Q", 0) + struct.pack("<I", 0) + struct.pack("<QQ", 10, 2**40)
    path = tmp_path / "bag.mcap"
    path.write_bytes(mcap((0x06, chunk(b"", 0, "")), (0x08, index)))
    with pytest.raises(VddError, match="names a chunk at byte 12345 that is not there"):
        load_bags([path], CONTRACT)


def test_a_chunk_of_an_unknown_compression_is_named(tmp_path: Path) -> None:
    """The reason says what is known."""
    path = tmp_path / "bag.mcap"
    path.write_bytes(mcap((0x06, chunk(b"x", 1, "brotli"))))
    with pytest.raises(VddError, match="compressed with 'brotli'; known: zstd, lz4"):
        load_bags([path], CONTRACT)


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, "
            "data BLOB AS (zeroblob(900000000)));"
            "INSERT INTO messages(topic_id, timestamp) VALUES (1, 1);",
            "computed, not recorded",
        ),
        (
            "CREATE TABLE kept(a); CREATE VIEW messages AS WITH RECURSIVE c(x) AS (SELECT 1 "
            "UNION ALL SELECT x+1 FROM c) SELECT x AS id, 1 AS topic_id, x AS timestamp, "
            "zeroblob(1000000) AS data FROM c;",
            "no tables 'topics' and 'messages'",
        ),
        (
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, "
            "data BLOB); INSERT INTO messages VALUES (1, 1, 'soon', 'text');",
            "hold no bytes, or no time",
        ),
        (
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, "
            "data BLOB); INSERT INTO messages VALUES (1, 1, 1, zeroblob(100000000));",
            "a message of 100000000 bytes",
        ),
    ],
)
def test_a_database_that_computes_its_rows_is_refused(
    tmp_path: Path, statements: str, said: str
) -> None:
    """Rows that are made while they are read could be as large as they like."""
    path = tmp_path / "bag.db3"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, "
            "serialization_format TEXT, offered_qos_profiles TEXT);"
            f"INSERT INTO topics VALUES (1, '/joint_states', '{JOINTS}', 'cdr', '');" + statements
        )
    with pytest.raises(VddError, match=said):
        load_bags([path], CONTRACT)
