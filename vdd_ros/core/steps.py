"""StepClock: which control step an observation belongs to, told by its stamp.

Actions of a chunk are a control period apart, whatever becomes of ticks: one that comes late or
not at all must not shift the rest of the chunk. So steps are counted by stamps, not by ticks:

    stamps (periods)   0.0   1.1   2.0   4.9   5.8   6.8
    steps              0     1     2     5     6     7

The first stamp lays the grid, every later one belongs to the nearest step. A tick is at least one
step, though: a source that is faster than the control rate would ask for the same action twice.
Where that happens the grid begins anew. A source that is slower skips a step now and then, as time
does.
"""

from __future__ import annotations


class StepClock:
    """Counts control steps from stamps."""

    def __init__(self, period_ns: int) -> None:
        """Start before the first stamp.

        Args:
            period_ns: the control period.
        """
        self._period_ns = period_ns
        self._step = -1
        self._due_ns = 0

    def reset(self) -> None:
        """Start anew: the next stamp is step 0."""
        self._step = -1

    def advance(self, stamp_ns: int) -> int:
        """Return the step of a stamp (ns) that is later than the one before it.

        One that is not counts as the next step.
        """
        # Half up, in whole numbers: stamps in nanoseconds have more digits than a float.
        n = (2 * (stamp_ns - self._due_ns) + self._period_ns) // (2 * self._period_ns)
        if self._step < 0 or n < 1:
            self._due_ns, n = stamp_ns, 1
        else:
            self._due_ns += n * self._period_ns
        self._step += n
        return self._step
