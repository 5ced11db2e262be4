"""Expectation maximisation: the rival that a distillation has to beat.

Maximum likelihood of a mixture, on demonstrated actions (``em``) or on actions sampled from the
teacher (``em-teacher``). The code is VDD's but for the experts' objective and the targets.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vdd_ros.distill.methods.mixture_training import MixtureTraining
from vdd_ros.distill.methods.objectives import em_expert_loss
from vdd_ros.distill.mixtures.mixture import MixtureParameters


class EmTraining(MixtureTraining):
    """Each iteration: responsibilities (E-step), then one gradient step of the M-step."""

    def expert_loss(
        self,
        mixture: MixtureParameters,
        obs: Float[Tensor, "B T O"],
        action: Float[Tensor, "B S D"],
        iteration: int,
    ) -> Float[Tensor, ""]:
        """Return the responsibility-weighted negative log-likelihood of the targets."""
        return em_expert_loss(action, mixture)
