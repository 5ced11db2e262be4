"""Processes that do nothing but compute: a machine at full load."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vdd_ros.nodes.process import die_with_parent


@contextmanager
def burners(number: int) -> Iterator[None]:
    """Keep that many processors busy meanwhile, at the nodes' own priority."""
    running = [
        subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", "while True: pass"],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        for _ in range(number)
    ]
    try:
        yield
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()
