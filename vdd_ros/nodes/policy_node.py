"""policy_node: the distilled policy, one network pass per action."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdd_ros.core.errors import VddError
from vdd_ros.core.gating import ExpertSelector, SelectionSettings
from vdd_ros.core.shipped import STUDENT, shipped_file
from vdd_ros.nodes.declaration import read
from vdd_ros.nodes.executor import run_node
from vdd_ros.nodes.lifecycle import PolicyShell, node_contract
from vdd_ros.nodes.parameters import SELECTION, WATCHED
from vdd_ros.nodes.watchers import Auditing
from vdd_ros.nodes.wiring import Loaded
from vdd_ros.runtime.density import Density, has_density, read_calibration
from vdd_ros.runtime.diffusion_policy import DiffusionPolicy, default_settings
from vdd_ros.runtime.moe_policy import MoePolicy
from vdd_ros.runtime.policy_file import PolicyFile
from vdd_ros.runtime.session import SessionSettings


class PolicyNode(PolicyShell):
    """The student on the shell; its expert choice can be changed while it runs."""

    def __init__(self) -> None:
        """Declare the parameters."""
        self._policy: MoePolicy | None = None
        super().__init__("policy", extra=(*SELECTION, *WATCHED))

    def load(self, values: Mapping[str, Any]) -> Loaded:
        """Open the policy file and warm it up."""
        path = values["policy"] or shipped_file(STUDENT)
        file = PolicyFile.open(Path(path).expanduser())
        contract = node_contract(file.contract, values["contract"])
        selection = _selection(values)
        session = SessionSettings(provider=values["provider"], n_threads=values["n_threads"])
        policy: MoePolicy | DiffusionPolicy
        auditing = Auditing()
        if file.n_steps == 1:
            # A consistency model decides in one pass, too; it has no experts to select.
            settings = default_settings(file, seed=selection.seed)
            policy = DiffusionPolicy(file, settings, session=session)
        else:
            policy = MoePolicy(file, selection=selection, session=session)
            auditing = _auditing(file, session, topic=values["audit.topic"])
        facts = {
            "policy": str(file.path),
            "sha256": file.sha256[:16],
            "kind": file.kind,
            "experts": str(policy.n_experts),
            "provider": policy.provider,
            "runtime": policy.description,
        }
        return Loaded(policy, contract, facts, auditing=auditing)

    def adopt(self, loaded: Loaded) -> None:
        """Let the selection be changed of the policy that acts, from what it is by now."""
        self._policy = loaded.actor if isinstance(loaded.actor, MoePolicy) else None
        if self._policy is not None:
            self._policy.select_by(_selection(self.values()))

    def unload(self) -> None:
        """Free the session."""
        self._policy = None

    def refusal(self, values: Mapping[str, Any]) -> str:
        """Return why a selection does not fit the policy's experts."""
        incoming = self.operation.incoming
        policy = self._policy if incoming is None else incoming.actor
        if not isinstance(policy, MoePolicy):
            return ""
        try:
            ExpertSelector(_selection(values), policy.n_experts)
        except VddError as error:
            return str(error)
        return ""

    def apply(self, changed: set[str]) -> None:
        """Choose experts otherwise from the next tick on."""
        if self._policy is not None and any(n.startswith("selection.") for n in changed):
            self._policy.select_by(_selection(read(self, SELECTION)))


def _auditing(file: PolicyFile, session: SessionSettings, *, topic: str) -> Auditing:
    """Return what the audit of a student needs, or why there is none."""
    if not topic:
        return Auditing(why_not="audit: switched off, parameter audit.topic is empty")
    if not has_density(file):
        return Auditing(why_not="audit: this policy file has no density; export it with --density")
    calibration = read_calibration(file)
    if calibration is None:
        return Auditing(
            why_not="audit: this policy file was not calibrated; run `vdd audit FILE --data "
            "DEMOS --write` with demonstrations it has not seen"
        )
    return Auditing(Density(file, session), calibration, why_not="")


def _selection(values: Mapping[str, Any]) -> SelectionSettings:
    return SelectionSettings(
        **{
            name.removeprefix("selection."): value
            for name, value in values.items()
            if name.startswith("selection.")
        }
    )


def main() -> int:
    """Run the node; the return value is the exit code."""
    return run_node(PolicyNode)


if __name__ == "__main__":
    raise SystemExit(main())
