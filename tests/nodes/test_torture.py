"""The campaign: its judge finds bad nodes, and its faults run end to end on a good one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter

from tests.conftest import ROOT
from tests.nodes.robot import avoiding
from vdd_ros.cli.main import main
from vdd_ros.core.errors import VddError
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.torture.campaign import Report, Row, chosen, run_campaign
from vdd_ros.nodes.torture.judge import PATIENCE_S, SEED_S, Findings, Judge
from vdd_ros.nodes.torture.registry import FAULTS
from vdd_ros.nodes.torture.report import as_markdown
from vdd_ros.nodes.torture.rig import Rig
from vdd_ros.nodes.torture.settings import RigSettings

RATE_HZ = 100.0
STEP = 0.7 / RATE_HZ


HABITS = {
    "none": "",
    "jumps": "outside",
    "leaves": "outside",
    "nan": "outside",
    "loses": "lost",
    "holds": "silent",
    "holds, with a reason": "",
}


def _watched(rig: Rig, habit: str) -> Findings:
    """What the judge finds while the node has a habit."""
    message = Parameter("habit", value=habit).to_parameter_msg()
    request = SetParameters.Request(parameters=[message])
    while rig.call(SetParameters, "set_parameters", request) is None:
        pass
    rig.judge.label = habit
    rig.ticks(40)
    rig.judge.label = f"{habit}, no longer"
    request.parameters[0].value.string_value = "none"
    while rig.call(SetParameters, "set_parameters", request) is None:
        pass
    rig.conclude()
    return rig.judge.finding(habit)


def test_the_judge_finds_what_a_bad_node_does(driver: Driver) -> None:
    """Over real topics: what is wrong is counted, what is right is not."""
    settings = RigSettings(rate_hz=RATE_HZ, module="tests.nodes.bad_node")
    rig = Rig(driver, avoiding(), settings, np.random.default_rng(0))
    try:
        rig.start()
        rig.ticks(60)
        for habit, what in HABITS.items():
            found = _watched(rig, habit)
            counts = {"outside": found.outside, "lost": found.lost, "silent": found.silent}
            wrong = {name for name, count in counts.items() if count}
            # A tick that is lost without a hold is silent, too.
            expected = {what, "silent"} if what == "lost" else {what} - {""}
            assert wrong == expected, (habit, found.examples)
            assert bool(found.examples) == bool(what)
    finally:
        rig.end()


def test_a_step_is_measured_from_the_command_before() -> None:
    """Two steps in one are out of limits; the same way in two commands is not."""
    judge = Judge(avoiding(), rate_hz=RATE_HZ)
    for stamp, y in enumerate((0.0, STEP, 2 * STEP, 4 * STEP), start=1):
        judge.command(stamp, (0.5, y), 0.01 * stamp)
    assert judge.finding().outside == 1
    assert "too far" in judge.finding().examples[0]


def test_only_a_node_that_forgot_may_start_from_where_the_robot_is() -> None:
    """And only with the observation it answers, once, and for a short time."""
    for delay_s, reborn, start, outside in (
        (0.1, True, 0.3, 0),
        (0.1, True, 0.2, 1),
        (0.1, False, 0.3, 1),
        (SEED_S + 1.0, True, 0.3, 1),
    ):
        judge = Judge(avoiding(), rate_hz=RATE_HZ)
        judge.command(1, (0.5, 0.0), 0.0)
        if reborn:
            judge.reborn(1.0)
        judge.sent(2, (0.5, 0.3), 1.0 + delay_s)
        judge.command(2, (0.5, start + STEP / 2), 1.0 + delay_s)
        assert judge.finding().outside == outside
        if not outside:
            judge.sent(3, (0.5, 0.0), 1.1 + delay_s)
            judge.command(3, (0.5, 0.0), 1.1 + delay_s)
            assert judge.finding().outside == 1


def test_a_hold_needs_a_command_that_holds() -> None:
    """A reason alone leaves a driver without a command."""
    judge = Judge(avoiding(), rate_hz=RATE_HZ)
    judge.command(1, (0.5, 0.0), 0.0)
    judge.status(2, 2, 0.1)
    judge.reason("HOLD: stale", 0.1)
    judge.settle(10.0)
    assert (judge.finding().lost, judge.finding().silent) == (1, 0)


def test_a_node_that_does_not_command_owes_its_reasons_too() -> None:
    """A shadow that holds in silence is found; it owes no command, and moves no count."""
    for reason, silent in (("", 1), ("HOLD: stale", 0)):
        judge = Judge(avoiding(), rate_hz=RATE_HZ)
        judge.command(1, (0.5, 0.0), 0.0)
        if reason:
            judge.reason(reason, 0.1, node="shadow")
        judge.status(2, 2, 0.1, commanding=False, node="shadow")
        judge.settle(10.0)
        assert (judge.finding().lost, judge.finding().silent) == (0, silent)
        assert judge.level_since(0.0) == -1


def test_reasons_of_a_new_node_are_waited_for_until_they_are_heard_at_all() -> None:
    """What it told before anybody listened explains its holds; no past life does."""
    for told, silent in (("SAFE: nothing measured", 0), ("HOLD: stale", 1)):
        judge = Judge(avoiding(), rate_hz=RATE_HZ)
        judge.reason("SAFE: of a past life", 0.0)
        judge.born("")
        judge.status(0, 3, 0.1)
        judge.settle(3.0)
        assert judge.wonders(0.1)
        assert not judge.wonders(0.0)
        for text in (told, "ACT"):
            judge.reason(text, 3.1)
        judge.settle(10.0)
        assert not judge.wonders(20.0)
        assert judge.finding().silent == silent


def test_a_reason_that_comes_late_is_none() -> None:
    """Once its reasons are heard, each has to come with what it explains."""
    for at_s, silent in ((1.2, 0), (3.0, 1)):
        judge = Judge(avoiding(), rate_hz=RATE_HZ)
        judge.reason("ACT", 0.0)
        judge.status(0, 2, 1.0)
        judge.reason("HOLD: stale", at_s)
        judge.settle(20.0)
        assert judge.finding().silent == silent


def test_what_no_node_was_handed_is_told_from_what_was_lost() -> None:
    """Three observations, the second without an answer: the node's count says which it was."""
    for received, lost, unseen in ((7, 0, 1), (8, 1, 0)):
        judge = Judge(avoiding(), rate_hz=RATE_HZ)
        for stamp in (1, 2, 3):
            judge.sent(stamp, (0.5, 0.0), 0.0)
        for stamp, count in ((1, 6), (3, received)):
            judge.command(stamp, (0.5, 0.0), 0.0)
            judge.status(stamp, 0, 0.0, received=count)
        judge.settle(PATIENCE_S + 0.1)
        found = judge.finding()
        assert (found.lost, found.unseen) == (lost, unseen)


