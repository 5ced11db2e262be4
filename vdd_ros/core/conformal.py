r"""When is a score lower than it should be, and when does it stay so? With stated error rates.

A score says how well something agrees with a model, here log q(a|s) of an action; higher is
better. Whether the model's probabilities are right does not matter: all that follows uses the
order of scores alone, so it holds for a density that is too sure of itself, too.

**One score.** Split-conformal prediction takes n calibration scores that the model has not seen
and calls a new one a *drop* when it is below the k-th smallest of them. If all n + 1 are
exchangeable, k = floor(level (n + 1)) makes a drop of a nominal score no likelier than ``level``,
averaged over calibration sets (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World,
2005; Angelopoulos and Bates, A Gentle Introduction to Conformal Prediction, 2021). One calibration
set then serves for hours, so the average over sets is not enough: the coverage of a given set is
Beta(k, n + 1 - k) distributed, and the largest k whose Beta exceeds ``level`` with probability at
most 1 - ``confidence`` is taken instead (Wilks' tolerance limits, 1941; Vovk, Conditional validity
of inductive conformal predictors, 2012).

**Many scores.** Every score is a bet against "nothing has changed": a drop multiplies the stake by
(1 - w) + w / level, everything else by 1 - w. As long as drops are no likelier than ``level`` the
bet does not pay, and the Shiryaev-Roberts sum of all stakes begun so far,

.. math:: R_n = (1 + R_{n-1}) \, f_n,

minus n is a supermartingale: the expected number of scores until R first reaches A is at least A
(Vovk, Testing for concept shift online, 2020; Volkhonskiy et al., Inductive conformal martingales
for change-point detection, 2017). So A IS the false-alarm rate, one in A scores or rarer, however
long the robot runs. A factor is bounded, so no single score can raise an alarm, however low: only
a drop that persists does.

The rate holds for scores that are independent of each other given the calibration set. Scores
taken in quick succession along one movement are not; take them apart in time.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd_ros.core.errors import VddError


def conformal_threshold(
    scores: ArrayLike, *, level: float, confidence: float | None = None
) -> float:
    """Return the threshold below which at most ``level`` of nominal scores fall.

    Args:
        scores: [n] calibration scores, higher is better.
        level: largest probability of a nominal score below the threshold.
        confidence: None promises ``level`` on average over calibration sets; a probability
            promises it for all but 1 - confidence of the calibration sets.

    Raises:
        VddError: NaN among the scores, numbers out of range, or too few scores for the promise.
    """
    if not 0.0 < level < 1.0 or not (confidence is None or 0.0 < confidence < 1.0):
        raise VddError(
            f"level {level} and confidence {confidence}: expected numbers between 0 and 1"
        )
    ordered = np.sort(np.asarray(scores, np.float64))
    n = len(ordered)
    if np.isnan(ordered).any():
        raise VddError("calibration scores: NaN among them; expected numbers")
    rank = math.floor(level * (n + 1)) if confidence is None else _rank(n, level, confidence)
    if rank < 1:
        need = math.ceil(1 / level - 1) if confidence is None else fewest(level, confidence)
        raise VddError(
            f"calibration: {n} scores; expected at least {need} for a threshold that at most "
            f"{level:g} of nominal scores fall below"
        )
    return float(ordered[rank - 1])


def fewest(level: float, confidence: float) -> int:
    """Return how many calibration scores it takes to promise ``level`` with ``confidence``."""
    return math.ceil(math.log(1.0 - confidence) / math.log(1.0 - level))


def _rank(n: int, level: float, confidence: float) -> int:
    """Return the largest k with P(Beta(k, n + 1 - k) > level) <= 1 - confidence.

    That probability is P(Binomial(n, level) < k).
    """
    if n < 1:
        return 0
    j = np.arange(1, n + 1)
    ratios = np.log((n - j + 1) / j) + math.log(level / (1.0 - level))
    log_mass = n * math.log1p(-level) + np.concatenate([[0.0], np.cumsum(ratios)])
    below: NDArray[np.float64] = np.cumsum(np.exp(log_mass))  # P(Binomial <= j)
    return int(np.searchsorted(below, 1.0 - confidence, "right"))


class DropDetector:
    """Finds scores that stay low; see the module's docstring."""

    def __init__(
        self,
        threshold: float,
        *,
        level: float,
        false_alarm_samples: float,
        weight: float = 0.5,
    ) -> None:
        """Start with no evidence.

        Args:
            threshold: a score below it is a drop; of `conformal_threshold`.
            level: largest probability of a drop while nothing has changed.
            false_alarm_samples: A, the least mean number of scores to a false alarm.
            weight: w, the share of every stake that is bet on a drop. Drops in more than a share
                log(1 / (1 - w)) / log(1 + w / ((1 - w) level)) of the scores raise an alarm
                sooner or later: with 0.5 and a level of 0.1 in more than 29 %.

        Raises:
            VddError: a number is out of range.
        """
        if not (0.0 < level < 1.0 and 0.0 < weight < 1.0 and false_alarm_samples > 1.0):
            raise VddError(
                f"level {level}, weight {weight}, false_alarm_samples {false_alarm_samples}: "
                "expected 0 < level < 1, 0 < weight < 1 and more than 1 sample"
            )
        self.threshold = threshold
        self.level = level
        self.limit = float(false_alarm_samples)
        self._on_drop = 1.0 - weight + weight / level
        self._otherwise = 1.0 - weight
        self.reset()

    @property
    def fewest_samples(self) -> int:
        """The smallest number of scores that can raise an alarm, all of them drops."""
        evidence, n = 0.0, 0
        while evidence < self.limit:
            evidence, n = (1.0 + evidence) * self._on_drop, n + 1
        return n

    def reset(self) -> None:
        """Forget all evidence."""
        self.evidence = 0.0
        """R, between 0 and the limit; about 1 while all is well."""
        self.alarm = False
        """A persistent drop was found and is not over."""
        self.samples = 0
        """Scores seen."""
        self.drops = 0
        """Scores below the threshold."""

    def add(self, score: float) -> bool:
        """Take a score; return whether a persistent drop is going on.

        A score that is not a number is a drop. An alarm ends when the evidence for it is gone,
        after about log(limit) / log(1 / (1 - weight)) good scores.
        """
        dropped = not score >= self.threshold
        self.samples += 1
        self.drops += dropped
        factor = self._on_drop if dropped else self._otherwise
        # More evidence than it takes would only put off the end of the alarm.
        self.evidence = min((1.0 + self.evidence) * factor, self.limit)
        if self.evidence >= self.limit:
            self.alarm = True
        elif self.evidence <= 2.0:
            self.alarm = False
        return self.alarm
