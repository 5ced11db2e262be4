"""`vdd dry-run`: what a policy would have done on a recording, without ROS and without a robot."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from vdd_ros.cli.bags import OptionalRate, Remap, check_remap, read_contract
from vdd_ros.cli.command import (
    Answer,
    File,
    OptionalNumber,
    OptionalPath,
    microseconds,
    require_at_least,
    require_writable,
    say,
    table,
)

if TYPE_CHECKING:
    from vdd_ros.core.contract import PolicyContract
    from vdd_ros.data.bag_files import Bag
    from vdd_ros.evaluation.dry_run import DryRun as Result
    from vdd_ros.runtime.policy import Policy

_SHOWN = 20
"""Spells of holding that are printed; --json and the report have more."""


@dataclass(frozen=True)
class DryRun:
    """Replay a bag through a policy as the node would run it, and compare with what was done.

    Predicted against recorded commands, limits that changed a command, times at which the robot
    would have been held and why. Also replays what a node's black box has written.
    """

    policy: File
    """The policy file (.onnx)."""
    bag: tyro.conf.Positional[Path]
    """A rosbag2 folder, an .mcap or a .db3 file."""
    contract: OptionalPath = None
    """Contract YAML; by default the one a black box wrote into the bag, else the policy's own."""
    out: OptionalPath = None
    """Folder for dry_run.json and a bag, dry_run, of the predictions beside what was recorded."""
    rate_hz: OptionalRate = None
    """Control rate; the contract's by default."""
    trigger: Literal["observation", "timer"] = "observation"
    """Answer every complete observation, or tick at the control rate."""
    pair: Literal["auto", "stamp", "next", "latest"] = "auto"
    """Which recorded command belongs to a tick: the one with the observation's stamp, the next
    one sent, or the latest one before it."""
    selection: Literal["sample", "argmax", "sticky", "pinned"] = "sample"
    """How a mixture chooses its expert."""
    expert: int = 0
    """The expert that `--selection pinned` uses."""
    nfe: OptionalNumber = None
    """Sampler steps of a diffusion teacher."""
    seed: int = 0
    """Seed of the expert choice or of the sampler's noise."""
    namespace: str = ""
    """The robot's namespace, for bags of several robots."""
    remap: Remap = ()
    """Names of topics in the bag where they are not the contract's."""
    json: bool = False
    """Print one JSON object: ticks, levels, compared, errors by field, limits, held, held_by,
    log_likelihood and more."""

    def run(self) -> Answer:
        """Replay, compare, write."""
        from contextlib import nullcontext

        from vdd_ros.core.config_io import dump_json, write_atomic
        from vdd_ros.data.bag_files import Bag, BagWriter
        from vdd_ros.data.recording import Names, Recording
        from vdd_ros.evaluation.dry_run import dry_run
        from vdd_ros.evaluation.replay import DryRunSettings

        check_remap(self.remap)
        require_at_least(0, seed=self.seed, expert=self.expert)
        require_at_least(1, nfe=self.nfe)
        bag = Bag(self.bag)
        policy = self._load()
        contract, origin = self._contract(bag, policy)
        recording = Recording(bag, contract, Names(self.namespace, self.remap), need_actions=False)
        settings = DryRunSettings(self.rate_hz, self.trigger, self.pair)
        if self.out:
            require_writable(self.out)
        say(f"replaying {self.bag} through {self.policy}, contract {origin} ...")
        with BagWriter(self.out / "dry_run") if self.out else nullcontext() as out:
            result = dry_run(policy, recording, settings, out=out)
        data = self._data(result, origin)
        text = _describe(result)
        if self.out:
            write_atomic(self.out / "dry_run.json", dump_json(data, indent=2) + "\n")
            text += f"\nwritten: {self.out / 'dry_run'}, {self.out / 'dry_run.json'}"
        again = () if self.out else (f"vdd dry-run {self.policy} {self.bag} --out dry_run",)
        return Answer(data=data, text=text, next_commands=again)

    def _load(self) -> Policy:
        from vdd_ros.core.gating import SelectionSettings
        from vdd_ros.runtime.diffusion_policy import DiffusionSettings, default_settings
        from vdd_ros.runtime.loading import load_policy
        from vdd_ros.runtime.policy_file import PolicyFile

        file = PolicyFile.open(self.policy)
        return load_policy(
            file,
            selection=SelectionSettings(
                rule=self.selection, seed=self.seed, pinned_expert=self.expert
            ),
            diffusion=(
                DiffusionSettings(n_steps=self.nfe, seed=self.seed)
                if self.nfe
                else default_settings(file, seed=self.seed)
            ),
        )

    def _contract(self, bag: Bag, policy: Policy) -> tuple[PolicyContract, str]:
        from vdd_ros.evaluation.dry_run import recorded_contract

        if self.contract:
            return read_contract(self.contract), str(self.contract)
        recorded = recorded_contract(bag)
        if recorded is not None:
            return recorded, "of the node that recorded the bag"
        return policy.contract, "of the policy file"

    def _data(self, result: Result, origin: str) -> dict[str, Any]:
        kept = {f: getattr(result, f) for f in result.__dataclass_fields__ if f != "rows"}
        kept["errors"] = [asdict(entry) for entry in result.errors]
        kept["held"] = [asdict(entry) for entry in result.held]
        return {
            "policy": str(self.policy),
            "bag": str(self.bag),
            "contract": origin,
            "out": None if self.out is None else str(self.out),
            **kept,
        }


def _describe(result: Result) -> str:
    levels = ", ".join(f"{n} {name}" for name, n in result.levels.items() if n)
    lines = [
        f"{result.ticks} ticks in {result.seconds:.1f} s: {levels}",
        f"one decision: p50 {microseconds(result.infer_us['p50'])}, "
        f"p99 {microseconds(result.infer_us['p99'])}",
        "",
    ]
    if result.errors:
        rows = [
            (
                f"{entry.key} [{entry.unit}]" if entry.unit else entry.key,
                *(
                    "-" if value is None else f"{value:.4g}"
                    for value in (
                        entry.mean_abs,
                        entry.rms,
                        entry.p99,
                        entry.max,
                        entry.nearest_expert_rms,
                        entry.change_rms,
                    )
                ),
            )
            for entry in result.errors
        ]
        head = f"predicted - recorded ({result.compared} ticks, by {result.paired_by})"
        columns = ("mean abs", "rms", "p99", "max", "nearest expert rms", "step rms")
        lines.append(table(rows, header=(head, *columns)))
    else:
        lines.append("no recorded command to compare with")
    if result.log_likelihood:
        figures = ", ".join(f"{k} {v:.2f}" for k, v in result.log_likelihood.items())
        lines.append(f"log q(recorded action | observation), nats: {figures}")
    lines.append("")
    lines += [f"limited: {n} x {what}" for what, n in result.limits.items()]
    for spell in result.held[:_SHOWN]:
        lines.append(
            f"held at {spell.begin_s:.2f} s for {spell.duration_s:.2f} s ({spell.level}): "
            f"{spell.reason}"
        )
    if len(result.held) > _SHOWN:
        lines.append(f"... and {len(result.held) - _SHOWN} more spells")
    if not result.held:
        lines.append("the robot would not have been held once")
    if result.damaged:
        lines.append(f"{result.damaged} damaged messages")
    return "\n".join(lines)
