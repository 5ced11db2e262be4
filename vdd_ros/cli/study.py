"""`vdd study`: teachers and students over several seeds, as one table. Needs torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from vdd_ros.cli.command import Answer, Shipped, require_at_least
from vdd_ros.cli.train import require_torch

DEFAULT_CONFIG = "config/study/avoiding_scripted.yaml"


@dataclass(frozen=True, kw_only=True)
class Study:
    """Compare teacher, student and controls over several training seeds.

    What is finished is never computed again: the same command continues an interrupted study.
    """

    data: str = "scripted"
    """`scripted`, or the path of an .npz with demonstrations."""
    config: Shipped = None
    """Settings (YAML)."""
    out: Path = Path("runs/study")
    """Folder of the study."""
    jobs: int = 1
    """Processes; each uses one core."""
    json: bool = False
    """Print one JSON object: table, rows."""

    def run(self) -> Answer:
        """Run, or continue, the study."""
        require_torch("vdd study")
        require_at_least(1, jobs=self.jobs)
        from vdd_ros.core.config_io import load_yaml
        from vdd_ros.core.shipped import shipped_file
        from vdd_ros.distill.study import StudySettings, read_rows, run_study

        settings = load_yaml(StudySettings, self.config or shipped_file(DEFAULT_CONFIG))
        table = run_study(settings, self.data, self.out, jobs=self.jobs)
        rows = [asdict(row) for row in read_rows(self.out)]
        return Answer(
            data={"table": str(table), "rows": rows},
            text=table.read_text(encoding="utf-8"),
        )
