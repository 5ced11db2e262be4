"""From an observation to the action of its control step: who asks the policy, and when.

`InlinePlanner` asks inside the tick and waits for the answer; `async_planning` has the one that
does not.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vdd_ros.control.tick import Actor, Tick
from vdd_ros.core.chunking import ActionChunk, ActionQueue
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.latency import LatencyWindow

Window = NDArray[np.float32]
Mode = Literal["inline", "async"]


class NoAction(Exception):  # noqa: N818 - no error: the robot holds, and the text says why
    """There is no action for this step."""


@dataclass(frozen=True)
class PlanSettings:
    """How a policy is asked."""

    mode: Mode = "inline"
    """inline: inside the tick; async: beside the ticks."""
    max_latency_ms: float = 0.0
    """An answer that took longer is not used; 0 for no limit."""


class Planner(ABC):
    """What both kinds have in common; all but `swap` is called from the thread of the ticks."""

    mode: Mode

    def __init__(self, contract: PolicyContract, actor: Actor, settings: PlanSettings) -> None:
        """Plan nothing yet.

        Args:
            contract: horizon, n_action_steps and the rule for overlaps.
            actor: the policy.
            settings: see there.
        """
        self.settings = settings
        self.latency = LatencyWindow()
        """How long the policy took, per answer."""
        self.late = 0
        """Answers that took longer than ``max_latency_ms``."""
        self.failed = 0
        """Times the policy raised an error."""
        self._actor = actor
        self._incoming: Actor | None = None
        self._horizon, self._n_action_steps = contract.horizon, contract.n_action_steps
        self._queue = ActionQueue(
            contract.execution, temporal_ensemble_coeff=contract.temporal_ensemble_coeff
        )
        self._expired_before = 0
        self._due = self._planned_at = 0
        self._limit_ns = round(settings.max_latency_ms * 1e6) or None

    @property
    def queued(self) -> int:
        """Actions planned for later steps."""
        return len(self._queue)

    @property
    def expired(self) -> int:
        """Actions dropped since `count_anew` because their step had passed."""
        return self._queue.expired - self._expired_before

    @property
    def running_ns(self) -> int:
        """For how long the policy has been asked beside the ticks; 0 where it is not."""
        return 0

    def count_anew(self) -> None:
        """Forget the figures above."""
        self.latency = LatencyWindow()
        self.late = self.failed = 0
        self._expired_before = self._queue.expired

    def swap(self, actor: Actor) -> None:
        """Ask another policy from the next step on; may be called from any thread."""
        self._incoming = actor

    def planned(self) -> NDArray[np.float64]:
        """Return the actions [n, D_act] planned for the next steps; [0, 0] where none are."""
        return self._queue.planned()

    @abstractmethod
    def next_action(self, window: Window, step: int, tick: Tick) -> NDArray[np.floating]:
        """Return the action [D_act] of a step, and write into the tick where it comes from.

        Args:
            window: [n_obs_steps, D_obs] observed up to this step.
            step: the control step, later than the one before.
            tick: gets the age of the plan, and every new answer.

        Raises:
            NoAction: there is none; the text says why.
        """

    @abstractmethod
    def reset(self) -> None:
        """Drop what is planned, as at the start of an episode."""

    def close(self) -> bool:
        """Let go of what asks the policy; return whether all of it has ended."""
        return True

    def _judge(self, took_ns: int) -> str:
        """Take note of how long an answer took; return why it is not used, empty if it is."""
        self.latency.add(took_ns)
        if self._limit_ns is None or took_ns <= self._limit_ns:
            return ""
        self.late += 1
        return f"inference took longer than max_latency_ms = {self.settings.max_latency_ms:g}"


class InlinePlanner(Planner):
    """Asks inside the tick, every ``n_action_steps`` steps: receding horizon."""

    mode: Mode = "inline"

    def next_action(self, window: Window, step: int, tick: Tick) -> NDArray[np.floating]:
        """Ask the policy, or take the next action it has planned; see `Planner`."""
        if self._incoming is not None:
            self._actor, self._incoming = self._incoming, None
            self.reset()
        tick.plan_age = 0
        if self._horizon == 1:
            return self._ask(window, tick)[0]
        self._queue.advance(step)
        if step >= self._due:
            self._queue.put(ActionChunk(step, self._ask(window, tick)))
            self._planned_at, self._due = step, step + self._n_action_steps
        action = self._queue.pop(step)
        if action is None:
            raise RuntimeError("the action queue is empty though a chunk was just predicted")
        tick.plan_age = step - self._planned_at
        return action

    def reset(self) -> None:
        """Drop the plan and tell the policy that an episode begins."""
        self._queue.reset()
        self._actor.reset()
        self._due = 0

    def _ask(self, window: Window, tick: Tick) -> NDArray[np.float32]:
        began_ns = time.perf_counter_ns()
        try:
            output = self._actor.act(window)
        except Exception:
            self.failed += 1
            raise
        why = self._judge(time.perf_counter_ns() - began_ns)
        if why:
            raise NoAction(why)
        tick.take(output, tick.observed_ns)
        return output.action
