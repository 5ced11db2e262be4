"""teacher_node: the diffusion policy the student was distilled from, in shadow or in command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdd_ros.core.shipped import TEACHER, shipped_file
from vdd_ros.nodes.executor import run_node
from vdd_ros.nodes.lifecycle import PolicyShell, node_contract
from vdd_ros.nodes.parameters import SAMPLER
from vdd_ros.nodes.wiring import Loaded
from vdd_ros.runtime.diffusion_policy import DiffusionPolicy, DiffusionSettings
from vdd_ros.runtime.policy_file import PolicyFile
from vdd_ros.runtime.session import SessionSettings


class TeacherNode(PolicyShell):
    """The teacher on the shell."""

    def __init__(self) -> None:
        """Declare the parameters."""
        super().__init__("teacher", extra=SAMPLER)

    def load(self, values: Mapping[str, Any]) -> Loaded:
        """Open the denoiser, choose how its sampler runs, warm it up."""
        path = values["policy"] or shipped_file(TEACHER)
        file = PolicyFile.open(Path(path).expanduser())
        contract = node_contract(file.contract, values["contract"])
        policy = DiffusionPolicy(
            file,
            DiffusionSettings(
                n_steps=values["nfe"],
                sampler=values["sampler"],
                variant=values["variant"],
                seed=values["seed"],
            ),
            session=SessionSettings(provider=values["provider"], n_threads=values["n_threads"]),
        )
        facts = {
            "policy": str(file.path),
            "sha256": file.sha256[:16],
            "kind": file.kind,
            "nfe": str(policy.nfe),
            "sampler": values["sampler"],
            "variant": policy.variant,
            "provider": policy.provider,
            "runtime": policy.description,
        }
        return Loaded(policy, contract, facts, nfe=policy.nfe)


def main() -> int:
    """Run the node; the return value is the exit code."""
    return run_node(TeacherNode)


if __name__ == "__main__":
    raise SystemExit(main())
