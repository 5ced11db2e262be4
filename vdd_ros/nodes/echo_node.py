"""echo_node: the whole shell around no policy at all, the floor that latency is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.config_io import load_yaml
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.shipped import STUDENT, shipped_file
from vdd_ros.nodes.executor import run_node
from vdd_ros.nodes.lifecycle import PolicyShell
from vdd_ros.nodes.wiring import Loaded
from vdd_ros.runtime.policy import PolicyOutput
from vdd_ros.runtime.policy_file import PolicyFile


class Echo:
    """Commands what was measured: stands still without asking a network."""

    def __init__(self, contract: PolicyContract) -> None:
        """Prepare the constant answer and the columns that are copied."""
        self._action = np.zeros((contract.horizon, contract.dim_act), np.float32)
        self._copies = [
            (contract.action_slice(a.key), contract.observation_slice(a.measured))
            for a in contract.actions
            if a.measured and not a.relative_to
        ]
        self._output = PolicyOutput(
            self._action, -1, np.zeros(0), np.zeros((0, *self._action.shape), np.float32)
        )

    def act(self, window: NDArray[np.float32]) -> PolicyOutput:
        """Answer: increments of zero, positions as measured."""
        for target, source in self._copies:
            self._action[:, target] = window[-1, source]
        return self._output

    def reset(self) -> None:
        """Nothing is remembered."""


class EchoNode(PolicyShell):
    """The shell with `Echo` in it."""

    def __init__(self) -> None:
        """Declare the parameters."""
        super().__init__("echo")

    def load(self, values: Mapping[str, Any]) -> Loaded:
        """Take the contract of the YAML, or that of the policy file."""
        if values["contract"]:
            contract = load_yaml(PolicyContract, Path(values["contract"]).expanduser())
        else:
            path = values["policy"] or shipped_file(STUDENT)
            contract = PolicyFile.open(Path(path).expanduser(), verify=False).contract
        return Loaded(Echo(contract), contract, {"kind": "echo"}, nfe=0)


def main() -> int:
    """Run the node; the return value is the exit code."""
    return run_node(EchoNode)


if __name__ == "__main__":
    raise SystemExit(main())
