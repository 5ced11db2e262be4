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

    n_scales: int = 18
    """Noise levels the teacher's ODE is cut into, from sigma_max to sigma_min."""
    rho: float = 7.0
    """Spacing of the levels (Karras et al., 2022, equation 5)."""
    solver: Solver = "heun"
    """The teacher's step from one level to the next: heun asks it twice, euler once."""
    distance: Distance = "huber"
    """squared, or pseudo-Huber, which far pairs do not dominate."""
    target_decay: float = 0.95
    """Decay of the averaged weights that make the targets; 0 takes the present ones."""
    learning_rate: float = 1e-4
    """Peak learning rate, in place of the one all methods share: a network that starts as its
    teacher's wants less than one that starts from nothing, as it does from a teacher that is not
    EDM. In trials on Avoiding larger ones lost success the longer the training was."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check("consistency", self)


@dataclass(frozen=True)
class TrajectorySettings:
    """Consistency Trajectory Model (method ctm)."""

    n_scales: int = 40
    """Noise levels the teacher's ODE is cut into, from sigma_max to sigma_min."""
    rho: float = 7.0
    """Spacing of the levels (Karras et al., 2022, equation 5)."""
    solver: Solver = "heun"
    """The teacher's step from one level to the next: heun asks it twice, euler once."""
    distance: Distance = "huber"
    """squared, or pseudo-Huber, which far pairs do not dominate."""
    target_decay: float = 0.0
    """Decay of the averaged weights that make the targets; 0 takes the present ones."""
    learning_rate: float = 3e-4
    """Peak learning rate, in place of the one all methods share: a network that starts as its
    teacher's wants less than one that starts from nothing."""
    max_steps: int = 1
    """Solver steps between a pair: drawn from 1 to this many."""
    denoising_weight: float = 0.1
    """Weight of the denoising loss on the demonstrations, beside 1 for the trajectory loss."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check("trajectory", self)
        _at_least_one("trajectory.max_steps", self.max_steps)
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
