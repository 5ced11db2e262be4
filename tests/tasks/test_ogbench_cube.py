"""Cube-double of OGBench: the packaged expert takes both orders, and robots stay apart."""

from __future__ import annotations

from copy import copy

import numpy as np
import pytest

from vdd_ros.core.errors import VddError
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.tasks.ogbench_cube import (
    CubeExpert,
    CubeExpertSettings,
    OgbenchCubeTask,
    scripted_demonstrations,
)
from vdd_ros.tasks.protocol import Task, make_task


def test_without_the_simulator_the_message_says_what_to_install() -> None:
    """Only where it is absent."""
    try:
        import ogbench  # noqa: F401
    except ImportError:
        with pytest.raises(VddError, match=r"task 'ogbench-cube' needs.*pip install '.*ogbench"):
            OgbenchCubeTask()
    else:
        pytest.skip("ogbench is installed")


def test_no_demonstrations_and_too_much_noise_are_refused() -> None:
    """Before anything is simulated."""
    with pytest.raises(VddError, match="expected at least 1"):
        scripted_demonstrations(0, seed=0)
    with pytest.raises(VddError, match="noise: got 2"):
        CubeExpertSettings(noise=2.0)


@pytest.fixture(scope="module")
def cubes() -> OgbenchCubeTask:
    """The simulated arms, where their library is installed."""
    pytest.importorskip("ogbench", reason="needs the extra [sim]: ogbench")
    return OgbenchCubeTask()


@pytest.fixture(scope="module")
def demos() -> Demonstrations:
    """Four scripted episodes."""
    pytest.importorskip("ogbench", reason="needs the extra [sim]: ogbench")
    return scripted_demonstrations(4, seed=0)


def test_the_registry_builds_it(cubes: OgbenchCubeTask) -> None:
    """It keeps the protocol, and has no level but one."""
    assert isinstance(cubes, Task)
    assert isinstance(make_task("ogbench-cube"), OgbenchCubeTask)
    with pytest.raises(VddError, match="known levels: ideal"):
        make_task("ogbench-cube", level="panda")


def test_the_scripted_demonstrations_take_both_orders_evenly(demos: Demonstrations) -> None:
    """Two each, actions within range, and the columns of the task."""
    assert demos.mode is not None
    assert sorted(demos.mode.tolist()) == [0, 0, 1, 1]
    assert (demos.dim_obs, demos.dim_act) == (37, 5)
    assert np.abs(demos.action).max() <= 1.0
    # Cubes start at y = -.1 m (-1 in the observation's tenths) and end 20 cm further.
    for rows in demos.episodes():
        cubes_y = demos.observation[rows][:, [20, 29]]
        assert np.allclose(cubes_y[0], -1.0, atol=0.11)
        assert np.allclose(cubes_y[-1], 1.0, atol=0.6)


def test_the_mode_is_the_cube_that_is_lifted_first(demos: Demonstrations) -> None:
    """Read off the recorded heights, not from the task's own book."""
    assert demos.mode is not None
    for rows, mode in zip(demos.episodes(), demos.mode, strict=True):
        lifted = demos.observation[rows][:, [21, 30]] > 0.6  # 6 cm; a lying cube is at 2 cm
        assert int(np.argmin(lifted.argmax(axis=0))) == mode


def test_the_demonstrations_are_a_function_of_the_seed(cubes: OgbenchCubeTask) -> None:
    """And leave numpy's global generator, which the oracle draws from, as it was."""
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (scripted_demonstrations(1, seed=seed) for seed in (3, 3, 4))
    assert first.data_hash() == again.data_hash() != other.data_hash()
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_a_robot_moves_as_in_an_environment_of_its_own(cubes: OgbenchCubeTask) -> None:
    """Three in lockstep against one alone, bit for bit."""
    actions = np.random.default_rng(5).uniform(-1, 1, (12, 3, 5))
    together = [cubes.reset(3, np.random.default_rng(0))]
    together += [cubes.step(a) for a in actions]
    alone = [cubes.reset(1, np.random.default_rng(0))]
    alone += [cubes.step(a[:1]) for a in actions]
    assert np.array_equal(np.array(together)[:, 0], np.array(alone)[:, 0])
    assert not np.allclose(together[0][1], together[0][2])


def test_it_is_the_librarys_environment(cubes: OgbenchCubeTask) -> None:
    """One robot against the environment as registered: same observations, same success."""
    gymnasium = pytest.importorskip("gymnasium")
    import ogbench.manipspace  # noqa: F401

    theirs = gymnasium.make("cube-double-v0", permute_blocks=False, visualize_info=False)
    theirs.reset(seed=0, options={"task_id": 2})
    cubes.reset(1, np.random.default_rng(3))
    theirs.unwrapped._data = copy(cubes._data[0])
    expert = CubeExpert(cubes, 0, order=(1, 0), seed=0)
    for _ in range(40):
        action = expert.act()
        ours = cubes.step(action[None])
        seen, *_ = theirs.step(action)
        assert np.allclose(ours[0], seen, atol=1e-12)


def test_outcomes_count_cubes_and_the_first_decides_the_mode(cubes: OgbenchCubeTask) -> None:
    """Half the reward for one cube; both end the rollout, and the robot then stays frozen."""
    cubes.reset(2, np.random.default_rng(1))
    experts = [CubeExpert(cubes, i, order=(i, 1 - i), seed=i) for i in range(2)]
    rewards: list[list[float]] = []
    while not cubes.done.all():
        cubes.step(np.stack([expert.act() for expert in experts]))
        rewards.append(cubes.outcome().reward.tolist())
    outcome = cubes.outcome()
    assert outcome.success.all()
    assert outcome.mode.tolist() == [0, 1]
    assert {0.0, 0.5, 1.0} == {value for row in rewards for value in row}
    assert np.array_equal(cubes.step(np.ones((2, 5))), cubes.observe())


def test_a_lagging_task_shows_the_step_before(cubes: OgbenchCubeTask) -> None:
    """The same motion, seen one step late."""
    late = OgbenchCubeTask(lag=True)
    now, seen = cubes.reset(1, np.random.default_rng(2)), late.reset(1, np.random.default_rng(2))
    assert np.array_equal(now, seen)
    for action in np.random.default_rng(0).uniform(-1, 1, (4, 1, 5)):
        seen = late.step(action)
        assert np.array_equal(seen, now)
        now = cubes.step(action)
