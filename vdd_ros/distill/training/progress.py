"""Showing how training goes: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TextIO, runtime_checkable

# A bar redrawn more often than the eye follows only costs time.
_REFRESH_S = 0.2


@runtime_checkable
class Progress(Protocol):
    """Shows the state of a run; everything goes to the error stream, never to the output."""

    def update(self, done: int, values: Mapping[str, float], teacher_queries: int) -> None:
        """Show iteration ``done`` and the latest figures."""
        ...


@contextlib.contextmanager
def make_progress(
    title: str, total: int, *, every_s: float, stream: TextIO | None = None
) -> Iterator[Progress]:
    """Open the display that suits the stream (standard error by default)."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield PlainProgress(title, total, every_s=every_s, stream=stream)
        return
    # Only a terminal needs it, and it is an optional package.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn(title),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=Console(file=stream),
    )
    with bar:
        yield _RichProgress(bar, total)


class PlainProgress:
    """One line every few seconds."""

    def __init__(self, title: str, total: int, *, every_s: float, stream: TextIO) -> None:
        """Remember where to write and how often."""
        self._title, self._total, self._every_s, self._stream = title, total, every_s, stream
        self._start = self._last = time.monotonic()
        self._first_done: int | None = None
        self._rate = QueryRate()

    def update(self, done: int, values: Mapping[str, float], teacher_queries: int) -> None:
        """Write a line if it is time for one, and always the last."""
        if self._first_done is None:
            self._first_done = done
        now = time.monotonic()
        if now - self._last < self._every_s and done < self._total:
            return
        self._last = now
        steps = max(1, done - self._first_done)
        left_s = (now - self._start) / steps * (self._total - done)
        figures = describe(values, self._rate.update(teacher_queries, now))
        self._stream.write(f"{self._title} {done}/{self._total}  {figures}  {left_s:.0f} s left\n")
        self._stream.flush()


class _RichProgress:
    def __init__(self, bar: Any, total: int) -> None:  # noqa: ANN401 - rich is optional
        self._bar, self._last = bar, 0.0
        self._task = bar.add_task("", total=total, figures="")
        self._rate = QueryRate()

    def update(self, done: int, values: Mapping[str, float], teacher_queries: int) -> None:
        now = time.monotonic()
        if now - self._last < _REFRESH_S:
            return
        self._last = now
        figures = describe(values, self._rate.update(teacher_queries, now))
        self._bar.update(self._task, completed=done, figures=figures)


class QueryRate:
    """Teacher queries per second between two looks."""

    def __init__(self) -> None:
        """Start without a measurement."""
        self._count, self._time = 0, 0.0

    def update(self, count: int, now: float) -> float:
        """Return the rate since the last look; 0 at the first."""
        rate = (count - self._count) / (now - self._time) if self._time else 0.0
        self._count, self._time = count, now
        return rate


def describe(values: Mapping[str, float], queries_per_s: float) -> str:
    """Return the figures worth watching, as text."""
    hidden = ("cpu_s", "teacher_queries")
    shown = [f"{name} {value:.3g}" for name, value in values.items() if name not in hidden]
    if queries_per_s > 0:
        shown.append(f"teacher {queries_per_s / 1000:.0f}k/s")
    return "  ".join(shown)
