"""Demonstrations: the one in-memory form every reader produces and every trainer consumes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """Episodes of observations and the actions taken on them, one after the other.

    Checked at construction: whatever exists has consistent shapes and only finite numbers.

    Raises:
        VddError: shapes that do not fit, episode ends that do not rise or do not end at N, or a
            number that is not finite (the message names its row and column).
    """

    observation: NDArray[np.float32]
    """[N, D_obs] in the task's own units."""
    action: NDArray[np.float32]
    """[N, D_act] taken on the observation of the same row."""
    episode_ends: NDArray[np.int64]
    """[E] exclusive end row of each episode."""
    mode: NDArray[np.int64] | None
    """[E] which of the task's ways each episode takes, -1 = none; None where not known."""
    source: str
    """Where they come from, for people and for provenance."""

    def __post_init__(self) -> None:
        """Bring arrays to their types, check them, make them read-only."""
        ends = _integers("episode_ends", self.episode_ends)
        mode = None if self.mode is None else _integers("mode", self.mode)
        observation = _table("observation", self.observation)
        action = _table("action", self.action)
        if len(observation) != len(action):
            raise VddError(
                f"{self.source}: {len(observation)} rows of observation but {len(action)} of "
                "action; expected one action per observation"
            )
        starts = np.concatenate([[0], ends[:-1]])
        if len(ends) == 0 or (ends <= starts).any() or ends[-1] != len(observation):
            raise VddError(
                f"{self.source}: episode_ends must be rising exclusive end rows, the last one "
                f"{len(observation)} (the number of rows); got {_shortly(ends)}"
            )
        if mode is not None and mode.shape != ends.shape:
            raise VddError(
                f"{self.source}: {len(ends)} episodes but mode has shape {mode.shape}; "
                "expected one mode per episode"
            )
        for name, table in (("observation", observation), ("action", action)):
            require_finite(table, f"{self.source}: {name}")
        for name, array in (
            ("observation", observation),
            ("action", action),
            ("episode_ends", ends),
            ("mode", mode),
        ):
            if isinstance(array, np.ndarray):
                array.setflags(write=False)
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        """Number of rows N."""
        return len(self.observation)

    @property
    def n_episodes(self) -> int:
        """Number of episodes E."""
        return len(self.episode_ends)

    @property
    def dim_obs(self) -> int:
        """Entries of one observation."""
        return int(self.observation.shape[1])

    @property
    def dim_act(self) -> int:
        """Entries of one action."""
        return int(self.action.shape[1])

    def episodes(self) -> list[slice]:
        """Rows of each episode."""
        ends = self.episode_ends.tolist()
        return [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]

    def take(self, episodes: NDArray[np.integer], *, note: str = "") -> Demonstrations:
        """The episodes with these indices, in this order; `note` is added to the source.

        Raises:
            VddError: no episode asked for, or an index out of range.
        """
        index = np.asarray(episodes, np.int64)
        if index.size == 0 or index.min() < 0 or index.max() >= self.n_episodes:
            raise VddError(
                f"{self.source}: asked for episodes {_shortly(index)}; "
                f"expected at least one of 0..{self.n_episodes - 1}"
            )
        slices = self.episodes()
        rows = np.concatenate([np.arange(slices[i].start, slices[i].stop) for i in index])
        return Demonstrations(
            observation=self.observation[rows],
            action=self.action[rows],
            episode_ends=np.cumsum([slices[i].stop - slices[i].start for i in index]),
            mode=None if self.mode is None else self.mode[index],
            source=f"{self.source}{note}",
        )

    def split(self, fraction: float, seed: int) -> tuple[Demonstrations, Demonstrations]:
        """Split by episode into (fraction, the rest), both shuffled and neither of them empty.

        Rows of one episode are strongly correlated: a split by row would leak the held-out
        part into training.

        Raises:
            VddError: fraction outside (0, 1), or fewer than two episodes.
        """
        if not 0.0 < fraction < 1.0 or self.n_episodes < 2:
            raise VddError(
                f"{self.source}: cannot split {self.n_episodes} episodes at fraction {fraction}; "
                "expected at least two episodes and 0 < fraction < 1"
            )
        order = np.random.default_rng(seed).permutation(self.n_episodes)
        first = min(max(round(fraction * self.n_episodes), 1), self.n_episodes - 1)
        return (
            self.take(np.sort(order[:first]), note=f" [{first} of {self.n_episodes} episodes]"),
            self.take(
                np.sort(order[first:]),
                note=f" [the other {self.n_episodes - first} of {self.n_episodes} episodes]",
            ),
        )

    def data_hash(self) -> str:
        """SHA-256 (hex) of the contents: shapes, types and bytes, but not `source`.

        Equal on every machine, since the bytes are taken little-endian and C-ordered.
        """
        digest = hashlib.sha256()
        for name in ("observation", "action", "episode_ends", "mode"):
            array = getattr(self, name)
            if array is None:
                digest.update(f"{name}:none;".encode())
                continue
            fixed = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            digest.update(f"{name}:{fixed.dtype.str}:{fixed.shape};".encode())
            digest.update(fixed.tobytes())
        return digest.hexdigest()


def require_finite(table: NDArray[np.floating], what: str) -> None:
    """Refuse a table [N, D] that holds NaN or infinity.

    Raises:
        VddError: names the first bad row and column and how many rows are affected.
    """
    bad = ~np.isfinite(table)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise VddError(
            f"{what} is not finite: {table[row, column]} at row {row}, column {column} "
            f"({int(bad.any(axis=1).sum())} bad rows in all); expected numbers only. "
            "Repair or cut these rows before training"
        )


def _table(name: str, values: NDArray[np.floating]) -> NDArray[np.float32]:
    """A private float32 copy of a two-dimensional table."""
    array = np.asarray(values)
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiub":
        raise VddError(
            f"{name} has shape {array.shape} and type {array.dtype}; "
            "expected numbers of shape [N, D] with D >= 1"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, which is refused
        return np.array(array, np.float32, order="C")


def _integers(name: str, values: NDArray[np.integer]) -> NDArray[np.int64]:
    """A private int64 copy of a one-dimensional array of whole numbers."""
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise VddError(
            f"{name} has shape {array.shape} and type {array.dtype}; "
            "expected whole numbers of shape [E]"
        )
    return np.array(array, np.int64)


def _shortly(values: NDArray[np.integer]) -> str:
    """The values for a message, cut in the middle where there are many."""
    return np.array2string(np.asarray(values), threshold=8, edgeitems=3, separator=", ")
