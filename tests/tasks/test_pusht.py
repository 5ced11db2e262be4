"""Push-T against gym-pusht itself, against geometry, and against the human recordings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from vdd_ros.core.config_io import load_yaml
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.tasks import optional
from vdd_ros.tasks.metrics import mode_entropy, task_metrics
from vdd_ros.tasks.protocol import Task, make_task
from vdd_ros.tasks.pusht import GOAL_POSE, WINDOW_PX, PushTTask
from vdd_ros.tasks.pusht_geometry import (
    CENTRE_OF_MASS,
    FINGER_RADIUS_PX,
    OUTLINE,
    contact_gap,
    contact_mode,
    first_contact_mode,
    observe,
    winding,
    winding_sense,
)
from vdd_ros.tasks.rollouts import rollout

HUMAN = Path(__file__).parents[3] / "shared" / "data" / "pusht" / "human_206.npz"
needs_recordings = pytest.mark.skipif(not HUMAN.is_file(), reason=f"{HUMAN} is not here")


@pytest.fixture(scope="module")
def simulator() -> Any:
    return pytest.importorskip("gym_pusht.envs.pusht", reason="gym-pusht is not installed")


@pytest.fixture
def task(simulator: Any) -> PushTTask:
    made = make_task("pusht")
    assert isinstance(made, PushTTask)
    return made


@pytest.fixture(scope="module")
def human() -> dict[str, NDArray[Any]]:
    with np.load(HUMAN, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def beside(point: NDArray[np.float64], pose: tuple[float, float, float]) -> NDArray[np.float64]:
    """The state of a finger at `point` of the frame of a block at `pose`."""
    x, y, angle = pose
    cos, sin = np.cos(angle), np.sin(angle)
    world = np.array([x + cos * point[0] - sin * point[1], y + sin * point[0] + cos * point[1]])
    return np.array([*world, x, y, angle])


def wandering(
    window: NDArray[np.floating], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A finger that goes to random places, one per chunk of 4 steps."""
    n = len(window)
    return np.repeat(rng.uniform(0, 512, (n, 1, 2)), 4, axis=1), np.full(n, -1)


def test_the_task_keeps_the_protocol_and_refuses_other_levels(task: PushTTask) -> None:
    """The registry knows it, by the name it has itself."""
    assert isinstance(task, Task)
    assert (task.name, task.level, task.dim_obs, task.dim_act) == ("pusht", "ideal", 6, 2)
    with pytest.raises(VddError, match="unknown level 'panda' of task 'pusht'; known levels"):
        make_task("pusht", level="panda")


