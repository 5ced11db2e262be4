"""Demonstrations: checked at construction, split by episode, hashed by content."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations


def demonstrations(**fields: Any) -> Demonstrations:
    """Construct from whatever a reader may hand over; types are converted at construction."""
    return Demonstrations(**fields)


def numbered(lengths: list[int], *, mode: bool = True) -> Demonstrations:
    """Episodes of these lengths whose observation is (row, 0) and whose action is (-row,)."""
    n = sum(lengths)
    row = np.arange(n, dtype=np.float64)
    return demonstrations(
        observation=np.stack([row, 0 * row], axis=1),
        action=-row[:, None],
        episode_ends=np.cumsum(lengths),
        mode=np.arange(len(lengths)) if mode else None,
        source="numbered",
    )


def test_types_are_brought_to_the_documented_ones_and_nothing_can_be_written() -> None:
    """float64 in, float32 inside; the arrays are private and read-only."""
    given_rows = np.zeros((3, 2))
    demos = demonstrations(
        observation=given_rows, action=given_rows, episode_ends=[3], mode=None, source="zeros"
    )
    given_rows[:] = 7.0
    assert demos.observation.dtype == np.float32
    assert demos.episode_ends.dtype == np.int64
    assert not demos.observation.any()
    with pytest.raises(ValueError, match="read-only"):
        demos.observation[0, 0] = 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["observation", "action"])
def test_the_first_number_that_is_not_finite_is_named_by_row_and_column(
    name: str, value: float
) -> None:
    """A user must find the bad number in the file, so the message says where it is."""
    arrays = {"observation": np.zeros((5, 3)), "action": np.zeros((5, 3))}
    arrays[name][3, 1] = value
    arrays[name][4, 0] = value
    with pytest.raises(VddError, match=rf"{name} is not finite.*row 3, column 1 \(2 bad rows"):
        demonstrations(**arrays, episode_ends=np.array([5]), mode=None, source="file.npz")


@pytest.mark.parametrize("ends", [[], [0, 5], [3, 3, 5], [4, 3, 5], [3], [3, 6], [-1, 5]], ids=str)
def test_episode_ends_must_rise_to_the_number_of_rows(ends: list[int]) -> None:
    """Empty, repeated, falling or short ends would silently lose or mix episodes."""
    with pytest.raises(VddError, match="episode_ends"):
        demonstrations(
            observation=np.zeros((5, 1)),
            action=np.zeros((5, 1)),
            episode_ends=np.array(ends, np.int64),
            mode=None,
            source="file.npz",
        )


def test_shapes_that_do_not_fit_are_refused() -> None:
    """One action per observation, one mode per episode, tables of two dimensions."""
    rows, ends = np.zeros((5, 2)), np.array([2, 5])
    with pytest.raises(VddError, match="5 rows of observation but 4 of action"):
        demonstrations(observation=rows, action=rows[:4], episode_ends=ends, mode=None, source="x")
    with pytest.raises(VddError, match="2 episodes but mode"):
        demonstrations(
            observation=rows, action=rows, episode_ends=ends, mode=np.zeros(3, int), source="x"
        )
    with pytest.raises(VddError, match=r"action has shape \(5,\)"):
        demonstrations(
            observation=rows, action=rows[:, 0], episode_ends=ends, mode=None, source="x"
        )
    with pytest.raises(VddError, match="episode_ends has shape"):
        demonstrations(
            observation=rows, action=rows, episode_ends=ends + 0.5, mode=None, source="x"
        )


@given(
    lengths=st.lists(st.integers(1, 6), min_size=2, max_size=12),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_a_split_keeps_every_episode_whole_and_exactly_once(
    lengths: list[int], fraction: float, seed: int
) -> None:
    """Both parts together are the original rows; no episode is torn, neither part is empty."""
    demos = numbered(lengths)
    parts = demos.split(fraction, seed)
    assert sum(p.n_episodes for p in parts) == len(lengths)
    assert min(p.n_episodes for p in parts) >= 1
    rows = np.concatenate([p.observation[:, 0] for p in parts])
    assert sorted(rows) == list(range(sum(lengths)))
    for part in parts:
        assert part.mode is not None
        for piece, mode in zip(part.episodes(), part.mode, strict=True):
            start = sum(lengths[:mode])
            expected = np.arange(start, start + lengths[mode], dtype=np.float32)
            np.testing.assert_array_equal(part.observation[piece, 0], expected)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_a_split_that_would_leave_one_part_empty_is_refused(fraction: float) -> None:
    """A held-out part without episodes would make its figures meaningless."""
    with pytest.raises(VddError, match="cannot split"):
        numbered([2, 2]).split(fraction, 0)
    with pytest.raises(VddError, match="cannot split 1 episodes"):
        numbered([4]).split(0.5, 0)


def test_the_hash_is_the_documented_digest_of_the_contents() -> None:
    """Computed here by hand: names, little-endian types, shapes, bytes; the source is left out."""
    demos = numbered([2], mode=False)
    digest = hashlib.sha256()
    digest.update(b"observation:<f4:(2, 2);" + np.array([[0, 0], [1, 0]], "<f4").tobytes())
    digest.update(b"action:<f4:(2, 1);" + np.array([[-0.0], [-1]], "<f4").tobytes())
    digest.update(b"episode_ends:<i8:(1,);" + np.array([2], "<i8").tobytes() + b"mode:none;")
    assert demos.data_hash() == digest.hexdigest()


def test_the_hash_sees_every_number_and_every_boundary() -> None:
    """One changed number, another cut into episodes or another mode is other data."""
    base = numbered([2, 3])
    others = [numbered([3, 2]), numbered([2, 3], mode=False), numbered([5])]
    action = base.action.copy()
    action[4, 0] = np.nextafter(action[4, 0], np.float32(0))
    others.append(
        demonstrations(
            observation=base.observation,
            action=action,
            episode_ends=base.episode_ends,
            mode=base.mode,
            source="numbered",
        )
    )
    assert len({d.data_hash() for d in [base, *others]}) == 5
    assert numbered([2, 3]).data_hash() == base.data_hash()


def test_taking_episodes_that_do_not_exist_is_refused() -> None:
    """Negative indices would silently mean other episodes."""
    demos = numbered([2, 3])
    for wrong in ([2], [-1], []):
        with pytest.raises(VddError, match=r"expected at least one of 0\.\.1"):
            demos.take(np.array(wrong, int))
