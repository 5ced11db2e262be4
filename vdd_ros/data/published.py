"""Published demonstrations as padded .npy arrays: Relay Kitchen and Block Push.

Both are kept as Behavior Transformers (Shafiullah et al., NeurIPS 2022) and Play-to-Policy (Cui et
al., ICLR 2023) distribute them and BESO and VDD read them: a folder with observations, actions and
a mask of the same length that is 1 while an episode lasts. `docs/data.md` says where they are.

    relay kitchen    observations_seq.npy  [T, E, 60]   entries 30..59 are zeros or goals
                     actions_seq.npy       [T, E, 9]    joint velocities of arm and gripper
                     existence_mask.npy    [T, E]       TIME first
    block push       multimodal_push_observations.npy  [E, T, 16]   from 10 on: the two targets
                     multimodal_push_actions.npy       [E, T, 2]    shift of the effector (m)
                     multimodal_push_masks.npy         [E, T]       EPISODE first

Relay Kitchen is from Gupta et al. (CoRL 2019), 566 human demonstrations of four of seven sub-tasks
each, 12.5 Hz. Block Push is from Florence et al. (CoRL 2021), 1000 scripted episodes, 201 steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations

KITCHEN_FILES = ("observations_seq.npy", "actions_seq.npy", "existence_mask.npy")
"""What a folder of Relay Kitchen holds."""
BLOCK_PUSH_FILES = (
    "multimodal_push_observations.npy",
    "multimodal_push_actions.npy",
    "multimodal_push_masks.npy",
)
"""What a folder of Block Push holds."""
KITCHEN_OBS = 30
"""Observation entries used: 9 joints of the robot and 21 of the kitchen; the rest is the goal."""
BLOCK_PUSH_OBS = 10
"""Observation entries used: two blocks (x, y, yaw), effector (x, y) and its target (x, y)."""


def load_kitchen(folder: str | Path) -> Demonstrations:
    """Relay Kitchen: [joint positions 9, kitchen 21] and joint velocities [9].

    `mode` is the order in which the first two elements of the kitchen reach their goals (see
    `vdd_ros.tasks.kitchen.order_mode`), -1 where fewer than two do.

    Raises:
        VddError: files missing, of other shapes, or masks that are not one run of ones.
    """
    observation, action, mask = (_load(Path(folder) / name) for name in KITCHEN_FILES)
    # Time comes first here, episodes in all other sets.
    tables = (
        np.swapaxes(table, 0, 1) if table.ndim > 1 else table
        for table in (observation, action, mask)
    )
    demos = _unpad(*tables, keep=KITCHEN_OBS, dim_act=9, where=folder, what="Relay Kitchen")
    # Imported late: the tasks' own demonstrations are built from this room's words.
    from vdd_ros.tasks.kitchen import path_mode

    mode = [path_mode(demos.observation[rows]) for rows in demos.episodes()]
    return Demonstrations(
        observation=demos.observation,
        action=demos.action,
        episode_ends=demos.episode_ends,
        mode=np.array(mode),
        source=demos.source,
    )


def load_block_push(folder: str | Path) -> Demonstrations:
    """Block Push: [2 blocks x, y, yaw; effector x, y; its target x, y] and shift of the target.

    The six further columns of the files describe the two fixed targets and are left out, as in
    BESO. Modes are not in the files and not told by these columns alone: None.

    Raises:
        VddError: files missing, of other shapes, or masks that are not one run of ones.
    """
    observation, action, mask = (_load(Path(folder) / name) for name in BLOCK_PUSH_FILES)
    return _unpad(
        observation,
        action,
        mask,
        keep=BLOCK_PUSH_OBS,
        dim_act=2,
        where=folder,
        what="Block Push",
    )


def _load(path: Path) -> NDArray[Any]:
    """One array of plain numbers; nothing is ever unpickled."""
    if not path.is_file():
        raise VddError(f"{path}: no such file; docs/data.md says where the recordings are kept")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = "Python objects" if "pickle" in str(error) else error
        raise VddError(f"{path}: not a readable .npy of numbers ({reason}); get it anew") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise VddError(f"{path}: holds no array of numbers; get it anew")
    return array


def _unpad(
    observation: NDArray[Any],
    action: NDArray[Any],
    mask: NDArray[Any],
    *,
    keep: int,
    dim_act: int,
    where: str | Path,
    what: str,
) -> Demonstrations:
    """Cut the padding off [E, T, D] tables and put the episodes one after the other."""
    shape = mask.shape
    fits = len(shape) == 2 and min(shape) > 0 and action.shape == (*shape, dim_act)
    if not fits or observation.shape[:2] != shape or observation.shape[2] < keep:
        raise VddError(
            f"{where}: observations {observation.shape}, actions {action.shape} and mask "
            f"{shape} (episodes first) do not fit; expected (E, T, {keep} or more), "
            f"(E, T, {dim_act}) and (E, T) of {what}"
        )
    inside = mask != 0
    lengths = inside.sum(axis=1)
    whole = inside == (np.arange(shape[1]) < lengths[:, None])
    if not whole.all() or lengths.min() < 1:
        episode = int(np.argmax(~whole.all(axis=1) | (lengths < 1)))
        raise VddError(
            f"{where}: the mask of episode {episode} is not ones from the start and zeros after; "
            f"expected the padding of {what} at the end: was a file transposed?"
        )
    return Demonstrations(
        observation=observation[..., :keep][inside],
        action=action[inside],
        episode_ends=np.cumsum(lengths),
        mode=None,
        source=f"{what} ({Path(where).name}), {len(lengths)} episodes",
    )
