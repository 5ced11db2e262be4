r"""What consistency models share: jumping along the teacher's ODE instead of walking it.

The probability-flow ODE :math:`dx/d\sigma = (x - D(x, \sigma, s))/\sigma` (Karras et al., 2022,
equation 1 in variance-exploding coordinates) leads every noisy action to one clean action. A
consistency model learns where it leads to (`consistency`), a consistency trajectory model every
place on the way (`trajectory_consistency`). Both have the form of a denoiser: one Euler step from
sigma_max to 0 over "denoiser" f is :math:`f(\sigma_{max} \epsilon, \sigma_{max}, s)`, so samplers,
policy files and nodes run them with one step as they run a teacher with many. More steps are not
for them: an Euler step in between takes f for the mean of the clean action, which it is not.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vdd_ros.core.schedules import ScheduleKind, sigma_schedule
from vdd_ros.distill.denoisers import Teacher
from vdd_ros.distill.methods.mixture_training import DistillSettings
from vdd_ros.distill.methods.rival_settings import (
    ConsistencySettings,
    Distance,
    TrajectorySettings,
)
from vdd_ros.distill.networks.denoising import DenoisingShape, make_denoising_network
from vdd_ros.distill.networks.normalization import Affine
from vdd_ros.distill.training.ema import Ema
from vdd_ros.distill.training.learning_rate import cosine_rate
from vdd_ros.distill.training.targets import Targets

# Rounds the corner of the pseudo-Huber distance; times the root of the dimension (Song and
# Dhariwal, 2024, "Improved techniques for training consistency models", section 3.3).
_HUBER = 0.00054


@dataclass(frozen=True)
class JumpShape:
    """Shape of a consistency model, as a run folder records it."""

    network: DenoisingShape
    """The network F; one level for a consistency model, two for a trajectory model."""
    sigma_min: float
    """Where trajectories end, in units of normalised actions."""
    sigma_max: float
    """Where they begin."""


class JumpModel(nn.Module):
    """A network that jumps along the teacher's ODE; a `denoisers.Teacher` with one step.

    Args:
        shape: the network, and the range of sigma.
        dim_obs: length of one observation.
        dim_act: length of one action.
        observation: normaliser of observations, kept for export and acting.
        action: normaliser of actions.
        sigma_data: standard deviation of normalised actions.
    """

    sigma_data: Tensor
    schedule: ScheduleKind = "karras"
    """The levels it has learnt; one step uses the first alone."""

    def __init__(
        self,
        shape: JumpShape,
        *,
        dim_obs: int,
        dim_act: int,
        observation: Affine | None = None,
        action: Affine | None = None,
        sigma_data: float = 1.0,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.dim_obs, self.dim_act = dim_obs, dim_act
        self.n_obs_steps, self.horizon = shape.network.n_obs_steps, shape.network.horizon
        self.observation = observation or Affine(dim_obs)
        self.action = action or Affine(dim_act)
        self.register_buffer("sigma_data", torch.tensor(sigma_data))
        self.network = make_denoising_network(shape.network, dim_obs=dim_obs, dim_act=dim_act)

    @property
    def sigma_min(self) -> float:
        """Sigma at which trajectories end."""
        return self.shape.sigma_min

    @property
    def sigma_max(self) -> float:
        """Sigma at which trajectories begin."""
        return self.shape.sigma_max

    @abstractmethod
    def denoise(
        self,
        x: Float[Tensor, "B H A"],
        sigma: Float[Tensor, " #B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        """Return the end of the trajectory through x at sigma; all normalised."""


class JumpTraining:
    """A `trainer.Trainable` that fits a jump model to a teacher's ODE; subclasses say how.

    Args:
        model: trained in place.
        settings: iterations, batches, rates.
        levels: noise levels and targets of the method.
        targets: states, with the demonstrated actions that are noised.
        teacher: any denoiser in normalised coordinates.
    """

    def __init__(
        self,
        model: JumpModel,
        settings: DistillSettings,
        levels: ConsistencySettings | TrajectorySettings,
        targets: Targets,
        *,
        teacher: Teacher,
    ) -> None:
        self.model, self.settings, self.targets, self._teacher = model, settings, targets, teacher
        self.n_iters = settings.n_iters
        self.teacher_queries = 0
        self._solver, self._peak = levels.solver, levels.learning_rate
        sigmas = sigma_schedule(
            "karras", n_steps=levels.n_scales, sigma_min=model.sigma_min,
            sigma_max=model.sigma_max, rho=levels.rho,
        )  # fmt: skip
        self.sigmas = torch.tensor(sigmas, dtype=torch.float32)
        """[n_scales + 1] from sigma_max over sigma_min to 0."""
        self._target = Ema(model, levels.target_decay)
        self._ema = Ema(model, settings.ema_decay) if settings.ema_decay else None
        self._optimizer = torch.optim.Adam(model.parameters(), lr=levels.learning_rate, fused=True)

    @abstractmethod
    def losses(
        self, action: Float[Tensor, "B H A"], obs: Float[Tensor, "B T O"]
    ) -> Mapping[str, Tensor]:
        """Return the loss to descend, as ``loss``, and its parts where there are several."""

    def step(self, iteration: int) -> Mapping[str, Tensor | float]:
        """Take one optimiser step on one minibatch."""
        obs, action = self.targets.draw(self.settings.batch_size)
        losses = self.losses(action[:, 0], obs)
        rate = self._peak * cosine_rate(iteration, self.n_iters)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        losses["loss"].backward()
        self._optimizer.step()
        self._target.update(iteration)
        if self._ema:
            self._ema.update(iteration)
        return {name: value.detach() for name, value in losses.items()}

    @torch.no_grad()
    def ode_step(
        self,
        x: Float[Tensor, "B H A"],
        now: Float[Tensor, " B"],
        then: Float[Tensor, " B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        """Take one Euler or Heun step of the teacher's ODE from sigma ``now`` down to ``then``.

        A step to 0 is Euler's, as in Karras et al. (2022), algorithm 1.
        """
        width = (then - now)[:, None, None]
        slope = self._slope(x, now, obs)
        euler = x + width * slope
        if self._solver == "euler":
            return euler
        ahead = self._slope(euler, then, obs)
        heun = x + width * 0.5 * (slope + ahead)
        return torch.where(then[:, None, None] > 0, heun, euler)

    def _slope(self, x: Tensor, sigma: Tensor, obs: Tensor) -> Tensor:
        self.teacher_queries += len(x)
        # There is no slope at 0; rows that are there take no step.
        sigma = sigma.clamp(min=self.model.sigma_min)
        return (x - self._teacher.denoise(x, sigma, obs)) / sigma[:, None, None]

    def draw_level(self, batch: int, n_levels: int) -> Int[Tensor, " B"]:
        """Draw indices into ``sigmas``, each of the first ``n_levels`` alike."""
        return torch.randint(n_levels, (batch,))

    def parts(self) -> dict[str, nn.Module]:
        """Return the model, the weights behind its targets, and its average."""
        parts: dict[str, nn.Module] = {"student": self.model, "target": self._target.shadow}
        return parts | ({"ema": self._ema.shadow} if self._ema else {})

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the one optimiser."""
        return {"adam": self._optimizer}

    def acting(self) -> nn.Module:
        """Return the averaged model."""
        return self._ema.shadow if self._ema else self.model


