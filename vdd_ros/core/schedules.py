r"""Sigma schedules: the decreasing noise levels a sampler walks through.

Each returns ``n_steps + 1`` values ``sigma_0 > ... > sigma_{n-1} >= sigma_min, 0``: ``n_steps`` is
the number of denoiser calls of a first-order sampler, and the last step lands on sigma = 0.

A schedule is either named or a grid: the noise levels a discrete-time model was trained at, of
which n are taken. DDPM's levels follow no simple curve (with cosine betas the last of 16 is 322,
the one before 10), so the model carries them with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError

ScheduleKind = Literal["linear", "exponential", "karras", "flow"]
SigmaSchedule = ScheduleKind | tuple[float, ...]
"""A named schedule, or the grid of noise levels of a discrete-time model."""


def sigma_schedule(
    kind: SigmaSchedule | Sequence[float],
    *,
    n_steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 7.0,
) -> NDArray[np.float64]:
    r"""Return sigmas [n_steps + 1], ending in 0.

    ``karras`` is Karras et al. (2022), equation 5:
    :math:`(\sigma_{max}^{1/\rho} + \tfrac{i}{n-1}(\sigma_{min}^{1/\rho} -
    \sigma_{max}^{1/\rho}))^\rho`; ``exponential`` is its limit for large rho, as BESO samples;
    ``linear`` is what D3IL uses; ``flow`` takes equal steps in the time
    :math:`\tau = \sigma / (1 + \sigma)` of a rectified flow (Liu et al., 2023).

    Of a grid, the levels within [sigma_min, sigma_max] are taken at even distances, both ends
    included (``timestep_spacing="linspace"`` of the diffusers library). More steps than levels
    fall between them, on the geometric interpolation.

    Raises:
        VddError: unknown kind, fewer than one step, or sigmas that are not 0 < min <= max.
    """
    if n_steps < 1:
        raise VddError(f"n_steps: got {n_steps}, expected at least 1")
    if not 0 < sigma_min <= sigma_max:
        raise VddError(
            f"sigmas: got sigma_min={sigma_min}, sigma_max={sigma_max}; expected 0 < min <= max"
        )
    if not isinstance(kind, str):
        return np.append(_from_grid(kind, n_steps, sigma_min, sigma_max), 0.0)
    ramp = np.linspace(0.0, 1.0, n_steps)
    if kind == "linear":
        sigmas = sigma_max + ramp * (sigma_min - sigma_max)
    elif kind == "exponential":
        sigmas = np.exp(np.log(sigma_max) + ramp * (np.log(sigma_min) - np.log(sigma_max)))
    elif kind == "karras":
        low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        sigmas = (high + ramp * (low - high)) ** rho
    elif kind == "flow":
        low, high = sigma_min / (1 + sigma_min), sigma_max / (1 + sigma_max)
        time = high + ramp * (low - high)
        sigmas = time / (1 - time)
    else:
        raise VddError(
            f"schedule: unknown kind '{kind}'; known: linear, exponential, karras, flow"
        )
    return np.append(sigmas, 0.0)


def _from_grid(
    grid: Sequence[float], n_steps: int, sigma_min: float, sigma_max: float
) -> NDArray[np.float64]:
    """Take ``n_steps`` levels of a grid, from the largest to the smallest."""
    levels = np.sort(np.asarray(grid, np.float64))
    # A float32 copy of a level is still that level.
    levels = levels[(levels >= sigma_min * (1 - 1e-6)) & (levels <= sigma_max * (1 + 1e-6))]
    if len(levels) == 0 or levels[0] <= 0:
        raise VddError(
            f"schedule: a grid of {len(grid)} levels with none from sigma_min {sigma_min} to "
            f"sigma_max {sigma_max}; widen the range"
        )
    last = len(levels) - 1.0
    where = last - np.linspace(0.0, last, n_steps)
    if n_steps <= len(levels):
        return levels[np.round(where).astype(int)]
    return np.exp(np.interp(where, np.arange(len(levels)), np.log(levels)))
