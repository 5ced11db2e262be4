"""Many toys, many ways to learn them, many seeds: one row each, and the table they make."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from vdd_ros.core.config_io import load_json, to_dict, write_atomic
from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.distill.study.summary import mean_and_interval
from vdd_ros.distill.toys.recipes import VARIANTS, ToySettings, describe_variants
from vdd_ros.distill.toys.training import ToyFigures, ToyPicture, run_toy
from vdd_ros.distill.toys.truths import TOYS
from vdd_ros.evaluation.toy_figures import ToyPanel, toy_figure

SETTINGS = "toys.json"
ROWS = "rows.jsonl"
TABLE = "table.md"
FIGURE = "toys.png"

# The seed whose samples are drawn.
_DRAWN_SEED = 0


def run_toys(
    settings: ToySettings,
    out_dir: str | Path,
    *,
    toys: Sequence[str],
    variants: Sequence[str],
    seeds: int,
) -> Path:
    """Compute every run that ``out_dir`` does not hold yet, then table and picture of all it has.

    Args:
        settings: how toys are learnt; a folder belongs to one.
        out_dir: keeps ``rows.jsonl``, ``table.md``, ``toys.png`` and what the picture shows.
        toys: names of toys.
        variants: ways to learn them.
        seeds: 0 to seeds - 1.

    Returns:
        The path of the table.

    Raises:
        VddError: unknown names, or a folder with runs of other settings.
    """
    for what, names, known in (("toy", toys, TOYS), ("variant", variants, VARIANTS)):
        if not names:
            raise VddError(f"no {what} named; known: {', '.join(known)}")
        for name in names:
            if name not in known:
                raise VddError(f"{what}: got '{name}'{did_you_mean(name, known)}")
    if seeds < 1:
        raise VddError(f"seeds: got {seeds}, expected at least 1")
    folder = Path(out_dir)
    _claim(folder, settings)
    rows = read_toy_rows(folder)
    done = {(row.toy, row.variant, row.seed) for row in rows}
    # Seeds outside variants: the learned teacher of one seed then serves all of them.
    for toy, seed, variant in _runs(toys, variants, seeds):
        if (toy, variant, seed) in done:
            continue
        figures, picture = run_toy(toy, variant, seed, settings)
        if seed == _DRAWN_SEED:
            _keep_picture(folder, figures, picture)
        rows.append(figures)
        write_atomic(folder / ROWS, "".join(json.dumps(asdict(row)) + "\n" for row in rows))
    write_atomic(folder / TABLE, render_toys(rows) + "\n")
    panels = _panels(folder, rows)
    if panels:
        write_atomic(folder / FIGURE, toy_figure(panels))
    return folder / TABLE


def read_toy_rows(folder: str | Path) -> list[ToyFigures]:
    """Return the finished runs of a folder.

    Raises:
        VddError: a line that is not a run.
    """
    path = Path(folder) / ROWS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [load_json(ToyFigures, line, where=f"{path}:{n}") for n, line in enumerate(lines, 1)]


def render_toys(rows: Iterable[ToyFigures]) -> str:
    """Return a Markdown table: mean over seeds and 95 % interval of every figure."""
    lines = [
        "| toy | learnt by | seeds | forward KL (nat) | reverse KL (nat) | sliced W1 | modes "
        "| seeds with all | entropy / truth's | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    names = describe_variants()
    for group in _groups(rows):
        first = group[0]
        found_all = sum(row.modes >= row.n_modes for row in group)
        cells = [
            first.toy,
            names[first.variant],
            str(len(group)),
            _cell([row.forward_kl for row in group]),
            _cell([row.reverse_kl for row in group]),
            _cell([row.sliced_wasserstein for row in group]),
            f"{np.mean([row.modes for row in group]):.1f} / {first.n_modes}",
            f"{found_all} / {len(group)}",
            _cell([row.entropy for row in group]),
            f"{np.mean([row.cpu_s for row in group]):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _runs(
    toys: Sequence[str], variants: Sequence[str], seeds: int
) -> Iterator[tuple[str, int, str]]:
    for toy in toys:
        for seed in range(seeds):
            for variant in variants:
                yield toy, seed, variant


def _groups(rows: Iterable[ToyFigures]) -> Iterator[list[ToyFigures]]:
    """Yield the seeds of each toy and variant, in reading order."""
    rows = list(rows)
    for toy in TOYS:
        for variant in VARIANTS:
            group = [row for row in rows if (row.toy, row.variant) == (toy, variant)]
            if group:
                yield group


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean, half = mean_and_interval(known)
    digits = 1 if abs(mean) >= 10 else 2 if abs(mean) >= 1 else 4
    shown = f"{mean:.{digits}f}"
    return shown if math.isnan(half) else f"{shown} ± {half:.{digits}f}"


def _claim(folder: Path, settings: ToySettings) -> None:
    """Make sure that one folder holds runs of one recipe."""
    path = folder / SETTINGS
    if (folder / ROWS).exists() and not _same(path, settings):
        raise VddError(
            f"{folder}: holds runs with other settings; choose another folder (--out), or "
            f"delete {folder / ROWS} to begin again"
        )
    write_atomic(path, json.dumps(to_dict(settings), indent=2) + "\n")


def _same(path: Path, settings: ToySettings) -> bool:
    """Tell whether the settings in a file mean these: what they do not name has its default."""
    try:
        kept = load_json(ToySettings, path.read_text(encoding="utf-8"), where="")
    except (OSError, VddError):
        return False
    # The rivals' own settings are of no account here.
    own = settings.distill
    used = replace(
        kept.distill, imc=own.imc, consistency=own.consistency, trajectory=own.trajectory
    )
    return replace(kept, distill=used) == settings


def _keep_picture(folder: Path, figures: ToyFigures, picture: ToyPicture) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **asdict(picture))
    write_atomic(folder / f"{figures.toy}-{figures.variant}.npz", buffer.getvalue())


def _panels(folder: Path, rows: Sequence[ToyFigures]) -> list[ToyPanel]:
    names, panels = describe_variants(), []
    for row in rows:
        path = folder / f"{row.toy}-{row.variant}.npz"
        if row.seed != _DRAWN_SEED or not path.exists():
            continue
        with np.load(path, allow_pickle=False) as kept:
            panels.append(
                ToyPanel(
                    row=row.toy,
                    column=names[row.variant],
                    action=kept["action"],
                    expert=kept["expert"],
                    mean=kept["mean"],
                )
            )
    toy_order: list[str] = list(TOYS)
    variant_order = list(names.values())
    return sorted(panels, key=lambda p: (toy_order.index(p.row), variant_order.index(p.column)))
