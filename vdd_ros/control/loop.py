"""One control tick: observation in, command out, every stage timed.

The tick runs where the observation arrives, inside the subscription's callback: handing it over to
another thread costs more than the inference of a small policy (a slow one may be asked beside the
ticks, see `async_planning`). It fires when every observed topic
has delivered since the last tick. Where a fixed rate is wanted, `on_timer` ticks instead, with the
newest samples there are.

Two timers of the node stand behind the observation-driven tick: `on_watchdog` finds that samples
stopped coming, `on_hold` then repeats the held command at control rate until they come again.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vdd_ros.control.async_planning import make_planner
from vdd_ros.control.outlet import Outlet
from vdd_ros.control.planning import NoAction, PlanSettings
from vdd_ros.control.tick import NEVER, Actor, Collector, Sink, Tick
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.core.history import ObservationHistory
from vdd_ros.core.latency import LatencyWindow
from vdd_ros.core.safety import SafetyDecision, SafetyGuard, SafetyLevel
from vdd_ros.core.steps import StepClock

_MISSED_GAP = 1.5
"""Periods between two observations above which ticks were missed: halfway to the next one."""
_MAX_REASONS = 64
"""Different reasons counted; more would be a leak, reasons are few and constant texts."""


C = TypeVar("C", bound=Collector)


class ControlLoop(Outlet, Generic[C]):
    """Everything between a received message and a published command; knows no rclpy."""

    def __init__(
        self,
        contract: PolicyContract,
        actor: Actor,
        *,
        collector: C,
        rate_hz: float,
        sinks: Sequence[Sink],
        publishers: Sequence[Any],
        now_ns: Callable[[], int],
        on_tick: Callable[[Tick], None],
        on_send: Callable[[NDArray[np.float64], int], None] | None = None,
        planning: PlanSettings | None = None,
    ) -> None:
        """Build the loop, inactive.

        Args:
            contract: what is observed and commanded.
            actor: the policy.
            collector: where the observation vector comes together.
            rate_hz: commands per second, for limits and for counting missed ticks.
            sinks: writers of the command topics.
            publishers: one per sink, with a ``publish`` method.
            now_ns: the node's clock.
            on_tick: called after every tick, when the command is already on its way.
            on_send: called with commands [T, D_act] and their stamp (ns) when they were sent.
            planning: how the policy is asked; inside the tick by default.

        Raises:
            VddError: the policy cannot be asked in that way.
        """
        super().__init__(sinks, publishers, on_send)
        self.collector = collector
        self.tick = Tick()
        self.active = False
        self.infer_latency = LatencyWindow()
        self.tick_latency = LatencyWindow()
        self.held_by: Counter[str] = Counter()
        self._history = ObservationHistory(contract.n_obs_steps, contract.dim_obs)
        self._guard = SafetyGuard(contract, rate_hz=rate_hz)
        self._period_ns = round(1e9 / rate_hz)
        self._steps = StepClock(self._period_ns)
        self._now_ns = now_ns
        self._on_tick = on_tick
        self.planner = make_planner(
            contract, actor, planning or PlanSettings(), period_ns=self._period_ns
        )
        """Asks the policy."""
        self._withheld: tuple[NDArray[np.floating], int] | None = None
        self.paused = False
        """An operator asked the robot to stay where it is."""
        self._paused_at: NDArray[np.float32] | None = None
        self._seeded = False
        self._last_stamp_ns = NEVER

    @property
    def last_command(self) -> NDArray[np.float64] | None:
        """The command sent last; None before the first."""
        return self._guard.last_command

    def pause(self) -> None:
        """Hold the position measured at the next tick until `resume`."""
        self.paused = True

    def resume(self) -> None:
        """Act again: as at the start of an episode, but limited from the last command."""
        self.paused, self._paused_at = False, None
        self._history.reset()
        self._replan()

    def swap(self, actor: Actor) -> None:
        """Let another policy act from the next tick on; may be called from any thread."""
        self.planner.swap(actor)

    def close(self) -> bool:
        """Let go of the policy, for good; return whether all that ran beside the ticks ended."""
        return self.planner.close()

    @property
    def motion(self) -> NDArray[np.float64]:
        """How the commands move, for a node that goes on from `last_command`."""
        return self._guard.motion

    def take_over(
        self,
        last: NDArray[np.floating] | None,
        motion: NDArray[np.float64] | None = None,
        *,
        at_once: bool = True,
    ) -> None:
        """Continue after another node's commands.

        At once: with the newest decision that `may_send` withheld, as long as it is not stale,
        else with a hold. Otherwise with the next tick.

        Args:
            last: command [D_act] the other node sent last, from which the limits count; None
                where it is unknown or long ago: then they count from the measured state.
            motion: the other loop's `motion` after that command; None: it stood still.
            at_once: the newest observation is not answered yet.
        """
        received, row = time.perf_counter_ns(), self.collector.row
        problem = self.collector.problem(self._now_ns()) or self.collector.non_finite()
        self.follow(last, motion)
        if last is None and not problem:
            self._seeded = self._guard.seed(row)
        withheld, self._withheld = self._withheld, None
        if not at_once:
            return
        if problem or withheld is None:
            self._hold(problem or "took over before the first decision", received)
            return
        action, stamp_ns = withheld
        decision = self._decide(row, action)
        self._send(decision, stamp_ns)
        self._finish(decision, stamp_ns, received)

    def follow(
        self, last: NDArray[np.floating] | None, motion: NDArray[np.float64] | None = None
    ) -> None:
        """Let the limits count from what another node sent; see `take_over`."""
        if last is not None:
            self._guard.follow(last, motion)
            self._seeded = True

    def start(self) -> None:
        """Activate: nothing of an earlier run is remembered."""
        self.tick = Tick(reason="")
        self.infer_latency = LatencyWindow()
        self.tick_latency = LatencyWindow()
        self.held_by.clear()
        self.planner.count_anew()
        self.paused = False
        self.restart_episode()
        self.active = True

    def restart_episode(self, now_ns: int = NEVER) -> None:
        """Forget history, plan and the last command: a new episode begins.

        Topics overtake each other: an observation of the old episode may still be on its way.
        With ``now_ns`` it is ignored, or the new episode would be limited from the old one's end.
        """
        self.collector.reset(now_ns)
        self._forget()

    def _forget(self) -> None:
        self._history.reset()
        self._replan()
        self._guard.forget()
        self._paused_at = None
        self._seeded = False
        self._last_stamp_ns = NEVER

    def _replan(self) -> None:
        self.planner.reset()
        self._steps.reset()
        self._withheld = None

    def stop(self, reason: str) -> None:
        """Deactivate: no tick runs any more, THEN the declared stop action is sent."""
        if not self.active:
            return
        self.active = False
        now_ns = self._now_ns()
        usable = not self.collector.problem(now_ns)
        decision = self._guard.stop(self.collector.row if usable else None, reason)
        self._send(decision, now_ns)
        self._finish(decision, 0, time.perf_counter_ns())

    def on_message(self, source: Any, message: Any) -> bool:  # noqa: ANN401
        """Take an observation; tick and return True when it completed the vector."""
        received = time.perf_counter_ns()
        if not self.active:
            return False
        self.tick.received += 1
        now_ns = self._now_ns()
        try:
            if not self.collector.accept(source, message, now_ns):
                return False
        except VddError:
            # The fault is kept with its source and names what is missing.
            self._hold(self.collector.problem(now_ns), received)
            return True
        self.run(now_ns, received)
        return True

    def collect(self, source: Any, message: Any) -> None:  # noqa: ANN401
        """Take an observation for the next timed tick."""
        if self.active:
            self.tick.received += 1
            # What the message lacks is kept as the source's fault, which the next tick finds.
            with contextlib.suppress(VddError):
                self.collector.accept(source, message, self._now_ns())

    def on_timer(self) -> None:
        """Tick at a fixed rate with the newest samples."""
        if not self.active:
            return
        received, now_ns = time.perf_counter_ns(), self._now_ns()
        problem = self.collector.problem(now_ns)
        if problem:
            self._hold(problem, received)
        else:
            self.run(now_ns, received, paced_ns=now_ns)

    def on_watchdog(self) -> bool:
        """Hold when samples stopped coming; return whether the loop is holding."""
        if not self.active:
            return False
        problem = self.collector.problem(self._now_ns())
        if problem:
            self._hold(problem, time.perf_counter_ns())
        return bool(problem)

    def run(self, now_ns: int, received: int, *, paced_ns: int = NEVER) -> None:
        """Answer the observation in the collector with a command.

        Args:
            now_ns: the node's clock.
            received: ``time.perf_counter_ns`` when the tick was caused.
            paced_ns: the time that ticks are counted by; the observation's stamp by default.
        """
        collector, tick, clock = self.collector, self.tick, time.perf_counter_ns
        problem = collector.problem(now_ns)
        stamp_ns = collector.take()
        if problem:
            # A stamp that does not fit the clock says nothing about which samples follow. A copy
            # that comes late was answered in its time: the hold answers nothing.
            self._hold(problem, received, 0 if stamp_ns == self._last_stamp_ns else stamp_ns)
            return
        if not self._follows(stamp_ns if paced_ns == NEVER else paced_ns, now_ns):
            return
        problem = collector.non_finite()
        if problem:
            self._hold(problem, received, stamp_ns)
            return
        row = collector.row
        if not self._seeded:
            self._seeded = self._guard.seed(row)
        window = self._history.push(row)
        tick.window, tick.observed_ns = window, stamp_ns
        decoded = clock()
        step = self._steps.advance(stamp_ns if paced_ns == NEVER else paced_ns)
        try:
            action: NDArray[np.floating] = self.planner.next_action(window, step, tick)
        except Exception as error:  # any failure of a policy must end in a hold, not in a crash
            # What was decided before is no answer to this observation, whoever takes over.
            self._withheld = None
            if not self.paused:
                known = isinstance(error, NoAction)
                why = f"{error}" if known else f"policy failed: {type(error).__name__}: {error}"
                self._hold(why, received, stamp_ns)
                return
            action = np.zeros(0)  # a paused robot stays where it is, whatever was decided
        inferred = clock()
        decision = self._decide(row, action)
        guarded = clock()
        if not self._send(decision, stamp_ns) and not self.paused:
            self._withheld = action, stamp_ns
        published = clock()
        tick.age_ns = now_ns - stamp_ns
        tick.decode_ns = decoded - received
        tick.infer_ns = inferred - decoded
        tick.safety_ns = guarded - inferred
        tick.publish_ns = published - guarded
        self.infer_latency.add(tick.infer_ns)
        self._finish(decision, stamp_ns, received, published)

    def _decide(self, row: NDArray[np.float32], action: NDArray[np.floating]) -> SafetyDecision:
        if self.paused:
            if self._paused_at is None:
                self._paused_at = row.copy()
            return self._guard.stay(self._paused_at, "paused")
        return self._guard.act(row, action)

    def _follows(self, stamp_ns: int, now_ns: int) -> bool:
        """Tell whether a tick is newer than the last one; count those missing between them."""
        last_ns = self._last_stamp_ns
        if last_ns != NEVER:
            gap_ns = stamp_ns - last_ns
            if gap_ns <= 0:
                if -gap_ns >= self.collector.max_age_ns:
                    # The clock was set back: a bag loops, or the simulation was restarted. The
                    # sample that shows it is in the vector already and stays.
                    self._forget()
                elif stamp_ns <= now_ns < last_ns:
                    # The last one was stamped ahead of its time, and this one is right: what was
                    # planned by that time is not for now.
                    self._replan()
                else:
                    return False  # the same sample again, or one that was overtaken
            elif gap_ns > _MISSED_GAP * self._period_ns:
                self.tick.missed += round(gap_ns / self._period_ns) - 1
        self._last_stamp_ns = stamp_ns
        return True

    def _hold(self, problem: str, received: int, stamp_ns: int = 0) -> None:
        """Hold the last command: what was measured is stale or not to be believed."""
        self.tick.forget()
        decision = self._guard.hold(None, problem)
        self._send(decision, stamp_ns or self._now_ns())
        self._finish(decision, stamp_ns, received)

    def _send(self, decision: SafetyDecision, stamp_ns: int) -> bool:
        """Publish a decision; return False where another node may be commanding."""
        command = decision.command
        if command is None:
            return True
        rows = command[None]
        if self.plans and decision.level <= SafetyLevel.CLAMP:
            planned = self.planner.planned()
            if len(planned):
                rows = np.concatenate([rows, self._guard.plan(planned)])
        return self.send(rows, stamp_ns)

    def _finish(
        self, decision: SafetyDecision, stamp_ns: int, received: int, published: int = 0
    ) -> None:
        tick = self.tick
        tick.stamp_ns = stamp_ns
        tick.level = decision.level
        tick.reason = decision.reason
        tick.queued, tick.expired = self.planner.queued, self.planner.expired
        tick.total_ns = (published or time.perf_counter_ns()) - received
        tick.count += 1
        if tick.total_ns > self._period_ns:
            tick.missed += 1
        if decision.level >= SafetyLevel.HOLD:
            tick.held += 1
            if decision.reason in self.held_by or len(self.held_by) < _MAX_REASONS:
                self.held_by[decision.reason] += 1
        self.tick_latency.add(tick.total_ns)
        self._on_tick(tick)
