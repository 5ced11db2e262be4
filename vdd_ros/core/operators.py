"""Operators: the arithmetic between a message's unit and the policy's.

A contract field lists operators in the order they are applied to what stands in the message:
``apply: [deg2rad, offset -0.5]``. They act on observations as they come in and, inverted, on
commands as they go out; a recorded command is read with the operators as they stand.

Every operator is affine or a clamp, so a whole chain is one multiplication, one addition and one
clip whatever its length: ``y = clip(scale * x + offset, low, high)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd_ros.core.errors import VddError, did_you_mean

OPERATORS: Mapping[str, str] = MappingProxyType(
    {
        "deg2rad": "deg2rad: degrees in the message, radians in the policy",
        "rad2deg": "rad2deg: radians in the message, degrees in the policy",
        "negate": "negate: the other sign",
        "scale": "scale FACTOR, or one factor per value",
        "offset": "offset SUMMAND, or one summand per value",
        "clamp": "clamp LOW HIGH: observations only, a clamp cannot be undone",
    }
)
"""How each operator is written, by name."""

_SMALLEST, _LARGEST = 1e-30, 1e30
"""A chain's factor beyond these loses every digit of a single-precision observation."""


@dataclass(frozen=True, eq=False)
class Operators:
    """A chain of operators on ``D`` values, folded into one step."""

    scale: NDArray[np.float64]
    """[D] factor, never zero."""
    offset: NDArray[np.float64]
    """[D] added after scaling."""
    low: NDArray[np.float64]
    """[D] smallest result, -inf for none."""
    high: NDArray[np.float64]
    """[D] largest result, inf for none."""

    @property
    def clamps(self) -> bool:
        """Whether values are lost, so that `inverse` is one only inside the clamp."""
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())

    @property
    def identity(self) -> bool:
        """Whether nothing is changed."""
        return bool((self.scale == 1).all() and (self.offset == 0).all() and not self.clamps)

    def forward(self, values: ArrayLike) -> NDArray[np.float64]:
        """Turn message values [..., D] into policy values.

        What is not finite is never clamped to a number that looks measured.
        """
        result: NDArray[np.float64] = np.multiply(values, self.scale)
        result += self.offset
        if self.clamps and np.isfinite(result).all():
            np.clip(result, self.low, self.high, out=result)
        return result

    def inverse(self, values: ArrayLike) -> NDArray[np.float64]:
        """Turn policy values [..., D] into message values; clamps are not undone."""
        result: NDArray[np.float64] = np.subtract(values, self.offset)
        result /= self.scale
        return result


def parse_operators(texts: Sequence[str], dim: int) -> Operators:
    """Fold operators such as ``("deg2rad", "offset -0.5")`` for ``dim`` values.

    Raises:
        VddError: an unknown operator, a wrong number of numbers, or a chain that maps all values
            to one.
    """
    scale, offset = np.ones(dim), np.zeros(dim)
    low, high = np.full(dim, -np.inf), np.full(dim, np.inf)
    for text in texts:
        name, numbers = _split(text, dim)
        if name == "clamp":
            low, high = np.clip(low, *numbers), np.clip(high, *numbers)
            continue
        factor, summand = _affine(name, numbers)
        scale, offset = scale * factor, offset * factor + summand
        with np.errstate(invalid="ignore"):  # infinity times a zero that is refused below
            ends = low * factor + summand, high * factor + summand
        low, high = np.minimum(*ends), np.maximum(*ends)
    size = np.abs(scale)
    if not (np.isfinite(offset).all() and ((size > _SMALLEST) & (size < _LARGEST)).all()):
        raise VddError(
            f"apply {list(texts)}: scales by {scale.tolist()} and adds {offset.tolist()}; "
            "expected factors that are neither zero nor beyond all measure"
        )
    return Operators(scale, offset, low, high)


def _affine(
    name: str, numbers: NDArray[np.float64]
) -> tuple[float | NDArray[np.float64], float | NDArray[np.float64]]:
    if name == "scale":
        return numbers, 0.0
    if name == "offset":
        return 1.0, numbers
    return {"deg2rad": math.pi / 180.0, "rad2deg": 180.0 / math.pi, "negate": -1.0}[name], 0.0


def _split(text: str, dim: int) -> tuple[str, NDArray[np.float64]]:
    name, *words = text.split() or [""]
    if name not in OPERATORS:
        raise VddError(f"apply '{text}': no operator '{name}'{did_you_mean(name, OPERATORS)}")
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        raise VddError(f"apply '{text}': not numbers; expected {OPERATORS[name]}") from None
    if not np.isfinite(numbers).all():
        raise VddError(f"apply '{text}': expected finite numbers")
    expected = {"scale": {1, dim}, "offset": {1, dim}, "clamp": {2}}.get(name, {0})
    if len(numbers) not in expected:
        raise VddError(
            f"apply '{text}': {len(numbers)} numbers for {dim} values; expected {OPERATORS[name]}"
        )
    if name == "clamp" and numbers[0] >= numbers[1]:
        raise VddError(f"apply '{text}': {numbers[0]:g} is not below {numbers[1]:g}")
    return name, numbers
