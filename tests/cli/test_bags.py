"""`vdd from-bag` and `vdd dry-run` as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags.rosbag2", reason="bags need the extra [bags]")

from vdd_ros.cli.main import main
from vdd_ros.core.config_io import load_yaml
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.shipped import shipped_file
from vdd_ros.data.bag_files import Bag
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.npz import load_npz
from vdd_ros.data.to_bag import write_bag

CONTRACT = shipped_file("config/contracts/avoiding.yaml")


@pytest.fixture(scope="module")
def demos() -> Demonstrations:
    """A robot that follows its command by one step, in the plane."""
    rng = np.random.default_rng(1)
    step = rng.normal(0, 0.005, (60, 2)).astype(np.float32)
    desired = 0.5 + np.cumsum(step, axis=0) - step
    observation = np.concatenate([desired, np.roll(desired, 1, axis=0)], axis=1)
    return Demonstrations(observation, step, np.array([25, 60]), None, "made up")


@pytest.fixture(scope="module")
def bag(demos: Demonstrations, tmp_path_factory: pytest.TempPathFactory) -> Path:
    contract = load_yaml(PolicyContract, CONTRACT)
    return write_bag(demos, contract, tmp_path_factory.mktemp("bags") / "two")


def test_from_bag_writes_what_can_be_trained_on(
    bag: Path, demos: Demonstrations, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file it writes holds the demonstrations, and the report says what was found."""
    out = tmp_path / "demos.npz"
    words = ["from-bag", str(bag), "--contract", str(CONTRACT), "--out", str(out), "--json"]
    assert main(words) == 0
    data = json.loads(capsys.readouterr().out)
    back = load_npz(out)
    np.testing.assert_array_equal(back.observation, demos.observation)
    np.testing.assert_allclose(back.action, demos.action, atol=1e-7)
    assert data["rows"] == 60
    assert data["episodes"] == 2
    assert data["data_hash"] == back.data_hash()
    assert data["fields"][0]["topic"] == "robot_state"
    assert main(words[:-1]) == 0
    text = capsys.readouterr().out
    assert "60 rows in 2 episodes at 28.6 Hz, commands found by stamp" in text
    assert f"next: vdd train-teacher --data {out}" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such bag"),
        (["{bag}", "--remap", "robot_state=/x"], "--remap: got 'robot_state=/x'"),
        (["{bag}", "--remap", "robot_state:=/x"], "'/x', which was not recorded"),
        (["{bag}", "--rate-hz", "-1"], "rate_hz: got -1.0, expected a positive number"),
        (["{bag}", "--min-rows", "100"], "not one row could be made: 60 x an episode that is too"),
    ],
)
def test_from_bag_says_what_to_correct(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """Wrong options end with exit status 2 and one message; nothing is written."""
    given = [word.format(bag=bag) for word in words]
    out = tmp_path / "demos.npz"
    assert main(["from-bag", *given, "--contract", str(CONTRACT), "--out", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="policy files for tests are made with onnx")
    from tests.policy_files import make_moe_file

    path = tmp_path_factory.mktemp("policies") / "student.onnx"
    make_moe_file(path, contract=load_yaml(PolicyContract, CONTRACT), density=True)
    return path


def test_dry_run_compares_and_writes(
    bag: Path, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures on standard output and in a file, predictions in a bag beside the recording."""
    out = tmp_path / "out"
    words = ["dry-run", str(student), str(bag), "--out", str(out), "--selection", "argmax"]
    assert main([*words, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["compared"] == 60
    assert [spell["level"] for spell in data["held"]] == ["SAFE"]  # between the episodes
    assert data["errors"][0]["key"] == "step"
    assert data["levels"]["CLAMP"] > 0
    assert set(data["log_likelihood"]) == {"mean", "p1", "p10", "p50", "p90"}
    assert data["contract"] == "of the policy file"
    assert json.loads((out / "dry_run.json").read_text())["limits"] == data["limits"]
    assert "/dry_run/command" in Bag(out / "dry_run").topics
    assert main([*words, "--json"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(words[:3]) == 0
    text = capsys.readouterr().out
    assert "(60 ticks, by stamp)" in text
    assert "limited: " in text
    assert "log q(recorded action | observation)" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{bag}", "--contract", "pusht"], "dim_obs = 6, the policy was made for 4"),
        (["{bag}", "--rate-hz", "0"], "rate_hz"),
        (["{student}"], "a file of type '.onnx'"),
        (["{bag}", "--namespace", "left"], "topic 'robot_state' of the contract was not recorded"),
    ],
)
def test_dry_run_says_what_to_correct(
    bag: Path, student: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """Wrong options end with exit status 2 and one message."""
    given = [word.format(bag=bag, student=student) for word in words]
    if "pusht" in given:
        given[-1] = str(shipped_file("config/contracts/pusht.yaml"))
    assert main(["dry-run", str(student), *given]) == 2
    assert said in capsys.readouterr().err
