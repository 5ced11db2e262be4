r"""The score adapter: what a network predicts becomes D(x, sigma) in the coordinates we work in.

Everything else in this package sees a noisy action as :math:`x = a + \sigma \epsilon` (variance
exploding, VE) and a teacher as :math:`D(x, \sigma) = E[a | x]`. Models are trained in other
coordinates and predict other things, yet each of them is the same affine form around its raw
network F,

.. math:: D(x, \sigma) = c_{skip}\, x + c_{out}\, F(c_{in}\, x),

with one row of coefficients per prediction:

======= ================= ========================= ===================
F is    c_skip            c_out                     c_in
======= ================= ========================= ===================
epsilon 1                 -sigma                    1/sqrt(1+sigma^2)
x0      0                 1                         1/sqrt(1+sigma^2)
v       1/(1+sigma^2)     -sigma/sqrt(1+sigma^2)    1/sqrt(1+sigma^2)
flow    1/(1+sigma)       -sigma/(1+sigma)          1/(1+sigma)
edm     d^2/(sigma^2+d^2) sigma d/sqrt(sigma^2+d^2) 1/sqrt(sigma^2+d^2)
======= ================= ========================= ===================

The last row has d for sigma_data. The first three are variance preserving (VP): their input is
:math:`x_t = \sqrt{\bar\alpha}\, a + \sqrt{1-\bar\alpha}\, \epsilon = \sqrt{\bar\alpha}\, x` with
:math:`\sigma = \sqrt{(1-\bar\alpha)/\bar\alpha}`, hence :math:`c_{in} = \sqrt{\bar\alpha}`
(epsilon and x0: Ho et al., 2020; :math:`v = \sqrt{\bar\alpha}\epsilon - \sqrt{1-\bar\alpha} a`:
Salimans and Ho, 2022). A rectified flow (Liu et al., 2023) is trained at
:math:`(1-\tau) a + \tau \epsilon` to predict :math:`\epsilon - a`; there
:math:`\sigma = \tau/(1-\tau)`. ``edm`` is Karras et al. (2022), table 1.

Why not take a VP model's score where it lives: :math:`-\hat\epsilon/\sqrt{1-\bar\alpha}` at an
action a, as the published VDD code does, is the score of a distribution whose modes are at
:math:`\sqrt{\bar\alpha}` times the actions, so every distilled mean shrinks by that factor. In
VE coordinates the modes stay where they are.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.core.errors import VddError, did_you_mean

Prediction = Literal["epsilon", "x0", "v", "flow", "edm"]
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "x0", "v", "flow", "edm")


class Coefficients(NamedTuple):
    """The affine form around a raw network, and the weight that makes its regression plain."""

    skip: Tensor
    """Weight of the noisy action."""
    out: Tensor
    """Weight of the network's output."""
    into: Tensor
    """Scale of the network's input."""
    weight: Tensor
    """1 / out^2: times the squared error of D it is the squared error of F."""


def coefficients(
    prediction: Prediction,
    sigma: Float[Tensor, "*B"],
    sigma_data: Float[Tensor, ""] | float = 1.0,
) -> Coefficients:
    """Return the coefficients of a prediction at every sigma, in the shape of sigma.

    Args:
        prediction: what the network's output means.
        sigma: noise level in VE coordinates.
        sigma_data: ``edm`` alone: standard deviation of the clean actions.

    Raises:
        VddError: unknown prediction.
    """
    one = torch.ones_like(sigma)
    if prediction == "edm":
        data = torch.as_tensor(sigma_data, dtype=sigma.dtype)
        total = sigma.square() + data.square()
        inverse = torch.rsqrt(total)
        weight = total / (sigma * data).square()
        return Coefficients(data.square() / total, sigma * data * inverse, inverse, weight)
    if prediction == "flow":
        into = 1 / (1 + sigma)
        return Coefficients(into, -sigma * into, into, ((1 + sigma) / sigma).square())
    into = torch.rsqrt(1 + sigma.square())
    if prediction == "epsilon":
        return Coefficients(one, -sigma, into, 1 / sigma.square())
    if prediction == "x0":
        return Coefficients(torch.zeros_like(sigma), one, into, one)
    if prediction == "v":
        out = -sigma * into
        return Coefficients(into.square(), out, into, 1 / out.square())
    raise VddError(f"prediction: got '{prediction}'{did_you_mean(prediction, PREDICTIONS)}")


def denoised_from(
    prediction: Prediction,
    output: Float[Tensor, "B H A"],
    x: Float[Tensor, "B H A"],
    sigma: Float[Tensor, " #B"],
    sigma_data: float = 1.0,
) -> Float[Tensor, "B H A"]:
    """Return D(x, sigma) from the output of a network that was asked at ``c_in x``."""
    c = coefficients(prediction, sigma[:, None, None], sigma_data)
    return c.skip * x + c.out * output


def regression_target(
    prediction: Prediction,
    action: Float[Tensor, "B H A"],
    noise: Float[Tensor, "B H A"],
    sigma: Float[Tensor, " #B"],
    sigma_data: float = 1.0,
) -> Float[Tensor, "B H A"]:
    """Return what the network has to put out at ``x = action + sigma noise``."""
    c = coefficients(prediction, sigma[:, None, None], sigma_data)
    x = action + sigma[:, None, None] * noise
    return (action - c.skip * x) / c.out


def sigma_from_alpha_bar(alpha_bar: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    r"""Return the VE noise level :math:`\sqrt{(1 - \bar\alpha)/\bar\alpha}` of a VP level."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def alpha_bar_from_sigma(sigma: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    r"""Return the VP level :math:`\bar\alpha = 1 / (1 + \sigma^2)` of a VE noise level."""
    return 1 / (1 + sigma.square())


def score_from_vp_score(
    score: Float[Tensor, "B H A"], sigma: Float[Tensor, " #B"]
) -> Float[Tensor, "B H A"]:
    r"""Return the VE score at x from the VP score at :math:`\sqrt{\bar\alpha} x` (chain rule)."""
    return score * alpha_bar_from_sigma(sigma)[:, None, None].sqrt()
