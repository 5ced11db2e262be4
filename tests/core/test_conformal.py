"""Conformal thresholds and the detector of lasting drops keep the rates they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdd_ros.core.conformal import DropDetector, conformal_threshold, fewest
from vdd_ros.core.errors import VddError


@pytest.mark.parametrize(("n", "level"), [(19, 0.05), (50, 0.1), (200, 0.25)])
def test_a_nominal_score_drops_no_oftener_than_the_level(n: int, level: float) -> None:
    """Over calibration sets the share of drops is at most the level, and not far below it."""
    rng = np.random.default_rng(0)
    trials = 20_000
    scores = rng.standard_t(2, (trials, n + 1))  # heavy tails: only the order counts
    drops = [conformal_threshold(row[:-1], level=level) > row[-1] for row in scores]
    noise = 4 * math.sqrt(level / trials)
    assert level - 1 / (n + 1) - noise <= np.mean(drops) <= level + noise


@pytest.mark.parametrize(("n", "level", "confidence"), [(60, 0.1, 0.9), (300, 0.1, 0.99)])
def test_almost_every_calibration_set_keeps_the_level(
    n: int, level: float, confidence: float
) -> None:
    """Of many calibration sets no more than 1 - confidence drop oftener, and that many nearly."""
    rng = np.random.default_rng(1)
    trials = 20_000
    # The chance of a drop under a threshold is the threshold itself, for uniform scores.
    rates = np.array(
        [
            conformal_threshold(rng.random(n), level=level, confidence=confidence)
            for _ in range(trials)
        ]
    )
    broken, allowed = np.mean(rates > level), 1 - confidence
    assert broken <= allowed + 4 * math.sqrt(allowed / trials)
    assert broken >= allowed / 4, "a threshold this cautious finds nothing"


@given(
    st.lists(st.integers(-50, 50), min_size=44, max_size=200),
    st.sampled_from([None, 0.99]),
)
def test_only_the_order_of_scores_counts(values: list[int], confidence: float | None) -> None:
    """Another scale of the scores moves the threshold with them: no density has to be right."""
    scores = np.array(values, np.float64)
    found = conformal_threshold(scores, level=0.1, confidence=confidence)
    moved = conformal_threshold(np.exp(scores / 9.0), level=0.1, confidence=confidence)
    assert moved == pytest.approx(np.exp(found / 9.0))
    assert found in scores
    assert np.mean(scores < found) <= 0.1


def test_too_few_scores_are_refused_with_the_number_it_takes() -> None:
    """The promise is not made weaker in silence."""
    need = fewest(0.1, 0.99)
    assert need == 44
    rng = np.random.default_rng(2)
    conformal_threshold(rng.random(need), level=0.1, confidence=0.99)
    with pytest.raises(VddError, match="43 scores; expected at least 44"):
        conformal_threshold(rng.random(need - 1), level=0.1, confidence=0.99)
    with pytest.raises(VddError, match="expected at least 9 "):
        conformal_threshold(rng.random(8), level=0.1)
    with pytest.raises(VddError, match="NaN"):
        conformal_threshold([0.0] * 50 + [math.nan], level=0.1)
    with pytest.raises(VddError, match="between 0 and 1"):
        conformal_threshold([0.0] * 50, level=1.5)


def _run_lengths(
    rng: np.random.Generator, *, chance: float, limit: float, runs: int
) -> np.ndarray:
    """Scores until the first alarm, for many robots whose scores drop with ``chance``."""
    lengths = np.zeros(runs)
    for run in range(runs):
        detector = DropDetector(chance, level=0.1, false_alarm_samples=limit)
        while not detector.add(rng.random()):
            pass
        lengths[run] = detector.samples
    return lengths


@pytest.mark.parametrize("limit", [20.0, 200.0])
def test_false_alarms_are_as_rare_as_stated(limit: float) -> None:
    """With drops as frequent as allowed, the mean time to a false alarm is at least the limit."""
    lengths = _run_lengths(np.random.default_rng(3), chance=0.1, limit=limit, runs=400)
    margin = 4 * lengths.std() / math.sqrt(len(lengths))
    assert lengths.mean() + margin >= limit
    assert lengths.mean() - margin >= 0.9 * limit


def test_the_promise_holds_from_calibration_to_alarm() -> None:
    """Thresholds learnt from 200 scores each: still no more false alarms than stated.

    All but one in a hundred calibration sets keep the promise, so the mean over sets does too.
    """
    rng = np.random.default_rng(4)
    lengths = []
    for _ in range(100):
        threshold = conformal_threshold(rng.standard_normal(200), level=0.1, confidence=0.99)
        detector = DropDetector(threshold, level=0.1, false_alarm_samples=100.0)
        while detector.samples < 2000 and not detector.add(rng.standard_normal()):
            pass
        lengths.append(detector.samples)
    assert np.mean(lengths) >= 100.0


@pytest.mark.parametrize(("chance", "within"), [(1.0, 7), (0.8, 16), (0.5, 60)])
def test_a_shift_is_found_soon(chance: float, within: int) -> None:
    """The oftener scores drop, the sooner: half of all shifts within this many scores."""
    lengths = _run_lengths(np.random.default_rng(5), chance=chance, limit=1e5, runs=300)
    assert np.median(lengths) <= within


@settings(max_examples=200)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=200))
def test_no_single_score_raises_an_alarm(scores: list[float]) -> None:
    """Whatever the numbers are: an alarm takes its fewest drops, evidence stays in its range."""
    detector = DropDetector(0.0, level=0.1, false_alarm_samples=1e5)
    for score in scores:
        alarm = detector.add(score)
        assert 0.0 <= detector.evidence <= detector.limit
        assert not alarm or detector.drops >= detector.fewest_samples == 7
    assert detector.samples == len(scores)


def test_an_alarm_ends_when_all_is_well_again() -> None:
    """The end comes after a bounded number of good scores, however long the trouble lasted."""
    detector = DropDetector(0.0, level=0.1, false_alarm_samples=1e5)
    for _ in range(500):
        detector.add(-1.0)
    assert detector.alarm
    good = 0
    while detector.add(1.0):
        good += 1
    assert 10 <= good <= 20


@pytest.mark.parametrize("wrong", [{"level": 0.0}, {"weight": 1.0}, {"false_alarm_samples": 1.0}])
def test_impossible_rates_are_refused(wrong: dict[str, float]) -> None:
    """Rates are probabilities, and an alarm at every score is no alarm."""
    with pytest.raises(VddError, match="expected 0 < level < 1"):
        DropDetector(0.0, **{"level": 0.1, "false_alarm_samples": 1e4, **wrong})
