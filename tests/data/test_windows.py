"""Training windows: literal sequences, and properties over all shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.test_demonstrations import numbered
from vdd_ros.core.errors import VddError
from vdd_ros.core.history import ObservationHistory
from vdd_ros.data.windows import make_windows


def test_the_example_of_the_docstring_holds_literally() -> None:
    """n_obs_steps = 3, horizon = 2 on episodes 0..4 and 5..6."""
    windows = make_windows(numbered([5, 2]), n_obs_steps=3, horizon=2)
    seen = windows.observation[..., 0].astype(int).tolist()
    assert seen == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [5, 5, 5]]
    followed = (-windows.action[..., 0]).astype(int).tolist()
    assert followed == [[0, 1], [1, 2], [2, 3], [3, 4], [5, 6]]
    assert windows.episode.tolist() == [0, 0, 0, 0, 1]


def test_padding_keeps_every_row_and_repeats_the_last_action() -> None:
    """The padded chunks stay inside their episode."""
    windows = make_windows(numbered([3, 1]), n_obs_steps=1, horizon=3, pad=True)
    followed = (-windows.action[..., 0]).astype(int).tolist()
    assert followed == [[0, 1, 2], [1, 2, 2], [2, 2, 2], [3, 3, 3]]


@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    n_obs_steps=st.integers(1, 5),
    horizon=st.integers(1, 5),
    pad=st.booleans(),
)
def test_no_window_spans_two_episodes_and_all_that_fit_are_there(
    lengths: list[int], n_obs_steps: int, horizon: int, pad: bool
) -> None:
    """Every row of every window belongs to its episode; the count is the closed form."""
    demos = numbered(lengths)
    expected = sum(n if pad else max(n - horizon + 1, 0) for n in lengths)
    if expected == 0:
        with pytest.raises(VddError, match="no window fits"):
            make_windows(demos, n_obs_steps=n_obs_steps, horizon=horizon, pad=pad)
        return
    windows = make_windows(demos, n_obs_steps=n_obs_steps, horizon=horizon, pad=pad)
    assert len(windows) == expected
    for seen, chunk, episode in zip(
        windows.observation[..., 0], -windows.action[..., 0], windows.episode, strict=True
    ):
        rows = demos.episodes()[episode]
        assert rows.start <= min(seen.min(), chunk.min())
        assert max(seen.max(), chunk.max()) < rows.stop
        assert seen[-1] == chunk[0]


def test_windows_are_what_the_robot_side_history_would_have_shown() -> None:
    """Training and running must see the same windows, or the policy meets unknown inputs."""
    demos = numbered([6, 4])
    windows = make_windows(demos, n_obs_steps=4, horizon=1)
    history = ObservationHistory(4, 2)
    live = []
    for rows in demos.episodes():
        history.reset()
        live += [history.push(o).copy() for o in demos.observation[rows]]
    np.testing.assert_array_equal(windows.observation, np.stack(live))


@pytest.mark.parametrize(("n_obs_steps", "horizon"), [(0, 1), (1, 0), (-1, 2)])
def test_lengths_below_one_are_refused(n_obs_steps: int, horizon: int) -> None:
    """Zero steps of anything is a configuration error."""
    with pytest.raises(VddError, match="at least 1"):
        make_windows(numbered([3]), n_obs_steps=n_obs_steps, horizon=horizon)