def test_a_gap_in_the_count_excuses_one_observation_only() -> None:
    """Two unanswered ones where the node was handed one of them: one is lost."""
    judge = Judge(avoiding(), rate_hz=RATE_HZ)
    for stamp in (1, 2, 3, 4):
        judge.sent(stamp, (0.5, 0.0), 0.0)
    for stamp, count in ((1, 1), (4, 3)):
        judge.command(stamp, (0.5, 0.0), 0.0)
        judge.status(stamp, 0, 0.0, received=count)
    judge.settle(PATIENCE_S + 0.1)
    assert (judge.finding().lost, judge.finding().unseen) == (1, 1)


def test_two_commands_for_one_observation_are_found() -> None:
    """As of two nodes that both command."""
    judge = Judge(avoiding(), rate_hz=RATE_HZ)
    judge.sent(1, (0.5, 0.0), 0.0)
    judge.command(1, (0.5, 0.0), 0.0)
    assert judge.finding().twice == 0
    judge.command(1, (0.5, 0.0), 0.0)
    assert judge.finding().twice == 1


def test_every_kind_says_what_it_does_and_what_detection_means() -> None:
    """The table of definitions has no empty cell, and --list names every kind."""
    for name, fault in FAULTS.items():
        assert name == fault.name == name.lower().replace(" ", "-")
        assert min(len(fault.injects), len(fault.detection), len(fault.recovery)) > 8
        assert fault.count > 0
    assert [fault.name for fault in chosen([])] == list(FAULTS)
    with pytest.raises(VddError, match="no fault 'nann'"):
        chosen(["nann"])


def test_what_is_wrong_fails_the_campaign() -> None:
    """One of each is enough, and so is a kind that was never injected."""
    good = {"injected": 2, "planned": 2, "detected": 2, "recovered": 2}
    assert Row("nan", **good).passed
    for wrong in ("outside", "lost", "twice", "crashes", "silent"):
        assert not Row("nan", **good, **{wrong: 1}).passed
    for short in ("detected", "recovered"):
        assert not Row("nan", **(good | {short: 1})).passed
    assert not Row("nan").passed
    report = Report(0, 100.0, 1.0, (Row("nan", **good), Row("huge-values")), 10)
    assert not report.passed
    assert "**FAIL**" in as_markdown(report, "vdd torture")


def test_some_faults_end_to_end() -> None:
    """The shipped student is told in time, loses nothing, and acts again."""
    names = ["missing-joint", "joint-order", "nan", "stale-stamp"]
    report = run_campaign(chosen(names), minutes=1.0, seed=3, rate_hz=RATE_HZ, scale=0.1)
    assert [row.fault for row in report.rows] == names
    assert report.injected == sum(row.planned for row in report.rows) == 24
    assert report.commands > 100
    for row in report.rows:
        assert row.outside == row.crashes == row.twice == 0, row.examples
        assert row.recovered == row.injected
        assert row.detected >= row.injected - 1, row.examples


def test_streams_processes_and_services_end_to_end() -> None:
    """One of each: nothing out of limits, no crash, and the node acts again."""
    names = ["publisher-stops", "burst", "episode-reset", "other-type", "stopped-node"]
    names += ["interrupted-node", "parameter-storm", "lifecycle-storm", "killed-commander"]
    report = run_campaign(chosen(names), minutes=3.0, seed=1, rate_hz=RATE_HZ, scale=0.01)
    assert [row.injected for row in report.rows] == [1] * len(names)
    for row in report.rows:
        assert row.outside == row.crashes == 0, row.examples
        assert row.recovered == 1, row.examples


def test_an_interrupted_campaign_tells_what_it_measured() -> None:
    """Ctrl-C: the table so far, exit status 130."""
    words = [sys.executable, "-m", "vdd_ros", "torture", "--faults", "nan", "--minutes", "5"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # It says which bench it runs when its children are about to start.
        while "student" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        table = process.stdout.read()
        assert process.wait(60.0) == 130
    assert "| nan" in table or "\nnan " in table


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A bounded run prints one object, writes the table, and its exit status is the verdict."""
    table = tmp_path / "table.md"
    words = ["--faults", "infinite", "--minutes", "0.02", "--markdown", str(table), "--json"]
    status = main(["torture", *words])
    answer = json.loads(capfd.readouterr().out)
    assert status == (0 if answer["passed"] else 1)
    assert 1 <= answer["rows"][0]["injected"] < answer["rows"][0]["planned"]
    assert "| infinite |" in table.read_text()
    assert main(["torture", "--minutes", "0"]) == 2
    assert main(["torture", "--faults", "nothing"]) == 2
