"""Pictures of what a policy does: its ways, its modes, its gate, its speed.

Every function takes plain arrays and returns the PNG as bytes, so that the caller decides where it
goes and can write it in one step. matplotlib is imported inside, without a window system.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vdd_ros.evaluation import palette
from vdd_ros.evaluation.canvas import empty_figure, house_style, png_bytes
from vdd_ros.tasks import avoiding

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]

X_RANGE = (0.22, 0.78)
"""What is drawn of the table (m): all six obstacles, the start and the finish line."""
Y_RANGE = (-0.31, 0.41)
"""The same from near to far."""


@dataclass(frozen=True)
class Ways:
    """The rollouts of one policy, as they are drawn."""

    trajectory: Floats
    """[N, T+1, 2] positions in metres; NaN after a rollout's end."""
    expert: Integers
    """[N, T] the expert that took each step; -1 for none."""
    success: NDArray[np.bool_]
    """[N] which rollouts reached the goal."""
    mode: Integers
    """[N] the way each one took, -1 where undecided."""

    def mode_counts(self, n_modes: int) -> NDArray[np.int64]:
        """Successful rollouts per mode [n_modes]."""
        taken = self.mode[self.success & (self.mode >= 0)]
        return np.bincount(taken, minlength=n_modes).astype(np.int64)


@house_style()
def trajectory_figure(ways: Ways, *, title: str) -> bytes:
    """Every rollout from above, coloured by the expert that acted; returns a PNG."""
    figure = empty_figure(6.2, 6.9)
    axis = figure.add_subplot()
    draw_ways(axis, ways)
    axis.set_title(title)
    return png_bytes(figure)


@house_style()
def mode_figure(counts: Integers, *, title: str, teacher_counts: Integers | None = None) -> bytes:
    """How often each of the 24 ways was taken, beside the teacher's where given; a PNG.

    Args:
        counts: [24] successful rollouts per mode.
        title: of the picture.
        teacher_counts: [24] the same for the teacher.
    """
    figure = empty_figure(9.0, 3.4)
    axis = figure.add_subplot()
    draw_modes(axis, counts, teacher_counts=teacher_counts)
    axis.set_title(title, loc="left")
    return png_bytes(figure)


@house_style()
def gate_figure(entropy: Floats, *, x: Floats, y: Floats, title: str) -> bytes:
    """How undecided the gate is, over the plane; returns a PNG.

    Args:
        entropy: [Y, X] gate entropy as a share of log n_experts, 0..1.
        x: [X] positions of the columns in metres.
        y: [Y] positions of the rows in metres.
        title: of the picture.
    """
    figure = empty_figure(6.8, 6.9)
    axis = figure.add_subplot()
    mesh = axis.pcolormesh(x, y, entropy, cmap="cividis", vmin=0.0, vmax=1.0, shading="nearest")
    draw_table(axis, finish_colour="white")
    bar = figure.colorbar(mesh, ax=axis, shrink=0.8, pad=0.02)
    bar.set_label("gate entropy / log(number of experts)")
    bar.outline.set_visible(False)
    axis.set_title(title)
    return png_bytes(figure)


@house_style()
def demo_figure(
    ways: Ways,
    *,
    latency_us: Mapping[str, Floats],
    title: str,
    caption: str,
    policy_sha256: str = "",
) -> bytes:
    """The demo in one picture: ways, modes and latencies; returns a PNG.

    Args:
        ways: the closed-loop rollouts.
        latency_us: what every tick cost in microseconds, by "policy" and "teacher".
        title: the headline.
        caption: one line below it.
        policy_sha256: of the policy file that drove; kept inside the picture (text `Policy`), so
            that a picture can be traced to what it shows.
    """
    figure = empty_figure(11.0, 6.6)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.0, 1.18))
    draw_ways(figure.add_subplot(grid[:, 0]), ways)
    modes = figure.add_subplot(grid[0, 1])
    draw_modes(modes, ways.mode_counts(avoiding.N_MODES))
    modes.set_title("Which of the 24 ways were taken", loc="left")
    speed = figure.add_subplot(grid[1, 1])
    draw_latency(speed, latency_us)
    speed.set_title("Inference time per action", loc="left")
    figure.suptitle(f"{title}\n\n", x=0.015, ha="left", fontsize=15, fontweight="bold")
    figure.text(0.015, 0.928, caption, color=palette.FAINT, fontsize=10.5, va="center")
    return png_bytes(figure, notes={"Policy": policy_sha256} if policy_sha256 else {})


