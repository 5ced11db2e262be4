"""The black box: what a node heard, sent and thought is on disk after a fault."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PointStamped
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty, Float64MultiArray, String
from std_srvs.srv import Trigger

pytest.importorskip("rosbags.rosbag2", reason="bags need the extra [bags]")

from rosbags.rosbag2 import Reader

from tests.nodes.robot import START, Robot, avoiding, start_policy, write_contract
from tests.policy_files import MoeTwin
from vdd_ros.core.contract import Safety
from vdd_ros.core.gating import SelectionSettings
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.data.bag_files import Bag
from vdd_ros.data.recording import Recording
from vdd_ros.evaluation.dry_run import dry_run, recorded_contract
from vdd_ros.evaluation.replay import DryRunSettings
from vdd_ros.nodes import black_box
from vdd_ros.nodes.black_box import BlackBox, BlackBoxSettings
from vdd_ros.nodes.black_box_writer import FRAME, Order, write
from vdd_ros.nodes.diagnostics import STATUS_FIELDS, labelled, read_labelled
from vdd_ros.nodes.driver import Driver
from vdd_ros.runtime.loading import load_policy

TYPES = {
    "/robot_state": JointState,
    "/command": PointStamped,
    "/policy/status": Float64MultiArray,
    "/policy/reason": String,
    "/policy/black_box": String,
    "/policy/contract": String,
    "/episode_start": Empty,
}

RING_S = 60.0
"""Length of the ring of the node that is asked for bags: no stall is as long."""
SHORT_RING_S = 2.0
"""Length of the ring of the node that writes bags of its own accord."""
PATIENCE_S = 600.0
"""Hold that no test lives to see the end of."""


def read(bag: Path) -> dict[str, list[tuple[int, Any]]]:
    """Messages of a bag by topic, with the times they were logged at."""
    found: dict[str, list[tuple[int, Any]]] = {}
    with Reader(bag) as reader:
        for connection, stamp_ns, raw in reader.messages():
            message = deserialize_message(bytes(raw), TYPES[connection.topic])
            found.setdefault(connection.topic, []).append((stamp_ns, message))
    return found


def stamp_of(message: Any) -> int:
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


def bags(folder: Path) -> list[Path]:
    """Finished bags, oldest first."""
    return sorted(p for p in folder.glob("black_box_*Z")) if folder.is_dir() else []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("boxes") / "made" / "by the node"


@contextlib.contextmanager
def recorded(student: MoeTwin, contract: Path, folder: Path, **safety: float) -> Iterator[Robot]:
    """Run a node that keeps its black boxes in ``folder``."""
    ring_s = safety.pop("ring_s")
    with Driver("test", own_domain=True) as driver:
        robot = Robot(driver)
        start_policy(
            driver,
            student.path,
            rate_hz=50.0,
            contract=write_contract(
                contract, dataclasses.replace(avoiding(), safety=Safety(**safety))
            ),
            selection__rule="argmax",
            black_box__folder=str(folder),
            black_box__seconds=ring_s,
            black_box__max_dumps=2,
        )
        robot.active()
        yield robot


@pytest.fixture(scope="module")
def robot(student: MoeTwin, files: Path, folder: Path) -> Iterator[Robot]:
    """A node that writes no bag unless asked: a stall makes it hold, never SAFE."""
    contract = files / "patient_box.yaml"
    with recorded(student, contract, folder, ring_s=RING_S, max_hold_s=PATIENCE_S) as robot:
        yield robot


@pytest.fixture
def impatient(student: MoeTwin, files: Path, tmp_path: Path) -> Iterator[tuple[Robot, Path]]:
    """A node that is SAFE, and writes a bag, after a fifth of a second of silence."""
    contract, folder = files / "impatient_box.yaml", tmp_path / "boxes"
    with recorded(student, contract, folder, ring_s=SHORT_RING_S, max_hold_s=0.2) as robot:
        yield robot, folder


@pytest.mark.ros
def test_a_dump_holds_what_was_heard_sent_and_said(robot: Robot, folder: Path) -> None:
    """Every command the robot received is in the bag, bit for bit, beside its observation."""
    robot.ask(0.5, 0.0)
    robot.ask(*START)
    answer = robot.call(Trigger, "dump", Trigger.Request())
    assert answer.success
    assert str(folder) in answer.message
    found = read(ask_for_dump(robot, folder))
    robot.ask(*START)
    sent = {stamp_of(m): (m.point.x, m.point.y) for _, m in found["/command"]}
    heard = dict(robot.commands)
    assert len(sent) >= 2
    assert all(heard[stamp] == point for stamp, point in sent.items() if stamp in heard)
    assert set(sent) & set(heard)
    observed = {stamp_of(m) for _, m in found["/robot_state"]}
    rows = [read_labelled(m) for _, m in found["/policy/status"]]
    acted = {int(r["stamp_sec"]) * 10**9 + int(r["stamp_nanosec"]) for r in rows}
    assert acted & set(sent) & observed
    assert json.loads(found["/policy/contract"][0][1].data)["name"] == "avoiding"
    policy, why = (m.data for _, m in found["/policy/black_box"])
    assert policy.startswith("policy: ")
    assert "(sha256 " in policy
    assert why == "asked for"
    assert any(m.data.startswith(("ACT", "CLAMP")) for _, m in found["/policy/reason"])
    assert all(0 < t - stamp_of(m) < 60 * 10**9 for t, m in found["/robot_state"])


def why(bag: Path) -> str:
    """Say why a bag was written."""
    return str(read(bag)["/policy/black_box"][-1][1].data)


def began_ns(bag: Path) -> int:
    """When the node was asked for a bag."""
    return read(bag)["/policy/black_box"][-1][0]


def run_to_dump(robot: Robot, folder: Path) -> tuple[int, Path]:
    """Run an episode of 25 answers and dump it; return when it began and the bag it is in."""
    # The ring begins in the middle of a run: from a new episode on, everything is in it.
    asked_ns = time.time_ns()
    robot.restart()
    answered = len(robot.commands)
    for x in np.linspace(0.3, 0.7, 25):
        robot.ask(float(x), float(x) - 0.5)
    # Before the bag is asked for: a node that hears nothing goes on sending holds.
    stamps = {stamp for stamp, _ in robot.commands[answered:]}
    bag = ask_for_dump(robot, folder)
    found = read(bag)
    assert [ns for ns, _ in found["/episode_start"] if ns > asked_ns]
    assert stamps <= {stamp_of(m) for _, m in found["/command"]}
    return asked_ns, bag


def ask_for_dump(robot: Robot, folder: Path) -> Path:
    """Ask for a dump until one that began since then is written; return its bag."""
    asked_ns = time.time_ns()
    found: list[Path] = []

    def dumped() -> bool:
        if not found:
            robot.pulse(lambda: robot.call(Trigger, "dump", Trigger.Request()))
            # Only the newest: an older one may be removed while it is read, two are kept.
            found.extend(b for b in bags(folder)[-1:] if began_ns(b) > asked_ns)
        return bool(found)

    robot.until(dumped, "a bag that was asked for")
    return found[0]


@pytest.mark.ros
def test_a_dump_is_replayed_to_the_same_commands(
    robot: Robot, folder: Path, student: MoeTwin
) -> None:
    """Without ROS, the recorded observations lead to the commands the node sent, bit for bit.

    So the rows a recording is read as are those the node acted on, and its ladder is the node's.
    """
    asked_ns, path = run_to_dump(robot, folder)
    bag = Bag(path)
    contract = recorded_contract(bag)
    assert contract is not None
    assert contract.safety.max_hold_s == PATIENCE_S  # the node's own, not the policy file's
    policy = load_policy(student.path, selection=SelectionSettings(rule="argmax"))
    settings = DryRunSettings(rate_hz=50.0)
    result = dry_run(policy, Recording(bag, contract), settings)
    assert result.paired_by == "stamp"
    assert result.compared >= 25
    reset_ns = [ns for ns, _ in read(bag.path)["/episode_start"]][-1]
    assert reset_ns > asked_ns
    sent = dict(robot.commands)
    acted = [r for r in result.rows if r.level <= SafetyLevel.CLAMP and r.stamp_ns > reset_ns]
    assert len(acted) >= 20
    for row in acted:
        assert row.command is not None
        assert tuple(row.command) == sent[row.stamp_ns]


@pytest.mark.ros
def test_a_node_that_held_too_long_dumps_by_itself(impatient: tuple[Robot, Path]) -> None:
    """Silence leads to SAFE, and SAFE to a bag whose last reason says so."""
    robot, folder = impatient
    asked_s = -np.inf

    def dumped() -> list[Path]:
        nonlocal asked_s
        # A bag that was written a moment ago silences the next one: then it is tried again.
        if time.monotonic() - asked_s > SHORT_RING_S + 1.0:
            robot.ask(*START)
            asked_s = time.monotonic()
        # An older bag may be removed while it is read: at most two are kept.
        return [b for b in bags(folder)[-1:] if why(b).startswith("SAFE")]

    robot.until(lambda: bool(dumped()), "a bag of level SAFE")
    bag = dumped()[0]
    assert why(bag).startswith("SAFE: robot_state: stale")
    found = read(bag)
    assert any(m.data.startswith("SAFE") for _, m in found["/policy/reason"])
    levels = [read_labelled(m)["level"] for _, m in found["/policy/status"]]
    assert SafetyLevel.SAFE in levels
    assert len(bags(folder)) <= 2


@pytest.mark.ros
def test_an_unwritable_folder_is_a_warning_and_not_the_end(robot: Robot, folder: Path) -> None:
    """With a file where its folder was, the node names the trouble and goes on answering."""
    for bag in bags(folder):
        for file in bag.iterdir():
            file.unlink()
        bag.rmdir()
    folder.rmdir()
    folder.write_text("in the way")
    said: list[str] = []

    def hear(message: DiagnosticArray) -> None:
        said.extend(v.value for v in message.status[0].values if "black box" in v.key)

    robot.driver.node.create_subscription(
        DiagnosticArray, "/diagnostics", hear, QoSProfile(depth=10)
    )

    def refused() -> bool:
        # The last bag may still be closed; a request meanwhile is answered with that.
        robot.pulse(lambda: robot.call(Trigger, "dump", Trigger.Request()))
        return any(str(folder) in text for text in said)

    robot.until(refused, "a warning")
    robot.ask(*START)


def make_box(folder: Path, **settings: Any) -> BlackBox:
    said: list[str] = []
    box = BlackBox(
        BlackBoxSettings(folder=folder, **settings),
        avoiding(),
        path="/policy",
        observed=[("/robot_state", "sensor_msgs/msg/JointState")],
        commanded=["/command"],
        step_s=0.02,
        status_layout=labelled(STATUS_FIELDS)[0].layout,
        say=said.append,
    )
    box.said = said  # type: ignore[attr-defined]
    return box


def joint_state(n: int) -> JointState:
    return JointState(
        name=[f"joint_{i}" for i in range(n)], position=[0.1] * n, velocity=[0.1] * n
    )


def test_the_ring_is_bounded_in_time_and_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a burst of large messages nor a long run makes the ring grow."""
    clock = [0]
    monkeypatch.setattr(black_box.time, "monotonic_ns", lambda: clock[0])
    box = make_box(tmp_path, seconds=1.0)
    for _ in range(1000):
        clock[0] += 10_000_000
        box.observed(0, joint_state(2), clock[0])
    assert len(box) == 101  # one second at 100 Hz, both ends included
    monkeypatch.setattr(black_box, "MAX_BYTES", 100_000)
    for _ in range(100):
        box.observed(0, joint_state(500), clock[0])
    assert sum(len(e[3]) for e in box._ring) <= 100_000
    assert len(box) >= 2


