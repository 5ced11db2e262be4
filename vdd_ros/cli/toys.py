"""`vdd toys`: learn problems whose truth is known, and say how well. Needs torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from vdd_ros.cli.command import Answer, Shipped, require_at_least
from vdd_ros.cli.train import require_torch

DEFAULT_CONFIG = "config/study/toys.yaml"


@dataclass(frozen=True, kw_only=True)
class Toys:
    """Learn toy problems whose truth is known, and compare with it.

    A minute or two per toy. What is finished is never computed again: the same command continues,
    and more toys, variants or seeds are added to the same folder.
    """

    toys: tuple[str, ...] = ("ring", "grid", "moons")
    """ring, skewed-ring, rotating-ring, grid, moons, exact-moons."""
    variants: tuple[str, ...] = ("vdd-diffused",)
    """vdd-diffused, vdd-mixed, vdd, vdd-warm, em, paper, teacher."""
    seeds: int = 3
    """Seeds of each."""
    config: Shipped = None
    """Settings (YAML)."""
    out: Path = Path("runs/toys")
    """Folder of rows, table and picture."""
    json: bool = False
    """Print one JSON object: table, figure, rows."""

    def run(self) -> Answer:
        """Run, or continue."""
        require_torch("vdd toys")
        require_at_least(1, seeds=self.seeds)
        from vdd_ros.core.config_io import load_yaml
        from vdd_ros.core.shipped import shipped_file
        from vdd_ros.distill.toys.recipes import ToySettings
        from vdd_ros.distill.toys.study import FIGURE, read_toy_rows, run_toys

        settings = load_yaml(ToySettings, self.config or shipped_file(DEFAULT_CONFIG))
        table = run_toys(
            settings, self.out, toys=self.toys, variants=self.variants, seeds=self.seeds
        )
        figure = self.out / FIGURE
        rows = [asdict(row) for row in read_toy_rows(self.out)]
        return Answer(
            data={"table": str(table), "figure": str(figure), "rows": rows},
            text=f"{table.read_text(encoding='utf-8').rstrip()}\n\npicture: {figure}",
        )