def test_a_missing_simulator_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether it is not installed, or a library it links to is missing."""
    for error in (ModuleNotFoundError("No module named 'gym_pusht'"), OSError("libGL.so.1")):

        def fail(name: str, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(optional, "import_module", fail)
        with pytest.raises(VddError, match=r"'pusht' needs gym_pusht.*pip install 'gym-pusht"):
            PushTTask()


def test_nothing_is_printed_when_the_simulator_is_imported(simulator: Any) -> None:
    """Standard output may carry a JSON report; a library's greeting is switched off."""
    code = "from vdd_ros.tasks.protocol import make_task; make_task('pusht')"
    environment = {k: v for k, v in os.environ.items() if k != "PYGAME_HIDE_SUPPORT_PROMPT"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""


def test_a_step_equals_the_simulators_own_to_the_last_digit(
    task: PushTTask, simulator: Any
) -> None:
    """State, coverage, reward and end, over 200 steps of pushing, block turning included."""
    env = simulator.PushTEnv()
    rng = np.random.default_rng(0)
    moved = 0.0
    for seed in range(4):
        task.reset(1, np.random.default_rng(seed))
        drawn = np.random.default_rng(seed)
        start = [*drawn.integers(50, 450, 2), *drawn.integers(100, 400, 2)]
        start.append(drawn.uniform(-np.pi, np.pi))
        env.reset(options={"reset_to_state": np.array(start)})
        best, block = 0.0, task.state[0, 2:].copy()
        for _ in range(50):
            # Towards the block and beyond it, so that it is pushed about.
            action = task.state[0, 2:4] + rng.normal(0.0, 80.0, 2)
            action = np.clip(action, 0.0, 512.0)
            observation, reward, terminated, _, info = env.step(action)
            task.step(action[None])
            best = max(best, reward)
            np.testing.assert_array_equal(task.state[0, :4], observation[:4])
            assert task.state[0, 4] % (2 * np.pi) == observation[4]
            np.testing.assert_allclose(task.coverage[0], info["coverage"], atol=1e-12)
            outcome = task.outcome()
            np.testing.assert_allclose(outcome.reward[0], best, atol=1e-12)
            assert outcome.success[0] == terminated
        moved = max(moved, float(np.abs(task.state[0, 2:] - block).max()))
    assert moved > 20.0  # px: the comparison saw contacts


def test_starts_have_the_simulators_distribution(task: PushTTask, simulator: Any) -> None:
    """Means and spreads of 400 starts agree with those of gym-pusht's own random reset."""
    env = simulator.PushTEnv()
    theirs = np.array([env.reset(seed=seed)[0] for seed in range(400)])
    task.reset(400, np.random.default_rng(0))
    ours = task.state.copy()
    ours[:, 4] %= 2 * np.pi
    # Standard error of a mean 1/sqrt(400) of the spread, of a spread about .7 of that; 4 of them.
    tolerance = 4.0 * np.sqrt(2.0) * theirs.std(0) / np.sqrt(400)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < tolerance).all()
    assert (np.abs(ours.std(0) - theirs.std(0)) < tolerance).all()


def test_the_generator_decides_the_start(task: PushTTask) -> None:
    """Equal seeds give equal robots, others other ones, whatever was simulated before."""
    first = task.reset(5, np.random.default_rng(3)).copy()
    task.step(np.full((5, 2), 250.0))
    np.testing.assert_array_equal(task.reset(5, np.random.default_rng(3)), first)
    assert (task.reset(5, np.random.default_rng(4)) != first).any()
    assert task.reset(2, np.random.default_rng(3)).shape == (2, 6)


def test_reset_to_puts_block_and_finger_exactly_where_they_are_told(task: PushTTask) -> None:
    """The simulator's own reset displaces the block by up to 90 px; this one does not."""
    states = np.array([[50.0, 60, 300, 200, 3.0], [400, 400, 150, 160, -2.0]])
    observation = task.reset_to(states)
    np.testing.assert_array_equal(task.state, states)
    np.testing.assert_array_equal(observation, observe(states))
    resting = task.step(states[:, :2])  # told to stay: the block must not drift
    np.testing.assert_allclose(resting, observation, atol=1e-9)
    with pytest.raises(VddError, match=r"states have shape \(2, 4\)"):
        task.reset_to(states[:, :4])
    with pytest.raises(VddError, match="finite"):
        task.reset_to(np.full((1, 5), np.nan))


def test_observations_are_continuous_where_the_angle_jumps() -> None:
    """0+ and 2 pi- are the same pose."""
    below, above = observe([[1, 2, 3, 4, 2 * np.pi - 1e-9], [1, 2, 3, 4, 1e-9]])
    np.testing.assert_allclose(below, above, atol=1e-8)
    np.testing.assert_allclose(observe([1, 2, 3, 4, np.pi / 6])[4:], [np.sqrt(3) / 2, 0.5])


def test_lag_delays_observations_by_one_step(simulator: Any) -> None:
    """The same actions lead to the same states; only what is seen of them is older."""
    now, late = make_task("pusht"), make_task("pusht", lag=True)
    seen = [now.reset(2, np.random.default_rng(0)).copy()]
    np.testing.assert_array_equal(late.reset(2, np.random.default_rng(0)), seen[0])
    for step in range(5):
        action = np.array([[100.0 * step, 250.0], [300.0, 50.0 * step]])
        seen.append(now.step(action).copy())
        np.testing.assert_array_equal(late.step(action), seen[-2])


