"""Franka Kitchen: what counts as solved and in which order, and the environment behind it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vdd_ros.core.config_io import load_yaml
from vdd_ros.core.errors import VddError
from vdd_ros.tasks.kitchen import (
    GOALS,
    N_MODES,
    SUB_TASKS,
    KitchenTask,
    mode_name,
    order_mode,
    path_mode,
    solved,
)
from vdd_ros.tasks.protocol import Task, make_task
from vdd_ros.tasks.rollouts import rollout


def path(order: list[str], *, length: int = 12) -> np.ndarray:
    """An episode [T, 30] in which these sub-tasks reach their goals, one every two steps."""
    seen = np.full((length, 30), 9.0)
    for step, name in enumerate(order):
        where, goal = GOALS[name]
        seen[2 * step + 2 :, where] = goal
    return seen


def test_every_ordered_pair_has_its_own_mode_and_name() -> None:
    """42 codes, without gaps, and the way back says what they mean."""
    pairs = list(itertools.permutations(range(7), 2))
    assert sorted(order_mode(list(pair)) for pair in pairs) == list(range(N_MODES))
    for first, second in pairs:
        name = f"{SUB_TASKS[first]}, {SUB_TASKS[second]}"
        assert mode_name(order_mode([first, second])) == name
    assert order_mode([3]) == -1
    assert order_mode([3, 1, 2]) == order_mode([3, 1])


def test_a_recorded_episode_is_coded_by_what_is_solved_first() -> None:
    """Later sub-tasks do not matter, nor does undoing one; one alone has no mode."""
    kettle_first = path(["kettle", "microwave", "slide cabinet"])
    assert mode_name(path_mode(kettle_first)) == "kettle, microwave"
    undone = kettle_first.copy()
    undone[8:, GOALS["kettle"][0]] = 9.0
    assert path_mode(undone) == path_mode(kettle_first)
    assert path_mode(path(["kettle"])) == -1


def test_solved_means_within_three_tenths_of_the_goal() -> None:
    """At a distance of .29 it is, at .31 it is not; other columns do not matter."""
    seen = np.zeros((2, 30))
    where, goal = GOALS["microwave"]
    seen[:, where] = goal[0] + np.array([[0.29], [0.31]])
    assert solved(seen)[:, SUB_TASKS.index("microwave")].tolist() == [True, False]


def test_without_the_simulator_the_message_says_what_to_install() -> None:
    """Only where it is absent."""
    try:
        import gymnasium_robotics  # noqa: F401
    except ImportError:
        with pytest.raises(
            VddError, match=r"task 'kitchen' needs.*pip install '.*mujoco==3\.3\.0"
        ):
            KitchenTask()
    else:
        pytest.skip("gymnasium-robotics is installed")


@pytest.fixture(scope="module")
def kitchen() -> KitchenTask:
    """The simulated kitchen, where its library is installed."""
    pytest.importorskip("gymnasium_robotics", reason="needs the extra [sim]: gymnasium-robotics")
    return KitchenTask()


def still(window: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Do nothing."""
    return np.zeros((len(window), 1, 9)), np.full(len(window), -1)


