"""doctor, bench, demo and compare: what they measure comes out in the documented shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Vdd
from tests.policy_files import DenoiserTwin, MoeTwin, make_contract, make_moe_file
from vdd_ros.cli.checks import libraries, table
from vdd_ros.cli.checks.check import Check
from vdd_ros.cli.checks.table import run_checks


def test_doctor_reports_four_words_per_check(vdd: Vdd) -> None:
    """Every check has name, ok, detail and fix; exit status 0 exactly if all are ok."""
    done = vdd("doctor", "--json")
    found = done.only_object()
    assert set(found) == {"checks"}
    assert all(set(check) == {"name", "ok", "detail", "fix"} for check in found["checks"])
    assert all(check["detail"] for check in found["checks"])
    failed = [check for check in found["checks"] if not check["ok"]]
    assert all(check["fix"] for check in failed), "what fails says how to mend it"
    assert done.code == (1 if failed else 0)
    names = [check["name"] for check in found["checks"]]
    assert len(names) == len(set(names))
    for expected in ("python", "numpy", "onnxruntime", "rclpy", "torch", "student", "teacher"):
        assert expected in names


def test_doctor_finds_that_this_machine_runs_the_core(vdd: Vdd) -> None:
    """What this test itself runs on is found to be there."""
    found = {c["name"]: c for c in vdd("doctor", "--json").only_object()["checks"]}
    assert found["python"]["ok"]
    assert found["numpy"]["ok"]
    assert found["onnxruntime"]["ok"]
    assert "CPU" in found["providers"]["detail"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ROS_DOMAIN_ID", "500"), ("ROS_AUTOMATIC_DISCOVERY_RANGE", "EVERYWHERE")],
)
def test_doctor_names_wrong_ros_settings(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """A domain that does not exist or an unknown range is a failed check that names it."""
    monkeypatch.setenv(variable, value)
    found = {check.name: check for check in _run(monkeypatch, "discovery")}
    assert not found["discovery"].ok
    assert variable in found["discovery"].fix
    assert value in found["discovery"].detail


def test_doctor_names_the_clash_of_two_onnxruntimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both builds of one module installed: of which one has overwritten the other."""
    monkeypatch.setattr(libraries, "installed", lambda _name: "1.0")
    found = {check.name: check for check in _run(monkeypatch, "onnxruntime")}
    assert not found["onnxruntime"].ok
    assert "onnxruntime-gpu" in found["onnxruntime"].detail
    assert "pip uninstall" in found["onnxruntime"].fix


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a check raises, the others still run and the report names it."""

    def broken(_name: str) -> Check:
        raise RuntimeError("a library is half installed")

    monkeypatch.setattr(
        table, "CHECKS", {"broken": broken, "fine": lambda name: Check(name, True, "fine")}
    )
    broken_check, fine = run_checks()
    assert not broken_check.ok
    assert "a library is half installed" in broken_check.detail
    assert fine.ok


def test_torch_is_not_needed_on_a_robot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Absent, it is fine, marked as optional, and the fix says how to get it."""
    monkeypatch.setattr(libraries, "installed", lambda _name: "")
    (torch,) = _run(monkeypatch, "torch")
    assert torch.ok
    assert torch.mark == "--"
    assert "make distill" in torch.fix


def _run(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Check]:
    monkeypatch.setattr(table, "CHECKS", {name: table.CHECKS[name]})
    return run_checks()


def test_bench_measures_student_and_every_variant_of_the_teacher(
    vdd: Vdd, student: MoeTwin, teacher: DenoiserTwin
) -> None:
    """The documented keys; the ratio is that of the best variant; parity is that of the files."""
    measured = vdd(
        "bench", student.path, "--teacher", teacher.path, "--nfe", "4,16", "--rate", "100",
        "--seconds", "0.5", "--json",
    ).only_object()  # fmt: skip
    assert {"student", "teacher", "ratio", "parity_max_abs"} <= set(measured)
    for cost in (measured["student"], *measured["teacher"]):
        for times in (cost, cost["paced"]):
            assert 0 < times["p50_us"] <= times["p99_us"] <= times["max_us"]
    assert {row["nfe"] for row in measured["teacher"]} == {4, 16}
    assert [row["nfe"] for row in measured["ratio"]] == [4, 16]
    for row in measured["ratio"]:
        rows = [t for t in measured["teacher"] if t["nfe"] == row["nfe"]]
        best = min(rows, key=lambda t: t["p50_us"])
        assert row["best_variant"] == best["variant"]
        expected = best["p50_us"] / measured["student"]["p50_us"]
        assert row["p50"] == pytest.approx(expected, abs=0.01)
    assert 0 <= measured["parity_max_abs"] <= 1e-5


