"""Simulators that some tasks need and the package does not: imported when their task is made."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from vdd_ros.core.errors import VddError


def simulator(module: str, *, task: str, install: str) -> ModuleType:
    """Import the simulator of a task.

    Args:
        module: dotted name of the module to import.
        task: the task that needs it, for the message.
        install: what `pip install` takes, e.g. 'gym-pusht>=0.1.6'.

    Raises:
        VddError: it cannot be imported; the message says how to install it.
    """
    try:
        return import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library it needs is missing
        raise VddError(
            f"task '{task}' needs {module.partition('.')[0]}, which cannot be imported ({error}); "
            f"install it with: pip install '{install}' (all simulators: the extra [sim])"
        ) from None
