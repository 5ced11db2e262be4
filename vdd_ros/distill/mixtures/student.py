r"""The student: a Gaussian Mixture of Experts that acts in one pass.

One shared trunk reads the observation window; three small heads give the gate, the means and the
covariances of all experts (Zhou et al., 2024, section 4; the reference implementation shares
the trunk in the same way). All experts then cost little more than one.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vdd_ros.core.errors import VddError
from vdd_ros.distill.mixtures.covariance import Covariance
from vdd_ros.distill.mixtures.gaussian_head import CovarianceKind, GaussianHead, keep_rows
from vdd_ros.distill.mixtures.mixture import MixtureParameters
from vdd_ros.distill.networks.fourier import FourierFeatures
from vdd_ros.distill.networks.mlp import Mlp
from vdd_ros.distill.networks.normalization import Affine
from vdd_ros.distill.networks.transformer import Transformer, initialise_like_gpt

Backbone = Literal["mlp", "transformer"]

# Rows per pass over a set of states.
_ROWS = 4096


@dataclass(frozen=True)
class StudentSettings:
    """Shape of the student."""

    n_experts: int = 16
    """Experts K. More than the modes at one state costs little: superfluous ones fade out."""
    backbone: Backbone = "mlp"
    """Trunk: mlp over the flattened window, or a causal transformer over its frames."""
    width: int = 128
    """Hidden units of the trunk."""
    depth: int = 3
    """Hidden layers (mlp) or blocks (transformer)."""
    n_heads: int = 4
    """transformer: attention heads."""
    dropout: float = 0.0
    """transformer: dropout of attention and residual updates."""
    n_frequencies: int = 0
    """mlp: random Fourier features of the window; 0 for none. For a few coordinates in which
    centimetres matter."""
    frequency_scale: float = 1.5
    """mlp: their standard deviation, in radians per normalised unit."""
    head_width: int = 64
    """Hidden units of each head."""
    covariance: CovarianceKind = "full"
    """Over the flattened action chunk: full (costs grow with the square of its length), diag,
    block (one full block per time step) or lowrank (diag and ``rank`` shared directions)."""
    rank: int = 4
    """lowrank: shared directions, the ways in which a whole chunk varies together."""
    init_std: float = 0.4
    """Standard deviation of every expert at the start, in normalised actions."""
    min_std: float = 0.01
    """Lower bound of every standard deviation, in normalised actions."""
    deblur: float = 0.0
    """Sigma whose square is taken out of every covariance, where training put it in; 0 for none.

    Set by the training itself (`DistillSettings.deblur`), which knows what it put in.
    """

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("n_experts", "width", "depth", "n_heads", "head_width", "rank"):
            if getattr(self, name) < 1:
                raise VddError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if not 0 <= self.dropout < 1:
            raise VddError(f"dropout: got {self.dropout}, expected 0 <= dropout < 1")
        if self.n_frequencies < 0 or (self.n_frequencies and self.backbone != "mlp"):
            raise VddError(
                f"n_frequencies: got {self.n_frequencies} with backbone '{self.backbone}'; "
                "expected 0, or a positive number with backbone 'mlp'"
            )
        if not self.frequency_scale > 0:
            raise VddError(f"frequency_scale: got {self.frequency_scale}, expected above 0")
        if not 0 < self.min_std < self.init_std:
            raise VddError(
                f"min_std {self.min_std} and init_std {self.init_std}: expected "
                "0 < min_std < init_std"
            )
        if not 0 <= self.deblur < math.inf:
            raise VddError(f"deblur: got {self.deblur}, expected 0 or a positive sigma")


class GaussianMixtureOfExperts(nn.Module):
    """Observation window in, mixture over action chunks out; everything normalised.

    A goal needs nothing of its own: append it to every observation, and the policy is conditioned
    on it (Zhou et al., 2024, and BESO feed goals as further tokens to the same trunk).

    Args:
        settings: the shape.
        dim_obs: length of one observation.
        dim_act: length of one action.
        n_obs_steps: observations in the window.
        horizon: actions in the chunk.
        observation: normaliser of observations, kept for export and acting.
        action: normaliser of actions.
    """

    def __init__(
        self,
        settings: StudentSettings,
        *,
        dim_obs: int,
        dim_act: int,
        n_obs_steps: int,
        horizon: int,
        observation: Affine | None = None,
        action: Affine | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.dim_obs, self.dim_act = dim_obs, dim_act
        self.n_obs_steps, self.horizon = n_obs_steps, horizon
        self.observation = observation or Affine(dim_obs)
        self.action = action or Affine(dim_act)
        width, head = settings.width, settings.head_width
        if settings.backbone == "mlp":
            self.seen = FourierFeatures(
                n_obs_steps * dim_obs, settings.n_frequencies, scale=settings.frequency_scale
            )
            self.trunk: nn.Module = Mlp(self.seen.dim, 0, width=width, depth=settings.depth)
        elif settings.backbone == "transformer":
            self.embed = nn.Linear(dim_obs, width)
            self.trunk = Transformer(
                n_tokens=n_obs_steps,
                width=width,
                depth=settings.depth,
                n_heads=settings.n_heads,
                dropout_attention=settings.dropout,
                dropout_residual=settings.dropout,
            )
            initialise_like_gpt(self.trunk)
        else:
            raise VddError(f"backbone: got '{settings.backbone}', expected 'mlp' or 'transformer'")
        logits = nn.Linear(head, settings.n_experts)
        # The gate starts uniform: which expert is right is for the responsibilities to say.
        nn.init.zeros_(logits.weight)
        nn.init.zeros_(logits.bias)
        self.gate = nn.Sequential(nn.Linear(width, head), nn.SiLU(), logits)
        self.lift_mean = nn.Sequential(nn.Linear(width, head), nn.SiLU())
        self.lift_scale = nn.Sequential(nn.Linear(width, head), nn.SiLU())
        self.head = GaussianHead(
            dim_in=head,
            n_experts=settings.n_experts,
            dim=horizon * dim_act,
            covariance=settings.covariance,
            init_std=settings.init_std,
            min_std=settings.min_std,
            block=dim_act,
            rank=settings.rank,
        )

    def features(self, obs: Float[Tensor, "B T O"]) -> Float[Tensor, "B W"]:
        """Return the trunk's features of a normalised window."""
        if self.settings.backbone == "mlp":
            return self.trunk(self.seen(obs.flatten(1)))
        return self.trunk(self.embed(obs))[:, -1]

    def proposals(
        self, features: Float[Tensor, "B W"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K H A"]]:
        """Return gating logits and expert means: all that acting needs."""
        mean = self.head.means(self.lift_mean(features))
        chunk = mean.view(-1, self.settings.n_experts, self.horizon, self.dim_act)
        return self.gate(features), chunk

    def covariance(self, features: Float[Tensor, "B W"]) -> Covariance:
        """Return the experts' covariances [B, K]."""
        covariance = self.head.covariance(self.lift_scale(features))
        if self.settings.deblur:
            covariance = covariance.deblur(self.settings.deblur, self.settings.min_std)
        return covariance

    def forward(
        self, obs: Float[Tensor, "B T O"], *, detach_gate: bool = False
    ) -> MixtureParameters:
        """Return the mixture for a normalised window.

        Args:
            obs: normalised observations, oldest first.
            detach_gate: keep the gate's gradient out of the trunk, as the published method does;
                only the gate's own layers then learn from the gate loss.
        """
        features = self.features(obs)
        logits, mean = self.proposals(features)
        if detach_gate:
            logits = self.gate(features.detach())
        return MixtureParameters(logits, mean, self.covariance(features))


@torch.no_grad()
def mean_gate(
    student: GaussianMixtureOfExperts, obs: Float[Tensor, "N T O"]
) -> Float[Tensor, " K"]:
    """Return the average gate over states: each expert's share of the work."""
    shares = [
        torch.softmax(student.gate(student.features(rows)), dim=-1).sum(0)
        for rows in obs.split(_ROWS)
    ]
    return torch.stack(shares).sum(0) / len(obs)


def prune_experts(
    student: GaussianMixtureOfExperts, obs: Float[Tensor, "N T O"], threshold: float
) -> GaussianMixtureOfExperts:
    """Return a student without the experts that hardly any state uses.

    More experts than modes cover more modes from any start, and the superfluous ones lose their
    gate in training; taking them out afterwards makes the number of experts adaptive. The weights
    of those that stay are untouched, so the new mixture is the old one without the dropped terms,
    its gate renormalised.

    Args:
        student: stays as it is.
        obs: normalised windows to average the gate over, the training states.
        threshold: share of an even gate below which an expert goes: its mean gate is less than
            threshold / K. The busiest expert always stays.
    """
    pruned = copy.deepcopy(student).eval()
    share = mean_gate(pruned, obs)
    kept = torch.nonzero(share >= min(threshold / len(share), float(share.max())))[:, 0]
    pruned.settings = replace(student.settings, n_experts=len(kept))
    *lift, logits = student.gate
    assert isinstance(logits, nn.Linear)  # as the constructor made it
    pruned.gate = nn.Sequential(*lift, keep_rows(logits, kept, len(share)))
    pruned.head = student.head.keep(kept)
    return pruned
