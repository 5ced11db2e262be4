"""`vdd inspect` and `vdd evaluate` on policy files, good and bad; neither torch nor ROS."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Vdd
from tests.policy_files import DenoiserTwin, MoeTwin, make_contract, make_moe_file
from vdd_ros.core.config_io import to_dict
from vdd_ros.core.contract import PolicyContract
from vdd_ros.evaluation.report import gate_map
from vdd_ros.runtime.policy_file import PolicyFile
from vdd_ros.tasks import avoiding

EVALUATION_KEYS = {
    "task", "level", "rollouts", "success", "success_ci95", "entropy", "modes", "score",
}  # fmt: skip


def test_inspect_shows_what_the_file_says_about_itself(
    vdd: Vdd, student: MoeTwin, contract: PolicyContract
) -> None:
    """Contract, provenance, tensors and self-test of the file, and nothing else."""
    shown = vdd("inspect", student.path, "--json").only_object()
    assert set(shown) == {"contract", "provenance", "inputs", "outputs", "golden_ok"}
    assert shown["contract"] == json.loads(json.dumps(to_dict(contract)))
    assert shown["provenance"]["kind"] == "moe"
    assert [t["name"] for t in shown["inputs"]] == ["observation"]
    assert shown["inputs"][0]["shape"][1:] == [contract.n_obs_steps, contract.dim_obs]
    assert {t["name"] for t in shown["outputs"]} == {"gating_logits", "expert_actions"}
    assert all(t["dtype"] == "float32" for t in shown["inputs"] + shown["outputs"])
    assert shown["golden_ok"] is True


def test_inspect_for_people_names_the_topics_and_the_next_command(
    vdd: Vdd, student: MoeTwin, contract: PolicyContract
) -> None:
    """Who reads it sees what to connect where, and how to go on."""
    shown = vdd("inspect", student.path)
    assert shown.code == 0
    for entry in (*contract.observations, *contract.actions):
        assert entry.topic in shown.out
        assert entry.type in shown.out
    assert f"next: vdd evaluate {student.path}" in shown.out


def _missing(path: Path, _good: bytes) -> None:
    path.unlink(missing_ok=True)


def _truncated(path: Path, good: bytes) -> None:
    path.write_bytes(good[: len(good) // 2])


def _text(path: Path, _good: bytes) -> None:
    path.write_text("task: avoiding\n", encoding="utf-8")


def _folder(path: Path, _good: bytes) -> None:
    path.mkdir()


@pytest.mark.parametrize("damage", [_missing, _truncated, _text, _folder])
@pytest.mark.parametrize("command", ["inspect", "evaluate"])
def test_a_file_that_is_none_is_refused(
    vdd: Vdd, student: MoeTwin, tmp_path: Path, command: str, damage: object
) -> None:
    """Exit status 2, one message that names the file, no traceback, nothing on standard output."""
    path = tmp_path / "policy.onnx"
    damage(path, student.path.read_bytes())  # type: ignore[operator]
    refused = vdd(command, path, "--json")
    assert (refused.code, refused.out) == (2, "")
    assert str(path) in refused.err
    assert refused.err.count("\n") == 1
    assert "Traceback" not in refused.err


def test_a_file_whose_weights_were_changed_is_refused(
    vdd: Vdd, student: MoeTwin, tmp_path: Path
) -> None:
    """The golden sample notices one changed weight: exit status 2, and no object."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(student.path))
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT:
            changed = onnx.numpy_helper.to_array(weights) + np.float32(0.5)
            weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
            break
    path = tmp_path / "changed.onnx"
    onnx.save(model, str(path))
    refused = vdd("inspect", path, "--json")
    assert (refused.code, refused.out) == (2, "")
    assert "golden" in refused.err


@pytest.mark.parametrize("level", ["ideal", "panda"])
def test_evaluation_reports_exactly_its_keys(vdd: Vdd, student: MoeTwin, level: str) -> None:
    """The object has the documented keys, with values that fit each other."""
    figures = vdd(
        "evaluate", student.path, "--task", "avoiding", "--level", level, "--rollouts", "32",
        "--seed", "0", "--json",
    ).only_object()  # fmt: skip
    assert set(figures) == EVALUATION_KEYS
    assert (figures["task"], figures["level"], figures["rollouts"]) == ("avoiding", level, 32)
    low, high = figures["success_ci95"]
    assert 0 <= low <= figures["success"] <= high <= 1
    assert 0 <= figures["entropy"] <= 1
    assert 0 <= figures["modes"] <= avoiding.N_MODES
    assert figures["score"] == pytest.approx(0.8 * figures["success"] + 0.2 * figures["entropy"])


def test_the_same_seed_gives_the_same_figures(vdd: Vdd, student: MoeTwin) -> None:
    """An evaluation can be repeated to the letter."""
    words = ("evaluate", student.path, "--rollouts", "24", "--seed", "7", "--json")
    assert vdd(*words).out == vdd(*words).out


def test_a_teacher_is_evaluated_with_the_steps_that_were_asked_for(
    vdd: Vdd, teacher: DenoiserTwin
) -> None:
    """A denoiser takes --nfe, and has no experts to choose."""
    done = vdd("evaluate", teacher.path, "--rollouts", "8", "--nfe", "4", "--json")
    assert set(done.only_object()) == EVALUATION_KEYS


