"""Does a contract fit its message types, a policy, itself? Everything that does not, by name.

Loading checks what a contract says about itself. Here its topics are held against the schemas of
the message types, on any machine, and what is legal but seldom meant is pointed out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from vdd_ros.codecs.instances import DataclassMessages
from vdd_ros.codecs.schemas import SCHEMAS, leaf
from vdd_ros.codecs.table import CODECS, make_decoder, selection
from vdd_ros.codecs.topics import topic_writers
from vdd_ros.core.config_io import from_dict, read_yaml
from vdd_ros.core.contract import ActionField, ObservationField, PolicyContract, TopicField
from vdd_ros.core.errors import VddError

F = TypeVar("F", bound=TopicField)

PLAIN = DataclassMessages(dict.fromkeys(SCHEMAS, SimpleNamespace))
"""Messages without any ROS: enough to try an encoder on."""

_VELOCITIES = frozenset({"geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped"})
"""Commands of which zeros stop the robot instead of moving it to zero."""


@dataclass(frozen=True)
class Report:
    """What came out of a check."""

    contract: PolicyContract | None
    """The contract; None where it cannot be built."""
    misfits: tuple[str, ...]
    """What has to be corrected."""
    notes: tuple[str, ...] = ()
    """What is legal but should be looked at."""


def check_file(path: str | Path) -> Report:
    """Check a contract file in full: the YAML, every field, and every field's message type.

    Raises:
        VddError: the file cannot be read as YAML at all.
    """
    raw = read_yaml(path, what="PolicyContract")
    try:
        contract = from_dict(PolicyContract, raw, where=str(path))
    except VddError as error:
        # The fields that are whole are held against their message types all the same.
        observations = _whole(ObservationField, raw, "observations")
        actions = _whole(ActionField, raw, "actions")
        more = [*_topic_misfits(observations), *_topic_misfits(actions)]
        return Report(None, (*map(str, error.args), *more))
    return check_contract(contract)


def check_contract(contract: PolicyContract) -> Report:
    """Hold a contract against its message types."""
    misfits = [*_topic_misfits(contract.observations), *_topic_misfits(contract.actions)]
    if not misfits:
        # What only shows when the fields of a topic are put together.
        try:
            topic_writers(contract.actions, empty=PLAIN.empty, horizon=contract.horizon)
        except VddError as error:
            misfits.extend(map(str, error.args))
    return Report(contract, tuple(misfits), tuple(_notes(contract)))


def compare(contract: PolicyContract, policy: PolicyContract) -> Report:
    """Say what a robot's contract expects of a policy that the policy was not made for."""
    misfits: list[str] = []
    notes: list[str] = []
    for name in ("n_obs_steps", "horizon"):
        wanted, there = getattr(contract, name), getattr(policy, name)
        if wanted != there:
            misfits.append(f"{name}: the contract says {wanted}, the policy has {there}")
    if contract.n_action_steps != policy.n_action_steps:
        notes.append(
            f"n_action_steps: the contract says {contract.n_action_steps}, the policy was judged "
            f"with {policy.n_action_steps}"
        )
    if contract.rate_hz != policy.rate_hz:
        notes.append(
            f"rate_hz: the contract says {contract.rate_hz:g}, the policy was trained at "
            f"{policy.rate_hz:g}"
        )
    for role, ours, theirs in (
        ("observation", contract.observations, policy.observations),
        ("action", contract.actions, policy.actions),
    ):
        misfits.extend(_vector_misfits(role, ours, theirs))
    return Report(contract, tuple(misfits), tuple(notes))


def _vector_misfits(
    role: str, ours: tuple[TopicField, ...], theirs: tuple[TopicField, ...]
) -> Iterator[str]:
    mine, made = [f.key for f in ours], [f.key for f in theirs]
    if mine != made:
        yield (
            f"the {role} vector is [{', '.join(mine)}] in the contract and [{', '.join(made)}] in "
            "the policy; expected the same fields in the same order"
        )
    known = {f.key: f for f in theirs}
    for entry in ours:
        other = known.get(entry.key)
        if other is None:
            continue
        for name in ("dim", "unit", "apply"):
            a, b = getattr(entry, name), getattr(other, name)
            if a != b:
                yield f"{role} '{entry.key}': {name} is {a!r}, the policy was made with {b!r}"
        ours_to, theirs_to = getattr(entry, "relative_to", ""), getattr(other, "relative_to", "")
        if ours_to != theirs_to:
            yield (
                f"{role} '{entry.key}': relative_to is '{ours_to}', the policy was made with "
                f"'{theirs_to}'"
            )
        if entry.select != other.select and {*entry.select} == {*other.select}:
            yield (
                f"{role} '{entry.key}': the same values in another order: select is "
                f"{list(entry.select)}, the policy was made with {list(other.select)}"
            )


