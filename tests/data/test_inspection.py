"""What is odd about demonstrations is said with file and column; other units are refused."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.core.normalizer import Normalizer, NormalizerKind
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.inspection import constant_columns, require_same_units, short_episodes

RNG = np.random.default_rng(0)


def demonstrations(
    observation: NDArray[np.floating],
    action: NDArray[np.floating],
    lengths: tuple[int, ...] = (12,),
) -> Demonstrations:
    return Demonstrations(
        observation=observation.astype(np.float32),
        action=action.astype(np.float32),
        episode_ends=np.cumsum(lengths),
        mode=None,
        source="arm.npz",
    )


def test_columns_that_never_change_are_named_with_file_and_value() -> None:
    observation, action = RNG.normal(size=(12, 4)), RNG.normal(size=(12, 2))
    assert constant_columns(demonstrations(observation, action)) == ()
    observation[:, 2], action[:, 1] = 0.25, -3.0
    seen, done = constant_columns(demonstrations(observation, action))
    assert seen.startswith("arm.npz: observation column 2 (0.25) of 4 never changes")
    assert done.startswith("arm.npz: action column 1 (-3) of 2 never changes")
    assert "always answer this value" in done
    observation[-1, 2] = 0.2501
    assert len(constant_columns(demonstrations(observation, action))) == 1


def test_many_constant_columns_are_counted_and_not_all_listed() -> None:
    (note,) = constant_columns(demonstrations(np.ones((12, 30)), RNG.normal(size=(12, 2))))
    assert "columns 0 (1), 1 (1)" in note
    assert "and 22 more of 30" in note


def test_episodes_shorter_than_a_chunk_are_named_unless_they_are_padded() -> None:
    demos = demonstrations(RNG.normal(size=(22, 2)), RNG.normal(size=(22, 2)), (9, 4, 8, 1))
    (note,) = short_episodes(demos, horizon=8, pad=False)
    assert note.startswith("arm.npz: 2 of 4 episodes are shorter than the chunk of 8")
    assert "1 (4 rows), 3 (1 rows)" in note
    assert short_episodes(demos, horizon=8, pad=True) == ()
    assert short_episodes(demos, horizon=1, pad=False) == ()


def fit(table: NDArray[np.floating], kind: NormalizerKind = "mean_std") -> Normalizer:
    return Normalizer.fit(table, kind)


@pytest.mark.parametrize("kind", ["mean_std", "min_max"])
@pytest.mark.parametrize("factor", [180 / np.pi, np.pi / 180, 1e3, 1e-3])
def test_degrees_for_radians_and_millimetres_for_metres_are_refused(
    kind: NormalizerKind, factor: float
) -> None:
    """Either way round, and the message names file, table and what is expected."""
    known = 0.4 + 0.3 * RNG.normal(size=(500, 3))
    with pytest.raises(VddError, match=r"arm.npz: action.* does not fit the teacher: .*units"):
        require_same_units(
            factor * known, fit(known, kind), what="arm.npz: action", whose="the teacher"
        )


def test_one_column_in_other_units_is_named_with_its_range() -> None:
    known = RNG.normal([0, 1, 2], size=(500, 3))
    other = known * [1, 1, 1000]
    with pytest.raises(VddError, match=r"observation column 2 .* knows 2\.\d+ \+- "):
        require_same_units(other, fit(known), what="a: observation", whose="the teacher")


@pytest.mark.parametrize("kind", ["mean_std", "min_max", "identity"])
def test_a_part_of_the_data_fits_whatever_its_normaliser(kind: NormalizerKind) -> None:
    """A corner of the task, a column that is constant in it, and rare spikes are fine."""
    known = np.concatenate([RNG.normal(size=(2000, 3)), RNG.normal(size=(20, 3)) + 30])
    known[:, 2] = 0.0
    known[:10, 2] = 1.0  # fourteen times its deviation
    normalizer = fit(known, kind)
    for part in (known, known[:1500], known[known[:, 0] > 1], known[5:40], known[:10]):
        require_same_units(part, normalizer, what="a: action", whose="the teacher")


def test_a_column_that_was_constant_for_the_teacher_may_be_constant_again() -> None:
    known = RNG.normal(size=(100, 2))
    known[:, 1] = 640.0
    require_same_units(known[:50], fit(known), what="a: action", whose="the teacher")
