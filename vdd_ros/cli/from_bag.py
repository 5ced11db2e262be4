"""`vdd from-bag`: ROS bags to demonstrations, through the contract the robot runs with."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vdd_ros.cli.bags import OptionalRate, Remap, check_remap, milliseconds, read_contract
from vdd_ros.cli.command import Answer, require_writable, say, table

if TYPE_CHECKING:
    from vdd_ros.data.bag_audit import Audit


@dataclass(frozen=True)
class FromBag:
    """Turn ROS bags (MCAP or sqlite3) into demonstrations to train on, without ROS.

    Messages become rows exactly as in the node: fields by name, the newest sample of every topic,
    gated by age and skew. An audit says what was found on every topic and what was left out, and
    why.
    """

    bag: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="BAG [BAG ...]")]]
    """rosbag2 folders, .mcap or .db3 files; each is an episode or several."""
    contract: Path
    """Contract YAML of the robot, or a policy file that holds one."""
    out: Path
    """Where the demonstrations go (.npz)."""
    rate_hz: OptionalRate = None
    """Rows at this fixed rate; by default one whenever every observed topic has delivered."""
    pair: Literal["auto", "stamp", "next", "latest"] = "auto"
    """Which command belongs to an observation: the one with its stamp, the next one sent, or the
    latest one before it. auto: stamp where at least half of the rows have one, else next."""
    gap_s: OptionalRate = None
    """Seconds without a row that end an episode; five control periods by default."""
    min_rows: int = 2
    """Shorter episodes are left out."""
    namespace: str = ""
    """The robot's namespace, for bags of several robots."""
    remap: Remap = ()
    """Names of topics in the bag where they are not the contract's."""
    json: bool = False
    """Print one JSON object: out, rows, episodes, dropped, paired_by, warnings and, per topic, the
    audit."""

    def run(self) -> Answer:
        """Read, audit, write."""
        from vdd_ros.core.errors import VddError
        from vdd_ros.data.bag_rows import Alignment
        from vdd_ros.data.npz import save_npz
        from vdd_ros.data.recording import Names
        from vdd_ros.data.rosbag import load_bags

        check_remap(self.remap)
        if not self.bag:
            raise VddError("from-bag: name at least one bag")
        if self.out.suffix != ".npz":
            raise VddError(f"--out: got {self.out}, expected a file name that ends in .npz")
        require_writable(self.out.parent)
        contract = read_contract(self.contract)
        alignment = Alignment(
            rate_hz=self.rate_hz,
            pair=self.pair,
            gap_s=self.gap_s,
            min_rows=self.min_rows,
            names=Names(self.namespace, self.remap),
        )
        say(f"reading {len(self.bag)} bag(s) through '{contract.name}' ...")
        demos, audit = load_bags(self.bag, contract, alignment)
        save_npz(demos, self.out)
        data = {
            "out": str(self.out),
            "data_hash": demos.data_hash(),
            "dim_obs": demos.dim_obs,
            "dim_act": demos.dim_act,
            **asdict(audit),
            "warnings": audit.warnings,
        }
        return Answer(
            data=data,
            text=_describe(audit, self.out),
            next_commands=(f"vdd train-teacher --data {shlex.quote(str(self.out))}",),
        )


def _describe(audit: Audit, out: Path) -> str:
    rows = [
        (
            f"{entry.role} {entry.topic}",
            str(entry.messages),
            f"{entry.rate_hz:.1f}",
            str(entry.gaps),
            f"{entry.longest_gap_s:.2f}",
            milliseconds(entry.age_p50_ms),
            milliseconds(entry.age_p99_ms),
            milliseconds(entry.age_max_ms),
        )
        for entry in audit.fields
    ]
    header = ("topic", "messages", "Hz", "gaps", "longest s", "age p50 ms", "p99", "max")
    lines = [table(rows, header=header), ""]
    lines.append(
        f"{audit.rows} rows in {audit.episodes} episodes at {audit.rate_hz:.1f} Hz, commands "
        f"found by {audit.paired_by}"
    )
    lines += [f"left out: {n} x {reason}" for reason, n in audit.dropped.items()]
    lines += [f"look at: {text}" for text in audit.warnings]
    lines.append(f"written: {out}")
    return "\n".join(lines)