def distance(
    kind: Distance, a: Float[Tensor, "B H A"], b: Float[Tensor, "B H A"]
) -> Float[Tensor, ""]:
    r"""Return the mean distance of a batch: squared, or :math:`\sqrt{|d|^2 + c^2} - c`.

    Both are taken over whole chunks. The pseudo-Huber distance is a function of the squared
    distance itself; squaring that once more, as has been published in code, makes it quartic for
    small differences and gives them no gradient.

    Raises:
        VddError: unknown kind.
    """
    squared = (a - b).square().flatten(1).sum(-1)
    if kind == "squared":
        return squared.mean()
    corner = _HUBER * a[0].numel() ** 0.5
    return (torch.sqrt(squared + corner**2) - corner).mean()


@torch.no_grad()
def take_over(network: nn.Module, teacher: nn.Module, shape: DenoisingShape) -> None:
    """Start a network of ``shape`` as the teacher's, which is told one level.

    Weights for further levels start at zero: the network is then indifferent to what the teacher
    is not told. Their columns stand after those of the first level, at the front of what a FiLM
    or a U-Net is conditioned on, at the end of what the other networks read.
    """
    levels_first = shape.backbone == "unet" or shape.conditioning == "film"
    theirs = teacher.state_dict()
    # Not parameters alone: random projections of the window are buffers.
    for name, ours in network.state_dict().items():
        known = theirs[name]
        more = ours.shape[-1] - known.shape[-1]
        seam = more if levels_first else known.shape[-1]
        ours[..., :seam] = known[..., :seam]
        ours[..., seam : seam + more] = 0.0
        ours[..., seam + more :] = known[..., seam:]
