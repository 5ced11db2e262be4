"""Bags become the rows a node would have seen, and nothing of them is lost in silence."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags.rosbag2", reason="bags need the extra [bags]")

from vdd_ros.codecs.topics import topic_writers
from vdd_ros.core.contract import ActionField, ObservationField, PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.data.bag_files import Bag, BagWriter, empty_messages
from vdd_ros.data.bag_rows import Alignment
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.npz import read_arrays
from vdd_ros.data.offline import load_unitree_g1
from vdd_ros.data.recording import Names
from vdd_ros.data.rosbag import load_bags
from vdd_ros.data.to_bag import write_bag

JOINTS = "sensor_msgs/msg/JointState"
PERIOD_NS = 20_000_000
BEGIN_NS = 10**18


def contract(**changes: Any) -> PolicyContract:
    """Two joints and a force observed, two joints commanded, at 50 Hz."""
    values: dict[str, Any] = {
        "name": "two joints",
        "rate_hz": 50.0,
        "observations": (
            ObservationField(
                "arm", 2, "joint_states", JOINTS, ("position.a", "position.b"), max_age_ms=100.0
            ),
            ObservationField(
                "force", 1, "wrench", "geometry_msgs/msg/WrenchStamped", ("wrench.force.z",)
            ),
        ),
        "actions": (
            ActionField("goal", 2, "goal", JOINTS, ("position.a", "position.b"), measured="arm"),
        ),
        "reset_topic": "episode_start",
    }
    return PolicyContract(**{**values, **changes})


def demonstrations(lengths: tuple[int, ...] = (7, 5), dim_obs: int = 3) -> Demonstrations:
    rng = np.random.default_rng(0)
    n = sum(lengths)
    return Demonstrations(
        observation=rng.standard_normal((n, dim_obs)).astype(np.float32),
        action=rng.standard_normal((n, 2)).astype(np.float32),
        episode_ends=np.cumsum(lengths),
        mode=None,
        source="made up",
    )


class Script:
    """Writes messages of the contract's topics at times given in control periods."""

    def __init__(self, path: Path, made_for: PolicyContract | None = None) -> None:
        self.contract = made_for or contract()
        self._bag = BagWriter(path)
        messages = empty_messages()
        self._writers = {
            writer.topic: writer
            for fields in (self.contract.observations, self.contract.actions)
            for writer in topic_writers(fields, empty=messages.empty)
        }

    def __enter__(self) -> Script:
        self._bag.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bag.__exit__(*error)

    def say(self, topic: str, at: float, *values: float, stamp: float | None = None) -> None:
        """Publish values; the stamp is the time unless it is given (0: not stamped)."""
        writer = self._writers[topic]
        time_ns = BEGIN_NS + round(at * PERIOD_NS)
        stamp_ns = time_ns if stamp is None else stamp and BEGIN_NS + round(stamp * PERIOD_NS)
        row = np.zeros((1, 3))
        row[:, writer.columns] = values
        self._bag.write(f"/{topic}", writer.type, time_ns, writer.write(row, int(stamp_ns)))

    def observe(self, at: float, a: float, b: float = 0.0, force: float = 0.0) -> None:
        self.say("joint_states", at, a, b)
        self.say("wrench", at, force)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_gives_back_the_demonstrations_it_was_made_of(tmp_path: Path, storage: Any) -> None:
    """Observations, actions and episodes are the same, to the last bit of float32."""
    demos = demonstrations()
    path = write_bag(demos, contract(), tmp_path / "bag", storage=storage)
    back, audit = load_bags([path], contract())
    assert back.data_hash() == demos.data_hash()
    assert audit.paired_by == "stamp"
    assert audit.rate_hz == pytest.approx(50.0, rel=1e-6)
    assert audit.dropped == {}
    assert audit.warnings == []
    assert [f.messages for f in audit.fields] == [12, 12, 12]


def test_the_storage_file_alone_is_a_bag_too(tmp_path: Path) -> None:
    """A recording whose metadata was lost can still be read."""
    demos = demonstrations()
    path = write_bag(demos, contract(), tmp_path / "bag")
    (path / "metadata.yaml").unlink()
    for named in (path, path / "bag.mcap"):
        assert load_bags([named], contract())[0].data_hash() == demos.data_hash()


