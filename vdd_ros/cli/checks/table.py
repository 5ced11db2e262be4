"""The checks of `vdd doctor` in order, and how they are run.

A check that itself breaks is a failed check with the reason, never a traceback: the machine where
`doctor` is needed most is the one where things break.
"""

from __future__ import annotations

from collections.abc import Callable

from vdd_ros.cli.checks import libraries, machine, ros
from vdd_ros.cli.checks.check import Check
from vdd_ros.core.errors import VddError

CHECKS: dict[str, Callable[[str], Check]] = {
    "python": libraries.python,
    "numpy": libraries.numpy,
    "onnxruntime": libraries.onnxruntime,
    "providers": libraries.providers,
    "rclpy": ros.rclpy,
    "rmw": ros.rmw,
    "messages": ros.messages,
    "executor": ros.executor,
    "discovery": ros.discovery,
    "shared_memory": ros.shared_memory,
    "student": libraries.model("models/avoiding/student.onnx"),
    "teacher": libraries.model("models/avoiding/teacher.onnx"),
    "torch": libraries.optional(
        "torch", "train and export", "make distill, or pip install torch==2.13.0"
    ),
    "matplotlib": libraries.optional("matplotlib", "draw pictures", "pip install matplotlib"),
    "real_time": machine.real_time,
    "cpu_latency": machine.cpu_latency,
    "disk": machine.disk,
}


def run_checks() -> list[Check]:
    """Run every check in order."""
    checks = []
    for name, check in CHECKS.items():
        try:
            checks.append(check(name))
        except VddError as error:
            checks.append(Check(name, False, str(error), "make models, or install it again"))
        except Exception as error:  # any failure of a check is its finding
            checks.append(
                Check(name, False, f"{type(error).__name__}: {error}", "install the package again")
            )
    return checks
