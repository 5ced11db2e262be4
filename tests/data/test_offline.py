"""Recordings of real robots: what the rows mean, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vdd_ros.core.errors import VddError
from vdd_ros.data.offline import continuous_quaternions, load_franka, load_unitree_g1


def recording(n: int = 6, joints: int = 3) -> dict[str, Any]:
    """Two episodes of n rows in the layout of the G1's file; the command leads the state."""
    state = np.arange(2 * n * joints, dtype=np.float32).reshape(-1, joints)
    return {
        "state": state,
        "action": state + 5,
        "timestamp": np.tile(np.arange(n) / 30, 2).astype(np.float32),
        "episode_ends": np.array([n, 2 * n]),
        "names": np.array([f"joint{i}" for i in range(joints)]),
        "fps": np.array([30]),
    }


def test_the_g1_is_commanded_by_its_commands(tmp_path: Path) -> None:
    """Observation is the state, action the command of the same row, episodes stay apart."""
    np.savez(tmp_path / "g1.npz", **recording())
    demos = load_unitree_g1(tmp_path / "g1.npz")
    assert (demos.n_episodes, demos.dim_obs, demos.dim_act) == (2, 3, 3)
    assert np.array_equal(demos.action, demos.observation + 5)
    assert demos.mode is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("state", np.zeros((12, 2), np.float32), r"state \(12, 2\), action \(12, 3\)"),
        ("timestamp", np.zeros(12, np.float32), "timestamp 0.0 in row 1 after 0.0"),
        ("timestamp", np.r_[0:5, 20, 0:6] / 30, r"timestamp 0\.66\d* in row 5 after 0\.13"),
        ("names", np.array(["a"]), "1 names do not fit"),
    ],
)
def test_a_torn_recording_of_the_g1_is_named(
    tmp_path: Path, name: str, value: np.ndarray, message: str
) -> None:
    """Shapes, and time that stands still or jumps; the jump between episodes is none."""
    np.savez(tmp_path / "g1.npz", **{**recording(), name: value})
    with pytest.raises(VddError, match=message):
        load_unitree_g1(tmp_path / "g1.npz")


def test_another_file_is_no_recording_of_the_g1(tmp_path: Path) -> None:
    """What is missing and what is there are named."""
    np.savez(tmp_path / "x.npz", pos=np.zeros(3))
    with pytest.raises(VddError, match=r"lacks state, action, timestamp.*it holds pos"):
        load_unitree_g1(tmp_path / "x.npz")


def letters() -> dict[str, Any]:
    """Two letters, 3 episodes of 21 points each; every number names its letter, episode, row."""
    grid = np.arange(3)[:, None, None] * 100.0 + np.arange(21)[None, :, None]
    return {"d": np.repeat(grid, 2, 2), "e": np.repeat(grid, 2, 2) + 1000}


def test_the_action_of_a_guided_arm_is_the_next_pose(tmp_path: Path) -> None:
    """Every 5th pose, the last only as an action, and never the next episode's first."""
    np.savez(tmp_path / "letters.npz", **letters())
    demos = load_franka(tmp_path / "letters.npz", stride=5)
    assert demos.observation[:, 0].tolist()[:5] == [0, 5, 10, 15, 100]
    assert demos.action[:, 0].tolist()[:5] == [5, 10, 15, 20, 105]
    assert demos.mode is not None
    assert demos.mode.tolist() == [0, 0, 0, 1, 1, 1]
    only = load_franka(tmp_path / "letters.npz", name="e", stride=5)
    assert (only.n_episodes, only.observation[0, 0]) == (3, 1000)


def test_an_unknown_letter_names_the_known_ones(tmp_path: Path) -> None:
    """And a stride that leaves no step is refused."""
    np.savez(tmp_path / "letters.npz", **letters())
    with pytest.raises(VddError, match="no demonstrations of 'f'; known: d, e"):
        load_franka(tmp_path / "letters.npz", name="f")
    with pytest.raises(VddError, match="stride is 30"):
        load_franka(tmp_path / "letters.npz", stride=30)
    np.savez(tmp_path / "bad.npz", d=np.zeros((3, 5, 4)))
    with pytest.raises(VddError, match=r"d has shape \(3, 5, 4\)"):
        load_franka(tmp_path / "bad.npz")


def test_quaternions_lose_their_jumps_and_keep_their_rotations() -> None:
    """Signs flipped at random are undone, over episodes that start on either side."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0.0, 5.0, 80)[None] + 0.05 * rng.standard_normal((4, 1))
    smooth = np.stack([np.cos(angle / 2), np.sin(angle / 2), 0 * angle, 0 * angle], -1)
    signs = rng.choice([-1.0, 1.0], size=(4, 80, 1))
    signs[0, 0] = 1.0
    assert np.allclose(continuous_quaternions(signs * smooth), smooth)


def test_what_is_no_rotation_is_refused() -> None:
    """Columns in another order or other units."""
    with pytest.raises(VddError, match=r"length 2\.0000"):
        continuous_quaternions(np.full((1, 3, 4), 1.0))


def test_the_real_recordings_load(shared_data: Path) -> None:
    """Counts of their description; the quaternions are continuous."""
    g1 = shared_data / "unitree_g1" / "pick_bottle_80.npz"
    tasks = shared_data / "franka" / "robottasks_4x9x1000x7_cm_wxyz.npz"
    if not (g1.is_file() and tasks.is_file()):
        pytest.skip(f"no recordings below {shared_data}")
    demos = load_unitree_g1(g1)
    assert (len(demos), demos.n_episodes, demos.dim_obs, demos.dim_act) == (29417, 80, 26, 26)
    lead = [
        np.corrcoef(demos.action[:-5, 10], demos.observation[k : len(demos) - 5 + k, 10])[0, 1]
        for k in range(6)
    ]
    assert int(np.argmax(lead)) >= 3  # the state follows the command by a tenth of a second
    poses = load_franka(tasks)
    assert (poses.n_episodes, len(poses), poses.dim_act) == (36, 36 * 99, 7)
    for rows in poses.episodes():
        quaternion = poses.observation[rows, 3:]
        assert (np.sum(quaternion[1:] * quaternion[:-1], axis=1) > 0.9).all()
