"""The queue and the clock of control steps: whatever is put when, against plain twins."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdd_ros.core.chunking import ActionChunk, ActionQueue
from vdd_ros.core.contract import (
    ActionField,
    Execution,
    ObservationField,
    PolicyContract,
)
from vdd_ros.core.errors import VddError
from vdd_ros.core.steps import StepClock

RULES: tuple[Execution, ...] = (
    "latest_only",
    "average",
    "weighted_average",
    "conservative",
    "temporal_ensemble",
)
KEEP = {"latest_only": 0.0, "average": 0.5, "weighted_average": 0.3, "conservative": 0.7}


@dataclass
class Twin:
    """Keeps every prediction of every step and computes each mean from all of them: O(n^2)."""

    rule: Execution
    coeff: float
    now: int = 0
    expired: int = 0
    said: dict[int, list[float]] = field(default_factory=dict)

    def put(self, first: int, values: list[float]) -> None:
        late = [v for i, v in enumerate(values) if first + i < self.now]
        self.expired += len(late)
        steps = {first + i: v for i, v in enumerate(values) if first + i >= self.now}
        self.said = {s: [*self.said.get(s, []), v] for s, v in steps.items()}

    def pop(self, step: int) -> float | None:
        passed = [s for s in self.said if s < step]
        self.expired += len(passed)
        for s in passed:
            del self.said[s]
        if step < self.now:
            return None
        self.now = max(self.now, step)
        values = self.said.pop(step, None)
        if values is None:
            return None
        self.now = step + 1
        if self.rule == "temporal_ensemble":
            weights = [math.exp(-self.coeff * i) for i in range(len(values))]
            return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        mean = values[0]
        for value in values[1:]:
            mean = KEEP[self.rule] * mean + (1 - KEEP[self.rule]) * value
        return mean


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, int, list[float]]]:
    """Ticks as (steps since the last one, age of the chunk that comes in, its values)."""
    values = st.lists(st.floats(-10, 10, width=32), min_size=0, max_size=9)
    return draw(
        st.lists(st.tuples(st.integers(1, 4), st.integers(-2, 6), values), min_size=1, max_size=14)
    )


@settings(max_examples=300, deadline=None)
@given(
    ticks=histories(),
    rule=st.sampled_from(RULES),
    coeff=st.one_of(st.just(0.01), st.floats(-3, 3)),
)
def test_the_queue_is_its_plain_twin(
    ticks: list[tuple[int, int, list[float]]], rule: Execution, coeff: float
) -> None:
    """Same actions, same count of what expired, and no action outside what was predicted."""
    queue, twin = ActionQueue(rule, temporal_ensemble_coeff=coeff), Twin(rule, coeff)
    step, put = 0, 0
    for skip, age, values in ticks:
        step += skip
        first = max(step - age, 0)
        if values:
            queue.put(ActionChunk(first, np.array(values)[:, None]))
            twin.put(first, values)
            put += len(values)
        said = twin.said.get(step, [])
        action, expected = queue.pop(step), twin.pop(step)
        assert queue.expired == twin.expired
        if expected is None:
            assert action is None
        else:
            assert action is not None
            assert action[0] == pytest.approx(expected, rel=1e-9, abs=1e-9)
            assert min(said) - 1e-9 <= action[0] <= max(said) + 1e-9
        assert len(queue) == len(twin.said) == len(queue.planned())


@settings(max_examples=200, deadline=None)
@given(ticks=histories(), rule=st.sampled_from(RULES))
def test_an_action_is_never_executed_at_another_step(
    ticks: list[tuple[int, int, list[float]]], rule: Execution
) -> None:
    """Every chunk says of each step the step's own number: so does every mean of them."""
    queue = ActionQueue(rule)
    step, put, done = 0, 0, 0
    for skip, age, values in ticks:
        step += skip
        first = max(step - age, 0)
        steps = np.arange(first, first + len(values), dtype=float)
        queue.put(ActionChunk(first, steps[:, None]))
        put += len(values)
        action = queue.pop(step)
        if action is not None:
            done += 1
            assert action[0] == pytest.approx(step)
    if rule == "latest_only":
        assert queue.expired + done + len(queue) <= put


