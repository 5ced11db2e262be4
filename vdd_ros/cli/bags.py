"""What the commands about bags share: the contract, the names of topics, the words for figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vdd_ros.core.errors import VddError

if TYPE_CHECKING:
    from vdd_ros.core.contract import PolicyContract

Remap = Annotated[
    tuple[str, ...],
    tyro.conf.arg(metavar="[TOPIC:=/NAME ...]", help_behavior_hint="(optional)"),
]
"""Names of topics in the bag, where they are not the contract's."""
OptionalRate = Annotated[
    float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(optional)")
]
"""A rate or a time that may be left out."""


def read_contract(path: Path) -> PolicyContract:
    """Read a contract from YAML, or take the one inside a policy file.

    Raises:
        VddError: neither, or a wrong one.
    """
    from vdd_ros.core.config_io import load_yaml
    from vdd_ros.core.contract import PolicyContract

    if path.suffix == ".onnx":
        from vdd_ros.runtime.policy_file import PolicyFile

        return PolicyFile.open(path, verify=False).contract
    return load_yaml(PolicyContract, path.expanduser())


def check_remap(remap: tuple[str, ...]) -> None:
    """Refuse what is no remapping.

    Raises:
        VddError: names it.
    """
    for entry in remap:
        topic, sign, name = entry.partition(":=")
        if not (topic and sign and name):
            raise VddError(
                f"--remap: got '{entry}', expected the contract's topic and its name in the bag, "
                "for example joint_states:=/robot1/joint_states"
            )


def milliseconds(value: float) -> str:
    """Show an age; NaN is none."""
    return "-" if value != value else f"{value:.1f}"
