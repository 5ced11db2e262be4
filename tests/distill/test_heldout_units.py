"""Held-out figures in one scale: energies over the data's deviations, windows from end to end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vdd_ros.core.normalizer import Normalizer
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.distill.judging.heldout import (
    HeldOut,
    HeldOutSettings,
    held_out,
    sample_figures,
    student_figures,
)
from vdd_ros.distill.judging.proper_scores import sampled_energy, weighted_energy
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts, StudentSettings
from vdd_ros.distill.networks.normalization import Affine

UNITS = torch.tensor([0.001, 10.0, 1.0])
FEW = HeldOutSettings(n_samples=6)


def measured(scale: Tensor) -> HeldOut:
    """Five chunks of two actions, and what one deviation is, in given units."""
    generator = torch.Generator().manual_seed(0)
    action = torch.randn(5, 2, 3, generator=generator)
    return HeldOut(torch.zeros(5, 1, 1), scale * action, scale * torch.tensor([1.0, 2.0, 0.5]))


def test_the_energy_score_of_samples_does_not_depend_on_units() -> None:
    """And is that of errors over deviations, not of raw ones."""
    drawn = torch.randn(5, 6, 2, 3, generator=torch.Generator().manual_seed(1))
    plain, other = (
        sample_figures(lambda obs, n, generator, s=scale: s * drawn, measured(scale), FEW)
        for scale in (torch.ones(3), UNITS)
    )
    data = measured(torch.ones(3))
    wanted = sampled_energy((drawn - data.action[:, None]) / data.deviation).mean()
    assert plain.energy_score == pytest.approx(float(wanted), rel=1e-5)
    assert other.energy_score == pytest.approx(plain.energy_score, rel=1e-4)
    assert other.rmse_sample != pytest.approx(plain.rmse_sample, rel=0.1)


def test_the_energy_score_of_a_students_means_does_not_depend_on_units() -> None:
    def student(scale: Tensor) -> GaussianMixtureOfExperts:
        torch.manual_seed(0)
        units = Affine(3, Normalizer(np.zeros(3, np.float32), scale.numpy()))
        made = GaussianMixtureOfExperts(
            StudentSettings(n_experts=3, width=8, depth=1, head_width=4),
            dim_obs=1, dim_act=3, n_obs_steps=1, horizon=2, action=units,
        )  # fmt: skip
        made.head.set_means(torch.randn(3, 6))
        return made.eval()

    plain, other = (student_figures(student(s), measured(s), FEW) for s in (torch.ones(3), UNITS))
    data = measured(torch.ones(3))
    mixture = student(torch.ones(3))(data.observation)
    error = (mixture.mean - data.action[:, None]) / data.deviation
    wanted = weighted_energy(error, mixture.log_gate.exp()).mean()
    assert plain.energy_score_means == pytest.approx(wanted.item(), rel=1e-5)
    assert other.energy_score_means == pytest.approx(plain.energy_score_means, rel=1e-4)


def test_thinned_windows_reach_from_the_first_to_the_last() -> None:
    index = np.arange(40, dtype=np.float32)[:, None]
    demos = Demonstrations(
        observation=index, action=index, episode_ends=np.array([40]), mode=None, source="rows"
    )
    few = held_out(demos, demos, n_obs_steps=1, horizon=1, settings=HeldOutSettings(max_windows=4))
    assert few.observation.flatten().tolist() == [0, 13, 26, 39]
