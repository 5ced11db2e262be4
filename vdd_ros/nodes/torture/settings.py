"""Which nodes are put under test, and how they are run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Companion:
    """A node that runs beside the one under test."""

    module: str
    """Module that is started, one of ``vdd_ros.nodes``."""
    node: str
    """Name of its node."""
    parameters: Mapping[str, object] = field(default_factory=dict)
    """What it is given."""


@dataclass(frozen=True)
class RigSettings:
    """One node under test and how it is run."""

    rate_hz: float = 100.0
    """Observations per second, and the node's control rate."""
    module: str = "policy_node"
    """Module that is started; without a dot one of ``vdd_ros.nodes``."""
    node: str = "policy"
    """Name of its node."""
    namespace: str = "torture"
    """Where it and its topics live."""
    parameters: Mapping[str, object] = field(default_factory=dict)
    """On top of what every node under test is given."""
    sim_time: bool = False
    """The rig's clock is published on ``/clock`` and can be set."""
    companions: tuple[Companion, ...] = ()
    """Started after it, ended with it."""
