"""A teacher whose ODE is solved in closed form, and a way to train on it."""

from __future__ import annotations

import torch
from torch import Tensor

from vdd_ros.distill.methods.jumps import JumpShape, JumpTraining
from vdd_ros.distill.networks.denoising import DenoisingShape
from vdd_ros.distill.teachers.analytic import AnalyticTeacher
from vdd_ros.distill.training.targets import Targets

SIGMA_MIN, SIGMA_MAX = 0.05, 2.0
SPREAD = torch.tensor([[0.30, 0.12], [0.12, 0.20]])
SHIFT = torch.tensor([[[0.5, -0.8]]])


class GaussianTeacher(AnalyticTeacher):
    """N((0.5 o, -0.8 o), SPREAD) given a single observed number o.

    Along its ODE every coordinate of the covariance's own basis is scaled by
    sqrt((l + s^2) / (l + t^2)) on the way from t to s, with l the eigenvalue.
    """

    sigma_min, sigma_max = SIGMA_MIN, SIGMA_MAX

    def __init__(self) -> None:
        super().__init__(torch.ones(1), torch.zeros(1, 1, 2), SPREAD[None], SHIFT)

    def denoise(self, x: Tensor, sigma: Tensor, obs: Tensor) -> Tensor:
        """The same denoiser as the mixture's, a matrix product instead of a mixture's score."""
        value, basis = torch.linalg.eigh(SPREAD)
        mean = torch.einsum("bo,oha->bha", obs[:, -1], SHIFT)
        ratio = value / (value + sigma[:, None] ** 2)
        return mean + ((x - mean) @ basis * ratio[:, None]) @ basis.T

    def flow(self, x: Tensor, start: Tensor, stop: Tensor, obs: Tensor) -> Tensor:
        """Return where the trajectory through x at ``start`` is at ``stop``."""
        value, basis = torch.linalg.eigh(SPREAD)
        mean = torch.einsum("bo,oha->bha", obs[:, -1], SHIFT)
        ratio = (value + stop[:, None] ** 2) / (value + start[:, None] ** 2)
        return mean + ((x - mean) @ basis * ratio.sqrt()[:, None]) @ basis.T


def gaussian_targets(n: int = 4096) -> Targets:
    """Draw states and actions of the Gaussian teacher."""
    obs = torch.randn(n, 1, 1)
    mean = torch.einsum("bo,oha->bha", obs[:, -1], SHIFT)
    action = mean + torch.randn(n, 1, 2) @ torch.linalg.cholesky(SPREAD).T
    return Targets(obs, action[:, None])


def noisy_actions(n: int) -> tuple[Tensor, Tensor]:
    """Draw the starts of trajectories at sigma_max, and their observations."""
    targets = gaussian_targets(n)
    return targets.action[:, 0] + SIGMA_MAX * torch.randn(n, 1, 2), targets.obs


def jump_shape(n_levels: int, *, width: int = 48, backbone: str = "mlp", **more) -> JumpShape:
    """Return a small network for the teacher above."""
    network = {
        "n_obs_steps": 1, "horizon": 1, "backbone": backbone, "width": width, "depth": 2,
        "n_heads": 2, "dropout_attention": 0.0, "dropout": 0.0, "n_levels": n_levels,
    }  # fmt: skip
    return JumpShape(DenoisingShape(**(network | more)), SIGMA_MIN, SIGMA_MAX)


def scramble(module: torch.nn.Module) -> None:
    """Give a network weights that no layer starts with: none is zero."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


def run(training: JumpTraining) -> JumpTraining:
    """Train to the end."""
    for iteration in range(training.n_iters):
        training.step(iteration)
    return training
