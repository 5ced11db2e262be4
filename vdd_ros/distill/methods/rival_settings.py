"""Settings of the rivals: what consistency models and IMC need beside `DistillSettings`.

They stand apart from the methods so that every method's settings fit into one file, with the
iterations, batches, learning rate and noise that all of them share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vdd_ros.core.errors import VddError

Solver = Literal["euler", "heun"]
Distance = Literal["squared", "huber"]


@dataclass(frozen=True)
class ConsistencySettings:
    """Consistency Distillation (method cd)."""

    n_scales: int = 6
    """Noise levels the teacher's ODE is cut into, from sigma_max to sigma_min; one more step ends
    at 0. The paper has 18, for images. Every pair leaves an error of its own, and they add up
    from sigma_min to where acting starts: in trials on Avoiding six levels gave more success
    than ten or 18."""
    rho: float = 7.0
    """Spacing of the levels (Karras et al., 2022, equation 5)."""
    solver: Solver = "euler"
    """The teacher's step from one level to the next: heun asks it twice, euler once. In
    trials Euler's steps over six levels gave more success than Heun's, and a little less
    entropy."""
    distance: Distance = "huber"
    """squared, or pseudo-Huber, which far pairs do not dominate."""
    target_decay: float = 0.95
    """Decay of the averaged weights that make the targets; 0 takes the present ones, with
    which CD did not learn the map in trials."""
    learning_rate: float = 2e-3
    """Peak learning rate, in place of the one all methods share. The map from noise to chunks is
    a rougher function than the denoiser it starts as, so a small rate hardly leaves that."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check("consistency", self)


@dataclass(frozen=True)
class TrajectorySettings:
    """Consistency Trajectory Model (method ctm)."""

    n_scales: int = 6
    """Noise levels the teacher's ODE is cut into, from sigma_max to sigma_min; one more step ends
    at 0. Few, as for `ConsistencySettings`."""
    rho: float = 7.0
    """Spacing of the levels (Karras et al., 2022, equation 5)."""
    solver: Solver = "euler"
    """The teacher's step from one level to the next: heun asks it twice, euler once."""
    distance: Distance = "huber"
    """squared, or pseudo-Huber, which far pairs do not dominate."""
    target_decay: float = 0.95
    """Decay of the averaged weights that make the targets; 0 takes the present ones."""
    learning_rate: float = 2e-3
    """Peak learning rate, in place of the one all methods share."""
    end_share: float = 0.5
    """Share of the pairs that jump to 0 at once, which is how the model acts; the others jump
    anywhere after the solver's steps, evenly, as published (0)."""
    max_steps: int = 1
    """Solver steps between a pair: drawn from 1 to this many."""
    denoising_weight: float = 0.1
    """Weight of the denoising loss on the demonstrations, beside 1 for the trajectory loss."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check("trajectory", self)
        _at_least_one("trajectory.max_steps", self.max_steps)
        if not 0 <= self.end_share <= 1:
            raise VddError(
                f"trajectory.end_share: got {self.end_share}, expected a share between 0 and 1"
            )
        if self.denoising_weight < 0:
            raise VddError(
                f"trajectory.denoising_weight: got {self.denoising_weight}, expected 0 or more"
            )


@dataclass(frozen=True)
class ImcSettings:
    """Information Maximizing Curriculum (method imc)."""

    pacing: float = 1.0
    """eta: how much of the data every expert takes on. Small: only what it does best already;
    large: everything it is responsible for, which is EM."""
    learn_covariance: bool = False
    """Fit the covariances, too. As published they stay as they start (student.init_std): an
    expert that may narrow gives the data it knows ever more weight, and in the end has one
    action left."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.pacing > 0:
            raise VddError(f"imc.pacing: got {self.pacing}, expected a positive number")


def _check(name: str, settings: ConsistencySettings | TrajectorySettings) -> None:
    """Check what both consistency models have."""
    if settings.n_scales < 2:
        raise VddError(f"{name}.n_scales: got {settings.n_scales}, expected at least 2")
    for key in ("rho", "learning_rate"):
        if not getattr(settings, key) > 0:
            raise VddError(
                f"{name}.{key}: got {getattr(settings, key)}, expected a positive number"
            )
    if not 0 <= settings.target_decay < 1:
        raise VddError(
            f"{name}.target_decay: got {settings.target_decay}, expected 0 <= decay < 1"
        )


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise VddError(f"{name}: got {value}, expected at least 1")