def _topic_misfits(fields: tuple[F, ...]) -> Iterator[str]:
    types: dict[str, tuple[str, str]] = {}
    taken: dict[tuple[str, str], str] = {}
    sharing: dict[str, int] = {}
    for entry in fields:
        sharing[entry.topic] = sharing.get(entry.topic, 0) + 1
    for entry in fields:
        where = f"{'action' if isinstance(entry, ActionField) else 'observation'} '{entry.key}'"
        if not entry.topic or not entry.type:
            yield f"{where}: no {'type' if entry.topic else 'topic'}; a node needs both"
            continue
        key, kind = types.setdefault(entry.topic, (entry.key, entry.type))
        if kind != entry.type:
            yield (
                f"{where}: topic '{entry.topic}' is {entry.type} here and {kind} for '{key}'; a "
                "topic has one type"
            )
        if sharing[entry.topic] > 1 and not entry.select:
            yield f"{where}: shares topic '{entry.topic}' and needs 'select'"
        yield from (f"{where}: {problem}" for problem in _selection_misfits(entry))
        if not isinstance(entry, ActionField):
            continue
        for path in entry.select:
            other = taken.setdefault((entry.topic, path), entry.key)
            if other != entry.key or entry.select.count(path) > 1:
                yield f"{where}: '{path}' of '{entry.topic}' is commanded twice, see '{other}'"


def _selection_misfits(entry: TopicField) -> Iterator[str]:
    try:
        chosen = selection(entry.type, entry.select, entry.dim)
    except VddError as error:
        yield str(error)
        return
    family = CODECS[entry.type].family
    for path in chosen:
        try:
            make_decoder(entry.type, (path,), 1)
        except VddError as error:
            yield str(error)
            continue
        if not isinstance(entry, ActionField):
            continue
        if family == "trajectory" and not path.startswith("positions."):
            yield f"select '{path}': a trajectory is commanded by 'positions.<joint>' only"
        if entry.threshold != 0.5 and not (
            family == "path" and leaf(entry.type, path)[1] == "boolean"
        ):
            yield f"threshold is {entry.threshold:g}, but '{path}' is not a switch (Bool)"


def _notes(contract: PolicyContract) -> Iterator[str]:
    period_ms = 1e3 * contract.step_s
    for entry in contract.observations:
        if 0 < entry.max_age_ms < period_ms:
            yield (
                f"observation '{entry.key}': max_age_ms {entry.max_age_ms:g} is shorter than one "
                f"control step ({period_ms:g} ms): it is stale before the next one is due"
            )
        if entry.max_skew_ms > entry.max_age_ms > 0:
            yield (
                f"observation '{entry.key}': max_skew_ms {entry.max_skew_ms:g} never bites, the "
                f"sample is stale after {entry.max_age_ms:g} ms"
            )
    for action in contract.actions:
        limits = action.limits
        if not (limits.min and limits.max) and action.type not in _VELOCITIES:
            yield f"action '{action.key}': no limits.min and limits.max: any command is sent"
        if not limits.max_rate:
            yield f"action '{action.key}': no limits.max_rate: the command may jump"
        if not (action.measured or action.relative_to):
            yield (
                f"action '{action.key}': no 'measured' observation: the first command is not "
                "limited from where the robot is"
            )
        for role in ("on_stale", "on_stop"):
            if getattr(contract.safety, role) == "zeros" and action.type not in _VELOCITIES:
                yield (
                    f"safety.{role} is zeros: '{action.key}' is sent 0, which moves a robot under "
                    "position control; hold keeps it where it is"
                )


def _whole(cls: type[F], raw: Any, name: str) -> tuple[F, ...]:  # noqa: ANN401 - parsed YAML
    items = raw.get(name) if isinstance(raw, dict) else None
    found = []
    for item in items if isinstance(items, list) else ():
        try:
            found.append(from_dict(cls, item))
        except VddError:
            continue
    return tuple(found)
