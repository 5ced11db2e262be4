r"""Information Maximizing Curriculum: a mixture whose experts choose what to imitate.

Blessing, Celik, Jia, Reuss, Li, Lioutikov, Neumann: "Information Maximizing Curriculum: A
Curriculum-Based Approach for Imitating Diverse Skills", NeurIPS 2023, arXiv:2303.15349. Every
expert z has a curriculum p(D|z), a distribution over the demonstrations, and the bound

.. math:: \sum_z p(z) \left( E_{p(D|z)}[ \log q_z(a|s) + \eta \log \tilde q(z|D) ]
          + \eta H[p(D|z)] \right), \quad p(z) = 1/K

is maximised in turn. E-step: :math:`\tilde q(z|D)` from the present parameters. Curricula in
closed form:

.. math:: p(D_n|z) \propto \exp\left( \frac{\log q_z(a_n|s_n) + \eta \log \tilde q(z|D_n)}{\eta}
          \right),

experts by maximum likelihood under their curricula, the gate by cross-entropy to the same:
:math:`-\sum_z p(z) \sum_n p(D_n|z) \log q(z|s_n)`, whose optimum is Bayes' rule,
:math:`q(z|s) \propto p(z) p(s|z)`. The pacing eta says how much data an expert takes on; for large
ones the curricula are the responsibilities alone and experts learn as in EM.

As a rival of VDD it shares the student, its shared trunk and the minibatches with the other
methods. Curricula are therefore normalised over a minibatch, and :math:`\tilde q(z|D)` is
:math:`\propto q_z(a|s) q(z|s)`, in which the gate remembers the curricula; public code keeps a
table over a data set that noise must then not perturb. Everything is in log space. Covariances are
constants (`ImcSettings.learn_covariance` says why).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.distill.methods.mixture_training import MixtureTraining
from vdd_ros.distill.mixtures.mixture import MixtureParameters, expert_log_prob, joint_log_prob


def log_curricula(
    log_prob: Float[Tensor, "B S K"], log_posterior: Float[Tensor, "B S K"], pacing: float
) -> Float[Tensor, "B S K"]:
    """Return log p(D|z), normalised over the B S actions of the batch for every expert.

    Args:
        log_prob: log q_z(a|s).
        log_posterior: log of the posterior of z given the datum.
        pacing: eta.
    """
    weight = log_prob / pacing + log_posterior
    return torch.log_softmax(weight.flatten(0, 1), dim=0).view_as(weight)


class ImcTraining(MixtureTraining):
    """Each iteration: posterior and curricula of a minibatch, one step of experts and gate."""

    def curricula(self, mixture: MixtureParameters, joint: Tensor) -> Float[Tensor, "B S K"]:
        """Return p(D|z) over the minibatch, constants; ``joint`` is log q(a, z|s)."""
        joint = joint.detach()
        log_prob = joint - mixture.log_gate.detach()[:, None]
        posterior = torch.log_softmax(joint, dim=-1)
        return log_curricula(log_prob, posterior, self.settings.imc.pacing).exp()

    def gate_targets(
        self, mixture: MixtureParameters, joint: Float[Tensor, "B S K"]
    ) -> Float[Tensor, "B S K"]:
        """Return p(z) p(D|z), scaled so that a mean over the batch is the sum over the data."""
        curricula = self.curricula(mixture, joint)
        batch, samples, n_experts = curricula.shape
        return curricula * (batch * samples / n_experts)

    def expert_loss(
        self,
        mixture: MixtureParameters,
        obs: Float[Tensor, "B T O"],
        action: Float[Tensor, "B S D"],
        iteration: int,
    ) -> Float[Tensor, ""]:
        """Return the negative log-likelihood under the curricula, averaged over experts."""
        if not self.settings.imc.learn_covariance:
            mixture = mixture._replace(covariance=mixture.covariance.detach())
        weight = self.curricula(mixture, joint_log_prob(action, mixture))
        return -(weight * expert_log_prob(action, mixture)).sum((0, 1)).mean()