def test_coverage_is_one_on_the_outline_and_falls_as_the_block_leaves_it(
    task: PushTTask,
) -> None:
    """Oracle: two equal T's shifted along their bar overlap in two rectangles' lengths."""
    shift = 10.0
    along = np.array([np.cos(GOAL_POSE[2]), np.sin(GOAL_POSE[2])]) * shift
    poses = np.array([GOAL_POSE, [*(GOAL_POSE[:2] + along), GOAL_POSE[2]], [60, 420, 0]])
    task.reset_to(np.concatenate([np.full((3, 2), 480.0), poses], axis=1))
    area = 120 * 30 + 30 * 90
    overlap = (120 - shift) * 30 + (30 - shift) * 90
    np.testing.assert_allclose(task.coverage, [1.0, overlap / area, 0.0], atol=1e-9)
    # As in the original, the start does not score; the first step does, and ends the first one.
    assert not task.done.any()
    task.step(task.position)
    outcome = task.outcome()
    assert outcome.success.tolist() == [True, False, False]
    assert task.done.tolist() == [True, False, False]
    np.testing.assert_allclose(outcome.reward, [1.0, overlap / area / 0.95, 0.0], atol=1e-6)


def test_the_reward_is_the_best_of_the_episode(task: PushTTask) -> None:
    """Pushing the block off its outline does not take back what was covered."""
    angle = GOAL_POSE[2]
    along = np.array([np.cos(angle), np.sin(angle)])
    block = GOAL_POSE[:2] + 12.0 * along
    finger = block - 90.0 * along
    task.reset_to(np.array([[*finger, *block, angle]]))
    for distance in np.linspace(0.0, 150.0, 15):
        task.step((finger + distance * along)[None])
    assert task.coverage[0] < 0.5
    assert task.outcome().reward[0] > 0.8


def test_finished_robots_stay_where_they_are(task: PushTTask) -> None:
    """A robot whose block lies on its outline ends; its neighbour moves on, up to 300 steps."""
    on_goal = [480.0, 480.0, *GOAL_POSE]
    task.reset_to(np.array([on_goal, [480.0, 480.0, 100.0, 100.0, 0.0]]))
    for step in range(301):
        target = np.array([[300.0, 300.0], [480.0 - step % 20, 480.0]])
        if step == 1:
            kept = task.state[0].copy()
            assert task.done.tolist() == [True, False]
        if step == 300:
            assert task.done.all()
            last = task.state.copy()
        task.step(target)
    np.testing.assert_array_equal(task.state[0], kept)
    np.testing.assert_array_equal(task.state, last)


def test_targets_outside_the_window_are_brought_into_it(task: PushTTask) -> None:
    """A diverged policy cannot shoot the finger through the walls and the block."""
    start = np.array([[100.0, 100.0, 300.0, 300.0, 0.0]])
    task.reset_to(start)
    expected = task.step(np.array([[512.0, 0.0]])).copy()
    task.reset_to(start)
    np.testing.assert_array_equal(task.step(np.array([[1e6, -1e6]])), expected)


def test_bad_actions_are_refused_before_anything_moves(task: PushTTask) -> None:
    """Wrong shape and NaN are named."""
    task.reset(3, np.random.default_rng(0))
    before = task.state.copy()
    with pytest.raises(VddError, match=r"shape \(3, 3\), expected \(3, 2\)"):
        task.step(np.zeros((3, 3)))
    bad = np.full((3, 2), 200.0)
    bad[1, 0] = np.inf
    with pytest.raises(VddError, match="action of robot 1 is not finite"):
        task.step(bad)
    np.testing.assert_array_equal(task.state, before)


