"""Published formats, on small files of the same format written here."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vdd_ros.core.errors import VddError
from vdd_ros.data.d3il import load_d3il, tan_yaw
from vdd_ros.data.npz import load_demonstrations
from vdd_ros.data.published import load_block_push, load_kitchen
from vdd_ros.data.sources import load_published
from vdd_ros.tasks.avoiding import mode_name as way_name
from vdd_ros.tasks.avoiding_expert import mode_path
from vdd_ros.tasks.kitchen import GOALS, mode_name

LENGTHS = np.array([5, 3, 7])


def padded(width: int, *, seed: int) -> np.ndarray:
    """[E, T, D] random numbers with zeros after each episode's end."""
    table = np.random.default_rng(seed).normal(size=(3, 7, width))
    return table * (np.arange(7) < LENGTHS[:, None])[..., None]


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    """Three episodes of Relay Kitchen, time first; the second solves two sub-tasks."""
    folder = tmp_path / "kitchen"
    folder.mkdir()
    observation = padded(60, seed=0) + 20.0
    for step, name in ((1, "kettle"), (2, "top burner")):
        where, goal = GOALS[name]
        observation[1, step:, where] = goal
    mask = (np.arange(7) < LENGTHS[:, None]).astype(np.float64)
    for name, table in (
        ("observations_seq", observation),
        ("actions_seq", padded(9, seed=1)),
        ("existence_mask", mask),
    ):
        np.save(folder / f"{name}.npy", np.swapaxes(table, 0, 1))
    return folder


@pytest.fixture
def block_push(tmp_path: Path) -> Path:
    """Three episodes of Block Push, episode first."""
    folder = tmp_path / "push"
    folder.mkdir()
    np.save(folder / "multimodal_push_observations.npy", padded(16, seed=0))
    np.save(folder / "multimodal_push_actions.npy", padded(2, seed=1))
    mask = (np.arange(7) < LENGTHS[:, None]).astype(np.float64)
    np.save(folder / "multimodal_push_masks.npy", mask)
    return folder


def test_kitchen_episodes_lose_padding_goal_and_the_swapped_axes(kitchen: Path) -> None:
    """30 of 60 columns, row by row what was written, and the order of the sub-tasks."""
    demos = load_kitchen(kitchen)
    assert demos.episode_ends.tolist() == [5, 8, 15]
    assert (demos.dim_obs, demos.dim_act) == (30, 9)
    written = np.load(kitchen / "observations_seq.npy")
    assert np.allclose(demos.observation[8:], written[:7, 2, :30])
    assert np.allclose(demos.action[5:8], np.load(kitchen / "actions_seq.npy")[:3, 1])
    assert demos.mode is not None
    assert demos.mode.tolist()[::2] == [-1, -1]
    assert mode_name(int(demos.mode[1])) == "kettle, top burner"


def test_block_push_keeps_the_moving_columns(block_push: Path) -> None:
    """10 of 16 columns; the six of the fixed targets go."""
    demos = load_block_push(block_push)
    assert demos.episode_ends.tolist() == [5, 8, 15]
    assert (demos.dim_obs, demos.dim_act, demos.mode) == (10, 2, None)
    written = np.load(block_push / "multimodal_push_observations.npy")
    assert np.allclose(demos.observation[5:8], written[1, :3, :10])


def test_a_missing_or_foreign_array_is_named(block_push: Path) -> None:
    """Absent, of Python objects, no array, transposed, and with holes in the mask."""
    masks = block_push / "multimodal_push_masks.npy"
    good = np.load(masks)
    holes = good.copy()
    holes[1, 1] = 0
    np.save(masks, holes)
    with pytest.raises(VddError, match="mask of episode 1 is not ones from the start"):
        load_block_push(block_push)
    np.save(masks, good.T)
    with pytest.raises(VddError, match=r"mask \(7, 3\)"):
        load_block_push(block_push)
    np.save(masks, np.array([{}], object), allow_pickle=True)
    with pytest.raises(VddError, match=r"masks\.npy: not a readable \.npy.*Python objects"):
        load_block_push(block_push)
    masks.write_bytes(b"no array")
    with pytest.raises(VddError, match=r"masks\.npy: not a readable \.npy"):
        load_block_push(block_push)
    masks.unlink()
    with pytest.raises(VddError, match=r"masks\.npy: no such file"):
        load_block_push(block_push)