def test_bench_for_people_says_how_many_times(
    vdd: Vdd, student: MoeTwin, teacher: DenoiserTwin
) -> None:
    """A table, one sentence per number of steps, and what to run next."""
    done = vdd("bench", student.path, "--teacher", teacher.path, "--nfe", "4", "--seconds", "0.2")
    assert done.code == 0
    assert "student, one pass" in done.out
    assert "4 teacher steps" in done.out
    assert done.out.splitlines()[-1] == "next: vdd compare"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--nfe", "four"), "--nfe: got 'four'"),
        (("--rate", "0"), "rate_hz: got 0"),
        (("--teacher", "nowhere.onnx"), "nowhere.onnx"),
    ],
)
def test_bench_refuses_what_it_cannot_measure(
    vdd: Vdd, student: MoeTwin, teacher: DenoiserTwin, words: tuple[str, ...], message: str
) -> None:
    """Exit status 2 before anything is measured."""
    refused = vdd("bench", student.path, "--teacher", teacher.path, *words, "--json")
    assert (refused.code, refused.out) == (2, "")
    assert message in refused.err


def test_student_and_teacher_in_the_wrong_places_are_noticed(
    vdd: Vdd, student: MoeTwin, teacher: DenoiserTwin
) -> None:
    """A denoiser is no student: the message says which is which."""
    refused = vdd("bench", teacher.path, "--teacher", student.path)
    assert refused.code == 2
    assert "expected a mixture of experts" in refused.err