def test_the_gap_is_the_distance_between_circle_and_polygon(simulator: Any) -> None:
    """Oracle: shapely's distance of points from the T's outline, in and outside of it."""
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(0)
    block = shapely.Polygon(OUTLINE)
    for _ in range(200):
        point = rng.uniform(-120, 180, 2)
        state = beside(point, (rng.uniform(100, 400), 222.0, rng.uniform(-9, 9)))
        at = shapely.Point(point)
        if block.contains(at):
            assert contact_gap(state) < -FINGER_RADIUS_PX + 1e-9
        else:
            expected = block.distance(at) - FINGER_RADIUS_PX
            np.testing.assert_allclose(contact_gap(state), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("point", "mode"),
    [
        # Just outside a face; sectors of 45 degrees round (0, 45), from the bar towards the stem.
        ((30.1, 46.0), 0),
        ((29.0, 110.0), 1),
        ((-29.0, 110.0), 2),
        ((-30.0, 46.0), 3),
        ((-74.0, 10.0), 4),
        ((-10.0, -15.2), 5),
        ((10.0, -15.2), 6),
        ((74.0, 10.0), 7),
        ((31.5, 60.0), -1),
    ],
)
@pytest.mark.parametrize("pose", [(256.0, 256.0, 0.0), (120.0, 400.0, 2.5), (300.0, 90.0, -8.0)])
def test_the_mode_is_the_direction_in_the_blocks_own_frame(
    point: tuple[float, float], mode: int, pose: tuple[float, float, float]
) -> None:
    """Wherever the block stands and however it is turned; without contact there is none."""
    assert contact_mode(beside(np.array(point), pose)) == mode


def test_the_first_contact_decides_and_stays(task: PushTTask) -> None:
    """In a rollout as in a recorded episode; before it the mode is undecided."""
    # The finger comes along the block's x axis towards the stem, from the right.
    start = beside(np.array([90.0, 70.0]), (256.0, 200.0, 0.7))
    target = beside(np.array([0.0, 70.0]), (256.0, 200.0, 0.7))[:2]
    task.reset_to(start[None])
    states = [task.state[0].copy()]
    assert task.outcome().mode.tolist() == [-1]
    for _ in range(15):
        task.step(target[None])
        states.append(task.state[0].copy())
    for _ in range(15):  # away from it, round and against the end of the stem
        task.step(beside(CENTRE_OF_MASS * 5, (256.0, 200.0, 0.7))[None, :2])
        states.append(task.state[0].copy())
    modes = contact_mode(np.array(states))
    assert modes[0] == -1
    assert task.outcome().mode.tolist() == [0] == [first_contact_mode(states)]
    assert first_contact_mode(np.array(states[:1])) == -1


def test_winding_counts_signed_turns_and_ignores_turns_of_the_block() -> None:
    """Oracle: a finger on a spiral, 1.75 turns one way, then .5 back; the block spins."""
    turn = 2 * np.pi * np.concatenate([np.linspace(0, 1.75, 60), np.linspace(1.75, 1.25, 30)[1:]])
    states = np.zeros((len(turn), 5))
    states[:, 0] = 250 + 100 * np.cos(turn + 1.0)
    states[:, 1] = 240 + 100 * np.sin(turn + 1.0)
    states[:, 2:4] = 250, 240
    states[:, 4] = 3.0 * turn
    assert winding(states) == pytest.approx(2 * np.pi * 1.25)
    assert winding(states[::-1]) == pytest.approx(-2 * np.pi * 1.25)
    assert winding(states[:1]) == 0.0
    assert winding_sense([1.6, -1.6, 1.5, -1.5, 0.0]).tolist() == [1, -1, 0, 0, 0]


def test_a_rollout_reports_the_winding_of_its_recorded_states(task: PushTTask) -> None:
    """The running sum equals that of the whole path; either sense is a figure of its own."""
    task.reset(6, np.random.default_rng(1))
    rng = np.random.default_rng(2)
    states = [task.state.copy()]
    for _ in range(60):
        task.step(rng.uniform(0, 512, (6, 2)))
        states.append(task.state.copy())
    expected = [winding(path) for path in np.stack(states, axis=1)]
    np.testing.assert_allclose(task.winding, expected, atol=1e-9)
    extra = task.outcome().extra
    np.testing.assert_array_equal(extra["winding_positive"], winding_sense(expected) > 0)
    np.testing.assert_array_equal(extra["winding_negative"], winding_sense(expected) < 0)


