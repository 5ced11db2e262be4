"""`vdd contract`: does a contract fit its message types, a policy, and the robot that is there?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vdd_ros.cli.command import Answer, File, OptionalPath

if TYPE_CHECKING:
    from vdd_ros.codecs.check import Report
    from vdd_ros.core.contract import PolicyContract


@dataclass(frozen=True)
class Check:
    """Check a contract in full and say everything that does not fit.

    Without --live neither ROS nor torch is needed. Exit status 1 where something has to be
    corrected; notes point at what is legal but seldom meant.
    """

    file: File
    """The contract (.yaml), or a policy file (.onnx) for the contract inside."""
    policy: OptionalPath = None
    """Policy file that shall run under this contract: vectors, units and steps are compared."""
    live: bool = False
    """Compare with what is published now: types, quality of service, publishers, joints."""
    namespace: str = ""
    """Namespace of the robot's topics, with --live."""
    seconds: float = 3.0
    """Longest wait for the robot, with --live."""
    json: bool = False
    """Print one JSON object: misfits, notes, topics."""

    def run(self) -> Answer:
        """Check the file, then the policy, then the robot."""
        from vdd_ros.codecs.check import check_contract, check_file, compare
        from vdd_ros.core.errors import VddError

        if not 0 < self.seconds <= 600:
            raise VddError(f"--seconds: got {self.seconds}, expected more than 0, at most 600")
        if self.file.suffix == ".onnx":
            report = check_contract(_inside(self.file))
        else:
            report = check_file(self.file)
        reports = [report]
        topics: list[str] = []
        if report.contract is not None and self.policy is not None:
            reports.append(compare(report.contract, _inside(self.policy)))
        if self.live and report.contract is not None and not report.misfits:
            from vdd_ros.nodes.contract_probe import probe

            live, topics = probe(report.contract, namespace=self.namespace, wait_s=self.seconds)
            reports.append(live)
        return self._answer(reports, topics)

    def _answer(self, reports: list[Report], topics: list[str]) -> Answer:
        misfits = [text for report in reports for text in report.misfits]
        notes = [text for report in reports for text in report.notes]
        lines = [f"misfit: {text}" for text in misfits]
        lines += [f"note: {text}" for text in notes]
        if self.live and reports[0].misfits:
            lines.append("note: the robot was not asked: correct the contract first")
        lines += topics
        verdict = f"{len(misfits)} to correct" if misfits else "fits"
        contract = reports[0].contract
        if contract is not None:
            verdict += (
                f": {contract.name}, {contract.dim_obs} values in, {contract.dim_act} out at "
                f"{contract.rate_hz:g} Hz"
            )
        asked = "" if self.live else f"vdd contract check {self.file} --live"
        return Answer(
            data={"misfits": misfits, "notes": notes, "topics": topics, "ok": not misfits},
            text="\n".join([*lines, f"{self.file}: {verdict}"]),
            next_commands=(asked,) if asked and not misfits else (),
            exit_code=1 if misfits else 0,
        )


def _inside(path: Path) -> PolicyContract:
    from vdd_ros.runtime.policy_file import PolicyFile

    return PolicyFile.open(path).contract


@dataclass(frozen=True)
class FromBag:
    """Draft a contract from a recording: topics, types, joint names, measured rates and ranges.

    The draft is a start: comments in it mark what a person must decide.
    """

    bag: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BAG")]
    """The recording: a rosbag2 folder, or an .mcap or .db3 file."""
    out: Path
    """Where the contract is written; an existing file is not overwritten."""
    actions: str = ""
    """Topics that carry commands, with commas between them; guessed by name and type otherwise."""
    name: str = "robot"
    """Name of the task or robot, for people."""
    json: bool = False
    """Print one JSON object: contract, observations, actions, left_out."""

    def run(self) -> Answer:
        """Read the bag, write the draft, and check that it loads."""
        from vdd_ros.codecs.check import check_file
        from vdd_ros.core.config_io import write_atomic
        from vdd_ros.core.errors import VddError
        from vdd_ros.data.bag_draft import draft
        from vdd_ros.data.bag_files import Bag

        if self.out.exists():
            raise VddError(f"{self.out}: exists already; choose another name or remove it")
        wanted = tuple(word.strip() for word in self.actions.split(",") if word.strip())
        drafted = draft(Bag(self.bag), name=self.name, actions=wanted)
        write_atomic(self.out, drafted.text)
        report = check_file(self.out)
        lines = [f"misfit: {text}" for text in report.misfits]
        lines += [f"left out: {text}" for text in drafted.left_out]
        lines.append(
            f"{self.out}: {len(drafted.observations)} observed and {len(drafted.actions)} "
            "commanded topics; decide what its comments ask"
        )
        return Answer(
            data={
                "contract": str(self.out),
                "observations": list(drafted.observations),
                "actions": list(drafted.actions),
                "left_out": list(drafted.left_out),
            },
            text="\n".join(lines),
            next_commands=(f"vdd contract check {self.out}",),
        )


@dataclass(frozen=True)
class Contract:
    """Check or draft a contract: what a policy reads and writes, topic by topic."""

    do: Annotated[
        Annotated[Check, tyro.conf.subcommand("check")]
        | Annotated[FromBag, tyro.conf.subcommand("from-bag")],
        tyro.conf.OmitSubcommandPrefixes,
        tyro.conf.OmitArgPrefixes,
    ]
    """What to do."""

    @property
    def json(self) -> bool:
        """Print one JSON object instead of text."""
        return self.do.json

    def run(self) -> Answer:
        """Do it."""
        return self.do.run()
