"""Pictures show what the arrays hold, look the same every time, and can be told apart."""

from __future__ import annotations

import io
import itertools
import struct
import sys

import numpy as np
import pytest

from vdd_ros.core.errors import VddError
from vdd_ros.evaluation import figures, palette
from vdd_ros.tasks import avoiding

pytest.importorskip("matplotlib", reason="pictures need matplotlib")

# Machado, Oliveira and Fernandes (2009), full deficiency, linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}


def _ways(experts: tuple[int, ...] = (3,), *, success: bool = True) -> figures.Ways:
    """Straight rollouts side by side, one per expert, the last step of each unknown (NaN)."""
    n, steps = len(experts), 30
    x = 0.3 + 0.05 * np.arange(n)
    y = np.linspace(-0.2, 0.3, steps + 1)
    path = np.stack([np.broadcast_to(x[:, None], (n, steps + 1)), np.tile(y, (n, 1))], axis=-1)
    path = path.copy()
    path[:, -1] = np.nan
    return figures.Ways(
        trajectory=path,
        expert=np.repeat(np.array(experts)[:, None], steps, axis=1),
        success=np.full(n, success),
        mode=np.arange(n),
    )


def _pixels(png: bytes) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(io.BytesIO(png), format="png"))[..., :3]


def _holds(png: bytes, colour: tuple[float, float, float], alpha: float = 0.85) -> bool:
    """Does the picture hold this colour, drawn with this opacity on white?"""
    blended = alpha * np.array(colour) + (1 - alpha)
    return bool((np.abs(_pixels(png) - blended).max(axis=-1) < 0.012).any())


def _size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def _all_figures() -> dict[str, bytes]:
    ways = _ways((0, 1, 2))
    axis = np.linspace(-0.3, 0.3, 9)
    return {
        "trajectory": figures.trajectory_figure(ways, title="ways"),
        "mode": figures.mode_figure(np.arange(24), title="modes", teacher_counts=np.ones(24, int)),
        "gate": figures.gate_figure(np.zeros((9, 9)), x=axis, y=axis, title="gate"),
        "demo": figures.demo_figure(
            ways,
            latency_us={"policy": np.arange(1.0, 100.0), "teacher": np.arange(9.0, 900.0)},
            title="title",
            caption="caption",
        ),
    }


def test_every_figure_is_the_same_each_time_and_has_its_declared_size() -> None:
    """Same arrays, same bytes: a picture in a report changes only where the rollouts changed."""
    first, second = _all_figures(), _all_figures()
    assert first == second
    sizes = {name: _size(png) for name, png in first.items()}
    assert sizes == {
        "trajectory": (806, 897),
        "mode": (1170, 442),
        "gate": (884, 897),
        "demo": (1430, 858),
    }


def test_a_step_has_the_colour_of_the_expert_that_took_it() -> None:
    """The colour of an expert is in the picture exactly where that expert acted."""
    # An opaque swatch of the legend comes in the plain colour, a line in the blended one.
    for acting, idle in ((0, 4), (4, 0)):
        png = figures.trajectory_figure(_ways((acting,)), title="")
        assert _holds(png, palette.expert_colour(acting))
        assert not _holds(png, palette.expert_colour(idle))


def test_a_failed_rollout_ends_in_a_cross() -> None:
    """Black marks the end of what failed, and nothing else is black in that picture."""
    black = (0.0, 0.0, 0.0)
    good = figures.trajectory_figure(_ways(), title="")
    bad = figures.trajectory_figure(_ways(success=False), title="")
    assert not _holds(good, black, alpha=1.0)
    assert _holds(bad, black, alpha=1.0)


def test_mode_counts_hold_successful_decided_rollouts_only() -> None:
    """What failed, or finished without a mode, is in no bar."""
    ways = figures.Ways(
        trajectory=np.zeros((5, 2, 2)),
        expert=np.zeros((5, 1), int),
        success=np.array([True, True, False, True, True]),
        mode=np.array([2, 2, 3, -1, 23]),
    )
    counts = ways.mode_counts(avoiding.N_MODES)
    assert counts.sum() == 3
    assert counts[2] == 2
    assert counts[23] == 1


def test_rollouts_without_experts_are_drawn_too() -> None:
    """The teacher has no experts (-1): its ways get the neutral colour."""
    png = figures.trajectory_figure(_ways((-1,)), title="")
    assert _holds(png, palette.expert_colour(-1))


def test_a_picture_says_which_policy_it_shows() -> None:
    """The hash of the policy file stands inside the PNG."""
    image = pytest.importorskip("PIL.Image")
    png = figures.demo_figure(
        _ways(), latency_us={}, title="t", caption="c", policy_sha256="0123abc"
    )
    with image.open(io.BytesIO(png)) as shown:
        assert shown.text == {"Policy": "0123abc"}


def test_a_demo_that_measured_nothing_still_makes_a_picture() -> None:
    """No latencies, or only unusable ones, leave the panel empty instead of failing."""
    for latency in ({}, {"policy": np.array([])}, {"teacher": np.array([np.nan, 0.0])}):
        png = figures.demo_figure(_ways(), latency_us=latency, title="t", caption="c")
        assert len(png) > 10_000


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_first_nine_experts_can_be_told_apart(deficiency: str) -> None:
    """Any two colours differ clearly, with normal vision and with each common deficiency."""
    colours = np.array([palette.expert_colour(k) for k in range(9)])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ DEFICIENCIES[deficiency].T, 0, 1) ** (1 / 2.2)
    for one, other in itertools.combinations(range(9), 2):
        assert np.abs(seen[one] - seen[other]).max() > 0.09, (one, other)


def test_the_first_twenty_seven_experts_have_colours_of_their_own() -> None:
    """Experts beyond nine come in shades, none equal to another, all visible on white."""
    colours = np.array([palette.expert_colour(k) for k in range(27)])
    assert len(np.unique(colours.round(3), axis=0)) == 27
    assert (colours.min(axis=1) < 0.8).all()


def test_without_matplotlib_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A robot without matplotlib gets one sentence, not a traceback."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(VddError, match="pip install matplotlib"):
        figures.trajectory_figure(_ways(), title="")
