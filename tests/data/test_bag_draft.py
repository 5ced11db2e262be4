"""A drafted contract loads and fits the recording, whatever numbers were recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("rosbags.rosbag2", reason="bags need the extra [bags]")

from vdd_ros.codecs.check import check_file
from vdd_ros.core.contract import ActionField, ObservationField, PolicyContract
from vdd_ros.data.bag_draft import draft
from vdd_ros.data.bag_files import Bag
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.rosbag import load_bags
from vdd_ros.data.to_bag import write_bag

JOINTS = "sensor_msgs/msg/JointState"
CONTRACT = PolicyContract(
    "arm",
    50.0,
    (ObservationField("state", 2, "joint_states", JOINTS, ("position.a", "position.b")),),
    (ActionField("goal", 2, "goal_command", JOINTS, ("position.a", "position.b")),),
)
number = st.one_of(
    st.floats(-3.0, 3.0, width=32),
    st.floats(-(2.0**99), 2.0**99, width=32),
    st.sampled_from([0.0, 1e-5, -1e-5, 1e-20, 1e16]),
)


@settings(max_examples=40, deadline=None)
@example(rows=[(0.0, 1e-5), (1.0, 1e16), (0.5, -1e-5)])
@example(rows=[(0.0, 0.0), (1.0, 0.0), (0.5, 0.0)])
@given(rows=st.lists(st.tuples(number, number), min_size=3, max_size=8))
def test_a_draft_fits_the_recording_it_was_made_of(
    rows: Sequence[tuple[float, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every number is one to YAML, and every recorded command is within the drafted limits."""
    folder = tmp_path_factory.mktemp("draft")
    values = np.array(rows, np.float32)
    demos = Demonstrations(values, values, np.array([len(values)]), None, "made up")
    bag: Path = write_bag(demos, CONTRACT, folder / "bag")
    drafted = draft(Bag(bag), name="arm")
    path = folder / "draft.yaml"
    path.write_text(drafted.text)
    report = check_file(path)
    assert report.contract is not None, report.misfits
    assert report.misfits == ()
    assert drafted.actions == ("/goal_command",)
    limits = report.contract.actions[0].limits
    moving = (values.astype(float).max(axis=0) > values.astype(float).min(axis=0) + 1e-12).all()
    if not moving:
        assert limits.min == ()
    elif limits.min:
        assert (values >= np.array(limits.min)).all()
        assert (values <= np.array(limits.max)).all()
    read, _ = load_bags([bag], report.contract)
    np.testing.assert_array_equal(read.action, values[: len(read.action)])
