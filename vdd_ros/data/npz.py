"""Demonstrations in .npz files: our own format, and the human recordings of Avoiding.

Nothing here ever unpickles: an .npz with object arrays is refused, not executed.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.config_io import write_atomic
from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations, require_finite

_FORMAT = "vdd_ros.demonstrations/1"
_OWN = ("observation", "action", "episode_ends")
_HUMAN = ("pos", "des_est", "mode", "episode_ends")


def save_npz(demos: Demonstrations, path: str | Path) -> None:
    """Write demonstrations as a compressed .npz, whole or not at all.

    Raises:
        VddError: the folder cannot be written to, or the disk is full.
    """
    arrays = {name: getattr(demos, name) for name in _OWN}
    if demos.mode is not None:
        arrays["mode"] = demos.mode
    buffer = io.BytesIO()
    arrays["data_hash"] = np.array(demos.data_hash())
    np.savez_compressed(buffer, format=np.array(_FORMAT), source=np.array(demos.source), **arrays)
    write_atomic(path, buffer.getvalue())


def load_npz(path: str | Path) -> Demonstrations:
    """Read what `save_npz` wrote, or any .npz with the same arrays.

    Needs `observation` [N, D_obs], `action` [N, D_act] and `episode_ends` [E]; `mode` [E] and
    `source` are optional.

    Raises:
        VddError: no such file, not an .npz, arrays missing (the message names those it holds), or
            contents that `Demonstrations` refuses.
    """
    arrays = read_arrays(path)
    require_arrays(arrays, _OWN, path)
    version = str(arrays.get("format", _FORMAT))
    if version != _FORMAT:
        raise VddError(
            f"{path}: format '{version}', expected '{_FORMAT}'; read it with the version of "
            "vdd_ros that wrote it"
        )
    named = arrays.get("source")
    source = str(named) if named is not None and named.shape == () else ""
    try:
        demos = Demonstrations(
            observation=arrays["observation"],
            action=arrays["action"],
            episode_ends=arrays["episode_ends"],
            mode=arrays.get("mode"),
            source=source or Path(path).name,
        )
    except VddError as error:
        detail = str(error).removeprefix(f"{Path(path).name}: ")
        raise VddError(f"{path}: {detail}") from None
    # Archives check their members one by one; a member that damage has made vanish goes unnoticed.
    recorded = str(arrays.get("data_hash", "")) if "format" in arrays else demos.data_hash()
    if recorded != demos.data_hash():
        raise VddError(
            f"{path}: not a readable .npz: its contents have hash {demos.data_hash()[:12]}, "
            f"expected {recorded[:12] or 'one'} as recorded in it; copy or record it anew"
        )
    return demos


def load_avoiding_human(path: str | Path, *, level: str = "ideal") -> Demonstrations:
    """The 96 human gamepad demonstrations of D3IL's Avoiding (Jia et al., ICLR 2024).

    The file holds what was MEASURED, `pos` [N, 2], and `des_est` [N, 2], an ESTIMATE of what was
    commanded: the recordings show the rod only, so the commands were inferred from it through the
    fitted tracking of `vdd_ros.tasks.avoiding.panda_track`. `des_est[t]` is the command that leads
    from pos[t] to pos[t+1], hence NaN in an episode's last row, which is dropped.

    Rows are kept up to and including the step that crosses the goal line: there the task ends.

    Args:
        path: human_96.npz.
        level: `ideal` takes the measured positions as desired ones, so the action is the next
            position minus this one and nothing is estimated. `panda` takes des_est: an
            observation holds the command before it and the measured position, the action is the
            command minus the one before it (the first: minus the start). Commands are then
            estimates.

    Raises:
        VddError: unknown level, no such file, other arrays than expected, or numbers that are not
            finite (row and column of the file are named).
    """
    if level not in ("ideal", "panda"):
        raise VddError(f"unknown level '{level}' of task 'avoiding'; known levels: ideal, panda")
    arrays = read_arrays(path)
    require_arrays(arrays, _HUMAN, path)
    position, command = arrays["pos"], arrays["des_est"]
    ends, bits = arrays["episode_ends"], arrays["mode"]
    _check_human(position, command, ends, bits, path)
    require_finite(position, f"{path}: pos")
    starts = np.concatenate([[0], ends[:-1]])
    inner = np.ones(len(position), bool)
    inner[ends - 1] = False
    require_finite(np.where(inner[:, None], command, 0.0), f"{path}: des_est")
    # Imported late: the tasks' own demonstrations are built from this room's words.
    from vdd_ros.tasks.avoiding import GOAL_Y_M, bits_to_mode

    observation, action, lengths = [], [], []
    for start, end in zip(starts, ends, strict=True):
        here = position[start:end]
        arrived = np.flatnonzero(here[:, 1] > GOAL_Y_M)
        n = int(arrived[0]) if arrived.size else len(here) - 1
        if level == "ideal":
            desired = here[: n + 1]
        else:
            desired = np.concatenate([here[:1], command[start : start + n]])
        observation.append(np.concatenate([desired[:n], here[:n]], axis=1))
        action.append(np.diff(desired, axis=0))
        lengths.append(n)
    return Demonstrations(
        observation=np.concatenate(observation),
        action=np.concatenate(action),
        episode_ends=np.cumsum(lengths),
        mode=bits_to_mode(bits),
        source=f"human avoiding ({Path(path).name}), level {level}",
    )


def load_demonstrations(
    spec: str,
    *,
    task: str = "avoiding",
    level: str = "ideal",
    n: int = 480,
    seed: int = 0,
    fit_task: bool = True,
) -> Demonstrations:
    """Demonstrations by name or path, as the command line takes them.

    Args:
        spec: `scripted` for the task's scripted expert; else the path of an .npz: our own format,
            human_96.npz of avoiding, or human_206.npz of pusht; else what
            `vdd_ros.data.sources` knows: published folders and recordings of real robots.
        task: name of the task.
        level: level of the task the demonstrations are for.
        n: number of scripted episodes.
        seed: of the scripted episodes.
        fit_task: refuse recordings of a robot with other observations or actions than the
            task's, which cannot be rolled out on it.

    Raises:
        VddError: anything missing or malformed; the message says what to do.
    """
    # Imported late: the tasks' own demonstrations are built from this room's words.
    from vdd_ros.data.pusht import pusht_demonstrations
    from vdd_ros.data.sources import load_published
    from vdd_ros.tasks.protocol import make_task

    simulated = make_task(task, level=level)
    if spec == "scripted":
        return _scripted(task, n, seed=seed, level=level)
    demos = load_published(spec, level=level)
    if demos is None:
        arrays = read_arrays(spec)
        if set(_HUMAN) <= set(arrays) and not set(_OWN) <= set(arrays):
            demos = load_avoiding_human(spec, level=level)
        elif task == "pusht" and "state" in arrays and not set(_OWN) <= set(arrays):
            demos = pusht_demonstrations(arrays, spec)
        else:
            demos = load_npz(spec)  # which says what is missing
    fits = (demos.dim_obs, demos.dim_act) == (simulated.dim_obs, simulated.dim_act)
    if fit_task and not fits:
        raise VddError(
            f"{spec}: observation has {demos.dim_obs} and action {demos.dim_act} columns; "
            f"task '{task}' expects {simulated.dim_obs} and {simulated.dim_act}: only recordings "
            "of this task can be rolled out on it"
        )
    return demos


def _scripted(task: str, n: int, *, seed: int, level: str) -> Demonstrations:
    """Demonstrations of a task's scripted expert."""
    # Imported late: the tasks' own demonstrations are built from this room's words.
    from vdd_ros.tasks.protocol import SCRIPTED

    if task not in SCRIPTED:
        raise VddError(
            f"task '{task}' has no scripted expert; give the path of demonstrations (--data); "
            f"scripted ones exist for {', '.join(SCRIPTED)}"
        )
    module, function = SCRIPTED[task].split(":")
    demos: Demonstrations = getattr(import_module(module), function)(n, seed=seed, level=level)
    return demos


