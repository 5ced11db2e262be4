"""The house style of every picture, and the way from a figure to PNG bytes.

matplotlib is imported inside, without a window system.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vdd_ros.core.errors import VddError
from vdd_ros.evaluation import palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 130


@contextmanager
def house_style() -> Iterator[None]:
    """Hold the house style while a picture is made; matplotlib's own settings come back after."""
    try:
        import matplotlib
    except ImportError as error:
        raise VddError(
            f"pictures need matplotlib, which cannot be imported ({error}); install it with: "
            "pip install matplotlib"
        ) from None
    # Newer matplotlib types every key it knows, older ones take any string.
    style: Any = {
        "font.size": 10.5,
        "axes.titlesize": 11.5,
        "axes.edgecolor": palette.FAINT,
        "axes.labelcolor": palette.INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "text.color": palette.INK,
        "xtick.color": palette.INK,
        "ytick.color": palette.INK,
        "legend.frameon": True,
        "legend.framealpha": 0.85,
        "legend.edgecolor": "none",
        "legend.fontsize": 9,
    }
    with matplotlib.rc_context(style):
        yield


def empty_figure(width: float, height: float) -> Figure:
    """Return an empty figure, made without pyplot: no window system, no global list of figures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_bytes(figure: Figure, *, notes: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """Return a figure as a PNG, with text notes kept inside it."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format="png",
        dpi=_DPI,
        metadata={"Software": None, **notes},
        pil_kwargs={"optimize": True},
    )
    return buffer.getvalue()
