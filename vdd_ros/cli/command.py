"""What every subcommand shares: its answer, its standard output, its tables.

A subcommand is a frozen dataclass of options (the docstrings below the fields are its help) with a
method ``run() -> Answer``. While it runs, standard output is closed to everybody: whatever a
library prints goes to standard error, so that ``--json`` leaves exactly one object on it.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Protocol

import tyro

File = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
"""A file that must be named."""
Shipped = Annotated[
    Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: the shipped one)")
]
"""A file that comes with the package unless another one is named."""
OptionalPath = Annotated[
    Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(optional)")
]
"""A file or folder that may be left out."""
OptionalNumber = Annotated[
    int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(optional)")
]
"""A number that may be left out."""


@dataclass(frozen=True)
class Answer:
    """What a command has to say when it is done."""

    data: dict[str, Any]
    """The one object of ``--json``: plain JSON types and dataclasses."""
    text: str
    """The same for people."""
    next_commands: tuple[str, ...] = field(default=())
    """What to run next, as it would be typed."""
    exit_code: int = 0
    """Exit status of the process."""


class Command(Protocol):
    """Options of one subcommand, and what it does."""

    @property
    def json(self) -> bool:
        """Print one JSON object instead of text."""
        ...

    def run(self) -> Answer:
        """Do it.

        Raises:
            VddError: something the user can fix.
        """
        ...


@contextmanager
def standard_output_to_error() -> Iterator[None]:
    """Send everything written to standard output to standard error meanwhile.

    Both Python's `sys.stdout` and the file descriptor are turned, since a library written in C and
    a child process write to the latter.
    """
    python_stdout = sys.stdout
    python_stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout = python_stdout
        os.dup2(kept, 1)
        os.close(kept)


def open_standard_streams() -> None:
    """Tie streams that the process was started without to nowhere.

    A file opened later would otherwise take their number, and what is printed would go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def as_typed(command: str, options: Any, **changes: object) -> str:  # noqa: ANN401 - any options
    """Return the command line that stands for these options, for people to copy.

    Args:
        command: the subcommand, for example ``distill``.
        options: its dataclass; fields at their default are left out, positional ones not
            supported.
        changes: fields to show with another value.
    """
    words = ["vdd", command]
    for entry in fields(options):
        value = changes.get(entry.name, getattr(options, entry.name))
        if value == entry.default:
            continue
        words.append(f"--{entry.name.replace('_', '-')}")
        if value is not True:
            words.append(str(value))
    return shlex.join(words)


def say(message: str) -> None:
    """Tell the person at the terminal what is going on; never part of the answer."""
    print(message, file=sys.stderr, flush=True)


def require_writable(folder: Path) -> None:
    """Make a folder, and make sure that files can be written in it.

    Raises:
        VddError: it cannot be made, or is not writable.
    """
    from vdd_ros.core.errors import VddError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise VddError(
            f"{folder}: cannot write here ({error.strerror}); choose a writable folder"
        ) from None


def require_at_least(lowest: int, **options: int | None) -> None:
    """Refuse numbers that are too small; what was left out (None) is not looked at.

    Args:
        lowest: the smallest that makes sense.
        options: by their names as fields, ``data_seed`` for ``--data-seed``.

    Raises:
        VddError: the first that is smaller.
    """
    from vdd_ros.core.errors import VddError

    for name, value in options.items():
        if value is not None and value < lowest:
            option = name.replace("_", "-")
            raise VddError(f"--{option}: got {value}, expected at least {lowest}")


def table(rows: Sequence[Sequence[str]], *, header: Sequence[str] = ()) -> str:
    """Lay out rows of words in columns, the first left-aligned and the others right-aligned."""
    lines = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    printed = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    if header:
        printed.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(printed)


def microseconds(value: float | None) -> str:
    """Show a duration at a readable precision."""
    if value is None or value != value:
        return "-"
    if value < 10:
        return f"{value:.1f} us"
    return f"{value:.0f} us" if value < 10_000 else f"{value / 1000:.1f} ms"


def whole_numbers(text: str, *, option: str) -> tuple[int, ...]:
    """Parse ``4,16`` into positive whole numbers.

    Raises:
        VddError: anything else.
    """
    from vdd_ros.core.errors import VddError

    try:
        numbers = tuple(int(word) for word in text.replace(" ", "").split(",") if word)
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise VddError(
            f"{option}: got '{text}', expected whole numbers of at least 1 with commas between "
            "them, for example 4,16"
        )
    return numbers
