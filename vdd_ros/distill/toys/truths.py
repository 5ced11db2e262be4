r"""Toy problems whose truth is known: what a distillation should have found can be computed.

Every toy is a mixture of Gaussians in the plane, so that its density, its samples and its score
at every noise level are exact. ``moons`` is two arcs of many narrow Gaussians, closer together
than they are wide; its teacher is a small diffusion model trained on samples, as a robot's would
be. ``exact-moons`` is the same with the exact score: what is left of an error there is not the
teacher's. All but ``rotating-ring`` have no state: the observation is a constant zero.

The ring is the toy of the method's paper (Zhou et al., 2024); the grid asks for many modes, the
skewed ring for rare ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.distill.diagnostics.distances import draw_actions
from vdd_ros.distill.mixtures.mixture import MixtureParameters
from vdd_ros.distill.teachers.analytic import AnalyticTeacher
from vdd_ros.distill.teachers.edm import EdmTeacher, EdmTraining, TeacherSettings
from vdd_ros.distill.training.targets import Targets

ToyName = Literal["ring", "skewed-ring", "rotating-ring", "grid", "moons", "exact-moons"]
TOYS: tuple[ToyName, ...] = get_args(ToyName)

# Enough that the rounding of the average over states is below that of the samples.
_N_STATES = 16
_MOON_PIECES = 100
_MOON_STD = 0.08


@dataclass(frozen=True)
class Toy:
    """One problem: the truth, and which of its components belong to which mode."""

    name: ToyName
    """Which."""
    truth: AnalyticTeacher
    """The exact distribution; also the teacher, unless the toy has a learned one."""
    mode: Int[Tensor, " M"]
    """The mode of each component of the truth."""
    radius: float
    """How near to a component of a mode an expert's mean has to be to belong to it."""
    obs: Float[Tensor, "B T O"]
    """States to judge at."""

    @property
    def n_modes(self) -> int:
        """Different modes."""
        return int(self.mode.max()) + 1

    def states(self, n: int) -> Float[Tensor, "N T O"]:
        """Draw states to learn at."""
        if self.name == "rotating-ring":
            return torch.rand(n, 1, 1) * 2 - 1
        return torch.zeros(n, 1, 1)

    def density(self, obs: Float[Tensor, "B T O"]) -> MixtureParameters:
        """Return the exact mixture at some states."""
        return self.truth.blurred(torch.zeros(len(obs)), obs)

    def mode_weight(self) -> Float[Tensor, " C"]:
        """Return the probability of each mode."""
        return torch.zeros(self.n_modes).index_add_(0, self.mode, self.truth.weights)


class RotatingTeacher(AnalyticTeacher):
    """A Gaussian mixture in the plane that turns with the observation.

    The last observation, in [-1, 1], is the angle in units of 45 degrees: over the whole range
    every mode of a ring of eight moves from one neighbour's place to the other's.
    """

    def blurred(
        self, sigma: Float[Tensor, " B"], obs: Float[Tensor, "B T O"]
    ) -> MixtureParameters:
        """Return the turned mixture after adding N(0, sigma^2 I); round components only."""
        mixture = super().blurred(sigma, obs)
        angle = obs[:, -1, 0] * (math.pi / 4)
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1)
        mean = torch.einsum("bij,bkhj->bkhi", turn.view(-1, 2, 2), mixture.mean)
        return mixture._replace(mean=mean)


