"""What all tests share: shape checks, the demonstration data, and a ROS domain of their own."""

from __future__ import annotations

import fcntl
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

try:
    from jaxtyping import install_import_hook

    import tests.typechecking  # noqa: F401 - the hook below looks it up as an attribute
except ModuleNotFoundError:  # the robot-side tests run without the training tools
    pass
else:
    # Annotated shapes are checked in tests only; production pays nothing for them.
    install_import_hook("vdd_ros.distill", "tests.typechecking.check")

# What a Python of the ROS wheels sets for itself and must not hand to another environment's.
WHEEL_VARIABLES = ("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "LD_LIBRARY_PATH", "PYTHONPATH")

# Fast DDS derives ports from the domain; up to 101 they stay below Linux's ephemeral range.
DOMAINS = range(1, 100)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded human demonstrations; tests that need it skip without it."""
    named = os.environ.get("VDD_SHARED_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no demonstration data at {folder}; VDD_SHARED_DATA names the folder")
    return folder


@pytest.fixture
def ros_domain() -> Iterator[int]:
    """A ROS domain that no other test on this machine uses while this one runs."""
    candidates = list(DOMAINS)
    random.SystemRandom().shuffle(candidates)
    for domain in candidates:
        path = Path(tempfile.gettempdir()) / f"ros_domain_{os.getuid()}_{domain}.lock"
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield domain
            return
    pytest.fail(f"all {len(DOMAINS)} ROS domains are in use by other tests on this machine")


@pytest.fixture
def ros_env(ros_domain: int, tmp_path: Path) -> dict[str, str]:
    """The environment for a node process: own domain, this machine only, logs in tmp_path."""
    env = dict(os.environ)
    if "_ROS_WHEELS_BOOTSTRAP_COMPLETE" in env:
        for name in WHEEL_VARIABLES:
            env.pop(name, None)
    if "ROS_DISTRO" not in env:
        # A virtual environment with the ROS wheels is itself an ament prefix.
        env["AMENT_PREFIX_PATH"] = sys.prefix
    # A node process finds the package whether or not it is installed.
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), env.get("PYTHONPATH"))))
    env["PYTHONUNBUFFERED"] = "1"
    env["ROS_DOMAIN_ID"] = str(ros_domain)
    env["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    env["ROS_LOG_DIR"] = str(tmp_path / "ros_log")
    env.pop("ROS_LOCALHOST_ONLY", None)
    return env