def test_an_episode_without_a_row_is_named(block_push: Path) -> None:
    """A mask of zeros is padding and nothing else."""
    masks = block_push / "multimodal_push_masks.npy"
    empty = np.load(masks)
    empty[1] = 0
    np.save(masks, empty)
    with pytest.raises(VddError, match="mask of episode 1 is not ones from the start"):
        load_block_push(block_push)


def turned(angle: np.ndarray) -> np.ndarray:
    """Quaternions w, x, y, z of a turn about the vertical."""
    zero = np.zeros_like(angle)
    return np.stack([np.cos(angle / 2), zero, zero, np.sin(angle / 2)], -1)


def thing(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """A box that moves and turns."""
    return {"pos": rng.normal(size=(n, 3)), "quat": turned(rng.uniform(-1, 1, n))}


def episode(task: str, *, n: int = 9, seed: int = 0, pairs: int = 2) -> dict[str, Any]:
    """A recording of one task, with everything the benchmark's data sets read."""
    rng = np.random.default_rng(seed)
    robot = {
        "des_c_pos": rng.normal(size=(n, 3)),
        "c_pos": rng.normal(size=(n, 3)),
        "des_j_pos": rng.normal(size=(n, 7)),
        "gripper_width": rng.uniform(size=n),
    }
    boxes = {
        "avoiding": [],
        "aligning": ["push-box", "target-box"],
        "pushing": ["red-box", "green-box", "red-target", "green-target"],
        "sorting": [f"{c}-box{i}" for c in ("blue", "red") for i in range(1, pairs + 1)],
        "stacking": ["red-box", "green-box", "blue-box", "target-box"],
    }[task]
    return {"robot": robot, **{box: thing(rng, n) for box in boxes}}


def write(folder: Path, *episodes: dict[str, Any], protocol: int = 4) -> Path:
    """One pickle per episode."""
    folder.mkdir(exist_ok=True)
    for i, content in enumerate(episodes):
        (folder / f"env_{i:03d}_00.pkl").write_bytes(pickle.dumps(content, protocol))
    return folder


@pytest.mark.parametrize(
    ("task", "dim_obs", "dim_act"),
    [
        ("avoiding", 4, 2),
        ("aligning", 20, 3),
        ("pushing", 10, 2),
        ("sorting", 16, 2),
        ("stacking", 20, 8),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_every_task_has_the_published_widths(
    tmp_path: Path, task: Any, dim_obs: int, dim_act: int, protocol: int
) -> None:
    """Found by its objects, and the last row of each episode is dropped."""
    folder = write(tmp_path / "data", episode(task), episode(task, n=6, seed=1), protocol=protocol)
    demos = load_d3il(folder, task=task)
    assert (demos.dim_obs, demos.dim_act) == (dim_obs, dim_act)
    assert demos.episode_ends.tolist() == [8, 13]
    found = load_published(str(folder))
    assert found is not None
    assert found.data_hash() == demos.data_hash()


def test_the_action_is_the_change_of_the_command(tmp_path: Path) -> None:
    """Adding it to the command in the observation gives the next command."""
    written = episode("pushing")
    demos = load_d3il(write(tmp_path / "data", written), task="pushing")
    assert np.allclose(
        demos.observation[:, :2] + demos.action, written["robot"]["des_c_pos"][1:, :2]
    )
    assert np.allclose(demos.observation[:, 2:4], written["robot"]["c_pos"][:-1, :2])
    green = written["green-box"]
    assert np.allclose(demos.observation[:, 7:9], green["pos"][:-1, :2], atol=1e-6)
    angle = 2 * np.arctan2(green["quat"][:-1, 3], green["quat"][:-1, 0])
    assert np.allclose(demos.observation[:, 9], np.tan(angle), atol=1e-5)


def test_aligning_takes_whole_poses_and_stacking_joints(tmp_path: Path) -> None:
    """Column by column."""
    written = episode("aligning")
    demos = load_d3il(write(tmp_path / "a", written), task="aligning")
    columns = np.concatenate(
        [written["robot"]["des_c_pos"], written["robot"]["c_pos"]]
        + [written[box][key] for box in ("push-box", "target-box") for key in ("pos", "quat")],
        axis=1,
    )
    assert np.allclose(demos.observation, columns[:-1], atol=1e-6)
    written = episode("stacking")
    demos = load_d3il(write(tmp_path / "s", written), task="stacking")
    joints, width = written["robot"]["des_j_pos"], written["robot"]["gripper_width"]
    assert np.allclose(demos.action[:, :7], np.diff(joints, axis=0), atol=1e-6)
    assert np.allclose(demos.action[:, 7], width[1:])
    assert np.allclose(demos.observation[:, 7], width[:-1])
    assert np.allclose(demos.observation[:, 8:11], written["red-box"]["pos"][:-1], atol=1e-6)


def test_boxes_are_sorted_by_colour_and_then_by_number(tmp_path: Path) -> None:
    """Red before blue, in whatever order the file has them."""
    written = episode("sorting")
    demos = load_d3il(write(tmp_path / "data", written), task="sorting")
    for i, box in enumerate(("red-box1", "red-box2", "blue-box1", "blue-box2")):
        columns = demos.observation[:, 4 + 3 * i : 6 + 3 * i]
        assert np.allclose(columns, written[box]["pos"][:-1, :2], atol=1e-6), box


def test_episodes_come_in_the_order_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder lists its files in any order; a data set has one."""
    folder = write(tmp_path / "data", *(episode("pushing", n=4 + i) for i in range(3)))
    listed = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, p: reversed(sorted(listed(self, p))))
    assert load_d3il(folder, task="pushing").episode_ends.tolist() == [3, 7, 12]


def test_the_way_is_that_of_the_measured_path(tmp_path: Path) -> None:
    """The command may be elsewhere: it is what was measured that passes obstacles."""
    path = mode_path(13)[::4]
    measured = np.concatenate([path, np.full((len(path), 1), 0.12)], axis=1)
    content = {"robot": {"c_pos": measured, "des_c_pos": np.tile(measured[:1], (len(path), 1))}}
    demos = load_d3il(write(tmp_path / "data", content), task="avoiding")
    assert demos.mode is not None
    assert way_name(int(demos.mode[0])) == way_name(13)


def test_the_tangent_ignores_length_sign_and_half_turns() -> None:
    """And equals that of the yaw of a rotation about any axis, from its matrix."""
    angle = np.linspace(-3.0, 3.0, 13)
    assert np.allclose(tan_yaw(turned(angle)), np.tan(angle))
    assert np.allclose(tan_yaw(-2.0 * turned(angle)), np.tan(angle))
    assert np.allclose(tan_yaw(turned(angle + np.pi)), np.tan(angle))
    w, x, y, z = np.random.default_rng(0).normal(size=(4, 50))
    cos, sin = w**2 + x**2 - y**2 - z**2, 2 * (w * z - x * y)
    assert np.allclose(tan_yaw(np.stack([w, x, y, z], -1)), np.tan(np.arctan2(sin, cos)))


def test_avoiding_knows_its_ways_and_levels(tmp_path: Path) -> None:
    """The mode comes from the measured path; `ideal` takes it for the commanded one too."""
    path = mode_path(13)[::4]
    measured = np.concatenate([path, np.full((len(path), 1), 0.12)], axis=1)
    content = {"robot": {"c_pos": measured, "des_c_pos": measured + 0.01}}
    folder = write(tmp_path / "data", content)
    panda = load_d3il(folder, task="avoiding")
    assert panda.mode is not None
    assert way_name(int(panda.mode[0])) == way_name(13)
    assert np.allclose(panda.observation[:, :2], panda.observation[:, 2:] + 0.01, atol=1e-6)
    ideal = load_demonstrations(str(folder), task="avoiding", level="ideal")
    assert np.array_equal(ideal.observation[:, :2], ideal.observation[:, 2:])
    with pytest.raises(VddError, match="known levels: ideal, panda"):
        load_d3il(folder, task="avoiding", level="perfect")


def test_a_list_of_files_chooses_and_orders_the_episodes(tmp_path: Path) -> None:
    """As the benchmark's splits do; a path out of the folder is refused."""
    folder = write(tmp_path / "data", *(episode("pushing", n=4 + i) for i in range(3)))
    listed = tmp_path / "train_files.pkl"
    listed.write_bytes(pickle.dumps(["env_002_00.pkl", "env_000_00.pkl"]))
    demos = load_d3il(folder, task="pushing", files=listed)
    assert demos.episode_ends.tolist() == [5, 8]
    listed.write_bytes(pickle.dumps(["../secret.pkl"]))
    with pytest.raises(VddError, match="expected a pickled list of names of files"):
        load_d3il(folder, task="pushing", files=listed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("green-box"), "lacks green-box/pos; it holds .*red-box"),
        (lambda e: e["robot"].pop("des_c_pos"), "lacks robot/des_c_pos"),
        (lambda e: e["red-box"].update(pos=np.zeros((9, 2))), r"red-box/pos has shape \(9, 2\)"),
        (lambda e: e["red-box"].update(quat=np.zeros((5, 4))), "5 of quat; expected 9"),
        (lambda e: e["robot"].update(c_pos=np.zeros((4, 3))), "9 rows of des_c_pos and 4"),
    ],
)
def test_what_an_episode_lacks_is_named_with_its_file(
    tmp_path: Path, change: Any, message: str
) -> None:
    """File, key and shape."""
    content = episode("pushing")
    change(content)
    folder = write(tmp_path / "data", episode("pushing"), content)
    with pytest.raises(VddError, match=rf"env_001_00\.pkl: .*{message}"):
        load_d3il(folder, task="pushing")


def test_wrong_folders_and_tasks_are_named(tmp_path: Path) -> None:
    """Nothing there, no folder, an unknown task, and pickles of something else."""
    with pytest.raises(VddError, match="no such folder"):
        load_d3il(tmp_path / "nowhere", task="pushing")
    with pytest.raises(VddError, match=r"holds no \.pkl"):
        load_d3il(tmp_path, task="pushing")
    with pytest.raises(VddError, match="unknown D3IL task 'push'; did you mean 'pushing'"):
        load_d3il(tmp_path, task="push")  # type: ignore[arg-type]
    write(tmp_path / "data", {"weights": [1, 2]})
    with pytest.raises(VddError, match="holds weights; expected an episode of a D3IL task"):
        load_published(str(tmp_path / "data"))


def test_the_command_lines_loader_knows_them_by_content_and_prefix(
    kitchen: Path, block_push: Path, tmp_path: Path
) -> None:
    """With and without prefix the same; a task they do not fit is refused when it matters."""
    for prefix, folder, dims in (
        ("kitchen", kitchen, (30, 9)),
        ("block-push", block_push, (10, 2)),
    ):
        plain, named = (
            load_demonstrations(spec, fit_task=False)
            for spec in (str(folder), f"{prefix}:{folder}")
        )
        assert (plain.dim_obs, plain.dim_act) == dims
        assert plain.data_hash() == named.data_hash()
    with pytest.raises(VddError, match="task 'avoiding' expects 4 and 2"):
        load_demonstrations(str(block_push))
    with pytest.raises(VddError, match=r"observations_seq\.npy: no such file"):
        load_demonstrations(f"kitchen:{tmp_path}")
    with pytest.raises(VddError, match="a folder; expected"):
        load_demonstrations(str(tmp_path))


def test_recordings_of_real_robots_are_known_by_their_arrays(tmp_path: Path) -> None:
    """The G1 by its names, the Franka by its poses; '#' takes one of its tasks."""
    np.savez(
        tmp_path / "g1.npz",
        state=np.ones((4, 2), np.float32),
        action=np.zeros((4, 2), np.float32),
        timestamp=np.arange(4) / 30,
        episode_ends=np.array([4]),
        names=np.array(["a", "b"]),
    )
    np.savez(tmp_path / "franka.npz", d=np.zeros((2, 30, 2)), e=np.ones((3, 30, 2)))
    assert load_demonstrations(str(tmp_path / "g1.npz"), fit_task=False).dim_act == 2
    letters = load_demonstrations(str(tmp_path / "franka.npz"), fit_task=False)
    assert letters.n_episodes == 5
    one = load_demonstrations(f"franka:{tmp_path / 'franka.npz'}#e", fit_task=False)
    assert one.n_episodes == 3
