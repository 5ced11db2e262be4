r"""The student: a Gaussian Mixture of Experts that acts in one pass.

One shared trunk reads the observation window; three small heads give the gate, the means and the
Cholesky factors of all experts (Zhou et al., 2024, section 4; the reference implementation shares
the trunk in the same way). All experts then cost little more than one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from vdd_ros.core.errors import VddError
from vdd_ros.distill.mixture import MixtureParameters
from vdd_ros.distill.networks.gaussian_head import CovarianceKind, GaussianHead
from vdd_ros.distill.networks.mlp import Mlp
from vdd_ros.distill.networks.normalization import Affine
from vdd_ros.distill.networks.transformer import Transformer, initialise_like_gpt

Backbone = Literal["mlp", "transformer"]


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
    head_width: int = 64
    """Hidden units of each head."""
    covariance: CovarianceKind = "full"
    """full or diag, over the flattened action chunk."""
    init_std: float = 0.4
    """Standard deviation of every expert at the start, in normalised actions."""
    min_std: float = 0.01
    """Lower bound of every standard deviation, in normalised actions."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("n_experts", "width", "depth", "n_heads", "head_width"):
            if getattr(self, name) < 1:
                raise VddError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if not 0 <= self.dropout < 1:
            raise VddError(f"dropout: got {self.dropout}, expected 0 <= dropout < 1")
        if not 0 < self.min_std < self.init_std:
            raise VddError(
                f"min_std {self.min_std} and init_std {self.init_std}: expected "
                "0 < min_std < init_std"
            )


class GaussianMixtureOfExperts(nn.Module):
    """Observation window in, mixture over action chunks out; everything normalised.

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
            self.trunk: nn.Module = Mlp(
                n_obs_steps * dim_obs, 0, width=width, depth=settings.depth
            )
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
        )

    def features(self, obs: Float[Tensor, "B T O"]) -> Float[Tensor, "B W"]:
        """Return the trunk's features of a normalised window."""
        if self.settings.backbone == "mlp":
            return self.trunk(obs.flatten(1))
        return self.trunk(self.embed(obs))[:, -1]

    def proposals(
        self, features: Float[Tensor, "B W"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K H A"]]:
        """Return gating logits and expert means: all that acting needs."""
        mean = self.head.means(self.lift_mean(features))
        chunk = mean.view(-1, self.settings.n_experts, self.horizon, self.dim_act)
        return self.gate(features), chunk

    def scale_tril(self, features: Float[Tensor, "B W"]) -> Float[Tensor, "B K D D"]:
        """Return the experts' Cholesky factors."""
        return self.head.scale_tril(self.lift_scale(features))

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
        return MixtureParameters(logits, mean, self.scale_tril(features))
