"""Files of demonstrations: what is written comes back, what is wrong is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.data.test_demonstrations import numbered
from vdd_ros.core.errors import VddError
from vdd_ros.data.npz import load_avoiding_human, load_demonstrations, load_npz, save_npz
from vdd_ros.tasks.avoiding import AvoidingTask, bits_to_mode, path_mode
from vdd_ros.tasks.avoiding_expert import scripted_demonstrations
from vdd_ros.tasks.metrics import mode_entropy


@pytest.fixture
def human(shared_data: Path) -> Path:
    """The human recordings, where they are."""
    path = shared_data / "avoiding" / "human_96.npz"
    if not path.is_file():
        pytest.skip(f"no human demonstrations at {path}")
    return path


def recording(n: int = 4) -> dict[str, Any]:
    """Two tiny episodes in the layout of the human file, n rows each."""
    position = np.tile(np.stack([np.full(n, 0.5), np.linspace(-0.28, -0.2, n)], axis=1), (2, 1))
    command = position + 0.001
    command[[n - 1, 2 * n - 1]] = np.nan
    return {
        "pos": position,
        "des_est": command,
        "mode": np.tile([1, 0, 0, 1, 0, 0, 0, 0, 1], (2, 1)).astype(np.uint8),
        "episode_ends": np.array([n, 2 * n]),
    }


@pytest.mark.parametrize("mode", [True, False])
def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path, mode: bool) -> None:
    """Same hash, same source, and no temporary file is left."""
    demos = numbered([2, 3], mode=mode)
    save_npz(demos, tmp_path / "demos.npz")
    loaded = load_npz(tmp_path / "demos.npz")
    assert loaded.data_hash() == demos.data_hash()
    assert loaded.source == "numbered"
    assert os.listdir(tmp_path) == ["demos.npz"]


def test_equal_demonstrations_give_equal_files(tmp_path: Path) -> None:
    """Files can be compared by their checksum."""
    for name in ("a.npz", "b.npz"):
        save_npz(numbered([2, 3]), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_folder_that_cannot_be_written_is_named_and_the_old_file_stays(tmp_path: Path) -> None:
    """A file stands where the folder should be: nothing is written, nothing is lost."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(VddError, match="cannot write"):
        save_npz(numbered([2]), blocked / "demos.npz")
    assert blocked.read_text() == "in the way"


def test_a_missing_file_is_told_from_a_folder(tmp_path: Path) -> None:
    """And the message names the other thing one can ask for."""
    with pytest.raises(VddError, match=r"nowhere\.npz: no such file.*'scripted'"):
        load_demonstrations(str(tmp_path / "nowhere.npz"))
    with pytest.raises(VddError, match="a folder"):
        load_demonstrations(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + b"\0" * 40])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty, foreign, and only looking like one."""
    path = tmp_path / "demos.npz"
    path.write_bytes(content)
    with pytest.raises(VddError, match="not a readable"):
        load_npz(path)


def test_every_truncation_of_a_file_is_refused(tmp_path: Path) -> None:
    """A copy that broke off anywhere is an error, never a shorter data set."""
    path = tmp_path / "demos.npz"
    save_npz(numbered([20, 30]), path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:length])
        with pytest.raises(VddError, match="not a readable"):
            load_npz(path)


def test_damage_inside_the_compressed_data_is_refused(tmp_path: Path) -> None:
    """Each byte inverted in turn: refused, or harmless because the contents are the same."""
    path = tmp_path / "demos.npz"
    demos = numbered([4])
    save_npz(demos, path)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            assert load_npz(path).data_hash() == demos.data_hash()
        except VddError:
            refused += 1
    assert refused > 100


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    """An archive that carries code to run on loading is refused, and the code does not run."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "sprung"),))

    path = tmp_path / "trap.npz"
    np.savez(path, observation=np.array([Trap()], object), action=np.zeros((1, 1)))
    with pytest.raises(VddError, match="plain numbers"):
        load_npz(path)
    assert not (tmp_path / "sprung").exists()