def test_increments_and_units_are_taken_back(tmp_path: Path) -> None:
    """What the policy adds to an observation, in other units than the topic's, comes out again."""
    made = contract(
        observations=(
            ObservationField(
                "arm",
                2,
                "joint_states",
                JOINTS,
                ("position.a", "position.b"),
                apply=("rad2deg",),
            ),
        ),
        actions=(
            ActionField(
                "step",
                2,
                "goal",
                JOINTS,
                ("position.b", "position.a"),
                apply=("rad2deg",),
                relative_to="arm",
            ),
        ),
    )
    demos = demonstrations(dim_obs=2)
    path = write_bag(demos, made, tmp_path / "bag")
    back, _ = load_bags([path], made)
    np.testing.assert_allclose(back.observation, demos.observation, atol=1e-6)
    np.testing.assert_allclose(back.action, demos.action, atol=1e-6)
    raw = next(Bag(path).messages({"/goal": JOINTS})).message
    expected = np.deg2rad(demos.action[0].astype(float) + demos.observation[0])
    assert dict(zip(raw.name, raw.position, strict=True)) == pytest.approx(
        {"b": expected[0], "a": expected[1]}
    )


def test_a_row_holds_the_newest_sample_of_every_topic(tmp_path: Path) -> None:
    """A fast topic is sampled when the slow one completes the row, as the node ticks."""
    with Script(tmp_path / "bag") as script:
        for i in range(6):
            for part in range(4):
                script.say("joint_states", i + part / 4, i + part / 4, 0.0)
            script.say("wrench", i + 0.9, float(i))
            script.say("goal", i + 0.95, float(i), 0.0, stamp=0.0)
    back, audit = load_bags([tmp_path / "bag"], contract())
    np.testing.assert_allclose(back.observation[:, 0], np.arange(6) + 0.75)
    np.testing.assert_allclose(back.observation[:, 2], np.arange(6))
    assert audit.paired_by == "next"
    np.testing.assert_allclose(back.action[:, 0], np.arange(6))
    assert audit.fields[0].age_max_ms == pytest.approx(0.15 * 20)


def test_a_fixed_rate_samples_what_was_known_then(tmp_path: Path) -> None:
    """At half the rate every second sample is a row; the last one counts."""
    with Script(tmp_path / "bag") as script:
        for i in range(11):
            script.observe(i, float(i))
            script.say("goal", i, float(i), 0.0)
    back, audit = load_bags([tmp_path / "bag"], contract(), Alignment(rate_hz=25.0, pair="latest"))
    np.testing.assert_allclose(back.observation[:, 0], [0, 2, 4, 6, 8, 10])
    np.testing.assert_allclose(back.action[:, 0], [0, 2, 4, 6, 8, 10])
    assert audit.rate_hz == pytest.approx(25.0)
    assert any("25 Hz" in text for text in audit.warnings)


@pytest.mark.parametrize(("rule", "expected"), [("next", [1, 2, 3]), ("latest", [0, 1, 2])])
def test_the_rule_says_which_command_belongs_to_a_row(
    tmp_path: Path, rule: Any, expected: list[int]
) -> None:
    """Commands without stamps, sent between observations: the one after, or the one before."""
    with Script(tmp_path / "bag") as script:
        for i in range(4):
            script.say("goal", i - 0.5, float(i), 0.0, stamp=0.0)
            script.observe(i, float(i))
    back, audit = load_bags([tmp_path / "bag"], contract(), Alignment(pair=rule))
    assert audit.paired_by == rule
    assert back.action[:3, 0].tolist() == expected
    assert audit.dropped == ({"no command for it": 1} if rule == "next" else {})


def test_rows_that_may_not_be_acted_on_are_left_out_by_name(tmp_path: Path) -> None:
    """Stale, non-finite, repeated and unanswered observations: each is counted with its reason."""
    with Script(tmp_path / "bag") as script:
        for i in range(40):
            if i == 10:
                script.observe(i, float("nan"))
            elif i == 12:
                script.say("joint_states", i, 1.0, 1.0, stamp=4.0)  # 160 ms old
                script.say("wrench", i, 0.0)
            elif i == 20:
                script.say("joint_states", i, 1.0, 1.0, stamp=19.0)
                script.say("wrench", i, 0.0, stamp=19.0)
            else:
                script.observe(i, 1.0)
            if i != 30:
                # 1e300 is a number on the bus, and infinite where demonstrations are kept.
                value = {25: float("inf"), 27: 1e300}.get(i, 1.0)
                script.say("goal", i, value, 0.0)
    back, audit = load_bags([tmp_path / "bag"], contract())
    assert audit.dropped == {
        "non-finite observation arm[0]": 1,
        "joint_states: stale, the last sample is older than 100 ms": 1,
        "the same stamp again, or an older one": 1,
        "non-finite command at component 0": 2,
        "no command for it": 1,
    }
    assert len(back) == 40 - 6
    # A sample that old looks like a clock set back, to the control loop as well.
    assert back.episode_ends.tolist() == [11, 34]


