"""The transports a node really has, which the middleware tells by the names of its threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from tests.conftest import ROOT
from vdd_ros.nodes.loopback import loopback_environment

pytestmark = pytest.mark.ros

TELL = """
from pathlib import Path
from vdd_ros.nodes.driver import Driver
with Driver("robot", own_domain=True, shared_memory={shared_memory}) as driver:
    print("threads", *(p.read_text().strip() for p in Path("/proc/self/task").glob("*/comm")))
    inodes = {{p.readlink().name for p in Path("/proc/self/fd").iterdir() if p.is_symlink()}}
    rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    print("addresses", *(r[1].split(":")[0] for r in rows if f"socket:[{{r[9]}}]" in inodes))
"""


def told(shared_memory: bool, **environment: str) -> dict[str, list[str]]:
    """The names of the threads and the local addresses of a process with a driver."""
    done = subprocess.run(
        [sys.executable, "-c", TELL.format(shared_memory=shared_memory)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    return {line[0]: line[1:] for line in lines if line}


@pytest.mark.parametrize(
    ("shared_memory", "environment"),
    [(False, {}), (True, {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"})],
)
def test_without_shared_memory_there_is_none_and_nothing_leaves_the_machine(
    shared_memory: bool, environment: dict[str, str]
) -> None:
    """No thread of the shared-memory transport; unicast sockets on the loopback address."""
    said = told(shared_memory, **environment)
    assert any(name.startswith("dds.udp") for name in said["threads"])
    assert not any(name.startswith("dds.shm") for name in said["threads"])
    # 127.0.0.1, and the group 239.255.0.1 that is joined on the loopback interface.
    assert {"0100007F"} <= set(said["addresses"]) <= {"0100007F", "0100FFEF"}


def test_a_profile_of_the_users_own_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two variables names it."""
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "/somewhere/profile.xml")
            assert list(loopback_environment(tmp_path)) == ["ROS_AUTOMATIC_DISCOVERY_RANGE"]
