r"""EDM teachers: a preconditioned denoiser of action chunks, the BESO family.

Preconditioning (Karras et al., 2022, table 1, as BESO, Reuss et al., 2023, uses it):

.. math:: D(x; \sigma, s) = c_{skip} x + c_{out} F(c_{in} x, s, \sigma), \quad
    c_{skip} = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}, \;
    c_{out} = \frac{\sigma \sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}}, \;
    c_{in} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}},

so that D(x; 0) = x and the network F always regresses a target of unit variance. Training draws
sigma from a continuous range, sampling walks any schedule through it.
"""

from __future__ import annotations

from vdd_ros.distill.teachers.adapter import Prediction
from vdd_ros.distill.teachers.base import DenoisingTeacher
from vdd_ros.distill.teachers.settings import SigmaDensity, TeacherSettings
from vdd_ros.distill.teachers.training import TeacherTraining as EdmTraining

__all__ = ["EdmTeacher", "EdmTraining", "SigmaDensity", "TeacherSettings"]


class EdmTeacher(DenoisingTeacher):
    """A teacher whose network regresses EDM's unit-variance target."""

    @property
    def prediction(self) -> Prediction:
        """EDM's preconditioned target."""
        return "edm"
