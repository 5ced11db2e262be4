r"""Rectified-flow teachers: the network predicts the velocity from action to noise.

Liu, Gong, Liu, 2023, "Flow Straight and Fast": along :math:`x_\tau = (1-\tau) a + \tau \epsilon`
the network regresses :math:`\epsilon - a` (their time runs the other way). With
:math:`\sigma = \tau/(1-\tau)` the point is :math:`(1-\tau)(a + \sigma\epsilon)`, so the same
network is a denoiser in VE coordinates, :math:`D(x, \sigma) = (x - \sigma F)/(1+\sigma)`, and the
flow's own Euler steps are `core.samplers.euler` on the schedule ``flow``.
"""

from __future__ import annotations

from vdd_ros.distill.teachers.adapter import Prediction
from vdd_ros.distill.teachers.base import DenoisingTeacher


class FlowTeacher(DenoisingTeacher):
    """A teacher whose network predicts velocities."""

    @property
    def prediction(self) -> Prediction:
        """The velocity of the flow."""
        return "flow"
