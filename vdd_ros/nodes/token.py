"""The command token: which of two nodes on one machine may command, decided by the kernel.

Rows of ``~/status`` take time to be heard, on a busy machine more than a control period. Two nodes
on the same machine therefore share a file in memory besides. It holds whose the command is and
what was sent last; three of its bytes are locked:

- ``GUARD``, by whoever sends a command or takes the token, for as long as that takes. So a command
  leaves either before the token was taken, or not at all. (A node stopped in the very middle would
  stop its partner too: after `PATIENCE_S` the token is taken without the guard.)
- one byte for each of the two, held for as long as the process lives. The kernel frees it at once
  when the process ends, however it ends: no silence has to be waited for.

Locks are the advisory record locks of POSIX; all of it costs 4 us a command (median
of 20,000, 7 joints).
Where the two nodes are not on the same machine, or belong to two users, they do not see each
other here; then the rules for rows stand alone (see `roles`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import stat
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError

GUARD, COMMAND, STANDBY = 0, 1, 2
"""Bytes that are locked."""
PATIENCE_S = 0.002
"""Longest wait for a partner that is sending; it takes a tenth of a millisecond."""
_PAUSE_S = 0.0001
_TRIES = 50
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_HEADER = 64
_HOLDER, _SENT_NS, _DIM, _STAMP_NS = range(4)
"""Words of the file; stamps of answers are kept apart, at `_STAMP_NS` plus the place."""
_LAYOUT = _STAMP_NS + STANDBY + 1


class CommandToken:
    """One node's end of the token."""

    def __init__(
        self, path: Path, *, role: str, dim: int, motion: int = 0, layout: int = 0
    ) -> None:
        """Open the file, make it where it is not there, and take this node's byte.

        Args:
            path: the file; see `token_path`.
            role: command or standby.
            dim: values of a command.
            motion: numbers that say how commands move (`ControlLoop.motion`).
            layout: one number for the limits and the rate they are counted by: what another node
                says of the motion is of use to one with the same only.

        Raises:
            VddError: the file cannot be used, or another process is in this node's place.
        """
        self._me = COMMAND if role == "command" else STANDBY
        self._other = STANDBY + COMMAND - self._me
        self.shared = False
        """The partner has its end of this token, as of the last `look`."""
        self.gone = False
        """The partner had its end of this token, and its process has ended since."""
        self._seen = False
        size = _HEADER + 8 * (dim + motion)
        self._layout = layout
        try:
            self._file = os.open(path, _OPEN, 0o600)
        except OSError as error:
            raise VddError(f"no command token: {error}; roles rely on messages alone") from None
        try:
            self._claim(path, size)
            self._memory = mmap.mmap(self._file, size)
        except BaseException:
            os.close(self._file)
            raise
        self._words = np.frombuffer(self._memory, np.int64, _HEADER // 8)
        self._last = np.frombuffer(self._memory, np.float64, dim, _HEADER)
        self._motion = np.frombuffer(self._memory, np.float64, motion, _HEADER + 8 * dim)

    def _claim(self, path: Path, size: int) -> None:
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
            raise VddError(f"no command token: {path} belongs to somebody else; remove it")
        for _ in range(_TRIES):
            if self._lock(self._me):
                break
            time.sleep(_PAUSE_S)  # the partner may be looking whether this node is there
        else:
            raise VddError(
                f"no command token: another process is in this node's place ({path}); is the node "
                "running twice?"
            )
        if found.st_size < size:
            os.ftruncate(self._file, size)

    @property
    def mine(self) -> bool:
        """The command is this node's."""
        return bool(self._words[_HOLDER] == self._me)

    def look(self) -> None:
        """See whether the partner's process is there."""
        free = self._lock(self._other)
        if free:
            self._free(self._other)
        self.shared = not free
        self._seen |= self.shared
        self.gone = free and self._seen

    def take(self) -> None:
        """Make the command this node's; whatever the partner is just sending goes out before."""
        guarded = self._guard(PATIENCE_S)
        self._words[_HOLDER] = self._me
        if guarded:
            self._free(GUARD)

    def enter(self) -> None:
        """Begin to send: until `leave` the token stays where it is."""
        # Who cannot have it and finds the command his own has a partner stopped while sending.
        self._guard(PATIENCE_S)

    def leave(self) -> None:
        """Sent, or not."""
        self._free(GUARD)

    def sent(
        self, command: NDArray[np.floating], stamp_ns: int, motion: NDArray[np.float64]
    ) -> None:
        """Keep what goes out, before `leave`.

        Args:
            command: the command [D_act].
            stamp_ns: of the observation that it answers.
            motion: how the commands move, of any shape.
        """
        self._last[:] = command
        self._motion[:] = motion.reshape(-1)
        self._words[_LAYOUT] = self._layout
        self._words[_STAMP_NS + self._me] = stamp_ns
        self._words[_DIM] = len(self._last)
        self._words[_SENT_NS] = time.monotonic_ns()

    def answered(self, stamp_ns: int, max_age_ns: int) -> bool:
        """Tell whether the partner has answered this observation, or one that came after it.

        Longer after it than ``max_age_ns`` the clock was set back, and all begins anew.
        """
        ahead_ns = int(self._words[_STAMP_NS + self._other]) - stamp_ns
        return 0 <= ahead_ns <= max_age_ns

    def last(self, max_age_ns: int) -> NDArray[np.float64] | None:
        """Return the command [D_act] sent last by either; None where that was long ago."""
        age_ns = time.monotonic_ns() - int(self._words[_SENT_NS])
        known = self._words[_DIM] == len(self._last) and 0 <= age_ns <= max_age_ns
        return self._last.copy() if known else None

    @property
    def motion(self) -> NDArray[np.float64] | None:
        """How the command sent last moved [n]; None where its sender has other limits."""
        known = self._words[_LAYOUT] == self._layout and np.isfinite(self._motion).all()
        return self._motion.copy() if known else None

    def close(self) -> None:
        """Give the place up; to the partner this node has ended."""
        del self._words, self._last, self._motion
        self._memory.close()
        os.close(self._file)

    def _guard(self, wait_s: float) -> bool:
        if self._lock(GUARD):
            return True
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
            if self._lock(GUARD):
                return True
        return False

    def _lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError:
            return False
        return True

    def _free(self, byte: int) -> None:
        with contextlib.suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)


def token_path(first: str, second: str, *, domain: int, folder: Path | None = None) -> Path:
    """Return where the token of two nodes is, whichever of them asks.

    Args:
        first: fully qualified name of one node.
        second: of the other.
        domain: ROS domain.
        folder: where; memory by default, else the folder for temporary files.
    """
    memory = Path("/dev/shm")
    folder = folder or (memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir()))
    names = "|".join([str(domain), *sorted((first, second))])
    return (
        folder / f"vdd_ros_{os.getuid()}_{hashlib.sha256(names.encode()).hexdigest()[:16]}.token"
    )