class RoundTeacher(AnalyticTeacher):
    """A Gaussian mixture of many round components, all as wide as the first.

    The same denoiser as its parent's without a covariance per component, which is what takes the
    time with hundreds of them, asked at the noise levels that a learned teacher is trained at.
    """

    sigma_min = 0.02
    sigma_max = 3.0

    def denoise(
        self,
        x: Float[Tensor, "B H A"],
        sigma: Float[Tensor, " B"],
        obs: Float[Tensor, "B T O"],
    ) -> Float[Tensor, "B H A"]:
        """Return the exact mean of the clean action given the noisy one."""
        own, added = self.covariance[0, 0, 0], sigma.square()[:, None]
        flat, place = x.flatten(1), self.means.flatten(1)
        # By differences: the squares of the coordinates are large beside narrow components.
        gap = torch.cdist(flat, place, compute_mode="donot_use_mm_for_euclid_dist")
        share = torch.softmax(self.weights.log() - gap.square() / (2 * (own + added)), -1)
        return ((own * flat + added * (share @ place)) / (own + added)).view_as(x)


def make_toy(name: str) -> Toy:
    """Return a toy by its name.

    Raises:
        VddError: unknown name.
    """
    still = torch.zeros(1, 1, 1)
    if name == "ring":
        return Toy("ring", _round(_circle(8), 0.1), torch.arange(8), 0.3, still)
    if name == "skewed-ring":
        weights = torch.tensor([8.0, 4, 2, 1, 8, 4, 2, 1]) / 30
        return Toy("skewed-ring", _round(_circle(8), 0.1, weights), torch.arange(8), 0.3, still)
    if name == "rotating-ring":
        truth = _round(_circle(8), 0.1, kind=RotatingTeacher)
        angles = torch.linspace(-1, 1, _N_STATES)[:, None, None]
        return Toy("rotating-ring", truth, torch.arange(8), 0.3, angles)
    if name == "grid":
        x, y = torch.meshgrid(torch.arange(5) - 2.0, torch.arange(8) - 3.5, indexing="ij")
        places = 0.8 * torch.stack([x, y], -1).view(-1, 2)
        return Toy("grid", _round(places, 0.08), torch.arange(40), 0.24, still)
    if name in ("moons", "exact-moons"):
        truth = _round(_arcs(_MOON_PIECES), _MOON_STD, kind=RoundTeacher)
        moon = torch.arange(2 * _MOON_PIECES) // _MOON_PIECES
        return Toy("moons" if name == "moons" else "exact-moons", truth, moon, 0.24, still)
    raise VddError(f"toy: got '{name}'{did_you_mean(name, TOYS)}")


def train_toy_teacher(toy: Toy, settings: TeacherSettings, *, n_demos: int = 8192) -> EdmTeacher:
    """Train a small diffusion model on samples of a toy, from torch's present random state."""
    states = toy.states(n_demos)
    actions = draw_actions(toy.density, states, 1)[..., None, :]
    teacher = EdmTeacher(
        settings, dim_obs=1, dim_act=2, sigma_data=float(actions.var((0, 1, 2)).mean().sqrt())
    )
    training = EdmTraining(teacher, Targets(states, actions))
    for iteration in range(training.n_iters):
        training.step(iteration)
    network = training.acting()
    assert isinstance(network, EdmTeacher)
    return network.requires_grad_(False).eval()


def _circle(n: int, radius: float = 2.0) -> Float[Tensor, "M D"]:
    angle = torch.arange(n) * (2 * math.pi / n)
    return radius * torch.stack([angle.cos(), angle.sin()], -1)


def _arcs(pieces: int) -> Float[Tensor, "M D"]:
    """Two interleaving half circles of radius 1, about the origin."""
    angle = (torch.arange(pieces) + 0.5) * (math.pi / pieces)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], -1)
    lower = torch.stack([0.5 - angle.cos(), 0.25 - angle.sin()], -1)
    return torch.cat([upper, lower])


def _round(
    places: Float[Tensor, "M D"],
    std: float,
    weights: Float[Tensor, " M"] | None = None,
    kind: type[AnalyticTeacher] = AnalyticTeacher,
) -> AnalyticTeacher:
    """Return equally wide, round components."""
    n = len(places)
    weights = torch.full((n,), 1.0 / n) if weights is None else weights
    return kind(weights, places[:, None], (std**2 * torch.eye(2)).expand(n, 2, 2))
