"""What a policy would have done on a recording, held against what was done.

`replay` runs the recording through the loop of the nodes; here the outcome is compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vdd_ros.control.observations import NEVER
from vdd_ros.core.config_io import load_json
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.data.bag_files import Bag, BagWriter
from vdd_ros.data.recording import Recording
from vdd_ros.evaluation.replay import DryRunSettings, Replay, Replayed
from vdd_ros.runtime.density import Density, has_density
from vdd_ros.runtime.policy import Policy

MAX_EVENTS = 1000
"""Spells of holding that are listed one by one; the counts go on."""


@dataclass(frozen=True)
class FieldErrors:
    """Predicted against recorded commands of one action field, in the unit of the command."""

    key: str
    unit: str
    mean_abs: float
    """Mean absolute difference per component."""
    rms: float
    """Root of the mean square."""
    p99: float
    """99 % of the differences are smaller."""
    max: float
    """The largest."""
    change_rms: float
    """For comparison: root mean square change of the recorded command from tick to tick."""
    nearest_expert_rms: float | None
    """The same as ``rms`` for the expert that is nearest at every tick; None without experts."""


@dataclass(frozen=True)
class Held:
    """A spell in which the robot would have been held."""

    begin_s: float
    """From the first message of the recording."""
    duration_s: float
    """From its first tick to its last."""
    ticks: int
    level: str
    """The highest: HOLD, or SAFE where it lasted."""
    reason: str
    """What began it."""


@dataclass(frozen=True)
class DryRun:
    """What came of it."""

    ticks: int
    levels: dict[str, int]
    """Ticks by rung of the safety ladder."""
    compared: int
    """Ticks with a recorded command to compare with."""
    paired_by: str
    """How those were found."""
    errors: tuple[FieldErrors, ...]
    """By action field; empty where nothing could be compared."""
    limits: dict[str, int]
    """Ticks at which a limit changed a component, by limit and component."""
    held: tuple[Held, ...]
    """At most a thousand spells."""
    held_by: dict[str, int]
    """Ticks by reason for holding."""
    damaged: int
    """Messages that could not be read at all."""
    log_likelihood: dict[str, float] | None
    """Mean and quantiles of log q(a|s) of the recorded actions (nats); None without density."""
    seconds: float
    """Length of the recording."""
    infer_us: dict[str, float]
    """p50 and p99 of one decision on this machine."""
    rows: list[Replayed] = field(repr=False, default_factory=list)
    """Every tick."""


def dry_run(
    policy: Policy,
    recording: Recording,
    settings: DryRunSettings | None = None,
    *,
    out: BagWriter | None = None,
) -> DryRun:
    """Replay a recording through a policy.

    Args:
        policy: opened and warmed up; its random stream goes on from where it is.
        recording: the bag, seen through the contract that the policy is run with.
        settings: rate and trigger.
        out: where what was recorded and what would have been sent goes, side by side.

    Raises:
        VddError: the contract does not fit the policy, the bag is damaged, or the contract knows
            none of its messages.
    """
    settings = settings or DryRunSettings()
    contract = recording.contract
    check_fit(policy.contract, contract, str(recording.bag.path))
    replay = Replay(policy, contract, settings, out)
    first_ns = last_ns = NEVER
    for heard in recording.messages():
        first_ns = heard.entry.log_ns if first_ns == NEVER else first_ns
        replay.hear(heard)
        last_ns = max(last_ns, heard.entry.log_ns)
    if first_ns == NEVER:
        raise VddError(
            f"{recording.bag.path}: holds no message of the contract's topics; compare the "
            "contract with what was recorded"
        )
    return _summary(policy, replay, contract, settings, first_ns=first_ns, last_ns=last_ns)


def recorded_contract(bag: Bag) -> PolicyContract | None:
    """Return the contract that a node's black box wrote into a bag; None without one.

    Raises:
        VddError: what stands there is no contract.
    """
    names = [
        topic.name
        for topic in bag.topics.values()
        if topic.name.endswith("/contract") and topic.type == "std_msgs/msg/String"
    ]
    if len(names) != 1:
        return None
    for entry in bag.messages({names[0]: "std_msgs/msg/String"}):
        if entry.message is not None:
            where = f"{bag.path}: {names[0]}"
            return load_json(PolicyContract, entry.message.data, where=where)
    return None


def check_fit(own: PolicyContract, given: PolicyContract, where: str) -> None:
    """Refuse a contract that describes other vectors than the policy's.

    Raises:
        VddError: names the difference.
    """
    for name in ("dim_obs", "dim_act", "n_obs_steps", "horizon"):
        if getattr(own, name) != getattr(given, name):
            raise VddError(
                f"{where}: the contract has {name} = {getattr(given, name)}, the policy was made "
                f"for {getattr(own, name)}; give a contract that fits the policy"
            )


def _summary(
    policy: Policy,
    replay: Replay,
    contract: PolicyContract,
    settings: DryRunSettings,
    *,
    first_ns: int,
    last_ns: int,
) -> DryRun:
    rows, log = replay.rows, replay.commands
    acted = [row for row in rows if row.level <= SafetyLevel.CLAMP and row.command is not None]
    found, rule = log.pair(
        [row.stamp_ns for row in acted],
        [row.log_ns for row in acted],
        rule=settings.pair,
        period_ns=round(1e9 / replay.rate_hz),
    )
    pairs = [
        (row, log.values[at])
        for row, at in zip(acted, found.tolist(), strict=True)
        if at >= 0 and np.isfinite(log.values[at]).all()
    ]
    infer = replay.loop.infer_latency.summary()
    return DryRun(
        ticks=len(rows),
        levels={level.name: sum(row.level == level for row in rows) for level in SafetyLevel},
        compared=len(pairs),
        paired_by=rule,
        errors=_errors(pairs, contract),
        limits=_limits(rows, contract),
        held=_held(rows, first_ns, replay.rate_hz),
        held_by=dict(replay.loop.held_by),
        damaged=replay.damaged,
        log_likelihood=_likelihood(policy, pairs, contract),
        seconds=(last_ns - first_ns) * 1e-9,
        infer_us={"p50": infer.p50_us, "p99": infer.p99_us},
        rows=rows,
    )


_Pairs = Sequence[tuple[Replayed, NDArray[np.float64]]]


def _errors(pairs: _Pairs, contract: PolicyContract) -> tuple[FieldErrors, ...]:
    if not pairs:
        return ()
    recorded = np.stack([command for _, command in pairs])
    predicted = np.stack([row.command for row, _ in pairs if row.command is not None])
    difference = predicted - recorded
    nearest = _nearest(pairs, contract)
    found = []
    for entry in contract.actions:
        part = contract.action_slice(entry.key)
        error = np.abs(difference[:, part])
        change = np.diff(recorded[:, part], axis=0)
        found.append(
            FieldErrors(
                key=entry.key,
                unit=entry.unit,
                mean_abs=float(error.mean()),
                rms=_rms(error),
                p99=float(np.percentile(error, 99)),
                max=float(error.max()),
                change_rms=_rms(change) if len(change) else 0.0,
                nearest_expert_rms=_rms(nearest[:, part]) if len(nearest) else None,
            )
        )
    return tuple(found)


def _nearest(pairs: _Pairs, contract: PolicyContract) -> NDArray[np.float64]:
    """Differences [n, D_act] of the expert nearest to the recorded action."""
    found = []
    for row, command in pairs:
        if len(row.nearest) and row.window is not None:
            offset = row.nearest - to_action(command, row.window[-1], contract)
            found.append(offset[np.argmin((offset**2).sum(axis=1))])
    return np.stack(found) if found else np.zeros((0, contract.dim_act))


def to_action(
    command: NDArray[np.float64], observation: NDArray[np.float32], contract: PolicyContract
) -> NDArray[np.float64]:
    """Turn a command [D_act] into the action that makes it: less what it is an increment of."""
    action = command.copy()
    for entry in contract.actions:
        if entry.relative_to:
            action[contract.action_slice(entry.key)] -= observation[
                contract.observation_slice(entry.relative_to)
            ]
    return action


def _rms(values: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _limits(rows: Sequence[Replayed], contract: PolicyContract) -> dict[str, int]:
    """Count which limit changed which component."""
    labels = [f"{a.key}[{i}]" for a in contract.actions for i in range(a.dim)]
    counts: Counter[str] = Counter()
    for row in rows:
        if row.level != SafetyLevel.CLAMP:
            continue
        for part in row.reason.split("; "):
            kind = re.split(r" \w*\[\d+\]", part)[0]
            # Named in the reason, or a place in the whole command.
            components = re.findall(r"(\w*)\[(\d+)\] ", part)
            for key, place in components:
                named = f"{key}[{place}]" if key else labels[int(place)]
                counts[f"{kind} {named}"] += 1
            if not components:
                counts[kind] += 1
    return dict(counts.most_common())


def _held(rows: Sequence[Replayed], first_ns: int, rate_hz: float) -> tuple[Held, ...]:
    """Join ticks at HOLD or above that follow each other."""
    spells: list[list[Replayed]] = []
    before: Replayed | None = None
    for row in rows:
        if row.level >= SafetyLevel.HOLD:
            if before is None or before.level < SafetyLevel.HOLD:
                spells.append([])
            spells[-1].append(row)
        before = row
    return tuple(
        Held(
            begin_s=(spell[0].log_ns - first_ns) * 1e-9,
            duration_s=max(0.0, (spell[-1].log_ns - spell[0].log_ns) * 1e-9) + 1.0 / rate_hz,
            ticks=len(spell),
            level=max(row.level for row in spell).name,
            reason=spell[0].reason,
        )
        for spell in spells[:MAX_EVENTS]
    )


def _likelihood(
    policy: Policy, pairs: _Pairs, contract: PolicyContract
) -> dict[str, float] | None:
    """Log q of the recorded actions, each under the mixture of its own tick."""
    seen = [(row.window, command) for row, command in pairs if row.window is not None]
    if not seen or not has_density(policy.file):
        return None
    windows = np.stack([window for window, _ in seen])
    actions = np.stack([to_action(command, window[-1], contract) for window, command in seen])
    scores = Density(policy.file).log_prob_batch(windows, actions[:, None])
    quantiles = np.percentile(scores, [1, 10, 50, 90])
    names = ("p1", "p10", "p50", "p90")
    return {"mean": float(scores.mean())} | {
        name: float(value) for name, value in zip(names, quantiles, strict=True)
    }