def test_acts_weights_are_reproduced() -> None:
    """Four predictions of one step, as in the paper: exp(-m i), the oldest first."""
    queue = ActionQueue("temporal_ensemble", temporal_ensemble_coeff=0.5)
    for first, value in enumerate((1.0, 2.0, 4.0, 8.0)):
        queue.put(ActionChunk(first, np.full((4, 1), value)))
        action = queue.pop(first)
    weights = np.exp(-0.5 * np.arange(4))
    np.testing.assert_allclose(action, [weights @ [1, 2, 4, 8] / weights.sum()])


@pytest.mark.parametrize("coeff", [-1e9, -800.0, 800.0, 1e9])
def test_extreme_coefficients_leave_the_newest_or_the_oldest(coeff: float) -> None:
    """No overflow, no NaN: one prediction simply outweighs the others."""
    queue = ActionQueue("temporal_ensemble", temporal_ensemble_coeff=coeff)
    for value in range(5):
        queue.put(ActionChunk(0, np.full((2, 1), float(value))))
    np.testing.assert_allclose(queue.pop(0), [4.0 if coeff < 0 else 0.0])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_does_not_outlive_the_next_prediction(
    rule: Execution, bad: float
) -> None:
    """One diverged prediction must not hold the robot for a whole horizon."""
    queue = ActionQueue(rule)
    queue.put(ActionChunk(0, np.array([[1.0, bad], [1.0, 2.0]])))
    queue.put(ActionChunk(0, np.array([[3.0, 4.0], [1.0, 2.0]])))
    assert np.isfinite(queue.planned()).all()
    np.testing.assert_allclose(queue.pop(0), [3.0, 4.0])
    np.testing.assert_allclose(queue.pop(1), [1.0, 2.0])


def test_a_late_chunk_begins_at_the_action_of_now() -> None:
    """Asked at step 10, there at step 13: its first three actions are dropped and counted."""
    queue = ActionQueue()
    queue.advance(13)
    queue.put(ActionChunk(10, np.arange(8.0)[:, None]))
    assert queue.expired == 3
    assert queue.pop(13) == [3.0]
    queue.advance(30)
    assert (queue.expired, len(queue)) == (7, 0)


PERIOD = 20_000_000


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(st.integers(0, 400), min_size=1, max_size=30, unique=True).map(sorted),
    jitter=st.lists(st.floats(-0.249, 0.249), min_size=30, max_size=30),
)
def test_steps_are_those_of_the_grid_whatever_ticks_are_lost(
    steps: list[int], jitter: list[float]
) -> None:
    """Stamps off their grid by less than a quarter of a period: the steps are exact."""
    clock = StepClock(PERIOD)
    start = 1_700_000_000 * 10**9
    stamps = [start + round((k + j) * PERIOD) for k, j in zip(steps, jitter, strict=False)]
    assert [clock.advance(s) for s in stamps] == [k - steps[0] for k in steps]


@settings(max_examples=100, deadline=None)
@given(gaps=st.lists(st.integers(-5 * PERIOD, 5 * PERIOD), max_size=50))
def test_every_tick_is_a_later_step(gaps: list[int]) -> None:
    """However stamps jump, no step is told twice."""
    clock, stamp, last = StepClock(PERIOD), 10**18, -1
    for gap in gaps:
        stamp += gap
        step = clock.advance(stamp)
        assert step > last
        last = step


@pytest.mark.parametrize(("rate", "steps"), [(1.0, 1000), (1.02, 1000), (0.98, 1020)])
def test_a_source_off_its_rate_neither_repeats_nor_loses_time(rate: float, steps: int) -> None:
    """A faster one is followed tick by tick; over 1000 ticks a slower one skips what time does."""
    clock = StepClock(PERIOD)
    last = [clock.advance(10**18 + round(k * PERIOD / rate)) for k in range(1001)][-1]
    assert last == pytest.approx(steps, abs=1)
    clock.reset()
    assert clock.advance(5) == 0


def test_the_coefficient_of_a_contract_is_a_number() -> None:
    """NaN would make every action one."""
    fields = {
        "name": "x",
        "rate_hz": 10.0,
        "observations": (ObservationField("o", 1),),
        "actions": (ActionField("a", 1),),
    }
    assert PolicyContract(**fields).temporal_ensemble_coeff == 0.01
    with pytest.raises(VddError, match=r"temporal_ensemble_coeff: got nan"):
        PolicyContract(**fields, temporal_ensemble_coeff=math.nan)
