"""The checks of `vdd doctor`, one function each.

A check that itself breaks is a failed check with the reason, never a traceback: the machine where
`doctor` is needed most is the one where things break.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vdd_ros.core.errors import VddError

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
_FREE_GB = 1.0
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


@dataclass(frozen=True)
class Check:
    """What one check found."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    optional_absent: bool = False
    """Fine, but something optional is not there: `fix` says how to get it."""

    @property
    def mark(self) -> str:
        """Two letters for the table."""
        if not self.ok:
            return "FAIL"
        return "--" if self.optional_absent else "ok"


def run_checks() -> list[Check]:
    """Run every check in order."""
    checks = []
    for name, check in _CHECKS.items():
        try:
            checks.append(check(name))
        except VddError as error:
            checks.append(Check(name, False, str(error), "make models, or install it again"))
        except Exception as error:  # any failure of a check is its finding
            checks.append(
                Check(name, False, f"{type(error).__name__}: {error}", "install the package again")
            )
    return checks


def _python(name: str) -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 10)
    return Check(name, ok, f"{version} at {sys.executable}", "" if ok else "use Python 3.10-3.13")


def _numpy(name: str) -> Check:
    return Check(name, True, importlib.import_module("numpy").__version__)


def _onnxruntime(name: str) -> Check:
    cpu, gpu = _installed("onnxruntime"), _installed("onnxruntime-gpu")
    if cpu and gpu:
        return Check(
            name,
            False,
            f"onnxruntime {cpu} and onnxruntime-gpu {gpu} are both installed: two builds of one "
            "module, of which one has overwritten the other",
            "pip uninstall onnxruntime onnxruntime-gpu, then install the one you want",
        )
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as error:
        return Check(name, False, f"cannot be imported ({error})", "pip install onnxruntime")
    return Check(name, True, f"{module.__version__}{' (GPU build)' if gpu else ''}")


def _providers(name: str) -> Check:
    available = importlib.import_module("onnxruntime").get_available_providers()
    short = [p.removesuffix("ExecutionProvider") for p in available]
    ok = "CPUExecutionProvider" in available
    return Check(
        name,
        ok,
        f"listed: {', '.join(short)} (a listed one may still not start; vdd bench says which did)",
        "" if ok else "install onnxruntime again: its CPU provider is missing",
    )


def _rclpy(name: str) -> Check:
    fix = (
        "source a ROS 2 installation (source /opt/ros/jazzy/setup.bash), or without one: "
        "pip install ros-jazzy-rclpy ros-jazzy-common-interfaces ros-jazzy-rmw-fastrtps-cpp"
    )
    try:
        importlib.import_module("rclpy")
    except (ImportError, OSError) as error:
        return Check(name, False, f"cannot be imported ({error})", fix)
    return Check(name, True, _ros_distribution())


def _rmw(name: str) -> Check:
    utilities = importlib.import_module("rclpy.utilities")
    return Check(name, True, utilities.get_rmw_implementation_identifier())


def _messages(name: str) -> Check:
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


def _executor(name: str) -> Check:
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
    return Check(
        name,
        True,
        f"EventsExecutor does not work here ({why}): SingleThreadedExecutor is used",
        "nothing to do; a newer rclpy brings the faster one",
        optional_absent=True,
    )


def _discovery(name: str) -> Check:
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


def _shared_memory(name: str) -> Check:
    try:
        with tempfile.NamedTemporaryFile(dir="/dev/shm"):
            return Check(name, True, "/dev/shm is writable")
    except OSError as error:
        return Check(
            name,
            True,
            f"/dev/shm is not writable ({error.strerror}): DDS talks over the loopback instead",
            "in a container: docker run --ipc=host or --shm-size=256m",
            optional_absent=True,
        )


def _model(which: str) -> Callable[[str], Check]:
    def check(name: str) -> Check:
        from vdd_ros.core.shipped import shipped_file
        from vdd_ros.runtime.policy_file import PolicyFile

        path = shipped_file(which)
        PolicyFile.open(path)
        return Check(name, True, f"{path} opens, its golden sample is met")

    return check


def _optional(module: str, wanted_for: str, install: str) -> Callable[[str], Check]:
    # The version is read from the installation: importing torch would take seconds.
    def check(name: str) -> Check:
        version = _installed(module)
        if version:
            return Check(name, True, version)
        return Check(
            name,
            True,
            f"not installed: needed to {wanted_for} only",
            install,
            optional_absent=True,
        )

    return check


def _real_time(name: str) -> Check:
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        return Check(
            name,
            True,
            "SCHED_FIFO is not permitted: latency suffers on a loaded machine",
            "add to /etc/security/limits.conf: @realtime - rtprio 49, and join that group",
            optional_absent=True,
        )
    os.sched_setscheduler(0, policy, parameters)
    return Check(name, True, "SCHED_FIFO is permitted")


def _cpu_latency(name: str) -> Check:
    if os.access("/dev/cpu_dma_latency", os.W_OK):
        return Check(name, True, "/dev/cpu_dma_latency is writable")
    return Check(
        name,
        True,
        "/dev/cpu_dma_latency cannot be held open: a sleeping core answers later",
        "a udev rule can give a group access to it; costs power",
        optional_absent=True,
    )


def _disk(name: str) -> Check:
    here = Path.cwd()
    free = shutil.disk_usage(here).free / 1e9
    if not os.access(here, os.W_OK):
        return Check(name, False, f"{here} is not writable", "change to a folder of your own")
    ok = free >= _FREE_GB
    return Check(
        name,
        ok,
        f"{free:.1f} GB free at {here}",
        "" if ok else f"free at least {_FREE_GB:.0f} GB for runs and pictures",
    )


def _installed(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _ros_distribution() -> str:
    for distribution in ("jazzy", "kilted", "lyrical"):
        version = _installed(f"ros-{distribution}-rclpy")
        if version:
            return f"{version} of the {distribution} wheels"
    where = Path(importlib.import_module("rclpy").__file__ or "").parent
    return f"of ROS 2 {os.environ.get('ROS_DISTRO', '(unnamed)')} at {where}"


_CHECKS: dict[str, Callable[[str], Check]] = {
    "python": _python,
    "numpy": _numpy,
    "onnxruntime": _onnxruntime,
    "providers": _providers,
    "rclpy": _rclpy,
    "rmw": _rmw,
    "messages": _messages,
    "executor": _executor,
    "discovery": _discovery,
    "shared_memory": _shared_memory,
    "student": _model("models/avoiding/student.onnx"),
    "teacher": _model("models/avoiding/teacher.onnx"),
    "torch": _optional("torch", "train and export", "make distill, or pip install torch==2.13.0"),
    "matplotlib": _optional("matplotlib", "draw pictures", "pip install matplotlib"),
    "real_time": _real_time,
    "cpu_latency": _cpu_latency,
    "disk": _disk,
}