def test_a_single_array_is_not_an_archive(tmp_path: Path) -> None:
    """numpy.save instead of numpy.savez."""
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(VddError, match="single array"):
        load_npz(tmp_path / "one.npy")


def test_a_foreign_archive_is_answered_with_the_arrays_it_holds(tmp_path: Path) -> None:
    """The user sees what to rename."""
    np.savez(tmp_path / "foreign.npz", state=np.zeros((3, 2)), action=np.zeros((3, 1)))
    with pytest.raises(VddError, match=r"lacks observation, episode_ends; it holds action, state"):
        load_demonstrations(str(tmp_path / "foreign.npz"))


def test_nan_in_a_file_is_named_with_file_row_and_column(tmp_path: Path) -> None:
    """Found before training, not as a loss that turns NaN."""
    observation = np.zeros((4, 4))
    observation[2, 3] = np.nan
    np.savez(
        tmp_path / "bad.npz",
        observation=observation,
        action=np.zeros((4, 2)),
        episode_ends=np.array([4]),
    )
    with pytest.raises(VddError, match=r"bad\.npz: .*observation is not finite.*row 2, column 3"):
        load_demonstrations(str(tmp_path / "bad.npz"))


def test_demonstrations_of_another_robot_do_not_fit_the_task(tmp_path: Path) -> None:
    """Two columns where the task observes four; whoever rolls nothing out may have them."""
    save_npz(numbered([3]), tmp_path / "other.npz")
    with pytest.raises(VddError, match="expects 4 and 2"):
        load_demonstrations(str(tmp_path / "other.npz"))
    assert load_demonstrations(str(tmp_path / "other.npz"), fit_task=False).dim_obs == 2


def test_a_refusal_never_advises_to_unpickle_and_names_the_file_once(tmp_path: Path) -> None:
    """numpy suggests allow_pickle for any file it does not know."""
    text = tmp_path / "text.npz"
    text.write_text("hello", encoding="utf-8")
    with pytest.raises(VddError) as refusal:
        load_demonstrations(str(text))
    assert "pickle" not in str(refusal.value)
    np.savez(
        tmp_path / "short.npz",
        observation=np.zeros((3, 4)),
        action=np.zeros((2, 2)),
        episode_ends=[3],
    )
    with pytest.raises(VddError) as refusal:
        load_demonstrations(str(tmp_path / "short.npz"))
    assert str(refusal.value).count("short.npz") == 1


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_are_refused_without_a_warning(tmp_path: Path) -> None:
    """One message, not numpy's and ours."""
    np.savez(
        tmp_path / "huge.npz",
        observation=np.full((3, 4), 1e300),
        action=np.zeros((3, 2)),
        episode_ends=[3],
    )
    with pytest.raises(VddError, match="row 0, column 0"):
        load_demonstrations(str(tmp_path / "huge.npz"))


def test_scripted_and_saved_demonstrations_are_the_same_by_either_way(tmp_path: Path) -> None:
    """`scripted` and a path to the same recordings are interchangeable."""
    named = load_demonstrations("scripted", level="panda", n=24, seed=2)
    assert named.data_hash() == scripted_demonstrations(24, seed=2, level="panda").data_hash()
    save_npz(named, tmp_path / "same.npz")
    assert load_demonstrations(str(tmp_path / "same.npz")).data_hash() == named.data_hash()


