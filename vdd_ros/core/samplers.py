r"""Samplers: from noise to an action through any denoiser D(x, sigma).

In variance-exploding coordinates the probability-flow ODE is :math:`dx/d\sigma = (x - D(x,
\sigma)) / \sigma` (Karras et al., 2022, equation 1 with s(t) = 1). Every sampler starts from
:math:`x = \sigma_0 \epsilon` and walks a schedule from `core/schedules.py`. They are written for
numpy but use nothing but arithmetic, so torch tensors pass through them unchanged: training,
evaluation and the robot run the same lines.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from vdd_ros.core.errors import VddError

SamplerKind = Literal["euler", "heun", "ddim", "dpmpp_2m", "euler_ancestral"]
Denoise = Callable[[Any, float], Any]
"""D(x, sigma): noisy action and a scalar sigma to the denoised action, same shape."""
Noise = Callable[[], Any]
"""Draws standard normal noise of the shape of x."""


def euler(denoise: Denoise, x: Any, sigmas: Sequence[float]) -> Any:  # noqa: ANN401
    """First order: one denoiser call per step (Karras et al., 2022, algorithm 1 without Heun)."""
    for sigma, following in _pairs(sigmas):
        x = x + (following - sigma) * (x - denoise(x, sigma)) / sigma
    return x


def ddim(denoise: Denoise, x: Any, sigmas: Sequence[float]) -> Any:  # noqa: ANN401
    """DDIM (Song et al., 2021, equation 12, eta = 0), written as BESO writes it.

    In these coordinates it is the same map as `euler`; both are kept because users ask by name,
    and a test holds them equal.
    """
    for sigma, following in _pairs(sigmas):
        denoised = denoise(x, sigma)
        x = (following / sigma) * x + (1.0 - following / sigma) * denoised
    return x


def heun(denoise: Denoise, x: Any, sigmas: Sequence[float]) -> Any:  # noqa: ANN401
    """Second order: two calls per step, one for the last (Karras et al., 2022, algorithm 1)."""
    for sigma, following in _pairs(sigmas):
        slope = (x - denoise(x, sigma)) / sigma
        ahead = x + (following - sigma) * slope
        if following > 0:
            slope_ahead = (ahead - denoise(ahead, following)) / following
            ahead = x + (following - sigma) * 0.5 * (slope + slope_ahead)
        x = ahead
    return x


def dpmpp_2m(denoise: Denoise, x: Any, sigmas: Sequence[float]) -> Any:  # noqa: ANN401
    """DPM-Solver++(2M), second order with one call per step (Lu et al., 2022, algorithm 2)."""
    previous, previous_h = None, None
    for sigma, following in _pairs(sigmas):
        denoised = denoise(x, sigma)
        if following == 0:
            return denoised
        h = float(np.log(sigma / following))
        if previous is None or previous_h is None:
            direction = denoised
        else:
            ratio = previous_h / h
            direction = (1 + 1 / (2 * ratio)) * denoised - (1 / (2 * ratio)) * previous
        x = (following / sigma) * x + (1.0 - following / sigma) * direction
        previous, previous_h = denoised, h
    return x


def euler_ancestral(
    denoise: Denoise,
    x: Any,  # noqa: ANN401
    sigmas: Sequence[float],
    noise: Noise,
) -> Any:  # noqa: ANN401
    """Euler step to sigma_down, then fresh noise sigma_up, so that the variances add up."""
    for sigma, following in _pairs(sigmas):
        up = min(following, (following**2 * (sigma**2 - following**2) / sigma**2) ** 0.5)
        down = (following**2 - up**2) ** 0.5
        x = x + (down - sigma) * (x - denoise(x, sigma)) / sigma
        if following > 0:
            x = x + up * noise()
    return x


def sample(
    kind: SamplerKind,
    denoise: Denoise,
    x: Any,  # noqa: ANN401
    sigmas: Sequence[float],
    noise: Noise | None = None,
) -> Any:  # noqa: ANN401
    """Run a sampler by name from x = sigma_0 * noise.

    Raises:
        VddError: unknown sampler, or an ancestral sampler without a source of noise.
    """
    deterministic = {"euler": euler, "heun": heun, "ddim": ddim, "dpmpp_2m": dpmpp_2m}
    if kind in deterministic:
        return deterministic[kind](denoise, x, sigmas)
    if kind == "euler_ancestral":
        if noise is None:
            raise VddError("euler_ancestral draws fresh noise at every step: pass noise=")
        return euler_ancestral(denoise, x, sigmas, noise)
    raise VddError(
        f"sampler: unknown '{kind}'; known: {', '.join([*deterministic, 'euler_ancestral'])}"
    )


def n_function_evaluations(kind: SamplerKind, n_steps: int) -> int:
    """Return the denoiser calls (NFE) of a sampler over ``n_steps`` steps."""
    return 2 * n_steps - 1 if kind == "heun" else n_steps


def _pairs(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    values = [float(s) for s in sigmas]
    return list(itertools.pairwise(values))
