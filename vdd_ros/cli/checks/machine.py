"""Checks of the machine: what it permits, and room on its disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vdd_ros.cli.checks.check import Check, lacking

_FREE_GB = 1.0


def real_time(name: str) -> Check:
    """Whether a node may ask for real-time scheduling."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        return lacking(
            name,
            "SCHED_FIFO is not permitted: latency suffers on a loaded machine",
            "add to /etc/security/limits.conf: @realtime - rtprio 49, and join that group",
        )
    os.sched_setscheduler(0, policy, parameters)
    return Check(name, True, "SCHED_FIFO is permitted")


def cpu_latency(name: str) -> Check:
    """Whether the processor can be kept from sleeping."""
    if os.access("/dev/cpu_dma_latency", os.W_OK):
        return Check(name, True, "/dev/cpu_dma_latency is writable")
    return lacking(
        name,
        "/dev/cpu_dma_latency cannot be held open: a sleeping core answers later",
        "a udev rule can give a group access to it; costs power",
    )


def disk(name: str) -> Check:
    """There is room for runs and pictures."""
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
