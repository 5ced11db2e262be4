"""How many iterations fit a stated processor time.

Learning rates and sigmas are functions of iteration / n_iters, so a training that is cut off when
its time is up would end in the middle of its schedules. Instead the number is found beforehand: a
short training of the same settings, with the same phases in the same proportion, says what the
preparation (data, teacher samples) and one iteration cost.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vdd_ros.core.config_io import dump_json, load_json, write_atomic
from vdd_ros.core.errors import VddError

PROBE_ITERS = 120
"""Iterations of the short training: a second or two of the networks at hand."""


@dataclass(frozen=True)
class Budget:
    """A stated processor time and what fits it."""

    cpu_s: float
    """Processor seconds allotted."""
    n_iters: int
    """Iterations that fit."""
    preparation_cpu_s: float
    """Measured cost of what happens before the first iteration."""
    iteration_cpu_s: float
    """Measured mean cost of one iteration."""


def fit(cpu_s: float, probe: Callable[[int], Sequence[tuple[int, float]]], *, what: str) -> Budget:
    """Return the iterations that fit ``cpu_s``, preparation included.

    Args:
        cpu_s: processor seconds allotted.
        probe: trains for so many iterations and returns (iterations done, processor seconds
            spent since before the preparation), at least at the first and the last iteration.
        what: name of the training, for the message.

    Raises:
        VddError: not even one iteration fits.
    """
    points = sorted(probe(PROBE_ITERS))
    (first, at_first), (last, at_last) = points[0], points[-1]
    each = max(at_last - at_first, 1e-9) / max(last - first, 1)
    preparation = max(at_first - first * each, 0.0)
    n_iters = math.floor((cpu_s - preparation) / each)
    if n_iters < 1:
        raise VddError(
            f"{what}: {cpu_s:g} processor seconds are spent before the first iteration: the "
            f"preparation takes {preparation:.1f} s and an iteration {each:.3f} s; raise cpu_s "
            "or lower cache_states"
        )
    return Budget(cpu_s, n_iters, preparation, each)


def fit_once(
    record: Path,
    cpu_s: float,
    probe: Callable[[int], Sequence[tuple[int, float]]],
    *,
    what: str,
) -> Budget:
    """Return what ``record`` says, or measure it and leave it there.

    Every seed of a row gets the same number of iterations, and a resumed study the same as before.
    Where two processes measure at once, what the first one wrote holds for both.

    Raises:
        VddError: not even one iteration fits, or a record that cannot be read.
    """
    if not record.exists():
        measured = fit(cpu_s, probe, what=what)
        _write_first(record, dump_json(measured, indent=2) + "\n")
    found = load_json(Budget, record.read_text(encoding="utf-8"), where=str(record))
    if found.cpu_s != cpu_s:
        raise VddError(
            f"{record}: was measured for {found.cpu_s:g} s, now {cpu_s:g} s are asked for; choose "
            "another folder"
        )
    return found


def _write_first(path: Path, content: str) -> None:
    """Write a file whole, unless it is there by now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        ready = Path(folder) / path.name
        write_atomic(ready, content)
        try:
            # A link, unlike a rename, never replaces what another process was quicker to write.
            os.link(ready, path)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            write_atomic(path, content)
