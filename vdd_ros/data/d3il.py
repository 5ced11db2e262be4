"""The state-based recordings of D3IL (Jia et al., ICLR 2024): one pickle per episode.

Each `env_*.pkl` is a dict of dicts of arrays with one row per control step, as the benchmark's own
data sets read them. `docs/data.md` says where they are; they are read by
`vdd_ros.data.plain_pickle`, which executes nothing. Expected keys (E: an entry each):

    robot       des_c_pos [T, 3], c_pos [T, 3]            commanded and measured position (m)
                des_j_pos [T, 7], gripper_width [T]       stacking only (rad, m)
    push-box, target-box                pos [T, 3], quat [T, 4]      aligning
    red-box, green-box                  pos, quat                    pushing
    red-box1.., blue-box1..             pos, quat                    sorting, 1 to 3 of each
    red-box, green-box, blue-box        pos, quat                    stacking

Observations are [commanded, measured, objects]; the action is the change of the command to the
next row, so the last row of an episode is dropped. Angles about the vertical enter as their
tangent, as in the benchmark: tan jumps at a quarter turn, but its boxes look alike every half.

    avoiding   4 = 2 + 2                          2
    aligning  20 = 3 + 3 + (3 + 4) + (3 + 4)      3
    pushing   10 = 2 + 2 + 2 x (2 + 1)            2
    sorting    4 + 6 x pairs of boxes             2
    stacking  20 = 7 + 1 + 3 x (3 + 1)            8 = 7 joints + next gripper width
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.plain_pickle import read_plain_pickle

D3ilTask = Literal["avoiding", "aligning", "pushing", "sorting", "stacking"]
"""The tasks with recordings of states."""

Array = NDArray[np.float64]

_BOXES: Mapping[str, tuple[str, ...]] = {
    "avoiding": (),
    "aligning": ("push-box", "target-box"),
    "pushing": ("red-box", "green-box"),
    "stacking": ("red-box", "green-box", "blue-box"),
}


def load_d3il(
    folder: str | Path,
    *,
    task: D3ilTask,
    level: str = "panda",
    files: str | Path | None = None,
) -> Demonstrations:
    """All episodes of one D3IL task, in the order of their file names.

    Args:
        folder: holds the `*.pkl` of the episodes, and nothing else that ends so.
        task: which columns they are made into.
        level: for avoiding; `ideal` takes the measured positions as the commanded ones, as
            `load_avoiding_human` does, `panda` both as recorded.
        files: a pickled list of file names, such as the benchmark's `train_files.pkl`: only these
            episodes, in this order.

    Returns:
        Observations and actions as in the module's docstring; `mode` is known for avoiding (its 24
        ways, from the measured path) and None elsewhere.

    Raises:
        VddError: unknown task or level, no episodes, or one that cannot be read or lacks a key or
            has another shape (file and key are named).
    """
    if task not in get_args(D3ilTask):
        raise VddError(f"unknown D3IL task '{task}'{did_you_mean(task, get_args(D3ilTask))}")
    if level not in ("ideal", "panda"):
        raise VddError(f"unknown level '{level}' of D3IL data; known levels: ideal, panda")
    paths = _episodes(Path(folder), files)
    observation, action, modes, boxes = [], [], [], _BOXES.get(task)
    for path in paths:
        content = read_plain_pickle(path)
        if boxes is None:
            boxes = _sorting_boxes(content, path)
        seen, done = (
            _stacking(content, path)
            if task == "stacking"
            else _planar(
                content, path, dims=3 if task == "aligning" else 2, ideal=level == "ideal"
            )
        )
        objects = [_object(content, box, path, task, len(seen)) for box in boxes]
        seen = np.concatenate([seen, *objects], axis=1)
        if len(seen) < 2:
            raise VddError(f"{path}: has {len(seen)} rows; expected at least 2")
        if task == "avoiding":
            modes.append(_way(seen[:, 2:]))
        observation.append(seen[:-1])
        action.append(done)
    return Demonstrations(
        observation=np.concatenate(observation),
        action=np.concatenate(action),
        episode_ends=np.cumsum([len(rows) for rows in action]),
        mode=np.array(modes) if modes else None,
        source=f"D3IL {task} ({Path(folder).name}), {len(paths)} episodes"
        + (f", level {level}" if task == "avoiding" else ""),
    )


def d3il_task(path: str | Path) -> D3ilTask:
    """Which task an episode is of, by the objects in it.

    Raises:
        VddError: it cannot be read or is of none of them.
    """
    content = read_plain_pickle(path)
    if isinstance(content, dict) and "robot" in content:
        # Stacking before pushing, whose two boxes it has as well.
        known: tuple[D3ilTask, ...] = ("aligning", "stacking", "pushing")
        for name in known:
            if all(box in content for box in _BOXES[name]):
                return name
        if "red-box1" in content:
            return "sorting"
        if not any("box" in str(key) for key in content):
            return "avoiding"
    held = ", ".join(sorted(map(str, content))) if isinstance(content, dict) else "no dict"
    raise VddError(f"{path}: holds {held}; expected an episode of a D3IL task with a robot")


def tan_yaw(quaternion: Array) -> Array:
    """Tangent of the turn about the vertical of quaternions w, x, y, z [..., 4]; any length."""
    w, x, y, z = np.moveaxis(np.asarray(quaternion, np.float64), -1, 0)
    # First row of the rotation matrix; dividing keeps the length of the quaternion out of it.
    tangent: Array = 2.0 * (w * z - x * y) / (w * w + x * x - y * y - z * z)
    return tangent


def _episodes(folder: Path, files: str | Path | None) -> list[Path]:
    """The episodes' files."""
    if not folder.is_dir():
        raise VddError(f"{folder}: no such folder; expected one with an .pkl per episode")
    if files is None:
        paths = sorted(folder.glob("*.pkl"))
    else:
        names = read_plain_pickle(files)
        plain = isinstance(names, list) and all(
            isinstance(name, str) and Path(name).name == name for name in names
        )
        if not plain:
            raise VddError(f"{files}: expected a pickled list of names of files in {folder}")
        paths = [folder / name for name in names]
    if not paths:
        raise VddError(f"{folder}: holds no .pkl; docs/data.md says where the recordings are kept")
    return paths


