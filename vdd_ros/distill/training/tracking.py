"""Where training figures go: a LogWriter, of which the JSON-lines file is always there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from vdd_ros.core.config_io import dump_json, write_atomic
from vdd_ros.core.errors import VddError


@runtime_checkable
class LogWriter(Protocol):
    """Receives figures as training goes on. Bring your own for TensorBoard and the like."""

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Record ``values`` at ``iteration``."""
        ...


class JsonLinesWriter:
    """One JSON object a line: ``{"iteration": 100, "loss": 0.31, ...}``."""

    def __init__(self, path: Path, *, keep_until: int = 0) -> None:
        """Open ``path``; lines after iteration ``keep_until`` are dropped.

        A run that stopped between two checkpoints is resumed at the older one: what the file says
        about later iterations belongs to a past that is about to be relived.

        Raises:
            VddError: the file cannot be written.
        """
        self.path = path
        kept = [line for line in read_lines(path) if line["iteration"] <= keep_until]
        write_atomic(path, "".join(dump_json(line) + "\n" for line in kept))

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Append one line; a crash can cost the last line, never an earlier one."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(dump_json({"iteration": iteration, **values}) + "\n")
        except OSError as error:
            raise VddError(
                f"{self.path}: could not be written ({error.strerror}); free some space"
            ) from None


def read_lines(path: Path) -> list[dict[str, float]]:
    """Return the figures of a JSON-lines file; a torn last line is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
