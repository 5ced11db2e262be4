"""`vdd study`: tasks x methods x training seeds, as one table. Needs torch to compute rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vdd_ros.cli.command import Answer, Shipped, require_at_least, say
from vdd_ros.cli.train import require_torch
from vdd_ros.core.errors import VddError

Names = Annotated[
    tuple[str, ...], tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: all)")
]
DEFAULT_CONFIG = "config/study/avoiding_scripted.yaml"


@dataclass(frozen=True, kw_only=True)
class Study:
    """Compare teachers, students and rivals over several training seeds.

    Where there is no simulator, episodes that were kept from training are predicted
    (config/study/heldout.yaml). What is finished is never computed again: the same command
    continues an interrupted study, and tries again what failed (exit status 1).
    """

    data: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="SPEC", help_behavior_hint="(default: what the settings say)"),
    ] = ()
    """Demonstrations: `scripted` or an .npz, or NAME=SPEC for the task of that name alone."""
    config: Shipped = None
    """Settings (YAML); config/study/ has several."""
    out: Path = Path("runs/study")
    """Folder of the study."""
    tasks: Names = ()
    """Compute these tasks of the settings only."""
    rows: Names = ()
    """Compute these rows of the settings only."""
    jobs: int = 1
    """Processes; each uses one core."""
    render_only: Annotated[
        tuple[Path, ...], tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(optional)")
    ] = ()
    """Compute nothing: render and print these studies from the rows they have."""
    record: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(optional)")] = None
    """Also keep settings and rows in this folder, small and without weights (docs/studies/)."""
    page: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(optional)")] = None
    """Put the tables of the --render-only folders between their marks in this page instead."""
    json: bool = False
    """Print one JSON object: tables (paths), studies (means, intervals, differences, curves)."""

    def run(self) -> Answer:
        """Run, or continue, or only print."""
        if self.page is not None:
            return self._paged(self.page)
        tables = [_rendered(folder) for folder in self.render_only] or [self._computed()]
        results = [table.with_name("results.json") for table in tables]
        studies = [json.loads(path.read_text(encoding="utf-8")) for path in results]
        if self.record is not None:
            self._kept(self.record)
        failed = any(study["failures"] for study in studies)
        return Answer(
            data={"tables": [str(table) for table in tables], "studies": studies},
            text="\n".join(table.read_text(encoding="utf-8") for table in tables),
            exit_code=1 if failed and not self.render_only else 0,
        )

    def _paged(self, page: Path) -> Answer:
        from vdd_ros.distill.study.records import refresh_page

        if not self.render_only or self.record is not None:
            raise VddError(
                "--page takes tables from the studies or records of --render-only, and nothing "
                "else; for example: vdd study --render-only docs/studies/* --page docs/results.md"
            )
        changed = refresh_page(page, self.render_only)
        said = "tables renewed" if changed else "its tables are as the rows say"
        return Answer(data={"page": str(page), "changed": changed}, text=f"{page}: {said}")

    def _kept(self, record: Path) -> None:
        from vdd_ros.distill.study.records import keep_record

        if len(self.render_only) > 1:
            raise VddError(f"--record {record}: got several studies, expected one")
        (folder,) = self.render_only or (self.out,)
        keep_record(folder, record)

    def _computed(self) -> Path:
        require_torch("vdd study")
        require_at_least(1, jobs=self.jobs)
        from vdd_ros.core.config_io import load_yaml
        from vdd_ros.core.shipped import shipped_file
        from vdd_ros.distill.study.changes import with_data
        from vdd_ros.distill.study.runner import run_study
        from vdd_ros.distill.study.settings import StudySettings

        settings = load_yaml(StudySettings, self.config or shipped_file(DEFAULT_CONFIG))
        return run_study(
            with_data(settings, self.data),
            self.out,
            jobs=self.jobs,
            tasks=self.tasks,
            rows=self.rows,
            say=lambda note: say(f"note: {note}"),
        )


def _rendered(folder: Path) -> Path:
    from vdd_ros.distill.study.render import render_study

    return render_study(folder)