def test_every_rollout_counts_for_the_diversity_though_none_succeeds(task: PushTTask) -> None:
    """Random fingers never cover the outline, yet touch the block from many sides."""
    result = rollout(task, wandering, n=24, seed=0, n_action_steps=4)
    metrics = task_metrics(result, task.n_modes)
    assert metrics.success == 0.0
    counts = np.bincount(result.mode[result.mode >= 0], minlength=8)
    assert counts.sum() > 12
    assert metrics.entropy == pytest.approx(float(mode_entropy(counts)))
    assert metrics.entropy > 0.5
    assert metrics.modes == np.count_nonzero(counts)
    assert 0.0 < metrics.reward < 0.9
    senses = metrics.extra["winding_positive"] + metrics.extra["winding_negative"]
    assert 0.0 < senses <= 1.0
    assert result.steps.tolist() == [300] * 24


@needs_recordings
def test_replayed_demonstrations_follow_their_recordings(
    task: PushTTask, human: dict[str, NDArray[Any]]
) -> None:
    """Open loop from the recorded starts: the recorded states return, and with them the score.

    Few pass the threshold: a recording ends with the action that was to complete it. Every third
    episode is replayed; all 206 score .946, and 3.4 % pass.
    """
    ends = human["episode_ends"]
    starts = np.concatenate([[0], ends[:-1]])[::3]
    lengths = ends[::3] - starts
    task.reset_to(human["state"][starts])
    errors = np.full((lengths.max(), len(starts)), np.nan)
    reward, success = np.zeros(len(starts)), np.zeros(len(starts), bool)
    for step in range(lengths.max()):
        rows = starts + np.minimum(step, lengths - 1)
        error = np.abs(task.state - human["state"][rows])[:, :4].max(axis=1)
        errors[step] = np.where(step < lengths, error, np.nan)
        task.step(human["action"][rows])
        outcome, last = task.outcome(), step == lengths - 1
        reward[last], success[last] = outcome.reward[last], outcome.success[last]
    assert np.nanmedian(errors) < 1e-4
    assert np.mean(np.nanmedian(errors, axis=0) < 0.01) > 0.85
    assert reward.mean() == pytest.approx(0.946, abs=0.01)
    assert success.mean() < 0.09


@needs_recordings
def test_the_humans_first_contacts_and_winding_are_the_known_ones(
    human: dict[str, NDArray[Any]],
) -> None:
    """First-contact entropy .925 of the published analysis, winding 43 % and 38 %."""
    ends = human["episode_ends"].tolist()
    episodes = [human["state"][a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    modes = np.array([first_contact_mode(states) for states in episodes])
    assert (modes >= 0).all()
    assert mode_entropy(np.bincount(modes, minlength=8)) == pytest.approx(0.925, abs=0.003)
    sense = winding_sense([winding(states) for states in episodes])
    assert np.mean(sense > 0) == pytest.approx(0.43, abs=0.005)
    assert np.mean(sense < 0) == pytest.approx(0.38, abs=0.005)


def test_contract_and_settings_shipped_for_it_fit_the_task(simulator: Any) -> None:
    """Dimensions and rate of the contract are the task's; its chunk is the settings'."""
    config = Path(__file__).parents[2] / "config"
    contract = load_yaml(PolicyContract, config / "contracts" / "pusht.yaml")
    task = make_task(contract.name)
    assert (contract.dim_obs, contract.dim_act) == (task.dim_obs, task.dim_act)
    assert contract.rate_hz == pytest.approx(1.0 / task.dt_s)
    assert contract.actions[0].limits.max == (WINDOW_PX, WINDOW_PX)
    settings = yaml.safe_load((config / "train" / "pusht.yaml").read_text(encoding="utf-8"))
    for name in ("n_obs_steps", "horizon"):
        assert settings[name] == getattr(contract, name)
    assert contract.n_action_steps == 8