def wander(window: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Do anything."""
    return rng.uniform(-1, 1, (len(window), 1, 9)), np.full(len(window), -1)


def test_the_goals_are_the_environments() -> None:
    """Columns, values and threshold of the library, entry by entry."""
    module = pytest.importorskip("gymnasium_robotics.envs.franka_kitchen.kitchen_env")
    assert set(module.OBS_ELEMENT_GOALS) == set(GOALS)
    columns = np.arange(30)
    for name, (where, goal) in GOALS.items():
        assert np.allclose(module.OBS_ELEMENT_GOALS[name], goal)
        assert module.OBS_ELEMENT_INDICES[name].tolist() == columns[where].tolist()
    assert module.BONUS_THRESH == 0.3


def test_the_kitchen_keeps_the_protocol(kitchen: KitchenTask) -> None:
    """Shapes, and a rollout that does nothing solves nothing and ends at the limit."""
    assert isinstance(kitchen, Task)
    kitchen.max_steps = 20
    result = rollout(kitchen, still, n=2, seed=0)
    assert result.steps.tolist() == [20, 20]
    assert result.trajectory.shape == (2, 21, 2)
    assert not result.success.any()
    assert (result.mode == -1).all()
    assert (result.reward == 0).all()


def test_a_robot_moves_as_in_an_environment_of_its_own(kitchen: KitchenTask) -> None:
    """Three in lockstep against one alone, bit for bit: noise, data and controller are theirs."""
    kitchen.max_steps = 15
    actions = np.random.default_rng(5).uniform(-1, 1, (15, 3, 9))
    together = [kitchen.reset(3, np.random.default_rng(0))]
    together += [kitchen.step(a) for a in actions]
    alone = [kitchen.reset(1, np.random.default_rng(0))]
    alone += [kitchen.step(a[:1]) for a in actions]
    assert np.array_equal(np.array(together)[:, 0], np.array(alone)[:, 0])
    assert not np.allclose(together[-1][1], together[-1][2])


def test_opened_doors_are_counted_once_and_in_order(kitchen: KitchenTask) -> None:
    """Things are put to their goals by hand: reward counts fourths, mode the first two."""
    kitchen.max_steps = 50
    kitchen.reset(1, np.random.default_rng(0))
    for name, reward in (("microwave", 0.25), ("slide cabinet", 0.5), ("light switch", 0.75)):
        where, goal = GOALS[name]
        kitchen._data[0].qpos[where] = goal
        kitchen.step(np.zeros((1, 9)))
        assert kitchen.outcome().reward.tolist() == [reward]
    assert mode_name(int(kitchen.outcome().mode[0])) == "microwave, slide cabinet"
    assert not kitchen.outcome().success[0]
    where, goal = GOALS["hinge cabinet"]
    kitchen._data[0].qpos[where] = goal
    kitchen.step(np.zeros((1, 9)))
    assert kitchen.outcome().success[0]
    assert kitchen.done[0]
    before = kitchen.observe()
    assert np.array_equal(kitchen.step(np.ones((1, 9))), before)


def test_equal_seeds_repeat_and_different_ones_do_not(kitchen: KitchenTask) -> None:
    """The whole rollout is a function of the seed."""
    kitchen.max_steps = 10
    first, again, other = (rollout(kitchen, wander, n=2, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first.trajectory, again.trajectory)
    assert not np.allclose(first.trajectory, other.trajectory)


def test_actions_that_are_no_numbers_are_refused(kitchen: KitchenTask) -> None:
    """The engine would simulate nonsense after a warning."""
    kitchen.reset(1, np.random.default_rng(0))
    with pytest.raises(VddError, match=r"action of robot 0 is not finite"):
        kitchen.step(np.full((1, 9), np.nan))
    with pytest.raises(VddError, match="known levels: ideal"):
        make_task("kitchen", level="panda")


def record(kitchen: KitchenTask, folder: Path, lengths: tuple[int, ...]) -> None:
    """Write episodes of random actions as Relay Kitchen is published: time first, padded."""
    longest, rng = max(lengths), np.random.default_rng(0)
    mask = np.arange(longest)[:, None] < np.array(lengths)
    now = kitchen.reset(len(lengths), rng)
    seen, done = [], []
    for _ in range(longest):
        done.append(rng.uniform(-1, 1, (len(lengths), 9)))
        seen.append(np.concatenate([now, np.zeros_like(now)], axis=1))  # the other half is a goal
        now = kitchen.step(done[-1])
    folder.mkdir()
    np.save(folder / "observations_seq.npy", np.array(seen) * mask[..., None])
    np.save(folder / "actions_seq.npy", np.array(done) * mask[..., None])
    np.save(folder / "existence_mask.npy", mask.astype(np.float64))


def test_the_shipped_study_runs_on_a_folder_in_the_published_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row of config/study/kitchen.yaml: read, trained, rolled out in the simulator, noted.

    A few iterations on what is no demonstration: that the row can be filled, not with what.
    """
    pytest.importorskip("gymnasium_robotics", reason="needs the extra [sim]: gymnasium-robotics")
    pytest.importorskip("torch", reason="training needs torch")
    from vdd_ros.distill.study.changes import with_data
    from vdd_ros.distill.study.pair import Pair
    from vdd_ros.distill.study.rows import read_failures, read_rows
    from vdd_ros.distill.study.runner import check
    from vdd_ros.distill.study.settings import StudySettings
    from vdd_ros.distill.study.variants import Variant

    monkeypatch.setattr(KitchenTask, "max_steps", 60)
    record(KitchenTask(), tmp_path / "recordings", (40, 24, 30))
    shipped = Path(__file__).parents[2] / "config" / "study" / "kitchen.yaml"
    settings = with_data(load_yaml(StudySettings, shipped), [f"kitchen:{tmp_path / 'recordings'}"])
    check(settings)
    (task,) = settings.tasks
    monkeypatch.setattr(KitchenTask, "max_steps", 12)

    def shortened(row: Variant | None, method: str | None) -> Variant:
        row = replace(
            row or Variant(),
            teacher_overrides={"n_iters": 6, "width": 32} | (row.teacher_overrides if row else {}),
        )
        if method == "teacher":
            return row
        small = {"n_iters": 6, "student.width": 32, "cache_states": 64, "batch_size": 16}
        return replace(row, overrides=row.overrides | small)

    rows = {row.name: row.method for row in settings.resolved()}
    names = dict(zip(settings.rows, rows, strict=True))
    short = replace(
        settings,
        rows={key: shortened(row, rows[names[key]]) for key, row in settings.rows.items()},
        tasks=(replace(task, rollouts=2),),
    )
    Pair(short, tmp_path / "study", short.tasks[0], 0).run()
    assert list(read_failures(tmp_path / "study")) == []
    lines = {line.row: line for line in read_rows(tmp_path / "study")}
    assert list(lines) == list(rows)
    for line in lines.values():
        assert line.n_modes == N_MODES
        assert line.n_judged == 2
        assert 0.0 <= line.figures["reward"] <= 1.0
        assert line.figures["solved"] == 4 * line.figures["reward"]
