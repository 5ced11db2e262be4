"""`vdd doctor`: is everything here that the robot, the demo and the training need?"""

from __future__ import annotations

from dataclasses import dataclass

from vdd_ros.cli.command import Answer


@dataclass(frozen=True)
class Doctor:
    """Check this machine: interpreter, libraries, ROS 2, shipped models, permissions.

    Exit status 0 where everything that is needed is there, 1 otherwise. What is only wanted
    sometimes (torch, real-time permissions) counts as well when it is absent, and says so.
    """

    json: bool = False
    """Print one JSON object: checks [{name, ok, detail, fix}]."""

    def run(self) -> Answer:
        """Run every check."""
        from vdd_ros.cli.checks.table import run_checks

        checks = run_checks()
        failed = [check for check in checks if not check.ok]
        lines = []
        for check in checks:
            lines.append(f"{check.mark:>4}  {check.name:<18} {check.detail}")
            if check.fix:
                lines.append(f"{'':6}{'':<18} -> {check.fix}")
        lines.append("")
        lines.append(
            f"{len(failed)} of {len(checks)} checks failed: {', '.join(c.name for c in failed)}"
            if failed
            else f"all {len(checks)} checks passed"
        )
        return Answer(
            data={
                "checks": [
                    {"name": c.name, "ok": c.ok, "detail": c.detail, "fix": c.fix} for c in checks
                ]
            },
            text="\n".join(lines),
            next_commands=("vdd doctor",) if failed else ("vdd demo",),
            exit_code=1 if failed else 0,
        )
