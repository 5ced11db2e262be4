"""What a bag says to a contract: its messages in order, each with the field it belongs to.

Shared by everything that replays a recording, so that demonstrations, dry runs and audits look at
one and the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.data.bag_files import Bag, Recorded

EMPTY = "std_msgs/msg/Empty"
SHADOW = "shadow_action"
"""Last part of the topic that a node in shadow publishes its command on."""


@dataclass(frozen=True)
class Names:
    """Where a contract's relative topics are found in a bag."""

    namespace: str = ""
    """Of the robot, for bags of several robots; empty: whatever is unambiguous."""
    remap: tuple[str, ...] = ()
    """``contract_topic:=/bag/topic``, as on the command line of ROS."""


@dataclass(frozen=True)
class Heard:
    """One message and what it is to the contract."""

    role: Literal["observation", "action", "reset"]
    """A part of the observation vector, of a command, or the beginning of an episode."""
    topic: str
    """The contract's topic."""
    entry: Recorded
    """The message as it was recorded."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A bag, seen through a contract."""

    bag: Bag
    """The file."""
    contract: PolicyContract
    """Names the topics."""
    names: Names = field(default_factory=Names)
    """How topics of the bag are told apart."""
    need_actions: bool = True
    """Refuse a bag without the commands."""

    def __post_init__(self) -> None:
        """Find every topic.

        Raises:
            VddError: a topic is absent, has another type, or is ambiguous.
        """
        fields = {f.topic: f.type for f in self.contract.observations}
        found = {self._find(topic, kind): ("observation", topic) for topic, kind in fields.items()}
        commands = {f.topic: f.type for f in self.contract.actions}
        for topic, kind in commands.items():
            try:
                found[self._command(topic, kind, single=len(commands) == 1)] = ("action", topic)
            except VddError:
                if self.need_actions:
                    raise
        if self.contract.reset_topic:
            reset = self._matches(self.contract.reset_topic)
            if len(reset) == 1:
                found[reset[0]] = ("reset", self.contract.reset_topic)
        object.__setattr__(self, "_found", found)

    @property
    def topics(self) -> dict[str, str]:
        """The contract's topics by the bag's, absolute, names."""
        found: dict[str, Any] = getattr(self, "_found")  # noqa: B009 - set in a frozen class
        return {name: topic for name, (_, topic) in found.items()}

    def messages(self) -> Iterator[Heard]:
        """Yield what the contract knows of, in the order it was recorded.

        Raises:
            VddError: the bag is damaged.
        """
        found: dict[str, Any] = getattr(self, "_found")  # noqa: B009
        wanted = {name: self.bag.topics[name].type for name in found}
        for entry in self.bag.messages(wanted):
            role, topic = found[entry.topic]
            yield Heard(role, topic, entry)

    def _command(self, topic: str, kind: str, *, single: bool) -> str:
        """The command's topic; in a bag of a node in shadow that of its shadow action."""
        if not self._matches(topic):
            for shadow in (SHADOW, f"{SHADOW}/{topic}") if single else (f"{SHADOW}/{topic}",):
                if len(self._matches(shadow)) == 1:
                    return self._find(shadow, kind)
        return self._find(topic, kind)

    def _matches(self, topic: str) -> list[str]:
        """The bag's topics that a relative name may stand for, the best ones only."""
        remapped = dict(entry.partition(":=")[::2] for entry in self.names.remap)
        known = self.bag.topics
        if topic in remapped:
            name = "/" + remapped[topic].lstrip("/")
            if name not in known:
                raise VddError(
                    f"{self.bag.path}: '{topic}' is remapped to '{name}', which was not recorded"
                    f"{did_you_mean(name, known)}"
                )
            return [name]
        prefix = "/" + self.names.namespace.strip("/") if self.names.namespace.strip("/") else ""
        if f"{prefix}/{topic}" in known:
            return [f"{prefix}/{topic}"]
        return [n for n in known if n.startswith(f"{prefix}/") and n.endswith(f"/{topic}")]

    def _find(self, topic: str, kind: str) -> str:
        names = self._matches(topic)
        if not names:
            raise VddError(
                f"{self.bag.path}: topic '{topic}' of the contract was not recorded"
                f"{did_you_mean('/' + topic, self.bag.topics)}; give its name in the bag with "
                f"--remap {topic}:=/name"
            )
        if len(names) > 1:
            raise VddError(
                f"{self.bag.path}: topic '{topic}' may be {' or '.join(sorted(names))}; choose "
                "with --namespace or --remap"
            )
        recorded = self.bag.topics[names[0]].type
        if recorded != kind:
            raise VddError(
                f"{self.bag.path}: '{names[0]}' was recorded as {recorded}, the contract says "
                f"{kind} for '{topic}'; correct the contract's type"
            )
        return names[0]