def test_sampler_steps_for_a_mixture_are_refused(vdd: Vdd, student: MoeTwin) -> None:
    """A mixture has no sampler: the message says so."""
    refused = vdd("evaluate", student.path, "--nfe", "4")
    assert refused.code == 2
    assert "one pass" in refused.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--task", "avoidin"), "avoiding"),
        (("--level", "ideel"), "ideal"),
        (("--rollouts", "0"), "expected at least 1"),
        (("--nfe", "0"), "--nfe: got 0, expected at least 1"),
        (("--seed", "-1"), "--seed: got -1, expected at least 0"),
        (("--selection", "pinned", "--expert", "99"), "experts 0 to 3"),
        (("--teacher", "nowhere.onnx"), "nowhere.onnx"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_message(
    vdd: Vdd, student: MoeTwin, words: tuple[str, ...], message: str
) -> None:
    """Exit status 2, and what would have been right."""
    refused = vdd("evaluate", student.path, *words, "--json")
    assert (refused.code, refused.out) == (2, "")
    assert message in refused.err
    assert "Traceback" not in refused.err


def test_a_policy_for_another_robot_is_refused(vdd: Vdd, tmp_path: Path) -> None:
    """Three observed values do not fit a task with four."""
    other = make_moe_file(tmp_path / "other.onnx", contract=make_contract())
    refused = vdd("evaluate", other.path, "--rollouts", "4")
    assert refused.code == 2
    assert str(other.path) in refused.err


def test_a_report_holds_figures_and_pictures(
    vdd: Vdd, student: MoeTwin, teacher: DenoiserTwin, tmp_path: Path
) -> None:
    """report.json names the pictures beside it and says more than --json does."""
    pytest.importorskip("matplotlib")
    folder = tmp_path / "a new folder" / "report"
    done = vdd(
        "evaluate", student.path, "--rollouts", "16", "--teacher", teacher.path,
        "--report", folder, "--json",
    )  # fmt: skip
    figures = done.only_object()
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert {key: report["metrics"][key] for key in EVALUATION_KEYS} == figures
    assert set(report["figures"]) == {
        "trajectories.png", "modes.png", "teacher_trajectories.png", "gate_entropy.png",
    }  # fmt: skip
    assert {p.name for p in folder.iterdir()} == {"report.json", *report["figures"]}
    for name in report["figures"]:
        assert (folder / name).stat().st_size > 5_000
    assert len(report["mode_counts"]) == avoiding.N_MODES
    assert sum(report["expert_steps"]) > 0
    assert report["teacher_metrics"]["rollouts"] == 16


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_report_without_permission_leaves_nothing(
    vdd: Vdd, student: MoeTwin, tmp_path: Path
) -> None:
    """A folder that may not be written is one message."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    refused = vdd("evaluate", student.path, "--rollouts", "4", "--report", folder / "inside")
    assert refused.code == 2
    assert list(folder.iterdir()) == []


def test_a_report_below_a_file_is_refused(vdd: Vdd, student: MoeTwin, tmp_path: Path) -> None:
    """Where a folder cannot be made, the message names the place."""
    blocker = tmp_path / "a_file"
    blocker.write_text("x", encoding="utf-8")
    refused = vdd("evaluate", student.path, "--rollouts", "4", "--report", blocker / "inside")
    assert refused.code == 2
    assert str(blocker) in refused.err
    assert "Traceback" not in refused.err


def test_the_gate_map_is_the_gate_asked_point_by_point(student: MoeTwin) -> None:
    """Against the closed form of the file: entropy of the softmax over the log of K."""
    found = gate_map(PolicyFile.open(student.path), step_m=0.1)
    row, column = 2, 3
    point = np.array([found.x[column], found.y[row]])
    window = np.repeat(np.tile(point, 2)[None, None], student.contract.n_obs_steps, axis=1)
    (logits,) = student.outputs(window.astype(np.float32))["gating_logits"]
    gate = np.exp(logits - logits.max())
    gate /= gate.sum()
    expected = -(gate * np.log(gate)).sum() / np.log(student.n_experts)
    assert found.entropy[row, column] == pytest.approx(expected, abs=1e-5)
    assert found.entropy.shape == (len(found.y), len(found.x))


def test_a_policy_file_needs_no_name_of_its_own(
    vdd: Vdd, student: MoeTwin, tmp_path: Path
) -> None:
    """A path with spaces and without a suffix is a path like any other."""
    path = tmp_path / "the policy"
    shutil.copy(student.path, path)
    assert vdd("inspect", path, "--json").only_object()["golden_ok"] is True


def test_audit_keeps_what_is_nominal_in_the_file(
    vdd: Vdd, teacher: DenoiserTwin, contract: PolicyContract, tmp_path: Path
) -> None:
    """Without --write nothing changes; with it `vdd inspect` shows what the node will use."""
    student = make_moe_file(tmp_path / "dense.onnx", contract=contract, density=True)
    before = student.path.read_bytes()
    words = ("audit", student.path, "--episodes", "20", "--teacher", teacher.path, "--json")
    tried = vdd(*words).only_object()
    assert student.path.read_bytes() == before
    assert (tried["written"], tried["audit"]["actions"]) == (False, "teacher")
    kept = vdd(*words, "--write").only_object()
    assert kept["written"] is True
    shown = vdd("inspect", student.path, "--json").only_object()
    assert shown["provenance"]["audit"] == kept["audit"]
    assert shown["golden_ok"] is True


def test_audit_of_a_file_without_density_says_what_to_do(vdd: Vdd, student: MoeTwin) -> None:
    """Exit status 2 and the option that makes one."""
    refused = vdd("audit", student.path, "--episodes", "5", "--json")
    assert (refused.code, refused.out) == (2, "")
    assert "no density" in refused.err
    assert "--density" in refused.err
