"""What is odd about demonstrations, named by file and column before anything is trained on them.

Numbers that are not finite are refused when demonstrations are made. What is here may be meant: a
gripper that was never used, an episode that broke off. It is said, and training goes on. Data in
other units than those of the teacher is never meant, and refused.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.core.normalizer import Normalizer
from vdd_ros.data.demonstrations import Demonstrations

# In units of the normaliser, that is about standard deviations. Degrees for radians are a factor
# of 57, millimetres for metres one of 1000; no change of task or of robot comes near.
_FAR = 20.0
_FLAT = 0.1
_NAMED = 8


def constant_columns(demos: Demonstrations) -> tuple[str, ...]:
    """Say which columns never change: a sensor that was off, or a joint that was not used."""
    notes = []
    for name, table in (("observation", demos.observation), ("action", demos.action)):
        constant = np.flatnonzero((table == table[0]).all(axis=0))
        if not len(constant):
            continue
        values = [f"{column} ({table[0, column]:.4g})" for column in constant[:_NAMED]]
        more = f" and {len(constant) - _NAMED} more" if len(constant) > _NAMED else ""
        meaning = (
            "it tells nothing, and on the robot it must not change either"
            if name == "observation"
            else "the policy will always answer this value"
        )
        plural = "columns" if len(constant) > 1 else "column"
        notes.append(
            f"{demos.source}: {name} {plural} {', '.join(values)}{more} of {table.shape[1]} "
            f"never changes: {meaning}; check the recording, or leave the column out"
        )
    return tuple(notes)


def short_episodes(demos: Demonstrations, *, horizon: int, pad: bool) -> tuple[str, ...]:
    """Say which episodes are shorter than a chunk, and therefore not learnt from."""
    lengths = np.diff(demos.episode_ends, prepend=0)
    short = np.flatnonzero(lengths < horizon)
    if pad or not len(short):
        return ()
    names = [f"{episode} ({lengths[episode]} rows)" for episode in short[:_NAMED]]
    more = f" and {len(short) - _NAMED} more" if len(short) > _NAMED else ""
    return (
        f"{demos.source}: {len(short)} of {demos.n_episodes} episodes are shorter than the chunk "
        f"of {horizon} and are left out: {', '.join(names)}{more}; lower horizon, or set pad "
        "where actions are positions to go to",
    )


def oddities(demos: Demonstrations, *, horizon: int, pad: bool) -> tuple[str, ...]:
    """Say all that is odd about demonstrations that chunks of ``horizon`` are cut from."""
    return (*constant_columns(demos), *short_episodes(demos, horizon=horizon, pad=pad))


def require_same_units(
    table: NDArray[np.floating], normalizer: Normalizer, *, what: str, whose: str
) -> None:
    """Refuse a table [N, D] that cannot be in the units a normaliser was fitted in.

    Judged by medians and quartiles, which a few odd rows do not move. A column that the normaliser
    leaves as it is (``identity``) says nothing about units.

    Args:
        table: raw observations or actions.
        normalizer: fitted to what somebody else was trained on.
        what: file and table, for the message.
        whose: what the normaliser belongs to, for the message.

    Raises:
        VddError: the column that is most of all out of range, or that all of them are flat.
    """
    fitted = (normalizer.offset != 0) | (normalizer.scale != 1)
    if not fitted.any():
        return
    z = (table.astype(np.float64) - normalizer.offset) / normalizer.scale
    low, middle, high = np.quantile(z, [0.25, 0.5, 0.75], axis=0)
    spread = high - low
    out = np.where(fitted, np.maximum(np.abs(middle), spread), 0.0)
    worst = int(out.argmax())
    remedy = (
        f"is it in other units than what {whose} was trained on, or of another robot? Convert it, "
        "or use the demonstrations of that training"
    )
    if out[worst] > _FAR:
        quartiles = np.quantile(table[:, worst], [0.25, 0.75])
        raise VddError(
            f"{what} column {worst} does not fit {whose}: half of it lies in {quartiles[0]:.4g} "
            f"to {quartiles[1]:.4g}, where {whose} knows {normalizer.offset[worst]:.4g} +- "
            f"{normalizer.scale[worst]:.4g}; {remedy}"
        )
    varies = fitted & (table != table[0]).any(axis=0)
    widths = (np.quantile(z, 0.95, axis=0) - np.quantile(z, 0.05, axis=0))[varies]
    if len(widths) and widths.max() < _FLAT:
        raise VddError(
            f"{what} does not fit {whose}: no column of it varies by more than "
            f"{widths.max():.2g} of its standard units; {remedy}"
        )
