"""A recording, replayed: what the policy would have done is what the node would have done."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags.rosbag2", reason="bags need the extra [bags]")
pytest.importorskip("onnx", reason="policy files for tests are made with onnx")

from tests.policy_files import (
    Graph,
    MoeTwin,
    make_denoiser_file,
    make_moe_file,
    save,
    tensors,
)
from vdd_ros.core.contract import (
    ActionField,
    Limits,
    ObservationField,
    PolicyContract,
    Safety,
)
from vdd_ros.core.errors import VddError
from vdd_ros.core.gating import SelectionSettings
from vdd_ros.core.mixture import GaussianMixture, log_softmax
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.data.bag_files import Bag, BagWriter
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.npz import read_arrays
from vdd_ros.data.offline import load_unitree_g1
from vdd_ros.data.recording import Recording
from vdd_ros.data.to_bag import write_bag
from vdd_ros.evaluation.dry_run import DryRun, dry_run
from vdd_ros.evaluation.replay import DryRunSettings
from vdd_ros.runtime.loading import load_policy

JOINTS = "sensor_msgs/msg/JointState"
SELECT = ("position.a", "position.b")


def contract(**changes: Any) -> PolicyContract:
    values: dict[str, Any] = {
        "name": "two joints",
        "rate_hz": 50.0,
        "observations": (
            ObservationField("arm", 2, "joint_states", JOINTS, SELECT, max_age_ms=100.0),
        ),
        "actions": (ActionField("goal", 2, "goal", JOINTS, SELECT, unit="rad"),),
    }
    return PolicyContract(**{**values, **changes})


def student(path: Path, made_for: PolicyContract, **settings: Any) -> MoeTwin:
    return make_moe_file(path, contract=made_for, n_experts=3, **settings)


def wishes(twin: MoeTwin, observation: np.ndarray) -> np.ndarray:
    """What the likeliest expert wants, by the numpy twin."""
    out = twin.outputs(observation[:, None].astype(np.float32))
    expert = out["gating_logits"].argmax(axis=1)
    return out["expert_actions"][np.arange(len(expert)), expert, 0]


def states(n: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.02 * np.cumsum(rng.standard_normal((n, 2)), axis=0)).astype(np.float32)


def recorded(path: Path, made_for: PolicyContract, states: Any, commands: Any) -> Path:
    ends = np.array([len(states)])
    demos = Demonstrations(states, np.asarray(commands, np.float32), ends, None, "made up")
    return write_bag(demos, made_for, path)


def run(twin: MoeTwin, bag: Path, made_for: PolicyContract, **options: Any) -> DryRun:
    policy = load_policy(twin.path, selection=SelectionSettings(rule="argmax"))
    recording = Recording(Bag(bag), made_for, need_actions=False)
    return dry_run(policy, recording, options.pop("settings", None), **options)


def test_a_recording_of_the_policy_itself_has_no_error(tmp_path: Path) -> None:
    """Where the recorded commands are the policy's own, the difference is float32's."""
    made = contract()
    twin = student(tmp_path / "s.onnx", made)
    seen = states()
    bag = recorded(tmp_path / "bag", made, seen, wishes(twin, seen))
    result = run(twin, bag, made)
    assert result.ticks == result.compared == 40
    assert result.levels == {"ACT": 40, "CLAMP": 0, "HOLD": 0, "SAFE": 0, "STOP": 0}
    assert result.paired_by == "stamp"
    assert result.errors[0].max < 1e-6
    assert result.errors[0].nearest_expert_rms < 1e-6
    assert result.held == ()
    assert result.log_likelihood is None


def test_errors_are_those_of_the_commands(tmp_path: Path) -> None:
    """A constant offset of what was recorded is the mean error, per field."""
    made = contract()
    twin = student(tmp_path / "s.onnx", made)
    seen = states()
    bag = recorded(tmp_path / "bag", made, seen, wishes(twin, seen) + np.array([0.3, -0.1]))
    entry = run(twin, bag, made).errors[0]
    assert entry.mean_abs == pytest.approx(0.2, abs=1e-6)
    assert entry.rms == pytest.approx(np.sqrt(0.05), abs=1e-6)
    assert entry.max == pytest.approx(0.3, abs=1e-6)
    assert entry.unit == "rad"


def test_the_likelihood_of_recorded_actions_is_the_mixtures(tmp_path: Path) -> None:
    """For increments, too: log q is taken of the action, not of the command."""
    actions = (ActionField("goal", 2, "goal", JOINTS, SELECT, relative_to="arm", measured="arm"),)
    made = contract(actions=actions)
    twin = student(tmp_path / "s.onnx", made, density=True)
    seen = states()
    action = wishes(twin, seen) + np.random.default_rng(2).normal(0, 0.1, (40, 2))
    bag = recorded(tmp_path / "bag", made, seen, action)
    out = twin.outputs(seen[:, None])
    mixture = GaussianMixture(
        log_softmax(out["gating_logits"].astype(float)),
        out["expert_actions"][:, :, 0].astype(float),
        out["expert_scale"].astype(float),
    )
    found = run(twin, bag, made).log_likelihood
    assert found is not None
    assert found["mean"] == pytest.approx(mixture.log_prob(action).mean(), rel=1e-4)


def test_limits_and_holds_are_reported_where_they_would_have_happened(tmp_path: Path) -> None:
    """A limit by component; a pause becomes HOLD, then SAFE; a NaN is held by name."""
    limits = Limits(max=(0.001, 10.0))
    actions = (ActionField("goal", 2, "goal", JOINTS, SELECT, limits=limits, measured="arm"),)
    made = contract(actions=actions, safety=Safety(max_hold_s=0.5))
    twin = student(tmp_path / "s.onnx", made)
    seen = states()
    wish = wishes(twin, seen)
    first = recorded(tmp_path / "bag", made, seen, wish)
    with BagWriter(tmp_path / "hole") as out:
        for i, entry in enumerate(Bag(first).messages({"/joint_states": JOINTS})):
            later = 2 * 10**9 if i >= 20 else 0
            message = entry.message
            stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec + later
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
            if i == 30:
                message.position = np.array([0.0, np.nan])
            out.write(entry.topic, entry.type, entry.log_ns + later, message)
    result = run(twin, tmp_path / "hole", made)
    beyond = (np.delete(wish, 30, axis=0)[:, 0] > 0.001).sum()
    assert result.limits == {"position limit goal[0]": beyond}
    pause, nan = result.held
    assert pause.reason.startswith("joint_states: stale")
    assert pause.level == "SAFE"
    # The last sample before the pause is 19 periods after the first; the watch is 0.1 s.
    assert pause.begin_s == pytest.approx(19 / 50 + 0.1, abs=0.01)
    assert 1.4 < pause.duration_s < 2.0
    assert nan.reason == "non-finite observation arm[1]"
    assert nan.ticks == 1
    assert result.levels["SAFE"] > 0
    assert result.compared == 0
    assert result.errors == ()


def test_the_output_shows_predictions_beside_what_was_recorded(tmp_path: Path) -> None:
    """Recorded messages are copied to the byte; predictions bear the stamps they answer."""
    made = contract()
    twin = student(tmp_path / "s.onnx", made)
    seen = states()
    bag = recorded(tmp_path / "bag", made, seen, wishes(twin, seen))
    with BagWriter(tmp_path / "out") as out:
        result = run(twin, bag, made, out=out)
    written = Bag(tmp_path / "out")
    types = {name: topic.type for name, topic in written.topics.items()}
    assert set(types) == {
        "/joint_states", "/goal", "/dry_run/goal", "/dry_run/status", "/dry_run/reason",
    }  # fmt: skip
    found: dict[str, list[Any]] = {name: [] for name in types}
    for entry in written.messages(types):
        found[entry.topic].append(entry)
    before = [e.raw for e in Bag(bag).messages({"/joint_states": JOINTS})]
    assert [e.raw for e in found["/joint_states"]] == before
    predicted = np.array([e.message.position for e in found["/dry_run/goal"]])
    np.testing.assert_allclose(predicted, [r.command for r in result.rows])
    assert [e.message.header.stamp for e in found["/dry_run/goal"]] == [
        e.message.header.stamp for e in found["/goal"]
    ]
    assert [e.message.data for e in found["/dry_run/reason"]] == ["ACT"]
    labels = found["/dry_run/status"][0].message.layout.dim[0].label.split(",")
    assert labels[:2] == ["level", "expert"]


def test_chunks_histories_and_timers_run_as_in_the_node(tmp_path: Path) -> None:
    """A policy of chunks is asked every n_action_steps, whichever trigger ticks."""
    made = contract(n_obs_steps=2, horizon=4, n_action_steps=4)
    twin = student(tmp_path / "s.onnx", made)
    seen = states()
    bag = recorded(tmp_path / "bag", made, seen, seen)
    answered = run(twin, bag, made)
    windows = np.stack([np.stack([seen[max(i - 1, 0)], seen[i]]) for i in range(40)])
    asked = [i for i, row in enumerate(answered.rows) if len(row.nearest)]
    assert asked == list(range(0, 40, 4))
    out = twin.outputs(windows)
    expert = out["gating_logits"].argmax(axis=1)
    for i, row in enumerate(answered.rows):
        chunk = i - i % 4
        expected = out["expert_actions"][chunk, expert[chunk], i % 4]
        np.testing.assert_allclose(row.command, expected, atol=1e-5)
    timed = run(twin, bag, made, settings=DryRunSettings(trigger="timer"))
    assert abs(timed.ticks - 40) <= 1
    assert {row.level for row in timed.rows} == {SafetyLevel.ACT}


def test_a_teacher_is_replayed_as_well(tmp_path: Path) -> None:
    """A denoiser has no experts and no density; everything else is the same."""
    made = contract()
    twin = make_denoiser_file(tmp_path / "t.onnx", contract=made)
    seen = states()
    bag = recorded(tmp_path / "bag", made, seen, seen)
    result = dry_run(load_policy(twin.path), Recording(Bag(bag), made))
    assert result.compared == 40
    assert result.errors[0].nearest_expert_rms is None


def test_damaged_messages_are_counted_and_a_foreign_contract_is_refused(tmp_path: Path) -> None:
    """Bytes that are no message are what a middleware throws away."""
    made = contract()
    twin = student(tmp_path / "s.onnx", made)
    seen = states()
    first = recorded(tmp_path / "bag", made, seen, seen)
    with BagWriter(tmp_path / "torn") as out:
        for i, entry in enumerate(Bag(first).messages({"/joint_states": JOINTS})):
            out.write(entry.topic, entry.type, entry.log_ns, entry.raw[: 30 if i == 7 else None])
    result = run(twin, tmp_path / "torn", made)
    assert (result.damaged, result.ticks) == (1, 39)
    wide = dataclasses.replace(made, n_obs_steps=3)
    with pytest.raises(VddError, match="n_obs_steps = 3, the policy was made for 1"):
        run(twin, first, wide)


def test_a_real_robots_recording_is_replayed(tmp_path: Path, shared_data: Path) -> None:
    """The Unitree G1, 26 joints: a policy that asks for what is measured errs by the tracking."""
    file = shared_data / "unitree_g1" / "pick_bottle_80.npz"
    if not file.is_file():
        pytest.skip(f"no recording at {file}")
    demos = load_unitree_g1(file).take(np.arange(5))
    select = tuple(f"position.{name}" for name in read_arrays(file)["names"])
    made = PolicyContract(
        name="unitree_g1",
        rate_hz=30.0,
        observations=(ObservationField("joints", 26, "joint_states", JOINTS, select),),
        actions=(ActionField("target", 26, "joint_command", JOINTS, select, measured="joints"),),
        reset_topic="episode_start",
    )
    graph = Graph()
    graph.op("Unsqueeze", "observation", np.array([1]), out="expert_actions")
    first = graph.op(
        "Gather", graph.op("Squeeze", "observation", np.array([1])), np.array([0]), axis=1
    )
    graph.op("Mul", first, np.float32(0), out="gating_logits")
    shapes = {"gating_logits": ["B", 1], "expert_actions": ["B", 1, 1, 26]}
    model = graph.build({"observation": ["B", 1, 26]}, shapes)
    sample = demos.observation[:2, None]
    golden = {
        "inputs": tensors({"observation": sample}),
        "outputs": tensors({"gating_logits": np.zeros((2, 1)), "expert_actions": sample[:, None]}),
        "atol": 1e-6,
    }
    provenance = {"format_version": 1, "kind": "moe", "n_experts": 1}
    policy = save(tmp_path / "p.onnx", model, contract=made, provenance=provenance, golden=golden)
    bag = write_bag(demos, made, tmp_path / "g1")
    result = dry_run(load_policy(policy), Recording(Bag(bag), made))
    assert result.compared == len(demos)
    tracking = (demos.observation - demos.action).astype(float)
    assert result.errors[0].rms == pytest.approx(np.sqrt((tracking**2).mean()), rel=1e-6)
    assert result.errors[0].max == pytest.approx(np.abs(tracking).max(), rel=1e-6)
    assert result.limits == {}
    # Between two episodes nothing is published for ten seconds.
    assert [spell.level for spell in result.held] == ["SAFE"] * 4
    assert all("stale" in spell.reason for spell in result.held)
