"""The human demonstrations of Push-T (Chi et al., RSS 2023), from an .npz of plain arrays.

    state         [N, 5] finger x, y, block x, y (px), block angle (rad, 0..2 pi)
    action        [N, 2] where the finger was sent (px), on the state of the same row
    episode_ends  [E]    exclusive end row of each episode
    n_contacts    [N]    contact points per step; optional and not used: it counts the walls, too

The 206 published recordings have 25650 rows at 10 Hz.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations, require_finite
from vdd_ros.data.npz import read_arrays, require_arrays

ARRAYS = ("state", "action", "episode_ends")
"""What a recording must hold."""


def load_pusht_human(path: str | Path) -> Demonstrations:
    """Read the human demonstrations as the task sees them, with the mode of every episode.

    Observations are those of `vdd_ros.tasks.pusht_geometry.observe`, so that angles do not jump;
    modes are the directions of the first contact, found in the recorded states exactly as in a
    rollout's.

    Raises:
        VddError: no such file, an array missing, or of a wrong shape or type, or holding numbers
            that are not finite or lie outside the window; the message names file and array.
    """
    return pusht_demonstrations(read_arrays(path), path)


def pusht_demonstrations(arrays: Mapping[str, NDArray[Any]], path: str | Path) -> Demonstrations:
    """The same from arrays that have been read; `path` is for messages and provenance."""
    require_arrays(arrays, ARRAYS, path)
    state, action, ends = (arrays[name] for name in ARRAYS)
    rows = _rows(state, "state", 5, path)
    if _rows(action, "action", 2, path) != rows:
        raise VddError(
            f"{path}: {rows} rows of state but {len(action)} of action; expected one action per "
            "state"
        )
    _check_ends(ends, rows, path)
    contacts = arrays.get("n_contacts")
    if contacts is not None and (contacts.shape != (rows,) or contacts.dtype.kind not in "iu"):
        raise VddError(
            f"{path}: n_contacts has shape {contacts.shape} and type {contacts.dtype}; expected "
            f"whole numbers of shape ({rows},), or leave it out"
        )
    for name, table in (("state", state), ("action", action)):
        require_finite(table, f"{path}: {name}")
    # Imported late: the tasks' own demonstrations are built from this room's words.
    from vdd_ros.tasks.pusht import WINDOW_PX
    from vdd_ros.tasks.pusht_geometry import first_contact_mode, observe

    if action.min() < 0.0 or action.max() > WINDOW_PX:
        raise VddError(
            f"{path}: action lies within {action.min():.4g}..{action.max():.4g}; expected pixels, "
            f"0..{WINDOW_PX:g}: scaled recordings have to be scaled back"
        )
    starts = [0, *ends[:-1].tolist()]
    return Demonstrations(
        observation=observe(state).astype(np.float32),
        action=action,
        episode_ends=ends,
        mode=np.array(
            [first_contact_mode(state[a:b]) for a, b in zip(starts, ends, strict=True)], np.int64
        ),
        source=f"human pusht ({Path(path).name})",
    )


def _rows(table: NDArray[Any], name: str, columns: int, path: str | Path) -> int:
    """Number of rows of a table that has to be numbers [N, columns]."""
    n = table.shape[0] if table.ndim else 0
    if table.shape != (n, columns) or n == 0 or table.dtype.kind not in "fiu":
        raise VddError(
            f"{path}: {name} has shape {table.shape} and type {table.dtype}; expected numbers of "
            f"shape (N, {columns}), N >= 1"
        )
    return n


def _check_ends(ends: NDArray[Any], rows: int, path: str | Path) -> None:
    rising = ends.ndim == 1 and ends.size > 0 and ends.dtype.kind in "iu"
    # As int64, since differences of unsigned numbers are never negative.
    rising = rising and bool((np.diff(ends.astype(np.int64), prepend=0) > 0).all())
    if not rising or ends[-1] != rows:
        shown = np.array2string(ends, threshold=8, edgeitems=3, separator=", ")
        raise VddError(
            f"{path}: episode_ends is {shown}; expected rising exclusive end rows, the last one "
            f"{rows} (the rows of state)"
        )