def test_the_human_layout_is_read_row_by_row(tmp_path: Path) -> None:
    """Literal values: what is observed and done at each level."""
    arrays = recording()
    np.savez(tmp_path / "human.npz", **arrays)
    position, command = arrays["pos"][:4], arrays["des_est"][:4]
    ideal = load_demonstrations(str(tmp_path / "human.npz"), level="ideal")
    assert ideal.episode_ends.tolist() == [3, 6]
    np.testing.assert_allclose(ideal.observation[:3], np.tile(position[:3], 2), rtol=1e-6)
    np.testing.assert_allclose(ideal.action[:3], np.diff(position, axis=0), atol=1e-7)
    panda = load_demonstrations(str(tmp_path / "human.npz"), level="panda")
    np.testing.assert_allclose(panda.observation[:3, 2:], position[:3], rtol=1e-6)
    np.testing.assert_allclose(panda.observation[0, :2], position[0], rtol=1e-6)
    np.testing.assert_allclose(panda.observation[1:3, :2], command[:2], rtol=1e-6)
    np.testing.assert_allclose(
        panda.observation[:3, :2] + panda.action[:3], command[:3], atol=1e-6
    )
    assert panda.mode is not None
    assert panda.mode.tolist() == [7, 7]


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [("pos", 5, "pos is not finite.*row 5, column 1"), ("des_est", 2, "des_est is not.*row 2")],
)
def test_nan_in_the_human_layout_is_refused_except_in_an_episodes_last_command(
    tmp_path: Path, name: str, row: int, expected: str
) -> None:
    """The last command of an episode is unknown by nature, any other is a fault."""
    arrays = recording()
    arrays[name][row, 1] = np.nan
    np.savez(tmp_path / "human.npz", **arrays)
    with pytest.raises(VddError, match=expected):
        load_avoiding_human(tmp_path / "human.npz")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pos", np.zeros((8, 3))),
        ("des_est", np.zeros((7, 2))),
        ("mode", np.zeros((2, 8))),
        ("episode_ends", np.array([4, 9])),
        ("episode_ends", np.array([7, 8])),
        ("episode_ends", np.array([4.0, 8.0])),
        ("pos", np.full((8, 2), "x")),
    ],
)
def test_shapes_that_do_not_fit_the_human_layout_are_refused(
    tmp_path: Path, name: str, value: NDArray[Any]
) -> None:
    """All shapes are named in one message."""
    np.savez(tmp_path / "human.npz", **{**recording(), name: value})
    with pytest.raises(VddError, match="do not fit"):
        load_avoiding_human(tmp_path / "human.npz")


def test_an_unknown_level_of_the_human_recordings_is_refused(tmp_path: Path) -> None:
    """Before the file is even opened."""
    with pytest.raises(VddError, match="known levels: ideal, panda"):
        load_avoiding_human(tmp_path / "none.npz", level="real")


@pytest.mark.parametrize("level", ["ideal", "panda"])
def test_the_human_recordings_hold_96_episodes_in_24_modes(human: Path, level: str) -> None:
    """Entropy .9992, and our mode of every measured path is the recorded nine bits."""
    demos = load_avoiding_human(human, level=level)
    assert demos.n_episodes == 96
    assert demos.mode is not None
    counts = np.bincount(demos.mode, minlength=24)
    assert np.count_nonzero(counts) == 24
    assert float(mode_entropy(counts)) == pytest.approx(0.9992, abs=5e-5)
    with np.load(human, allow_pickle=False) as file:
        ends, position = file["episode_ends"], file["pos"]
        np.testing.assert_array_equal(demos.mode, bits_to_mode(file["mode"]))
    whole = [path_mode(p) for p in np.split(position, ends[:-1])]
    np.testing.assert_array_equal(whole, demos.mode)
    lengths = np.diff(demos.episode_ends, prepend=0)
    assert (lengths.min(), lengths.max()) == (52, 100)


@pytest.mark.parametrize("level", ["ideal", "panda"])
def test_replayed_human_actions_reach_the_goal_in_the_recorded_mode(
    human: Path, level: str
) -> None:
    """Our task is the one the people played: at panda even through estimated commands."""
    demos = load_avoiding_human(human, level=level)
    assert demos.mode is not None
    arrived = 0
    for rows, mode in zip(demos.episodes(), demos.mode, strict=True):
        task = AvoidingTask(level=level)
        task.reset(1, np.random.default_rng(0))
        for action in demos.action[rows].astype(np.float64):
            task.step(action[None])
        outcome = task.outcome()
        assert not task.contact[0]
        assert outcome.mode[0] == mode
        arrived += int(outcome.success[0])
    # At panda one replay stops just short of the line: its commands are estimates.
    assert arrived >= 95
