r"""Sigma schedules: the decreasing noise levels a sampler walks through.

Each returns ``n_steps + 1`` values ``sigma_0 > ... > sigma_{n-1} >= sigma_min, 0``: ``n_steps`` is
the number of denoiser calls of a first-order sampler, and the last step lands on sigma = 0.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError

ScheduleKind = Literal["linear", "exponential", "karras"]


def sigma_schedule(
    kind: ScheduleKind, *, n_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0
) -> NDArray[np.float64]:
    r"""Return sigmas [n_steps + 1], ending in 0.

    ``karras`` is Karras et al. (2022), equation 5:
    :math:`(\sigma_{max}^{1/\rho} + \tfrac{i}{n-1}(\sigma_{min}^{1/\rho} -
    \sigma_{max}^{1/\rho}))^\rho`; ``exponential`` is its limit for large rho, as BESO samples;
    ``linear`` is what D3IL uses.

    Raises:
        VddError: unknown kind, fewer than one step, or sigmas that are not 0 < min <= max.
    """
    if n_steps < 1:
        raise VddError(f"n_steps: got {n_steps}, expected at least 1")
    if not 0 < sigma_min <= sigma_max:
        raise VddError(
            f"sigmas: got sigma_min={sigma_min}, sigma_max={sigma_max}; expected 0 < min <= max"
        )
    ramp = np.linspace(0.0, 1.0, n_steps)
    if kind == "linear":
        sigmas = sigma_max + ramp * (sigma_min - sigma_max)
    elif kind == "exponential":
        sigmas = np.exp(np.log(sigma_max) + ramp * (np.log(sigma_min) - np.log(sigma_max)))
    elif kind == "karras":
        low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        sigmas = (high + ramp * (low - high)) ** rho
    else:
        raise VddError(f"schedule: unknown kind '{kind}'; known: linear, exponential, karras")
    return np.append(sigmas, 0.0)