def draw_table(axis: Axes, *, finish_colour: str = palette.FAINT) -> None:
    """Draw start, finish and obstacles, with a rim the centre of the rod must stay out of."""
    from matplotlib.patches import Circle

    for (x, y), radius in zip(avoiding.OBSTACLE_XY, avoiding.OBSTACLE_RADIUS_M, strict=True):
        keep_out = radius + avoiding.ROD_RADIUS_M
        axis.add_patch(
            Circle((x, y), keep_out, color=palette.OBSTACLE, alpha=0.45, lw=0, zorder=2)
        )
        axis.add_patch(Circle((x, y), radius, color=palette.OBSTACLE, lw=0, zorder=2))
    axis.axhline(avoiding.GOAL_Y_M, color=finish_colour, lw=1.2, ls=(0, (4, 3)), zorder=1)
    axis.annotate(
        "finish",
        (X_RANGE[0] + 0.006, avoiding.GOAL_Y_M + 0.006),
        color=finish_colour,
        fontsize=9,
    )
    axis.plot(*avoiding.START, marker="o", ms=7, mfc="white", mec=palette.INK, mew=1.6, zorder=6)
    axis.annotate(
        "start",
        (avoiding.START[0] + 0.014, avoiding.START[1] - 0.006),
        fontsize=9,
        color=finish_colour if finish_colour != palette.FAINT else palette.INK,
    )
    axis.set(xlim=X_RANGE, ylim=Y_RANGE, aspect="equal", xlabel="x (m)", ylabel="y (m)")
    axis.grid(False)


def draw_ways(axis: Axes, ways: Ways) -> None:
    """Draw every rollout step by step in the colour of the expert that took the step."""
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    draw_table(axis)
    pieces = np.stack([ways.trajectory[:, :-1], ways.trajectory[:, 1:]], axis=2)
    known = np.isfinite(pieces).all(axis=(2, 3))
    experts = ways.expert[known]
    used, steps = np.unique(experts, return_counts=True)
    colours = {int(e): palette.expert_colour(int(e)) for e in used}
    # Many rollouts on one spot would hide each other: the more there are, the fainter each is.
    n = len(ways.trajectory)
    alpha = float(np.clip(40.0 / max(n, 1), 0.3, 0.85))
    lines = LineCollection(
        list(pieces[known]),
        colors=[colours[int(e)] for e in experts],
        linewidths=1.5 if n <= 100 else 1.0,
        alpha=alpha,
        zorder=4,
    )
    axis.add_collection(lines)
    ends = np.array([_last_point(t) for t in ways.trajectory[~ways.success]]).reshape(-1, 2)
    axis.plot(*ends.T, ls="", marker="x", ms=6, mew=1.6, color=palette.FAILURE, zorder=7)
    # The eighteen that act most are named, in the order of their numbers.
    by_use = np.sort(used[np.argsort(-steps, kind="stable")][:18])
    handles = [
        Line2D([], [], color=colours[int(e)], lw=4, label=str(e) if e >= 0 else "no expert")
        for e in by_use
    ]
    if len(used) > len(by_use):
        rest = f"+ {len(used) - len(by_use)}"
        handles.append(Line2D([], [], color="none", label=rest))
    legend = axis.legend(
        handles=handles,
        title="expert" if used.max(initial=-1) >= 0 else None,
        alignment="left",
        loc="lower left",
        ncols=1 + len(handles) // 10,
        handlelength=1.0,
        columnspacing=1.0,
        borderaxespad=0.4,
    )
    if len(ends):
        # Beside the experts and not among them: failing is no expert's name.
        axis.add_artist(legend)
        cross = Line2D([], [], ls="", marker="x", mew=1.6, color=palette.FAILURE, label="failed")
        axis.legend(handles=[cross], loc="lower right", handlelength=1.0, borderaxespad=0.4)


