"""A student as the graph of a policy file: raw window in, every expert's raw proposal out."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vdd_ros.core.errors import VddError
from vdd_ros.distill.mixtures.gaussian_head import keep_rows
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts


class StudentGraph(nn.Module):
    """Raw observation window to gating logits and raw proposals of all experts.

    Of a chunk only the first ``horizon`` actions are in the graph, and in its weights: a robot
    that never executes the rest need not compute it. Their density is the marginal.
    """

    def __init__(self, student: GaussianMixtureOfExperts, *, horizon: int, density: bool) -> None:
        """Wrap a student; with ``density`` the covariances are an output, too.

        Raises:
            VddError: the density was asked for, and the policy format cannot say it.
        """
        super().__init__()
        if density:
            _require_exportable_density(student)
        self.student, self.horizon, self.density = student, horizon, density
        steps = torch.arange(student.settings.n_experts * student.horizon)
        kept = steps[steps % student.horizon < horizon]
        self.mean = keep_rows(student.head.mean, kept, len(steps))

    def forward(self, observation: Float[Tensor, "B T O"]) -> tuple[Tensor, ...]:
        """Return gating_logits, expert_actions and, with density, expert_scale."""
        student = self.student
        features = student.features(student.observation.normalize(observation))
        shape = (-1, student.settings.n_experts, self.horizon, student.dim_act)
        mean = self.mean(student.lift_mean(features)).view(shape)
        outputs = (student.gate(features), student.action.unnormalize(mean))
        if not self.density:
            return outputs
        # a_raw = scale * a + offset, so the factor's rows are stretched by the scale.
        stretch = student.action.scale.repeat(self.horizon)
        executed = student.covariance(features).marginal(self.horizon * student.dim_act)
        return (*outputs, executed.stretch(stretch).cholesky())


def _require_exportable_density(student: GaussianMixtureOfExperts) -> None:
    """Refuse covariances whose way out needs what the policy format cannot say.

    Raises:
        VddError: deblurred blocks of more than two dimensions, whose eigenvalues ONNX lacks.
    """
    size = student.head.block if student.head.kind != "lowrank" else student.settings.rank
    if student.settings.deblur and student.head.kind != "diag" and size > 2:
        raise VddError(
            f"density: the covariances of this student were deblurred, for '{student.head.kind}' "
            f"of size {size} by eigenvalues, which ONNX does not have; distill with "
            "'estimator: diffused' or 'covariance: diag', or export without density"
        )
