"""A picture of plane toys: what every method learnt of each, in one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError
from vdd_ros.evaluation import palette
from vdd_ros.evaluation.canvas import empty_figure, house_style, png_bytes


@dataclass(frozen=True)
class ToyPanel:
    """Samples of one method on one toy."""

    row: str
    """The toy."""
    column: str
    """The method."""
    action: NDArray[np.floating]
    """[S, 2] samples."""
    expert: NDArray[np.integer]
    """[S] the expert that made each; -1 for none."""
    mean: NDArray[np.floating]
    """[K, 2] means of the experts in use."""


@house_style()
def toy_figure(panels: Sequence[ToyPanel]) -> bytes:
    """Draw samples in the colours of their experts, and the experts' means; returns a PNG.

    Args:
        panels: in reading order; toys become rows, methods columns, absent pairs stay empty. All
            panels of a row have the same axes.

    Raises:
        VddError: nothing to draw.
    """
    if not panels:
        raise VddError("toys: nothing to draw; run at least one toy with seed 0")
    rows = list(dict.fromkeys(panel.row for panel in panels))
    columns = list(dict.fromkeys(panel.column for panel in panels))
    figure = empty_figure(2.3 * len(columns) + 0.3, 2.35 * len(rows) + 0.3)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for panel in panels:
        axis = axes[rows.index(panel.row), columns.index(panel.column)]
        colours = [palette.expert_colour(int(expert)) for expert in panel.expert]
        axis.scatter(*panel.action.T, s=2.0, c=colours, alpha=0.5, lw=0, rasterized=True)
        axis.scatter(*panel.mean.T, s=9, c=palette.INK, marker="x", lw=0.8)
        reach = _reach([p for p in panels if p.row == panel.row])
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    for number, name in enumerate(columns):
        axes[0, number].set_title(name, fontsize=10)
    for number, name in enumerate(rows):
        axes[number, 0].annotate(
            name,
            (-0.06, 0.5),
            xycoords="axes fraction",
            rotation=90,
            ha="center",
            va="center",
            color=palette.INK,
        )
    return png_bytes(figure)


def _reach(panels: Sequence[ToyPanel]) -> float:
    """Half the side of a square about the origin that holds nearly all samples of a row."""
    far = [float(np.quantile(np.abs(panel.action), 0.995)) for panel in panels]
    return 1.1 * float(np.median(far))
