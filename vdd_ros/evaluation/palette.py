"""One palette for every picture: readable with any kind of colour vision and on white paper.

Experts take the "muted" scheme of Tol (2021, SRON technical note on colour schemes), nine hues
told apart by people with every common colour deficiency; from the tenth expert on the hues come
again, lighter, then darker. The two methods that are compared have two colours of their own.
"""

from __future__ import annotations

STUDENT = "#332288"
"""The Mixture of Experts."""
TEACHER = "#CC6677"
"""The diffusion policy it was distilled from."""
INK = "#22252B"
"""Text and axes."""
FAINT = "#8A909A"
"""Secondary text, grids, the outlines of what stands around."""
OBSTACLE = "#C9CDD4"
"""Things not to be touched."""
FAILURE = "#000000"
"""The cross at the end of a rollout that did not succeed."""
NO_EXPERT = "#6B7280"
"""A step that no expert took: a policy without experts."""

_HUES = (
    (0x33, 0x22, 0x88),
    (0x88, 0xCC, 0xEE),
    (0x11, 0x77, 0x33),
    (0xCC, 0x66, 0x77),
    (0xDD, 0xB9, 0x4C),
    (0xAA, 0x44, 0x99),
    (0x44, 0xAA, 0x99),
    (0x88, 0x22, 0x55),
    (0x99, 0x99, 0x33),
)
# Towards white or black, by round: the second nine experts are lighter, the third darker.
_SHADES = (0.0, 0.45, -0.35)


def expert_colour(expert: int) -> tuple[float, float, float]:
    """Return the colour (red, green, blue in 0..1) of one expert; -1 is `NO_EXPERT`."""
    if expert < 0:
        red, green, blue = (int(NO_EXPERT[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return red, green, blue
    shade = _SHADES[expert // len(_HUES) % len(_SHADES)]
    target = 1.0 if shade > 0 else 0.0
    mixed = [c / 255 + abs(shade) * (target - c / 255) for c in _HUES[expert % len(_HUES)]]
    return mixed[0], mixed[1], mixed[2]