def _planar(content: object, path: Path, *, dims: int, ideal: bool) -> tuple[Array, Array]:
    """Commanded and measured positions [T, 2 dims], and the changes of the command [T-1, dims]."""
    measured = _rows(content, "robot", "c_pos", path, width=3)[:, :dims]
    desired = measured if ideal else _rows(content, "robot", "des_c_pos", path, width=3)[:, :dims]
    if len(desired) != len(measured):
        raise VddError(
            f"{path}: robot has {len(desired)} rows of des_c_pos and {len(measured)} of c_pos; "
            "expected as many"
        )
    return np.concatenate([desired, measured], axis=1), np.diff(desired, axis=0)


def _stacking(content: object, path: Path) -> tuple[Array, Array]:
    """Commanded joints, gripper width [T, 8]; joint changes, next width [T-1, 8]."""
    joints = _rows(content, "robot", "des_j_pos", path, width=7)
    width = _rows(content, "robot", "gripper_width", path, width=1)
    if len(joints) != len(width):
        raise VddError(
            f"{path}: robot has {len(joints)} rows of des_j_pos and {len(width)} of "
            "gripper_width; expected as many"
        )
    action = np.concatenate([np.diff(joints, axis=0), width[1:]], axis=1)
    return np.concatenate([joints, width], axis=1), action


def _object(content: object, box: str, path: Path, task: str, n: int) -> Array:
    """The columns of one box."""
    position = _rows(content, box, "pos", path, width=3)
    quaternion = _rows(content, box, "quat", path, width=4)
    if not len(position) == len(quaternion) == n:
        raise VddError(
            f"{path}: {box} has {len(position)} rows of pos and {len(quaternion)} of quat; "
            f"expected {n}, as many as the robot"
        )
    if task == "aligning":
        return np.concatenate([position, quaternion], axis=1)
    flat = position if task == "stacking" else position[:, :2]
    return np.concatenate([flat, tan_yaw(quaternion)[:, None]], axis=1)


def _sorting_boxes(content: object, path: Path) -> tuple[str, ...]:
    """Red boxes 1.., then blue ones, as many as the file has of both."""
    known = content if isinstance(content, dict) else {}
    n = sum(1 for i in range(1, 4) if f"red-box{i}" in known and f"blue-box{i}" in known)
    if n == 0:
        raise VddError(f"{path}: holds no red-box1 and blue-box1; expected an episode of sorting")
    return tuple(f"{colour}-box{i}" for colour in ("red", "blue") for i in range(1, n + 1))


def _rows(content: object, group: str, key: str, path: Path, *, width: int) -> Array:
    """One table of an episode [T, width]; a single column may come without its second axis."""
    inner = content.get(group) if isinstance(content, dict) else None
    value = inner.get(key) if isinstance(inner, dict) else None
    if not isinstance(value, np.ndarray):
        held = ", ".join(sorted(map(str, content))) if isinstance(content, dict) else "no dict"
        raise VddError(f"{path}: lacks {group}/{key}; it holds {held}: is the task the right one?")
    table = value[:, None] if value.ndim == 1 and width == 1 else value
    if table.ndim != 2 or table.shape[1] != width or table.dtype.kind not in "fiu":
        raise VddError(
            f"{path}: {group}/{key} has shape {value.shape} and type {value.dtype}; expected "
            f"numbers of shape (T, {width})"
        )
    return table.astype(np.float64)


def _way(path: Array) -> int:
    """Which of the 24 ways of Avoiding a measured path takes."""
    # Imported late: the tasks' own demonstrations are built from this room's words.
    from vdd_ros.tasks.avoiding import path_mode

    return path_mode(path)
