"""Expert selection, the observation window and the latency record."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdd_ros.core.errors import VddError
from vdd_ros.core.gating import ExpertSelector, SelectionSettings
from vdd_ros.core.history import ObservationHistory
from vdd_ros.core.latency import LatencyWindow, summarize

LOGITS = np.log(np.array([[0.2, 0.5, 0.3]]))


def draw(selector, n):
    return np.array([selector.select(LOGITS)[0] for _ in range(n)])


def test_sampling_follows_the_gate_and_replays_with_the_seed():
    first = draw(ExpertSelector(SelectionSettings(seed=3), 3), 5000)
    again = draw(ExpertSelector(SelectionSettings(seed=3), 3), 5000)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(np.bincount(first) / 5000, [0.2, 0.5, 0.3], atol=0.03)


def test_argmax_takes_the_likeliest_and_pinned_the_chosen():
    assert set(draw(ExpertSelector(SelectionSettings(rule="argmax"), 3), 50)) == {1}
    pinned = SelectionSettings(rule="pinned", pinned_expert=2)
    assert set(draw(ExpertSelector(pinned, 3), 50)) == {2}


def test_sticky_keeps_a_plausible_expert_and_lets_an_implausible_one_go():
    selector = ExpertSelector(SelectionSettings(rule="sticky", sticky_ratio=0.3), 3)
    first = selector.select(LOGITS)[0]
    assert set(draw(selector, 100)) == {first}
    away = np.full((1, 3), 0.0)
    away[0, first] = -50.0
    assert selector.select(away)[0] != first


def test_sticky_forgets_at_reset_so_that_episodes_differ():
    selector = ExpertSelector(SelectionSettings(rule="sticky", sticky_ratio=0.1), 3)
    firsts = set()
    for _ in range(60):
        selector.reset()
        firsts.add(int(selector.select(LOGITS)[0]))
    assert firsts == {0, 1, 2}


def test_low_temperature_approaches_argmax():
    cold = ExpertSelector(SelectionSettings(temperature=0.01), 3)
    assert set(draw(cold, 100)) == {1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "pinned", "pinned_expert": 3}, "experts 0 to 2"),
        ({"temperature": 0.0}, "expected > 0"),
        ({"sticky_ratio": 1.5}, "expected 0 to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(VddError, match=message):
        ExpertSelector(SelectionSettings(**changes), 3)


def test_history_back_fills_then_slides_as_in_its_docstring():
    history = ObservationHistory(3, 1)
    windows = [history.push([value])[:, 0].tolist() for value in (1, 2, 3, 4)]
    assert windows == [[1, 1, 1], [1, 1, 2], [1, 2, 3], [2, 3, 4]]
    history.reset()
    assert history.empty
    assert history.push([9])[:, 0].tolist() == [9, 9, 9]


@given(n=st.integers(1, 7), values=st.lists(st.integers(0, 99), min_size=1, max_size=30))
def test_history_is_the_last_n_of_a_back_filled_list(n, values):
    history = ObservationHistory(n, 1)
    for i, value in enumerate(values):
        window = history.push([value])
        assert window.shape == (n, 1)
        assert window[:, 0].tolist() == ([values[0]] * n + values[: i + 1])[-n:]


def test_latency_percentiles_are_numpys_and_the_window_forgets():
    window = LatencyWindow(size=100)
    for us in range(1, 251):
        window.add(us * 1000)
    kept = np.arange(151, 251)
    summary = window.summary()
    assert window.count == 250
    assert summary.n == 100
    assert summary.p50_us == pytest.approx(np.percentile(kept, 50))
    assert summary.p99_us == pytest.approx(np.percentile(kept, 99))
    assert summary.max_us == 250


def test_no_samples_give_nan_never_a_false_zero():
    assert np.isnan(summarize(np.array([], dtype=np.int64)).p50_us)
