"""Checks of Python, the libraries, and the models that come with the package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

from vdd_ros.cli.checks.check import Check, installed, lacking


def python(name: str) -> Check:
    """The interpreter is one we support."""
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 10)
    return Check(name, ok, f"{version} at {sys.executable}", "" if ok else "use Python 3.10-3.13")


def numpy(name: str) -> Check:
    """The arrays of everything."""
    return Check(name, True, importlib.import_module("numpy").__version__)


def onnxruntime(name: str) -> Check:
    """What runs the policies is there, and there once."""
    cpu, gpu = installed("onnxruntime"), installed("onnxruntime-gpu")
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


def providers(name: str) -> Check:
    """ONNX Runtime can run on this processor."""
    available = importlib.import_module("onnxruntime").get_available_providers()
    short = [p.removesuffix("ExecutionProvider") for p in available]
    ok = "CPUExecutionProvider" in available
    return Check(
        name,
        ok,
        f"listed: {', '.join(short)} (a listed one may still not start; vdd bench says which did)",
        "" if ok else "install onnxruntime again: its CPU provider is missing",
    )


def model(which: str) -> Callable[[str], Check]:
    """Return the check that a shipped policy file opens and reproduces its golden sample."""

    def check(name: str) -> Check:
        from vdd_ros.core.shipped import shipped_file
        from vdd_ros.runtime.policy_file import PolicyFile

        path = shipped_file(which)
        PolicyFile.open(path)
        return Check(name, True, f"{path} opens, its golden sample is met")

    return check


def optional(module: str, wanted_for: str, install: str) -> Callable[[str], Check]:
    """Return the check whether a library that only some commands need is there."""

    # The version is read from the installation: importing torch would take seconds.
    def check(name: str) -> Check:
        version = installed(module)
        if version:
            return Check(name, True, version)
        return lacking(name, f"not installed: needed to {wanted_for} only", install)

    return check
