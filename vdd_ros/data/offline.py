"""Recordings of real robots, for learning and for judging without a simulator.

Two sets, each an .npz of plain arrays:

- Unitree G1 (YifanTian07/G1-policy-train, MIT): 80 teleoperated episodes of picking a bottle, 26
  joints at 30 Hz. Observation = measured joint state, action = COMMANDED joint position, which is
  what the joint controller is told; the state follows it 4 to 5 frames later, so the next state
  would be a command that has long been given. Radians for the arms, 0..1 for the hands.
- Franka Panda, kinesthetic teaching (sayantanauddy/clfd, MIT): 7 letters drawn 8 times (x, y) and
  4 tasks done 9 times (x, y, z, quaternion w, x, y, z), centimetres, each resampled to 1000 poses
  without time stamps. A hand-guided arm has no commands, and without time there are no velocities:
  observation = pose, action = the NEXT pose, absolute, as a Cartesian position controller takes.

The quaternions q and -q are the same rotation. Averages and Gaussian experts do not know that:
every episode is therefore made continuous, and all start in the hemisphere of the first one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.data.demonstrations import Demonstrations, require_finite
from vdd_ros.data.npz import read_arrays

Array = NDArray[np.float64]

G1_ARRAYS = ("state", "action", "timestamp", "episode_ends", "names")
"""Arrays by which a recording of the G1 is known."""
G1_LAG_S = 0.25
"""Largest gap between two rows of one episode: more is a torn recording."""


def load_unitree_g1(path: str | Path) -> Demonstrations:
    """Teleoperated episodes of a Unitree G1: joint states and the commands given in them.

    Args:
        path: .npz with `state` and `action` [N, J], `timestamp` [N] (s, from each episode's
            start), `episode_ends` [E] and `names` [J].

    Returns:
        observation = state, action = command, both [N, J]; modes are not known.

    Raises:
        VddError: no such file, arrays missing or not fitting each other, or time that does not
            run on evenly (the row is named).
    """
    arrays = read_arrays(path)
    missing = [name for name in G1_ARRAYS if name not in arrays]
    if missing:
        raise VddError(
            f"{path}: lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays))}, expected "
            f"a recording of the Unitree G1 with {', '.join(G1_ARRAYS)}"
        )
    state, action, names = arrays["state"], arrays["action"], arrays["names"]
    time_s = arrays["timestamp"]
    if state.shape != action.shape or state.shape != (len(time_s), len(names)):
        raise VddError(
            f"{path}: state {state.shape}, action {action.shape}, timestamp {time_s.shape} and "
            f"{names.size} names do not fit; expected (N, J), (N, J), (N,) and J"
        )
    demos = Demonstrations(
        observation=state,
        action=action,
        episode_ends=arrays["episode_ends"],
        mode=None,
        source=f"Unitree G1, {names.size} joints ({Path(path).name})",
    )
    for rows in demos.episodes():
        step_s = np.diff(time_s[rows])
        if ((step_s <= 0) | (step_s > G1_LAG_S) | ~np.isfinite(step_s)).any():
            bad = rows.start + 1 + int(np.argmax(~((step_s > 0) & (step_s <= G1_LAG_S))))
            raise VddError(
                f"{path}: timestamp {time_s[bad]} in row {bad} after {time_s[bad - 1]}; expected "
                f"steps above 0 and up to {G1_LAG_S} s within an episode: cut it there"
            )
    return demos


def load_franka(path: str | Path, *, name: str | None = None, stride: int = 10) -> Demonstrations:
    """Kinesthetic demonstrations of a Franka Panda: poses, and the pose that came next.

    Args:
        path: .npz with one array [E, T, 2] (letters) or [E, T, 7] (tasks) per name.
        name: one letter or task; None takes all, and `mode` then says which episode is of which
            (their order in the file).
        stride: take every so-manyth pose. The 1000 poses are an interpolation of far fewer
            measured ones; at stride 1 the next pose is the present one to within a millimetre,
            and repeating the observation looks like skill.

    Raises:
        VddError: no such file, an unknown name, or arrays of other shapes.
    """
    arrays = read_arrays(path)
    if name is not None and name not in arrays:
        raise VddError(f"{path}: no demonstrations of '{name}'{did_you_mean(name, arrays)}")
    chosen = {key: arrays[key] for key in ([name] if name is not None else arrays)}
    observation, action, lengths, mode = [], [], [], []
    for index, (key, poses) in enumerate(chosen.items()):
        _check_poses(poses, path, key, stride)
        poses = poses.astype(np.float64)
        require_finite(poses.reshape(-1, poses.shape[2]), f"{path}: {key}")
        if poses.shape[2] == 7:
            poses = np.concatenate([poses[..., :3], continuous_quaternions(poses[..., 3:])], 2)
        poses = poses[:, ::stride]
        observation.append(poses[:, :-1].reshape(-1, poses.shape[2]))
        action.append(poses[:, 1:].reshape(-1, poses.shape[2]))
        lengths += [poses.shape[1] - 1] * len(poses)
        mode += [index] * len(poses)
    if len({table.shape[1] for table in observation}) != 1:
        raise VddError(f"{path}: arrays of different width; name one of {', '.join(arrays)}")
    return Demonstrations(
        observation=np.concatenate(observation),
        action=np.concatenate(action),
        episode_ends=np.cumsum(lengths),
        mode=np.array(mode),
        source=f"Franka {name or ', '.join(chosen)} ({Path(path).name}), every {stride}th pose",
    )


def continuous_quaternions(quaternions: Array) -> Array:
    """Choose between q and -q so that nothing jumps.

    Args:
        quaternions: [E, T, 4] unit quaternions of E episodes of one task, any order of entries.

    Returns:
        The same rotations: each episode continuous, each start on the side of the first start.

    Raises:
        VddError: some are not of unit length, and so no rotations.
    """
    length = np.linalg.norm(quaternions, axis=-1)
    if (np.abs(length - 1.0) > 1e-3).any():
        raise VddError(
            f"quaternions of length {length.min():.4f} to {length.max():.4f}; expected 1: are "
            "these columns a rotation (w, x, y, z)?"
        )
    # A sign turns wherever two neighbours point to opposite sides; it stays turned from there on.
    turns = np.where((quaternions[:, 1:] * quaternions[:, :-1]).sum(-1) < 0.0, -1.0, 1.0)
    first = np.where((quaternions[:, :1] * quaternions[:1, :1]).sum(-1) < 0.0, -1.0, 1.0)
    sign: Array = np.cumprod(np.concatenate([first, turns], axis=1), axis=1)
    return quaternions * sign[..., None]


def _check_poses(poses: NDArray[Any], path: str | Path, key: str, stride: int) -> None:
    """Refuse an array that holds no episodes of planar positions or poses."""
    fits = poses.ndim == 3 and poses.shape[2] in (2, 7) and poses.dtype.kind in "fiu"
    if stride < 1 or not fits or poses.shape[0] < 1 or poses[:, ::stride].shape[1] < 2:
        raise VddError(
            f"{path}: {key} has shape {poses.shape} and type {poses.dtype}, stride is {stride}; "
            "expected numbers of shape (episodes, steps, 2 or 7) with at least two poses left"
        )
