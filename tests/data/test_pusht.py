"""The reader of Push-T recordings: what it makes of them, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.data.npz import load_demonstrations
from vdd_ros.data.pusht import load_pusht_human
from vdd_ros.data.windows import make_windows
from vdd_ros.tasks.metrics import mode_entropy

HUMAN = Path(__file__).parents[3] / "shared" / "data" / "pusht" / "human_206.npz"
Arrays = dict[str, NDArray[Any]]


@pytest.fixture
def arrays() -> Arrays:
    """Episodes of 3 and 4 rows: one touches the stem from the right, the other nothing."""
    state = np.zeros((7, 5), np.float32)
    state[:, 2:4] = 200.0, 100.0  # the block, upright: its stem spans x 185..215, y 130..220
    state[:3, :2] = [[300, 160], [230, 160], [231, 161]]
    state[3:, :2] = [[50, 400], [60, 400], [70, 400], [80, 400]]
    state[3:, 4] = [0.1, 6.2, 6.1, 0.2]
    action = np.concatenate([state[1:, :2], state[-1:, :2]])
    return {"state": state, "action": action, "episode_ends": np.array([3, 7])}


def saved(arrays: Arrays, folder: Path) -> Path:
    path = folder / "recordings.npz"
    np.savez(path, **arrays)
    return path


def test_rows_become_observations_whose_angle_does_not_jump(
    arrays: Arrays, tmp_path: Path
) -> None:
    """Cosine and sine replace the angle; actions, ends and modes are as recorded."""
    demos = load_pusht_human(saved(arrays, tmp_path))
    state = arrays["state"]
    np.testing.assert_array_equal(demos.observation[:, :4], state[:, :4])
    np.testing.assert_allclose(demos.observation[:, 4], np.cos(state[:, 4]), atol=1e-6)
    np.testing.assert_allclose(demos.observation[:, 5], np.sin(state[:, 4]), atol=1e-6)
    np.testing.assert_array_equal(demos.action, arrays["action"])
    assert demos.episode_ends.tolist() == [3, 7]
    assert demos.mode is not None
    assert demos.mode.tolist() == [0, -1]
    assert demos.source == "human pusht (recordings.npz)"


def test_the_command_lines_loader_recognises_them(arrays: Arrays, tmp_path: Path) -> None:
    """By path and task; for another task the same file is answered with what it lacks."""
    pytest.importorskip("gym_pusht", reason="gym-pusht is not installed")
    path = saved(arrays, tmp_path)
    demos = load_demonstrations(str(path), task="pusht")
    assert demos.data_hash() == load_pusht_human(path).data_hash()
    with pytest.raises(VddError, match="lacks observation"):
        load_demonstrations(str(path), task="avoiding")
    with pytest.raises(VddError, match="task 'pusht' has no scripted expert; give the path"):
        load_demonstrations("scripted", task="pusht")


def test_chunks_at_the_end_of_an_episode_repeat_the_last_target(
    arrays: Arrays, tmp_path: Path
) -> None:
    """With padding every row starts a chunk, and the finger then stays where it was sent."""
    demos = load_pusht_human(saved(arrays, tmp_path))
    windows = make_windows(demos, n_obs_steps=2, horizon=5, pad=True)
    assert len(windows) == 7
    np.testing.assert_array_equal(windows.action[2], np.tile(arrays["action"][2], (5, 1)))


def test_trainings_keep_such_chunks_where_their_settings_say_so(
    arrays: Arrays, tmp_path: Path
) -> None:
    """Teacher and student; without padding no chunk of 5 fits into episodes of 3 and 4 rows."""
    pytest.importorskip("torch")
    from vdd_ros.distill.methods.mixture_training import DistillSettings
    from vdd_ros.distill.mixtures.student import StudentSettings
    from vdd_ros.distill.pipeline import distill, train_teacher
    from vdd_ros.distill.teachers.edm import TeacherSettings

    demos = load_pusht_human(saved(arrays, tmp_path))
    teacher = TeacherSettings(n_obs_steps=2, horizon=5, width=8, depth=1, n_iters=3, pad=True)
    shape = StudentSettings(n_experts=2, width=8, depth=1, head_width=8, covariance="diag")
    student = DistillSettings(
        student=shape, n_iters=3, batch_size=7, warm_start="kmeans", warm_start_iters=0, pad=True
    )
    trained = train_teacher(demos, teacher, tmp_path / "teacher")
    assert trained.teacher.horizon == 5
    result = distill(trained.folder, demos, student, out_dir=tmp_path / "student", method="em")
    assert result.student.horizon == 5
    with pytest.raises(VddError, match="no window fits"):
        train_teacher(demos, replace(teacher, pad=False), tmp_path / "refused")
    with pytest.raises(VddError, match="no window fits"):
        distill(
            trained.folder,
            demos,
            replace(student, pad=False),
            out_dir=tmp_path / "refused_student",
            method="em",
        )


@pytest.mark.parametrize("name", ["state", "action", "episode_ends"])
def test_a_missing_array_is_named_with_those_that_are_there(
    arrays: Arrays, tmp_path: Path, name: str
) -> None:
    """File, missing array, and what the file holds instead."""
    del arrays[name]
    held = ", ".join(sorted(arrays))
    with pytest.raises(VddError, match=f"recordings.npz: lacks {name}; it holds {held}"):
        load_pusht_human(saved(arrays, tmp_path))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("state", lambda a: a[:, :4], r"state has shape \(7, 4\).*\(N, 5\)"),
        ("state", lambda a: a.astype(str), "state has shape .* and type <U"),
        ("state", lambda a: a[:0], r"state has shape \(0, 5\)"),
        ("state", lambda a: a[0], r"state has shape \(5,\)"),
        ("state", lambda a: a[:6], "6 rows of state but 7 of action"),
        ("action", lambda a: np.hstack([a, a]), r"action has shape \(7, 4\).*\(N, 2\)"),
        ("action", lambda a: a / 512 * 2 - 1, "action lies within -.*expected pixels"),
        ("action", lambda a: a * 2, r"action lies within .*expected pixels, 0\.\.512"),
        ("episode_ends", lambda a: a[::-1], r"episode_ends is \[7, 3\]"),
        ("episode_ends", lambda a: a[:1], "the last one 7"),
        ("episode_ends", lambda a: a[::-1].astype(np.uint8), r"episode_ends is \[7, 3\]"),
        ("episode_ends", lambda a: a * 1.0, "episode_ends is"),
        ("episode_ends", lambda a: a[:0], r"episode_ends is \[\]"),
        ("n_contacts", lambda a: np.zeros(6, np.uint8), r"n_contacts has shape \(6,\)"),
    ],
)
def test_arrays_that_cannot_be_a_recording_are_refused(
    arrays: Arrays, tmp_path: Path, name: str, change: Any, message: str
) -> None:
    """The message names the file, the array, and what was expected."""
    arrays[name] = change(arrays.get(name))
    with pytest.raises(VddError, match=rf"recordings\.npz: .*{message}"):
        load_pusht_human(saved(arrays, tmp_path))


@pytest.mark.parametrize(("name", "row", "column"), [("state", 5, 4), ("action", 2, 0)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_named_with_row_and_column(
    arrays: Arrays, tmp_path: Path, name: str, row: int, column: int, value: float
) -> None:
    """One bad entry among many is found."""
    arrays[name][row, column] = value
    expected = rf"recordings\.npz: {name} is not finite: .* at row {row}, column {column}"
    with pytest.raises(VddError, match=expected):
        load_pusht_human(saved(arrays, tmp_path))


@pytest.mark.skipif(not HUMAN.is_file(), reason=f"{HUMAN} is not here")
def test_the_published_recordings_hold_206_episodes_from_all_sides() -> None:
    """25650 rows, lengths 49 to 246, and a first contact in seven or eight directions."""
    demos = load_pusht_human(HUMAN)
    lengths = np.diff(demos.episode_ends, prepend=0)
    assert (len(demos), demos.n_episodes) == (25650, 206)
    assert (lengths.min(), lengths.max()) == (49, 246)
    assert (demos.dim_obs, demos.dim_act) == (6, 2)
    assert demos.mode is not None
    assert demos.mode.min() >= 0
    assert mode_entropy(np.bincount(demos.mode, minlength=8)) == pytest.approx(0.925, abs=0.003)
    # No jump of a whole turn is left: the block never turns by more than a third of one in .1 s.
    within = np.setdiff1d(np.arange(1, len(demos)), demos.episode_ends)
    turned = np.abs(demos.observation[within, 4:] - demos.observation[within - 1, 4:]).max()
    assert turned < 1.0