def test_hand_overs_and_faults_are_dumped_and_starts_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever loses or takes the command while acting keeps what led to it, once per spell."""
    asked: list[str] = []
    monkeypatch.setattr(BlackBox, "dump", lambda self, why, now_ns: asked.append(why))

    def run(*rows: tuple[SafetyLevel, int, int, int], seconds: float = 1e-9) -> list[str]:
        asked.clear()
        box = make_box(tmp_path, seconds=seconds)
        for i, (level, commanding, fault, term) in enumerate(rows):
            status = np.zeros(len(STATUS_FIELDS))
            status[STATUS_FIELDS.index("commanding")] = commanding
            status[STATUS_FIELDS.index("fault")] = fault
            status[STATUS_FIELDS.index("term")] = term
            box.ticked(level, "", status, i)
        return list(asked)

    stop, act, hold = SafetyLevel.STOP, SafetyLevel.ACT, SafetyLevel.HOLD
    assert run((stop, 0, 0, 0), (act, 1, 0, 1), (act, 1, 0, 1), (stop, 0, 0, 1)) == []
    assert run((stop, 0, 0, 0), (act, 0, 0, 0), (act, 1, 0, 1), (stop, 0, 0, 1)) == []
    assert run((stop, 0, 0, 0), (act, 1, 0, 1), (hold, 1, 1, 1), (act, 1, 0, 1)) == []
    standby = ((stop, 0, 0, 0), (act, 0, 0, 1), (act, 1, 0, 2))
    assert run(*standby) == ["took the command over"]
    lost_and_back = (
        (stop, 0, 0, 0),
        (act, 1, 0, 1),
        (hold, 0, 1, 2),
        (act, 0, 0, 2),
        (act, 1, 0, 3),
    )
    assert run(*lost_and_back) == ["lost the command", "took the command over"]
    assert run(*lost_and_back, seconds=60.0) == ["lost the command"]
    assert run((act, 1, 0, 1), (act, 1, 0, 1), (act, 1, 1, 1)) == [
        "a fault was raised while acting"
    ]


def test_a_tick_costs_little(tmp_path: Path) -> None:
    """All that a tick keeps takes a small part of a period at 100 Hz, 26 joints included."""
    box = make_box(tmp_path, seconds=10.0)
    message, rows, status = joint_state(26), np.zeros((1, 2)), np.zeros(len(STATUS_FIELDS))
    taken = []
    for i in range(3000):
        began = time.perf_counter_ns()
        box.observed(0, message, i)
        box.commanded(rows, i, i)
        box.ticked(SafetyLevel.ACT, "", status, i)
        taken.append(time.perf_counter_ns() - began)
    # Measured: 10 us. The bound is for the slowest machine that runs this.
    assert np.median(taken) < 100_000


def test_off_means_nothing_is_kept(tmp_path: Path) -> None:
    """A box of no length keeps nothing, and says so when asked to dump."""
    box = make_box(tmp_path, seconds=0.0)
    box.observed(0, joint_state(2), 1)
    box.ticked(SafetyLevel.SAFE, "stale", np.zeros(15), 2)
    assert len(box) == 0
    assert "off" in box.dump("asked for", 3)
    assert list(tmp_path.iterdir()) == []


def stream(n: int) -> bytes:
    body = bytes(serialize_message(joint_state(3)))
    return b"".join(FRAME.pack(1_000 + i, 0, len(body)) + body for i in range(n))


def order(folder: Path, **changes: Any) -> Order:
    values = {"max_dumps": 3, "max_bytes": 10**9, **changes}
    channels = (("/robot_state", "sensor_msgs/msg/JointState"),)
    return Order(folder=str(folder), node="robot_policy", channels=channels, **values)


@pytest.mark.parametrize("cut", [0, 5, 40])
def test_a_stream_that_breaks_off_is_kept_as_far_as_it_came(tmp_path: Path, cut: int) -> None:
    """A node that is killed while it hands over leaves a readable bag."""
    data = stream(10)
    bag = write(order(tmp_path), io.BytesIO(data[: len(data) - cut]))
    assert len(read(bag)["/robot_state"]) == (10 if cut == 0 else 9)
    assert {p.suffix for p in bag.iterdir()} == {".mcap", ".yaml"}


def test_the_oldest_bags_go_first_and_nothing_else(tmp_path: Path) -> None:
    """Number and size are bounded; folders of other names stay."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "black_box_notes").mkdir()
    written = [write(order(tmp_path), io.BytesIO(stream(5))) for _ in range(5)]
    assert bags(tmp_path) == written[-3:]
    last = write(order(tmp_path, max_bytes=1), io.BytesIO(stream(5)))
    assert bags(tmp_path) == [last]
    assert (tmp_path / "mine").is_dir()
    assert (tmp_path / "black_box_notes").is_dir()


def test_a_full_disk_leaves_no_torso(tmp_path: Path) -> None:
    """When writing fails half way the answer names it, and nothing is left behind."""

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        [sys.executable, "-m", "vdd_ros.nodes.black_box_writer"],
        input=order(tmp_path).line() + stream(1000),
        capture_output=True,
        preexec_fn=small_disk,
        check=False,
    )
    assert done.returncode == 1
    assert b"File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []
