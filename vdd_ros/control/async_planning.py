"""Planning beside the ticks, for a policy that may take longer than a control period.

The policy is asked in a thread of its own; meanwhile the robot executes what was planned before.
An answer that comes three steps later starts at its fourth action: the queue keeps actions by the
step they belong to, and what has passed is dropped and counted, never executed late.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vdd_ros.control.planning import (
    InlinePlanner,
    Mode,
    NoAction,
    Planner,
    PlanSettings,
    Window,
)
from vdd_ros.control.tick import Actor, Tick
from vdd_ros.control.worker import Done, Worker
from vdd_ros.core.chunking import ActionChunk
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.runtime.policy import PolicyOutput

_GOODBYE_S = 5.0
"""Longest wait for a policy that is asked while the planner is closed."""
_LAST = 8
"""Answers whose delay counts for when to ask again: a slow one is forgotten after these."""


class _Request(NamedTuple):
    """What the policy was asked with."""

    turn: int
    """The episode, or the policy, that it was asked in: an answer in a later one is ignored."""
    step: int
    """Control step of the newest observation."""
    stamp_ns: int
    """Its stamp."""


class Asker(Protocol):
    """What the asynchronous planner needs of a `Worker`."""

    def ask(self, job: partial[PolicyOutput]) -> None:
        """Begin a job."""
        ...

    def take(self) -> Done[PolicyOutput] | None:
        """Return what became of it, once."""
        ...

    def running_ns(self) -> int:
        """Return for how long it has been running."""
        ...

    def close(self, timeout_s: float) -> bool:
        """End the thread."""
        ...


class AsyncPlanner(Planner):
    """Asks beside the ticks, with the newest observation, one question at a time.

    The next question is asked ``n_action_steps`` steps after the last one, or as much earlier as
    answers have lately come late, so that the next plan is there one step before this one ends;
    at once where that time has passed. Without an action for a step the robot holds.
    """

    mode: Mode = "async"

    def __init__(
        self,
        contract: PolicyContract,
        actor: Actor,
        settings: PlanSettings,
        *,
        period_ns: int,
        worker: Asker | None = None,
    ) -> None:
        """Start the thread.

        Args:
            contract: see `Planner`.
            actor: from now on it is called by that thread alone.
            settings: see `Planner`.
            period_ns: the control period.
            worker: runs the policy; a thread by default.

        Raises:
            VddError: the policy plans a single action, whose step has always passed.
        """
        if contract.horizon < 2:
            raise VddError(
                f"inference async: the policy predicts horizon = {contract.horizon} action, which "
                "belongs to the observation it was asked with and has expired when it comes; use "
                "inference inline, or a policy of chunks"
            )
        super().__init__(contract, actor, settings)
        self._period_ms = period_ns * 1e-6
        self._worker: Asker = worker or Worker("planner")
        self._asked: _Request | None = None
        self._turn = 0
        self._fresh = True
        self._problem = "waiting for the first plan"
        self._replace = False
        self._delays: deque[int] = deque(maxlen=_LAST)

    @property
    def running_ns(self) -> int:
        """For how long the policy has been asked; 0 where it is not."""
        return self._worker.running_ns()

    def next_action(self, window: Window, step: int, tick: Tick) -> NDArray[np.floating]:
        """Take in what came, ask again where it is time, and return this step's action."""
        if self._incoming is not None:
            self._actor, self._incoming = self._incoming, None
            # The plan there is goes on until the new policy's first one replaces it.
            self._turn += 1
            self._fresh = self._replace = True
            self._due = 0
            self._delays.clear()
        self._queue.advance(step)
        done = self._worker.take()
        if done is not None:
            self._take_in(done, step, tick)
        if self._asked is None and step >= self._due:
            self._ask(window, step, tick)
        action = self._queue.pop(step)
        if action is None:
            raise NoAction(self._problem)
        tick.plan_age = step - self._planned_at
        return action

    def reset(self) -> None:
        """Drop the plan; the answer on its way is ignored, and the next one waits for it."""
        self._queue.reset()
        self._turn += 1
        self._fresh = True
        self._replace = False
        self._due = 0
        self._problem = "waiting for the first plan"

    def close(self) -> bool:
        """End the thread; a policy that does not return is left behind."""
        return self._worker.close(_GOODBYE_S)

    def _ask(self, window: Window, step: int, tick: Tick) -> None:
        self._asked = _Request(self._turn, step, tick.observed_ns)
        self._worker.ask(partial(_act, self._actor, window.copy(), fresh=self._fresh))
        self._fresh = False

    def _take_in(self, done: Done[PolicyOutput], step: int, tick: Tick) -> None:
        asked, self._asked = self._asked, None
        if asked is None or asked.turn != self._turn:
            return
        output, error = done.value, done.error
        if output is None:
            self.failed += 1
            self._problem = f"policy failed: {type(error).__name__}: {error}"
            self._due = 0
            return
        self._delays.append(step - asked.step)
        why = self._judge(done.took_ns)
        if why:
            self._problem, self._due = why, 0
            return
        if self._replace:
            self._queue.reset()
            self._replace = False
        self._queue.put(ActionChunk(asked.step, output.action))
        self._planned_at = asked.step
        spare = self._horizon - max(self._delays) - 1
        self._due = asked.step + max(min(self._n_action_steps, spare), 1)
        self._problem = (
            f"plan expired after {self._horizon} steps and the next one is not there: the last "
            f"took {self._delays[-1] * self._period_ms:g} ms to come"
        )
        tick.take(output, asked.stamp_ns)


def make_planner(
    contract: PolicyContract, actor: Actor, settings: PlanSettings, *, period_ns: int
) -> Planner:
    """Return the planner that the settings ask for.

    Raises:
        VddError: the policy cannot be asked in that way.
    """
    if settings.mode == "async":
        return AsyncPlanner(contract, actor, settings, period_ns=period_ns)
    return InlinePlanner(contract, actor, settings)


def _act(actor: Actor, window: Window, *, fresh: bool) -> PolicyOutput:
    """Ask a policy; runs in the planner's thread and returns nothing that the policy reuses."""
    if fresh:
        actor.reset()
    output = actor.act(window)
    return PolicyOutput(
        output.action.copy(), output.expert, output.gate.copy(), output.proposals.copy()
    )
