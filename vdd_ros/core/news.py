"""Which reasons of the safety ladder are news.

A reason for a limited command holds numbers that differ at every tick. Said at every tick it would
drown what matters; said once per change of level, a second limit that comes in later would never
be named. So what counts is the change itself: which limit changed which component.
"""

from __future__ import annotations

import re

from vdd_ros.core.safety import SafetyLevel

REPEAT_S = 1.0
"""A limit that goes on changing a component is said again after this long, with the numbers of
then; sooner it is no news."""
_NUMBERS = re.compile(r" \S+ -> [^\s,;]+")


class ReasonNews:
    """Remembers what was said.

    At any tick every limit that changes a component was said with that tick, or at most
    `REPEAT_S` before. As long as the level stays, each is said at most once in that time unless it
    stands beside one that is news.
    """

    def __init__(self) -> None:
        """Start with nothing said."""
        self._level: SafetyLevel | None = None
        self._reason = ""
        self._said: dict[tuple[str, str], float] = {}
        self._same_until_s = 0.0

    def is_news(self, level: SafetyLevel, reason: str, now_s: float) -> bool:
        """Tell whether level and reason are to be said now, and take note that they were.

        Args:
            level: the rung of the ladder.
            reason: as the guard gives it.
            now_s: a clock that never goes back.
        """
        clamped = level is SafetyLevel.CLAMP
        # What was changed and by which limit, without the numbers.
        reason = _NUMBERS.sub("", reason) if clamped else reason
        if level is self._level and reason == self._reason:
            if not clamped or now_s < self._same_until_s:
                return False
        elif not clamped or level is not self._level:
            self._level, self._reason = level, reason
            self._note(changes_in(reason) if clamped else [], now_s)
            return True
        self._reason = reason
        changes = changes_in(reason)
        if all(now_s - self._said.get(change, -REPEAT_S) < REPEAT_S for change in changes):
            self._same_until_s = min(self._said[change] for change in changes) + REPEAT_S
            return False
        self._note(changes, now_s)
        return True

    def _note(self, changes: list[tuple[str, str]], now_s: float) -> None:
        self._said.update(dict.fromkeys(changes, now_s))
        self._same_until_s = now_s + REPEAT_S


def changes_in(reason: str) -> list[tuple[str, str]]:
    """Return limit and component of every change that a limiter's reason names.

    With the numbers or without: ``rate limit arm[0] 1 -> 0.5, arm[1] 3 -> 2; ramp arm[2] 1 -> 0``.
    """
    changes = []
    for part in _NUMBERS.sub("", reason).split("; "):
        first, *others = part.split(", ")
        limit, _, name = first.rpartition(" ")
        changes += [(limit, name), *((limit, other) for other in others)]
    return changes
