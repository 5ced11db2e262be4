"""Push-T's geometry: what is seen, which way the finger pushes, how it goes round the block.

Pixels, radians. A state [..., 5] is finger x, y, block x, y and the block's angle; the functions
know nothing of a simulation, so recorded episodes are judged by them as simulated ones are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

N_MODES = 8
"""Directions of the first contact."""
FINGER_RADIUS_PX = 15.0
"""Radius of the finger."""
CONTACT_TOLERANCE_PX = 0.5
"""A gap below this is contact: bodies that push each other rest a little apart or overlap."""
BAR: Array = np.array([[0.0, 15.0], [60.0, 15.0]])
"""Centre and half size (px) of the T's bar in the block's frame, whose origin is on its edge."""
STEM: Array = np.array([[0.0, 75.0], [15.0, 45.0]])
"""Centre and half size (px) of the T's stem in the block's frame."""
CENTRE_OF_MASS: Array = np.array([0.0, 45.0])
"""The block's centre of mass (px) in its frame, as the simulation has it."""
OUTLINE: Array = np.array(
    [[-60, 0], [60, 0], [60, 30], [15, 30], [15, 120], [-15, 120], [-15, 30], [-60, 30.0]]
)
"""Corners (px) of the T in the block's frame."""

for _constant in (BAR, STEM, CENTRE_OF_MASS, OUTLINE):
    _constant.setflags(write=False)


def observe(state: ArrayLike) -> Array:
    """Recorded states [..., 5] (finger x, y, block x, y, angle) -> observations [..., 6]."""
    state = np.asarray(state, np.float64)
    angle = state[..., 4:]
    return np.concatenate([state[..., :4], np.cos(angle), np.sin(angle)], axis=-1)


def in_block_frame(state: ArrayLike) -> Array:
    """[..., 2] where the finger is in the block's frame (px), for states [..., 5]."""
    state = np.asarray(state, np.float64)
    away, cos, sin = state[..., :2] - state[..., 2:4], np.cos(state[..., 4]), np.sin(state[..., 4])
    x, y = away[..., 0], away[..., 1]
    return np.stack([cos * x + sin * y, cos * y - sin * x], axis=-1)


def contact_gap(state: ArrayLike) -> Array:
    """[...] distance in px between finger and block, for states [..., 5]; negative = overlap."""
    finger = in_block_frame(state)
    gaps = []
    for centre, half in (BAR, STEM):
        beyond = np.abs(finger - centre) - half
        outside = np.linalg.norm(np.maximum(beyond, 0.0), axis=-1)
        gaps.append(outside + np.minimum(beyond.max(axis=-1), 0.0))
    return np.minimum(*gaps) - FINGER_RADIUS_PX


def contact_mode(state: ArrayLike) -> NDArray[np.int64]:
    """[...] direction 0..7 in which the finger touches the block, -1 where it does not.

    Eight sectors of 45 degrees round the centre of mass; 0 begins at the block's own x axis (along
    the bar) and they run towards its y axis (along the stem).

    Args:
        state: [..., 5] finger x, y, block x, y (px), angle (rad).
    """
    arm = in_block_frame(state) - CENTRE_OF_MASS
    sector = np.floor(np.arctan2(arm[..., 1], arm[..., 0]) / (2 * np.pi / N_MODES))
    touching = contact_gap(state) <= CONTACT_TOLERANCE_PX
    return np.where(touching, sector.astype(np.int64) % N_MODES, -1)


def first_contact_mode(states: ArrayLike) -> int:
    """Mode of one episode of states [T, 5]: of its first contact; -1 without any."""
    modes = contact_mode(states)
    touching = np.flatnonzero(modes >= 0)
    return int(modes[touching[0]]) if touching.size else -1


def winding(states: ArrayLike) -> float:
    """Angle in rad by which the finger has gone round the block in an episode of states [T, 5].

    Seen from the block's position, without turning along with the block; positive from the x
    towards the y axis. `winding_sense` says when it counts as going round.
    """
    directions = bearing(np.asarray(states, np.float64))
    return float(wrap(np.diff(directions)).sum())


def winding_sense(angle: ArrayLike) -> NDArray[np.int64]:
    """+1 or -1 where a winding angle (rad) exceeds a quarter turn, 0 where it does not."""
    angle = np.asarray(angle, np.float64)
    return np.where(np.abs(angle) > np.pi / 2, np.sign(angle), 0).astype(np.int64)


def bearing(state: Array) -> Array:
    """[...] direction (rad) in which the finger is seen from the block."""
    away = state[..., :2] - state[..., 2:4]
    return np.arctan2(away[..., 1], away[..., 0])


def wrap(angle: Array) -> Array:
    """The same angle within -pi..pi."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
