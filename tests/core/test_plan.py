"""The plan behind a command obeys the same limits as the commands it becomes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vdd_ros.core.chunking import ActionChunk, ActionQueue
from vdd_ros.core.contract import ActionField, Limits, ObservationField, PolicyContract
from vdd_ros.core.safety import SafetyGuard


def guard(*, relative: bool) -> SafetyGuard:
    action = ActionField(
        "step",
        2,
        relative_to="at" if relative else "",
        measured="at",
        limits=Limits(min=(-1.0, -1.0), max=(1.0, 1.0), max_rate=(2.0, 2.0)),
    )
    return SafetyGuard(
        PolicyContract("arm", 10.0, (ObservationField("at", 2),), (action,), horizon=8)
    )


ACTIONS = st.lists(st.tuples(*[st.floats(-3, 3)] * 2), min_size=1, max_size=8)


@given(start=st.tuples(*[st.floats(-1, 1)] * 2), actions=ACTIONS, relative=st.booleans())
@settings(deadline=None)
def test_a_plan_is_what_would_be_commanded(
    start: tuple[float, float], actions: list[tuple[float, float]], relative: bool
) -> None:
    """Executed one by one on a robot that follows exactly, actions give what was planned."""
    at = np.array(start)
    planner, actor = guard(relative=relative), guard(relative=relative)
    planner.seed(at)
    actor.seed(at)
    plan = planner.plan(np.array(actions))
    for planned, action in zip(plan, actions, strict=True):
        command = actor.act(at, np.array(action)).command
        np.testing.assert_allclose(planned, command, atol=1e-12)
        at = command
    np.testing.assert_array_equal(planner.last_command, np.clip(start, -1, 1))


def test_a_plan_ends_before_its_first_bad_action() -> None:
    """Nothing that follows a NaN can be trusted."""
    actions = np.array([[0.1, 0.0], [0.1, 0.0], [np.nan, 0.0], [0.1, 0.0]])
    made = guard(relative=True)
    made.seed(np.zeros(2))
    np.testing.assert_allclose(made.plan(actions), [[0.1, 0.0], [0.2, 0.0]])
    assert len(made.plan(actions[2:])) == 0


def test_a_forgotten_command_binds_nothing() -> None:
    """After an episode the limiter starts from the next seed."""
    made = guard(relative=True)
    made.seed(np.array([0.9, 0.9]))
    made.forget()
    assert made.last_command is None
    np.testing.assert_allclose(made.plan(np.array([[-0.9, 0.0]])), [[-0.9, 0.0]])


def test_a_queue_shows_what_it_will_give() -> None:
    """The planned actions are the ones that pop returns, and looking takes none away."""
    queue = ActionQueue()
    assert len(queue.planned()) == 0
    queue.put(ActionChunk(5, np.arange(6.0).reshape(3, 2)))
    planned = queue.planned()
    planned_again = queue.planned()
    planned[:] = -1.0
    popped = [queue.pop(step) for step in (5, 6, 7)]
    np.testing.assert_array_equal(planned_again, popped)
    assert len(queue.planned()) == 0