def draw_modes(axis: Axes, counts: Integers, *, teacher_counts: Integers | None = None) -> None:
    """Draw the share of successful rollouts per way, grouped by the gaps of rows one and two."""
    series = [("student", np.asarray(counts), palette.STUDENT)]
    if teacher_counts is not None:
        series.append(("teacher", np.asarray(teacher_counts), palette.TEACHER))
    index = np.arange(avoiding.N_MODES)
    width = 0.8 / len(series)
    for position, (name, values, colour) in enumerate(series):
        share = 100.0 * values / max(int(values.sum()), 1)
        offset = (position - (len(series) - 1) / 2) * width
        axis.bar(index + offset, share, width * 0.94, color=colour, label=name)
    axis.axhline(100.0 / avoiding.N_MODES, color=palette.FAINT, lw=1, ls=(0, (4, 3)), zorder=3)
    for edge in range(4, avoiding.N_MODES, 4):
        axis.axvline(edge - 0.5, color=palette.OBSTACLE, lw=0.8, zorder=0)
    names = [avoiding.mode_name(4 * group).split(" / ") for group in range(6)]
    axis.set_xticks(
        [4 * group + 1.5 for group in range(6)], [f"{one},\n{two}" for one, two, _ in names]
    )
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.7, avoiding.N_MODES - 0.3)
    axis.set_ylabel("successful\nrollouts (%)")
    axis.set_xlabel("gap in row 1, gap in row 2; four bars each: gap in row 3 from left to right")
    axis.xaxis.label.set(color=palette.FAINT, size=9)
    if teacher_counts is not None:
        axis.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1)
    axis.annotate(
        "even",
        (avoiding.N_MODES - 0.35, 100.0 / avoiding.N_MODES),
        fontsize=8,
        color=palette.FAINT,
        va="center",
        annotation_clip=False,
    )


def draw_latency(axis: Axes, latency_us: Mapping[str, Floats]) -> None:
    """Draw which share of the ticks was done within how many microseconds, with p50 and p99."""
    colours = {"policy": palette.STUDENT, "student": palette.STUDENT, "teacher": palette.TEACHER}
    ends = []
    for name, samples in latency_us.items():
        ordered = np.sort(np.asarray(samples, np.float64))
        ordered = ordered[np.isfinite(ordered) & (ordered > 0)]
        if len(ordered) == 0:
            continue
        colour = colours.get(name, palette.INK)
        share = 100.0 * (1 + np.arange(len(ordered))) / len(ordered)
        axis.step(ordered, share, where="post", color=colour, lw=2.2, label=name)
        p50, p99 = np.percentile(ordered, [50, 99])
        axis.plot([p50, p99], [50, 99], ls="", marker="o", ms=5.5, color=colour, zorder=5)
        axis.annotate(
            f"{name}\np50 {_microseconds(p50)}\np99 {_microseconds(p99)}",
            (p50, 50),
            xytext=(9, -3),
            textcoords="offset points",
            color=colour,
            fontsize=9.5,
            va="top",
        )
        ends += [ordered[0], np.percentile(ordered, 99.8)]
    axis.set_xscale("log")
    if ends:
        axis.set_xlim(min(ends) * 0.7, max(ends) * 2.2)
    axis.set(ylim=(0, 104), xlabel="microseconds (logarithmic)", ylabel="ticks done (%)")
    axis.grid(True, which="major", color=palette.OBSTACLE, lw=0.6, alpha=0.7)


def _microseconds(value: float) -> str:
    return f"{value:.0f} µs" if value < 1000 else f"{value / 1000:.1f} ms"


def _last_point(path: Floats) -> Floats:
    return path[np.isfinite(path).all(axis=-1)][-1]
