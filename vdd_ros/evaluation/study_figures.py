"""Pictures of a study: rows with their intervals, and learning curves against processor time.

Every function takes plain numbers and returns the PNG as bytes. What others published is drawn as
a hollow mark and said to be published.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vdd_ros.evaluation import palette
from vdd_ros.evaluation.canvas import empty_figure, house_style, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vP*X<>hp"


@dataclass(frozen=True)
class Line:
    """One row of a study."""

    name: str
    """What it is called."""
    values: Mapping[str, tuple[float, float]]
    """(mean, half width of the interval, NaN for none) by figure: success, entropy, ..."""
    cpu_s: Sequence[float] = ()
    """Processor seconds of training at the points of the curve."""
    curve: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """(mean, half width) at these points, by figure."""
    published: float | None = None
    """Published success of the same method, if there is one."""


@house_style()
def interval_figure(lines: Sequence[Line], *, title: str) -> bytes:
    """One panel per figure, one row per policy: mean and interval; returns a PNG."""
    names = _names(lines)
    figure = empty_figure(2.2 + 2.7 * len(names), 1.3 + 0.34 * len(lines))
    for index, name in enumerate(names):
        axis = figure.add_subplot(1, len(names), index + 1)
        for place, line in enumerate(lines):
            if name not in line.values:
                continue
            mean, half = line.values[name]
            axis.errorbar(
                mean,
                place,
                xerr=None if math.isnan(half) else half,
                marker=_MARKERS[place % len(_MARKERS)],
                ms=6,
                capsize=3,
                color=palette.expert_colour(place),
            )
            if name == "success" and line.published is not None:
                axis.plot(line.published, place, marker="o", ms=9, mfc="none", mec=palette.FAINT)
        axis.set_yticks(range(len(lines)), [line.name for line in lines] if index == 0 else [])
        axis.set_ylim(len(lines) - 0.5, -0.5)
        axis.grid(True, axis="x", color=palette.OBSTACLE, lw=0.6, alpha=0.7)
        published = name == "success" and any(line.published is not None for line in lines)
        axis.set_xlabel(f"{name}\n(circle: published)" if published else name)
    figure.suptitle(title, x=0.015, ha="left")
    return png_bytes(figure)


@house_style()
def curve_figure(lines: Sequence[Line], *, title: str, shares: Collection[str]) -> bytes:
    """Figures along the training against processor time, with bands; returns a PNG.

    ``shares`` names the figures between 0 and 1, which get that whole range.
    """
    names = [name for name in _names(lines) if any(name in line.curve for line in lines)]
    figure = empty_figure(1.6 + 3.6 * len(names), 4.2)
    axes = [figure.add_subplot(1, len(names), index + 1) for index in range(len(names))]
    for axis, name in zip(axes, names, strict=True):
        for place, line in enumerate(lines):
            if len(line.cpu_s) > 1 and name in line.curve:
                _draw_curve(axis, line, name, place, is_share=name in shares)
        axis.set(title=name, xlabel="training, CPU s")
        if name in shares:
            axis.set_ylim(-0.03, 1.03)
        axis.set_xlim(left=0.0)
        axis.grid(True, color=palette.OBSTACLE, lw=0.6, alpha=0.7)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
    figure.suptitle(title, x=0.015, ha="left")
    return png_bytes(figure)


def _names(lines: Sequence[Line]) -> list[str]:
    """Return every figure that some line has, once."""
    return list(dict.fromkeys(name for line in lines for name in line.values))


def _draw_curve(axis: Axes, line: Line, name: str, place: int, *, is_share: bool) -> None:
    colour = palette.expert_colour(place)
    means = [mean for mean, _ in line.curve[name]]
    marker = _MARKERS[place % len(_MARKERS)]
    axis.plot(line.cpu_s, means, color=colour, marker=marker, ms=4, lw=1.6, label=line.name)
    halves = [0.0 if math.isnan(half) else half for _, half in line.curve[name]]
    least, most = (0.0, 1.0) if is_share else (-math.inf, math.inf)
    low = [max(mean - half, least) for mean, half in zip(means, halves, strict=True)]
    high = [min(mean + half, most) for mean, half in zip(means, halves, strict=True)]
    axis.fill_between(line.cpu_s, low, high, color=colour, alpha=0.13, lw=0)
