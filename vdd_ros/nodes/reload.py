"""Loading another policy while the old one acts.

The file is read, checked against its golden sample and warmed up in a thread of its own. The tick
shares Python's lock with that thread: the interpreter is told to pass it on every half
millisecond instead of every five, as a tick releases the lock several times.
"""

from __future__ import annotations

import ctypes
import dataclasses
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError

_SWITCH_S = 0.0005
"""Longest time a loading thread keeps the interpreter from a tick."""
_GOODBYE_S = 5.0
"""Longest a node that ends waits for a policy being loaded."""
_MAY_DIFFER = ("name",)
"""Keys of a contract that the running node was not built from."""
_TRIM: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""Of the GNU C library; other ones may not have it, nor need it."""


class Loading:
    """One policy being loaded; the result is picked up by the executor's thread."""

    def __init__(self, load: Callable[[], Any]) -> None:
        """Begin.

        Args:
            load: returns the policy, or raises `VddError` where it is refused.
        """
        self._load = load
        self.result: Any = None
        """What was loaded; None where it was refused."""
        self.refusal = ""
        """Why it was refused."""
        self.unexpected = ""
        """The traceback of an error nobody foresaw."""
        self.took_s = 0.0
        """How long loading took."""
        self._done = threading.Event()
        # A daemon: a file on a dead network drive must not keep a node from ending.
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Tell whether the result is there."""
        return self._done.is_set()

    def join(self) -> None:
        """Wait for the end of a load whose result nobody wants any more."""
        self._thread.join(_GOODBYE_S)

    def _run(self) -> None:
        before, began = sys.getswitchinterval(), time.monotonic()
        sys.setswitchinterval(_SWITCH_S)
        try:
            self.result = self._load()
        except VddError as error:
            self.refusal = str(error)
        except Exception as error:  # whatever a file brings up, the old policy goes on
            self.refusal = f"{type(error).__name__}: {error}"
            self.unexpected = traceback.format_exc()
        finally:
            sys.setswitchinterval(before)
            self.took_s = time.monotonic() - began
            self._done.set()


def give_back() -> None:
    """Give the memory of a policy that is no more back to the system; takes a fifth of a ms.

    What a load frees lies between what it keeps, so the C library would hold on to it: without
    this a node grows by 3 MB over its first fifty reloads, and stays there.
    """
    if _TRIM is not None:
        _TRIM(0)


def incompatible(running: PolicyContract, other: PolicyContract) -> list[str]:
    """Return what another contract has that a running node cannot take over; empty if nothing."""
    return list(_differences("", running, other))


def check_exchange(running: PolicyContract, other: PolicyContract) -> None:
    """Refuse a policy that the running node was not built for.

    Raises:
        VddError: topics, fields, limits or rates differ; the message names them.
    """
    found = incompatible(running, other)
    if found:
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        raise VddError(
            f"another contract than the running one: {'; '.join(found[:4])}{more}; deactivate, "
            "clean up, configure and activate to change the contract, or set 'contract'"
        )


def _differences(where: str, running: Any, other: Any) -> list[str]:  # noqa: ANN401
    if dataclasses.is_dataclass(running) and type(running) is type(other):
        found = []
        for entry in dataclasses.fields(running):
            if where or entry.name not in _MAY_DIFFER:
                path = f"{where}.{entry.name}" if where else entry.name
                old, new = getattr(running, entry.name), getattr(other, entry.name)
                found += _differences(path, old, new)
        return found
    fields = ("observations", "actions")
    if where in fields and [f.key for f in running] == [f.key for f in other]:
        pairs = zip(running, other, strict=True)
        return [d for a, b in pairs for d in _differences(f"{where}.{a.key}", a, b)]
    if where in fields:
        running, other = [f.key for f in running], [f.key for f in other]
    return [] if running == other else [f"{where} is {_short(other)}, runs with {_short(running)}"]


def _short(value: object) -> str:
    if isinstance(value, tuple):
        value = list(value)
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
