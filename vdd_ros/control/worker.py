"""Worker: one thread that computes one thing at a time, for a caller that must not wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Done(NamedTuple, Generic[T]):
    """What became of a job."""

    value: T | None
    """What it returned; None where it raised."""
    error: BaseException | None
    """What it raised."""
    took_ns: int
    """From asking to the end of it."""


class Worker(Generic[T]):
    """Runs jobs in a thread of its own, one at a time."""

    def __init__(self, name: str) -> None:
        """Start the thread.

        Args:
            name: of the thread, for debuggers.
        """
        self._jobs: SimpleQueue[Callable[[], T] | None] = SimpleQueue()
        self._asked_ns = 0
        self._result: Done[T] | None = None
        self._done = threading.Event()
        # A daemon: a job that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, job: Callable[[], T]) -> None:
        """Begin a job; the answer to the one before was taken."""
        self._asked_ns = time.perf_counter_ns()
        self._jobs.put(job)

    def take(self) -> Done[T] | None:
        """Return what became of the job, once; None while it runs and where there is none."""
        if not self._done.is_set():
            return None
        self._done.clear()
        result, self._result = self._result, None
        self._asked_ns = 0
        return result

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of a job; return whether it came."""
        return self._done.wait(timeout_s)

    def running_ns(self) -> int:
        """Return for how long the job has been running; 0 where none is."""
        if not self._asked_ns or self._done.is_set():
            return 0
        return time.perf_counter_ns() - self._asked_ns

    def close(self, timeout_s: float) -> bool:
        """End the thread; return whether it has ended within the time it is given."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            value, error = None, None
            try:
                value = job()
            except BaseException as raised:  # whatever it is, the next job must be done
                error = raised
            self._result = Done(value, error, time.perf_counter_ns() - self._asked_ns)
            del job, value, error
            self._done.set()
