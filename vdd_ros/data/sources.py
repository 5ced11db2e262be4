"""Published recordings by path: what a file or folder holds decides who reads it.

A prefix says it outright, which is only needed where looking is not enough:

    kitchen:PATH       Relay Kitchen, a folder of .npy
    block-push:PATH    Block Push, a folder of .npy
    d3il:PATH          a folder of D3IL's .pkl, of whichever of its tasks
    g1:PATH            Unitree G1, an .npz
    franka:PATH        Franka Panda, an .npz; franka:PATH#pouring takes one of its tasks
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from vdd_ros.core.errors import VddError
from vdd_ros.data.d3il import d3il_task, load_d3il
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.npz import read_arrays
from vdd_ros.data.offline import G1_ARRAYS, load_franka, load_unitree_g1
from vdd_ros.data.published import (
    BLOCK_PUSH_FILES,
    KITCHEN_FILES,
    load_block_push,
    load_kitchen,
)

PREFIXES = ("kitchen", "block-push", "d3il", "g1", "franka")
"""What may stand before a path."""


def load_published(spec: str, *, level: str = "panda") -> Demonstrations | None:
    """Read a published recording, or return None where `spec` is none of them.

    Args:
        spec: a path, with or without a prefix; see the module's docstring.
        level: for D3IL's avoiding; other recordings know no levels.

    Raises:
        VddError: it was recognised, or a prefix says what it is, and it cannot be read.
    """
    prefix, colon, rest = spec.partition(":")
    kind, path = (prefix, rest) if colon and prefix in PREFIXES else (_kind(spec), spec)
    if kind == "kitchen":
        return load_kitchen(path)
    if kind == "block-push":
        return load_block_push(path)
    if kind == "d3il":
        return _load_d3il(Path(path), level)
    if kind == "g1":
        return load_unitree_g1(path)
    if kind == "franka":
        file, _, name = path.partition("#")
        return load_franka(file, name=name or None)
    return None


def _kind(spec: str) -> str | None:
    """Which of `PREFIXES` belongs before this path, if any."""
    path = Path(spec)
    if path.is_dir():
        for kind, files in (("kitchen", KITCHEN_FILES), ("block-push", BLOCK_PUSH_FILES)):
            if all((path / name).is_file() for name in files):
                return kind
        return "d3il" if any(path.glob("*.pkl")) else None
    names = _array_names(path)
    if set(G1_ARRAYS) <= names:
        return "g1"
    # Episodes of one length, an array per task, need no ends of episodes; all other files do.
    if names and "episode_ends" not in names:
        arrays = read_arrays(path).values()
        if all(array.ndim == 3 and array.shape[2] in (2, 7) for array in arrays):
            return "franka"
    return None


def _array_names(path: Path) -> set[str]:
    """Names of the arrays in an .npz, without reading them; none if it is no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return set()


def _load_d3il(folder: Path, level: str) -> Demonstrations:
    """Episodes of the task that the first of them is of."""
    episodes = sorted(folder.glob("*.pkl")) if folder.is_dir() else []
    if not episodes:
        raise VddError(
            f"{folder}: holds no .pkl; expected a folder of D3IL's recordings, one per episode"
        )
    return load_d3il(folder, task=d3il_task(episodes[0]), level=level)
