"""Who asks the policy, and when: against a worker whose answers come when the test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vdd_ros.control.async_planning import AsyncPlanner, make_planner
from vdd_ros.control.planning import InlinePlanner, NoAction, PlanSettings
from vdd_ros.control.tick import Tick
from vdd_ros.control.worker import Done, Worker
from vdd_ros.core.contract import (
    ActionField,
    Execution,
    ObservationField,
    PolicyContract,
)
from vdd_ros.core.errors import VddError
from vdd_ros.runtime.policy import PolicyOutput

PERIOD = 20_000_000
ENOUGH_S = 20.0


def contract(horizon: int, n_action_steps: int, execution: Execution = "latest_only") -> Any:
    return PolicyContract(
        name="x",
        rate_hz=50.0,
        observations=(ObservationField("o", 1),),
        actions=(ActionField("a", 2),),
        horizon=horizon,
        n_action_steps=n_action_steps,
        execution=execution,
    )


class Teller:
    """A policy whose action i says (the observation it answers, the step it is for).

    It answers from one array, as the real ones do: what is not copied changes under its reader.
    """

    def __init__(self, horizon: int, *, name: float = 0.0) -> None:
        self.buffer = np.zeros((horizon, 2), np.float32)
        self.asked: list[int] = []
        self.resets = 0
        self.name = name
        self.error: Exception | None = None

    def act(self, window: NDArray[np.float32]) -> PolicyOutput:
        step = int(window[-1, 0])
        self.asked.append(step)
        if self.error is not None:
            raise self.error
        self.buffer[:, 0] = step + self.name
        self.buffer[:, 1] = step + np.arange(len(self.buffer))
        gate = np.array([1.0])
        return PolicyOutput(self.buffer, 0, gate, self.buffer[None])

    def reset(self) -> None:
        self.resets += 1


@dataclass
class Manual:
    """A worker that works when it is told to."""

    job: Callable[[], PolicyOutput] | None = None
    done: Done[PolicyOutput] | None = None
    asked: int = 0

    def ask(self, job: Callable[[], PolicyOutput]) -> None:
        assert self.job is None
        assert self.done is None, "one question at a time"
        self.asked += 1
        self.job = job

    def work(self, took_ns: int = 1) -> None:
        assert self.job is not None
        job, self.job = self.job, None
        try:
            self.done = Done(job(), None, took_ns)
        except Exception as error:
            self.done = Done(None, error, took_ns)

    def take(self) -> Done[PolicyOutput] | None:
        done, self.done = self.done, None
        return done

    def running_ns(self) -> int:
        return 1 if self.job else 0

    def close(self, timeout_s: float) -> bool:
        return True


@dataclass
class Bench:
    """A planner, its worker, and the steps it was asked for."""

    horizon: int = 8
    n: int = 4
    execution: Execution = "latest_only"
    limit_ms: float = 0.0
    worker: Manual = field(default_factory=Manual)

    def __post_init__(self) -> None:
        self.policy = Teller(self.horizon)
        self.planner = AsyncPlanner(
            contract(self.horizon, self.n, self.execution),
            self.policy,
            PlanSettings("async", self.limit_ms),
            period_ns=PERIOD,
            worker=self.worker,
        )
        self.tick = Tick()

    def step(self, step: int) -> list[float] | str:
        """Return the action of a step, or why there is none."""
        self.tick.observed_ns = step
        window = np.array([[float(step)]], np.float32)
        try:
            action = self.planner.next_action(window, step, self.tick)
        except NoAction as why:
            return str(why)
        window[:] = -1.0  # the loop's own memory, overwritten by its next tick
        return [float(v) for v in action]


def test_the_first_plan_is_waited_for_and_begins_at_its_step() -> None:
    """Asked at step 0, there at step 3: the fourth action is executed, three have expired."""
    b = Bench()
    assert [b.step(k) for k in range(3)] == ["waiting for the first plan"] * 3
    b.worker.work()
    assert b.step(3) == [0.0, 3.0]
    assert (b.planner.expired, b.tick.plan_age, b.planner.queued) == (3, 3, 4)
    assert (b.tick.predicted_ns, b.tick.expert) == (0, 0)
    assert b.policy.asked == [0]


@pytest.mark.parametrize(("horizon", "delay"), [(8, 3), (8, 4), (4, 2), (16, 1), (2, 1)])
def test_the_next_plan_is_asked_for_so_that_it_comes_in_time(horizon: int, delay: int) -> None:
    """With a horizon of twice the delay of answers none is missing, whatever n_action_steps."""
    for n in range(1, horizon + 1):
        b = Bench(horizon=horizon, n=n)
        asked = 0
        for k in range(80):
            if b.worker.job is not None and k - asked >= delay:
                b.worker.work()
            before = b.worker.asked
            action = b.step(k)
            if b.worker.asked > before:
                asked = k
            if k >= delay:
                assert not isinstance(action, str), (n, k, action)
                assert action[1] == k
        gaps = np.diff(b.policy.asked)
        assert (gaps[2:] == max(min(n, horizon - delay - 1), delay)).all(), (n, gaps)


def test_a_plan_that_ends_is_a_hold_that_says_why() -> None:
    """The robot gets nothing that is not meant for its step."""
    b = Bench(horizon=4, n=4)
    b.step(0)
    b.worker.work()
    assert [b.step(k) for k in (1, 2, 3)] == [[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]
    why = b.step(4)
    assert why == (
        "plan expired after 4 steps and the next one is not there: the last took 20 ms to come"
    )
    b.step(5)
    assert b.step(6) == why, "the same text as long as the cause is the same"
    b.worker.work()  # asked at step 2 with a horizon of 4: all of it has passed
    assert isinstance(b.step(9), str)
    assert b.planner.expired == 5


@settings(max_examples=200, deadline=None)
@given(
    horizon=st.integers(2, 9),
    n=st.integers(1, 9),
    script=st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.integers(0, 30)), max_size=60),
    execution=st.sampled_from(["latest_only", "average", "temporal_ensemble"]),
)
def test_whatever_comes_when_an_action_is_that_of_its_step(
    horizon: int, n: int, script: list[tuple[int, bool, int]], execution: Execution
) -> None:
    """Skipped steps, answers at any time, new episodes: never another step's, or an old one's."""
    b = Bench(horizon=horizon, n=min(n, horizon), execution=execution)
    step, began = -1, 0
    for skip, works, event in script:
        step += skip
        if event == 0:
            b.planner.reset()
            began = step
        if works and b.worker.job is not None:
            b.worker.work()
        action = b.step(step)
        if not isinstance(action, str):
            assert action[1] == pytest.approx(step)
            assert action[0] >= began
            assert 0 < step - action[0] < horizon
            assert b.tick.plan_age < horizon


def test_a_new_episode_ignores_what_is_on_its_way() -> None:
    """The policy is told of the new episode by the thread that asks it, before it is asked."""
    b = Bench()
    b.step(0)
    b.worker.work()
    b.step(1)
    b.step(4)
    b.planner.reset()
    b.worker.work()  # asked in the old episode
    assert b.step(5) == "waiting for the first plan"
    assert b.policy.resets == 1
    b.worker.work()
    assert b.step(6) == [5.0, 6.0]
    assert b.policy.resets == 2


def test_an_exchanged_policy_replaces_the_plan_with_its_own_first_one() -> None:
    """No step is held: the old plan goes on until then, and is not mixed into the new one."""
    b = Bench(execution="average")
    b.step(0)
    b.worker.work()
    assert b.step(1) == [0.0, 1.0]
    b.step(4)
    other = Teller(8, name=0.5)
    b.planner.swap(other)
    assert b.step(5) == [0.0, 5.0]
    b.worker.work()  # the old policy's answer
    assert b.step(6) == [0.0, 6.0]
    assert other.asked == []
    b.worker.work()
    assert b.step(7) == [6.5, 7.0]
    assert (other.asked, other.resets) == ([6], 1)


def test_a_policy_that_fails_is_asked_again_and_its_plan_goes_on() -> None:
    """What was planned is as good as it was; when it ends the robot holds with the error."""
    b = Bench(horizon=4, n=1)
    b.step(0)
    b.worker.work()
    assert b.step(1) == [0.0, 1.0]
    b.policy.error = RuntimeError("cable pulled")
    for k in (2, 3):
        b.worker.work()
        assert b.step(k) == [0.0, float(k)]
    b.worker.work()
    assert b.step(4) == "policy failed: RuntimeError: cable pulled"
    b.policy.error = None
    assert b.planner.failed == 3
    b.worker.work()
    assert b.step(5) == [4.0, 5.0]


def test_answers_over_the_limit_are_not_used() -> None:
    """They are counted, and the reason names the limit."""
    b = Bench(limit_ms=30.0)
    b.step(0)
    b.worker.work(took_ns=31_000_000)
    assert b.step(1) == "inference took longer than max_latency_ms = 30"
    b.worker.work(took_ns=30_000_000)
    assert b.step(2) == [1.0, 2.0]
    assert (b.planner.late, b.planner.latency.count) == (1, 2)
    b.planner.count_anew()
    assert (b.planner.late, b.planner.latency.count, b.planner.expired) == (0, 0, 0)


def test_single_actions_are_not_planned_ahead() -> None:
    """The one action of a plan belongs to the step it was asked at, and is refused as late."""
    with pytest.raises(VddError, match=r"horizon = 1 .* use inference inline"):
        make_planner(contract(1, 1), Teller(1), PlanSettings("async"), period_ns=PERIOD)


def test_inline_asks_every_n_steps_and_skips_what_has_passed() -> None:
    """A lost tick costs its action, and the rest of the chunk stays at its steps."""
    policy, tick = Teller(4), Tick()
    planner = InlinePlanner(contract(4, 3), policy, PlanSettings())
    planner.reset()
    got = [
        planner.next_action(np.array([[step]], np.float32), step, tick).tolist()
        for step in (0, 2, 3, 4, 9)
    ]
    assert got == [[0, 0], [0, 2], [3, 3], [3, 4], [9, 9]]
    assert planner.expired == 3  # step 1 of the first chunk, 5 and 6 of the second


class Stuck:
    """A policy that answers when it is allowed to."""

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()

    def act(self, window: NDArray[np.float32]) -> PolicyOutput:
        self.began.set()
        assert self.go.wait(ENOUGH_S)
        chunk = np.tile(window[-1], (4, 2)).astype(np.float32)
        return PolicyOutput(chunk, -1, np.zeros(0), np.zeros((0, 4, 2), np.float32))

    def reset(self) -> None:
        """Nothing to forget."""


def test_a_real_thread_computes_while_ticks_go_on() -> None:
    """Ticks return at once while the policy is stuck; the thread ends when it can."""
    policy = Stuck()
    worker: Worker[PolicyOutput] = Worker("test")
    planner = AsyncPlanner(
        contract(4, 2), policy, PlanSettings("async"), period_ns=PERIOD, worker=worker
    )
    tick, window = Tick(), np.array([[7.0]], np.float32)
    with pytest.raises(NoAction):
        planner.next_action(window, 0, tick)
    assert policy.began.wait(ENOUGH_S)
    assert planner.running_ns > 0
    window[:] = 0.0  # the history is written while the policy reads
    with pytest.raises(NoAction):
        planner.next_action(window, 1, tick)
    assert not worker.close(0.001)
    policy.go.set()
    assert worker.wait(ENOUGH_S)
    assert planner.running_ns == 0
    assert planner.next_action(window, 2, tick).tolist() == [7.0, 7.0]
    assert worker.close(ENOUGH_S)


def test_a_worker_survives_whatever_its_jobs_raise() -> None:
    """Also what would end a thread."""
    worker: Worker[int] = Worker("test")

    def leave() -> int:
        raise SystemExit(3)

    worker.ask(leave)
    assert worker.wait(ENOUGH_S)
    done = worker.take()
    assert done is not None
    assert isinstance(done.error, SystemExit)
    assert worker.take() is None
    worker.ask(lambda: 5)
    assert worker.wait(ENOUGH_S)
    assert worker.take().value == 5
    assert worker.close(ENOUGH_S)