@pytest.mark.parametrize("command", ["demo", "compare"])
def test_without_ros_the_message_says_what_to_do(vdd: Vdd, tmp_path: Path, command: str) -> None:
    """No rclpy: one message with both ways of getting it, exit status 2, nothing written."""
    hidden = tmp_path / "hide"
    hidden.mkdir()
    (hidden / "rclpy.py").write_text("raise ImportError('hidden')\n", encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    root = Path(__file__).resolve().parents[2]
    refused = vdd(command, "--json", cwd=empty, PYTHONPATH=f"{hidden}:{root}")
    assert (refused.code, refused.out) == (2, "")
    assert "source /opt/ros/jazzy/setup.bash" in refused.err
    assert "pip install" in refused.err
    assert list(empty.iterdir()) == []


@pytest.mark.ros
def test_demo_drives_and_leaves_table_picture_and_figures(
    vdd: Vdd, ros_env: dict[str, str], student: MoeTwin, teacher: DenoiserTwin, tmp_path: Path
) -> None:
    """Real nodes over real DDS: three episodes, one object, one picture, the same figures."""
    pytest.importorskip("rclpy", reason="the nodes need rclpy")
    out = tmp_path / "made here"
    done = vdd(
        "demo", "--student", student.path, "--teacher", teacher.path, "--episodes", "3", "--out",
        out, "--json", **ros_env,
    )  # fmt: skip
    assert done.code == 0, done.err
    shown = done.only_object()
    assert json.loads((out / "demo.json").read_text(encoding="utf-8")) == shown
    assert shown["episodes"] == 3
    assert shown["teacher"]["nfe"] == 16
    assert shown["ratio"]["teacher_over_policy_p50"] == pytest.approx(
        shown["teacher"]["p50_us"] / shown["policy"]["p50_us"]
    )
    assert {path.name for path in out.iterdir()} == {"demo.json", "demo.png"}
    assert Path(shown["picture"]) == out / "demo.png"
    assert (out / "demo.png").stat().st_size > 20_000


@pytest.mark.ros
def test_compare_measures_three_nodes_end_to_end(
    vdd: Vdd, ros_env: dict[str, str], student: MoeTwin, teacher: DenoiserTwin
) -> None:
    """The documented keys, and ratios that are those of the medians beside them."""
    pytest.importorskip("rclpy", reason="the nodes need rclpy")
    done = vdd(
        "compare", "--seconds", "1", "--rate", "100", "--student", student.path, "--teacher",
        teacher.path, "--json", **ros_env,
    )  # fmt: skip
    assert done.code == 0, done.err
    measured = done.only_object()
    assert set(measured) == {"echo", "policy", "teacher", "ratio"}
    for name in ("echo", "policy", "teacher"):
        assert set(measured[name]) == {"p50_us", "p99_us", "max_us", "ticks", "missed"}
        assert measured[name]["ticks"] == 100
        assert measured[name]["p50_us"] <= measured[name]["p99_us"] <= measured[name]["max_us"]
    assert measured["ratio"]["policy_over_echo_p50"] == pytest.approx(
        measured["policy"]["p50_us"] / measured["echo"]["p50_us"]
    )
    assert measured["ratio"]["teacher_over_policy_p50"] == pytest.approx(
        measured["teacher"]["p50_us"] / measured["policy"]["p50_us"]
    )


@pytest.mark.ros
def test_demo_refuses_a_folder_it_cannot_write_before_it_drives(
    vdd: Vdd, student: MoeTwin, teacher: DenoiserTwin, tmp_path: Path
) -> None:
    """Found out at once, not after a minute of driving."""
    pytest.importorskip("rclpy", reason="the nodes need rclpy")
    blocker = tmp_path / "a_file"
    blocker.write_text("x", encoding="utf-8")
    refused = vdd("demo", "--student", student.path, "--teacher", teacher.path, "--out", blocker)
    assert refused.code == 2
    assert f"{blocker}: cannot write here" in refused.err


@pytest.mark.ros
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("demo", "--nfe", "0"), "--nfe: got 0, expected at least 1"),
        (("demo", "--seed", "-1"), "--seed: got -1, expected at least 0"),
        (("demo", "--episodes", "0"), "--episodes: got 0, expected at least 1"),
        (("demo", "--level", "moon"), "unknown level 'moon'"),
        (("demo", "--teacher", "broken.onnx"), "broken.onnx: not an ONNX model"),
        (("demo", "--student", "TEACHER"), "expected a mixture of experts"),
        (("compare", "--nfe", "0"), "--nfe: got 0, expected at least 1"),
        (("compare", "--rate", "1e9"), "at most 10000 Hz"),
        (("compare", "--seconds", "inf"), "--seconds inf"),
        (("compare", "--teacher", "broken.onnx"), "broken.onnx: not an ONNX model"),
        (("compare", "--teacher", "STUDENT"), "expected a denoiser"),
    ],
)
def test_a_mistake_is_one_line_before_any_node_starts(
    vdd: Vdd,
    student: MoeTwin,
    teacher: DenoiserTwin,
    tmp_path: Path,
    words: tuple[str, ...],
    message: str,
) -> None:
    """Not the last words of a node that died, and no folder for a picture that will never be."""
    pytest.importorskip("rclpy", reason="the nodes need rclpy")
    (tmp_path / "broken.onnx").write_text("no model", encoding="utf-8")
    files = {"STUDENT": str(student.path), "TEACHER": str(teacher.path)}
    command, *rest = (files.get(word, word) for word in words)
    refused = vdd(command, "--student", student.path, "--teacher", teacher.path, *rest, "--json")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.count("\n") == 1
    assert message in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.onnx"]


@pytest.mark.ros
def test_a_student_with_another_contract_is_refused_by_compare(
    vdd: Vdd, ros_env: dict[str, str], teacher: DenoiserTwin, tmp_path: Path
) -> None:
    """A policy without topics cannot be put behind a node; the message names the file."""
    pytest.importorskip("rclpy", reason="the nodes need rclpy")
    other = make_moe_file(tmp_path / "other.onnx", contract=make_contract())
    refused = vdd(
        "compare", "--seconds", "1", "--student", other.path, "--teacher", teacher.path, **ros_env
    )
    assert refused.code == 2
    assert "Traceback" not in refused.err
