"""The figures a study can report: how a table calls them, and which way is better.

Rows carry figures by name, whoever judged them. Those known here come first in a table, in this
order; a task's own figures follow under their own names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """How one figure is shown and compared."""

    title: str
    """Head of its column."""
    lower_is_better: bool = False
    """Whether less is better."""
    is_share: bool = False
    """Whether it lies between 0 and 1, which a picture then shows whole."""
    digits: int = 3
    """Decimals in a table."""


KNOWN: Mapping[str, Figure] = {
    # In closed loop.
    "success": Figure("success", is_share=True),
    "entropy": Figure("entropy", is_share=True),
    "modes": Figure("modes", digits=1),
    "score": Figure("score", is_share=True),
    "reward": Figure("reward", is_share=True),
    # On held-out episodes (`distill.heldout`).
    "energy_score": Figure("energy score", lower_is_better=True),
    "energy_score_acting": Figure("energy score as executed", lower_is_better=True),
    "nll": Figure("nats per number", lower_is_better=True),
    "coverage_50": Figure("in 50 % region", is_share=True),
    "coverage_90": Figure("in 90 % region", is_share=True),
    "rmse_acting": Figure("RMSE as executed", lower_is_better=True, digits=4),
    "rmse_mean": Figure("RMSE of the mean", lower_is_better=True, digits=4),
    "rmse_nearest": Figure("RMSE of the nearest expert", lower_is_better=True, digits=4),
}
"""Figures by the name they have in rows and settings."""


def of_name(name: str) -> Figure:
    """Return how a figure is shown; a task's own are shown under their names."""
    return KNOWN.get(name, Figure(name))


def goodness(name: str, value: float) -> float:
    """Return the value with the sign that makes more of it better."""
    return -value if of_name(name).lower_is_better else value


def in_order(names: Iterable[str]) -> list[str]:
    """Return each name once: the known ones in the order of tables, then the others."""
    given = list(dict.fromkeys(names))
    return [n for n in KNOWN if n in given] + [n for n in given if n not in KNOWN]
