"""The one-robot path of expert selection is the batch path, only faster."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from vdd_ros.core.gating import ExpertSelector, SelectionRule, SelectionSettings
from vdd_ros.core.mixture import log_softmax

RULES: tuple[SelectionRule, ...] = ("sample", "argmax", "sticky", "pinned")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n_experts", [1, 2, 8, 33, 512])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_one_row_gives_the_choices_of_the_batch_path(
    rule: SelectionRule, n_experts: int, temperature: float
) -> None:
    """select_one and select draw the same experts from the same stream, tick after tick."""
    settings_ = SelectionSettings(rule=rule, seed=7, temperature=temperature)
    batch, single = (ExpertSelector(settings_, n_experts) for _ in range(2))
    logits = np.random.default_rng(1).normal(scale=3.0, size=(300, n_experts)).astype(np.float32)
    for tick, row in enumerate(logits):
        if tick == 150:
            batch.reset()
            single.reset()
        assert single.select_one(row)[0] == batch.select(row[None])[0]


@given(
    logits=st.lists(
        st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=20
    ),
    rule=st.sampled_from(RULES),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=200, deadline=None)
def test_any_logits_give_the_same_valid_expert_on_both_paths(
    logits: list[float], rule: SelectionRule, seed: int
) -> None:
    """Also for NaN and infinite logits both paths agree on an expert that exists."""
    row = np.array(logits, np.float32)
    chosen = []
    with np.errstate(all="ignore"):
        for path in ("one", "batch"):
            selector = ExpertSelector(SelectionSettings(rule=rule, seed=seed), len(row))
            for _ in range(3):
                one = path == "one"
                expert = selector.select_one(row)[0] if one else selector.select(row[None])[0]
            chosen.append(int(expert))
    assert chosen[0] == chosen[1]
    assert 0 <= chosen[0] < len(row)


def test_gate_is_the_softmax_it_draws_from() -> None:
    """The returned gate is softmax(logits / temperature), and draws follow it."""
    logits = np.array([0.5, -1.0, 2.0, 0.0], np.float32)
    selector = ExpertSelector(SelectionSettings(temperature=0.7), 4)
    draws = np.array([selector.select_one(logits)[0] for _ in range(20000)])
    gate = selector.select_one(logits)[1]
    expected = np.exp(log_softmax(logits.astype(np.float64) / 0.7))
    np.testing.assert_allclose(gate, expected, rtol=1e-12)
    # 5 standard errors of a share at n = 20000 are at most .018.
    np.testing.assert_allclose(np.bincount(draws, minlength=4) / len(draws), gate, atol=0.018)


def test_reset_with_a_seed_replays_the_experts() -> None:
    """After reset(seed) the stream is the one a fresh selector with that seed has."""
    logits = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    used = ExpertSelector(SelectionSettings(seed=1), 6)
    used.select(logits)
    used.reset(seed=3)
    fresh = ExpertSelector(SelectionSettings(seed=3), 6)
    assert_array_equal(used.select(logits), fresh.select(logits))