def test_missing_joints_are_named(tmp_path: Path) -> None:
    """A driver that loses a joint for a while is told apart from one that never had it."""
    with Script(tmp_path / "bag") as script:
        for i in range(5):
            script.observe(i, 1.0)
            script.say("goal", i, 1.0, 1.0)
    wanting = contract(
        observations=(
            ObservationField("arm", 2, "joint_states", JOINTS, ("position.a", "position.elbow")),
        )
    )
    with pytest.raises(VddError, match=r"not one row.*no joint 'elbow'.*names a, b"):
        load_bags([tmp_path / "bag"], wanting)


def test_episodes_end_at_resets_pauses_and_clocks_set_back(tmp_path: Path) -> None:
    """None of them may join two recordings into one episode."""
    with Script(tmp_path / "bag") as script:
        for at in (0, 1, 2, 50, 51, 52, -40, -39, -38):
            script.observe(at, float(at))
            script.say("goal", at, float(at), 0.0)
    back, _ = load_bags([tmp_path / "bag" / "bag.mcap"], contract())
    # The bag is read in the order of its log times, so the set-back part comes first here.
    assert back.episode_ends.tolist() == [3, 6, 9]
    two, _ = load_bags([tmp_path / "bag", tmp_path / "bag"], contract())
    assert two.n_episodes == 6
    joined, _ = load_bags([tmp_path / "bag"], contract(), Alignment(gap_s=10.0))
    assert joined.n_episodes == 1


def test_topics_are_found_by_namespace_and_by_remapping(tmp_path: Path) -> None:
    """One robot among several is found without help, two of them are told apart by name."""
    demos = demonstrations()
    one = write_bag(demos, contract(), tmp_path / "one", namespace="left")
    assert load_bags([one], contract())[0].data_hash() == demos.data_hash()
    renamed = contract(
        observations=(
            dataclasses.replace(contract().observations[0], topic="arm/state"),
            contract().observations[1],
        )
    )
    with pytest.raises(VddError, match=r"--remap arm/state:=/name"):
        load_bags([one], renamed)
    given = Alignment(names=Names(remap=("arm/state:=/left/joint_states",)))
    assert load_bags([one], renamed, given)[0].data_hash() == demos.data_hash()
    wrong = Alignment(names=Names(remap=("arm/state:=/left/join_states",)))
    with pytest.raises(VddError, match=r"did you mean '/left/joint_states'"):
        load_bags([one], renamed, wrong)
    other = contract(
        actions=(
            dataclasses.replace(
                contract().actions[0],
                type="geometry_msgs/msg/Pose",
                select=("position.x", "position.y"),
            ),
        )
    )
    with pytest.raises(VddError, match="was recorded as sensor_msgs/msg/JointState"):
        load_bags([one], other)


def test_a_bag_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    """An error while writing removes the torso; an existing bag is not overwritten."""

    def half() -> None:
        with BagWriter(tmp_path / "bag") as bag:
            bag.write("/x", "std_msgs/msg/Empty", 1, bytes([0, 1, 0, 0, 0]))
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half()
    assert list(tmp_path.iterdir()) == []
    write_bag(demonstrations(), contract(), tmp_path / "bag")
    with pytest.raises(VddError, match="exists already"):
        write_bag(demonstrations(), contract(), tmp_path / "bag")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_recordings_of_a_real_robot_survive_the_way_through_bags(
    tmp_path: Path, shared_data: Path, storage: Any
) -> None:
    """Eight episodes of the Unitree G1, 26 joints by name: the same demonstrations come back."""
    file = shared_data / "unitree_g1" / "pick_bottle_80.npz"
    if not file.is_file():
        pytest.skip(f"no recording at {file}")
    demos = load_unitree_g1(file).take(np.arange(8))
    names = [str(name) for name in read_arrays(file)["names"]]
    select = tuple(f"position.{name}" for name in names)
    made = PolicyContract(
        name="unitree_g1",
        rate_hz=30.0,
        observations=(ObservationField("joints", 26, "joint_states", JOINTS, select),),
        actions=(ActionField("target", 26, "joint_command", JOINTS, select, measured="joints"),),
        reset_topic="episode_start",
    )
    path = write_bag(demos, made, tmp_path / "g1", storage=storage)
    back, audit = load_bags([path], made)
    assert back.data_hash() == demos.data_hash()
    assert audit.episodes == 8
    assert audit.fields[0].rate_hz == pytest.approx(30.0, rel=0.01)
