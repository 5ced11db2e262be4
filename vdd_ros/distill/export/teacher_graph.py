"""A denoiser as the graph of a policy file: one pass of it, and whole samplers unrolled."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vdd_ros.core.schedules import sigma_schedule
from vdd_ros.distill.methods.jumps import JumpModel
from vdd_ros.distill.teachers.base import DenoisingTeacher


class TeacherGraph(nn.Module):
    """The denoiser, its result in raw units, and whole samplers unrolled."""

    def __init__(self, teacher: DenoisingTeacher | JumpModel, unroll: Sequence[int]) -> None:
        """Wrap a teacher; each entry of ``unroll`` is a number of Euler steps."""
        super().__init__()
        self.teacher = teacher
        self.schedules = [
            sigma_schedule(
                teacher.schedule,
                n_steps=n,
                sigma_min=teacher.sigma_min,
                sigma_max=teacher.sigma_max,
            ).tolist()
            for n in unroll
        ]

    def forward(
        self,
        noisy_action: Float[Tensor, "B H A"],
        sigma: Float[Tensor, " B"],
        observation: Float[Tensor, "B T O"],
        noise: Float[Tensor, "B H A"] | None = None,
    ) -> tuple[Tensor, ...]:
        """Return denoised, action and one sampled action per schedule."""
        teacher = self.teacher
        obs = teacher.observation.normalize(observation)
        denoised = teacher.denoise(noisy_action, sigma, obs)
        outputs = [denoised, teacher.action.unnormalize(denoised)]
        for sigmas in self.schedules:
            x = noise * sigmas[0]
            for now, following in itertools.pairwise(sigmas):
                # One sigma for the whole batch: its embedding is a constant of the graph.
                clean = teacher.denoise(x, torch.tensor([now]), obs)
                ratio = following / now
                x = clean if following == 0 else ratio * x + (1.0 - ratio) * clean
            outputs.append(teacher.action.unnormalize(x))
        return tuple(outputs)