def read_arrays(path: str | Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz by name, without unpickling anything.

    Raises:
        VddError: no such file, not a readable .npz, or object arrays inside.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise VddError(
            f"{path}: {what}; expected the path of an .npz with demonstrations, or 'scripted' for "
            "those of the task's scripted expert"
        )
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise VddError(f"{path}: holds a single array, expected an .npz with several")
        with archive:
            return {name: archive[name] for name in archive.files}
    except VddError:
        raise
    except OSError as error:
        if isinstance(error, PermissionError):
            raise VddError(f"{path}: no permission to read it; change its mode or owner") from None
        raise VddError(f"{path}: not a readable .npz ({error}); copy or record it anew") from None
    except (ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        # numpy's own words advise to load what is no archive with pickle.
        reason = "Python objects, or no archive at all" if "pickle" in str(error) else error
        raise VddError(
            f"{path}: not a readable .npz of plain numbers ({reason}); expected a file written by "
            "numpy.savez without objects: copy or record it anew"
        ) from None


def require_arrays(
    arrays: Mapping[str, NDArray[Any]], names: tuple[str, ...], path: str | Path
) -> None:
    """Refuse a file that lacks one of the arrays.

    Raises:
        VddError: names those that are missing and those it holds.
    """
    missing = [name for name in names if name not in arrays]
    if missing:
        raise VddError(
            f"{path}: lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'none'}, "
            f"expected {', '.join(names)}. Rename its arrays to these and load it again"
        )


def _check_human(
    position: NDArray[Any],
    command: NDArray[Any],
    ends: NDArray[Any],
    bits: NDArray[Any],
    path: str | Path,
) -> None:
    """Refuse shapes that a recording of Avoiding cannot have."""
    n = len(position) if position.ndim else 0
    rising = ends.ndim == 1 and ends.size > 0 and ends.dtype.kind in "iu"
    rising = rising and bool((np.diff(ends, prepend=0) > 1).all())
    if (
        position.shape != (n, 2)
        or command.shape != (n, 2)
        or not rising
        or ends[-1] != n
        or bits.shape != (len(ends), 9)
        or any(array.dtype.kind not in "fiub" for array in (position, command, bits))
    ):
        raise VddError(
            f"{path}: pos {position.shape}, des_est {command.shape}, mode {bits.shape} and "
            f"{ends.size} episode_ends do not fit; expected (N, 2), (N, 2), (E, 9) and E rising "
            "exclusive end rows, the last one N"
        )
