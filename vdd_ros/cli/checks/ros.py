"""Checks of ROS 2: its libraries, its settings, and what DDS needs."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from vdd_ros.cli.checks.check import Check, installed, lacking

_MESSAGES = (
    "std_msgs",
    "sensor_msgs",
    "geometry_msgs",
    "trajectory_msgs",
    "nav_msgs",
    "diagnostic_msgs",
    "lifecycle_msgs",
    "std_srvs",
    "rosgraph_msgs",
)
# Above 101 the ports of a domain can collide with those the kernel hands out by itself.
_LARGEST_DOMAIN = 101
_PROBE_TIMEOUT_S = 20.0
# A separate process, because the executor may hang where its build is broken. The loop of short
# finite timeouts is the only way of spinning it that works in every build.
_PROBE = """
import sys, time, rclpy
from rclpy.experimental import EventsExecutor
rclpy.init()
node = rclpy.create_node("vdd_doctor_probe")
fired = []
node.create_timer(0.01, lambda: fired.append(1))
executor = EventsExecutor()
executor.add_node(node)
end = time.monotonic() + 5.0
while not fired and time.monotonic() < end:
    executor.spin_once(timeout_sec=0.1)
sys.stdout.flush()
import os
os._exit(0 if fired else 3)
"""


def rclpy(name: str) -> Check:
    """ROS 2 for Python is there."""
    fix = (
        "source a ROS 2 installation (source /opt/ros/jazzy/setup.bash), or without one: "
        "pip install ros-jazzy-rclpy ros-jazzy-common-interfaces ros-jazzy-rmw-fastrtps-cpp"
    )
    try:
        importlib.import_module("rclpy")
    except (ImportError, OSError) as error:
        return Check(name, False, f"cannot be imported ({error})", fix)
    return Check(name, True, _ros_distribution())


def rmw(name: str) -> Check:
    """Which middleware speaks DDS."""
    utilities = importlib.import_module("rclpy.utilities")
    return Check(name, True, utilities.get_rmw_implementation_identifier())


def messages(name: str) -> Check:
    """The message packages of the codecs are there."""
    missing = []
    for package in _MESSAGES:
        try:
            importlib.import_module(f"{package}.{'srv' if package == 'std_srvs' else 'msg'}")
        except ImportError:
            missing.append(package)
    if missing:
        return Check(
            name,
            False,
            f"missing: {', '.join(missing)}",
            "apt install ros-$ROS_DISTRO-common-interfaces, or pip install "
            "ros-jazzy-common-interfaces",
        )
    return Check(name, True, f"{len(_MESSAGES)} message packages")


def executor(name: str) -> Check:
    """Whether the fastest executor works in this build."""
    environment = dict(os.environ, ROS_AUTOMATIC_DISCOVERY_RANGE="OFF")
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
        works, why = probe.returncode == 0, (probe.stderr.strip().splitlines() or ["no event"])[-1]
    except subprocess.TimeoutExpired:
        works, why = False, f"no answer within {_PROBE_TIMEOUT_S:.0f} s"
    if works:
        return Check(name, True, "EventsExecutor works")
    return lacking(
        name,
        f"EventsExecutor does not work here ({why}): SingleThreadedExecutor is used",
        "nothing to do; a newer rclpy brings the faster one",
    )


def discovery(name: str) -> Check:
    """What says which nodes find each other is sane."""
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    detail = f"ROS_DOMAIN_ID {domain}, discovery {reach}"
    if not domain.isdigit() or int(domain) > _LARGEST_DOMAIN:
        return Check(name, False, detail, f"set ROS_DOMAIN_ID to 0..{_LARGEST_DOMAIN}")
    known = ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT")
    if reach not in known:
        return Check(
            name, False, detail, f"set ROS_AUTOMATIC_DISCOVERY_RANGE to one of {', '.join(known)}"
        )
    return Check(name, True, detail)


def shared_memory(name: str) -> Check:
    """Whether DDS can hand messages over in memory."""
    try:
        with tempfile.NamedTemporaryFile(dir="/dev/shm"):
            return Check(name, True, "/dev/shm is writable")
    except OSError as error:
        return lacking(
            name,
            f"/dev/shm is not writable ({error.strerror}): DDS talks over the loopback instead",
            "in a container: docker run --ipc=host or --shm-size=256m",
        )


def _ros_distribution() -> str:
    for distribution in ("jazzy", "kilted", "lyrical"):
        version = installed(f"ros-{distribution}-rclpy")
        if version:
            return f"{version} of the {distribution} wheels"
    where = Path(importlib.import_module("rclpy").__file__ or "").parent
    return f"of ROS 2 {os.environ.get('ROS_DISTRO', '(unnamed)')} at {where}"
