"""Anything that draws action chunks in raw units: students, teachers, and what they must beat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from vdd_ros.core.normalizer import Normalizer
from vdd_ros.core.samplers import SamplerKind
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.windows import make_windows
from vdd_ros.distill.denoisers import Teacher, sample_actions
from vdd_ros.distill.judging.proper_scores import draw_chunks
from vdd_ros.distill.mixtures.mixture import MixtureParameters
from vdd_ros.distill.networks.normalization import Affine

ActionSampler = Callable[[Tensor, int, torch.Generator], Tensor]
"""(raw windows [B, T, O], S, generator) -> raw action chunks [B, S, H, A]."""


@runtime_checkable
class Student(Protocol):
    """A network whose answer is a mixture over normalised action chunks."""

    @property
    def observation(self) -> Affine:
        """Normaliser of observations."""
        ...

    @property
    def action(self) -> Affine:
        """Normaliser of actions."""
        ...

    def __call__(self, obs: Tensor) -> MixtureParameters:
        """Return the mixture for normalised windows."""
        ...


@runtime_checkable
class SampledTeacher(Teacher, Protocol):
    """A denoiser with the normalisers and the chunk length it was trained with."""

    @property
    def observation(self) -> Affine:
        """Normaliser of observations."""
        ...

    @property
    def action(self) -> Affine:
        """Normaliser of actions."""
        ...

    @property
    def horizon(self) -> int:
        """Actions in a chunk."""
        ...

    @property
    def dim_act(self) -> int:
        """Entries of one action."""
        ...


def mixture_sampler(student: Student) -> ActionSampler:
    """Return draws from the whole mixture, spread of the experts included."""

    def draw(obs: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        mixture = student(student.observation.normalize(obs))
        chunks = draw_chunks(mixture, n_samples, generator)
        return student.action.unnormalize(chunks)

    return draw


def teacher_sampler(
    teacher: SampledTeacher,
    *,
    n_steps: int = 16,
    kind: SamplerKind = "euler",
    start_sigma: float | None = None,
) -> ActionSampler:
    """Return draws from a diffusion teacher, each of ``n_steps`` denoiser calls.

    ``start_sigma`` is where sampling starts instead of at the teacher's largest sigma.
    """

    def draw(obs: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        rows = teacher.observation.normalize(obs).repeat_interleave(n_samples, 0)
        shape = (len(rows), teacher.horizon, teacher.dim_act)
        chunks = sample_actions(
            teacher,
            rows,
            torch.randn(shape, generator=generator),
            n_steps=n_steps,
            sigma_min=teacher.sigma_min,
            sigma_max=teacher.sigma_max if start_sigma is None else start_sigma,
            kind=kind,
            schedule=teacher.schedule,
            generator=generator,
        )
        return teacher.action.unnormalize(chunks).unflatten(0, (len(obs), n_samples))

    return draw


def climatology_sampler(train: Demonstrations, *, horizon: int) -> ActionSampler:
    """Return draws of training chunks whatever the observation: a model must beat this."""
    chunks = torch.as_tensor(make_windows(train, n_obs_steps=1, horizon=horizon).action)

    def draw(obs: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        return chunks[torch.randint(len(chunks), (len(obs), n_samples), generator=generator)]

    return draw


def linear_sampler(
    train: Demonstrations, *, n_obs_steps: int, horizon: int, ridge: float = 1e-5
) -> ActionSampler:
    """Return a linear regression's answers, each with the error of another training window.

    The rival to beat where motion is smooth: a window of two observations holds the velocity, and
    going on as before is linear in it. Least squares with a little ridge (on normalised
    columns, per window), the errors bootstrapped, so that draws have their spread.
    """
    windows = make_windows(train, n_obs_steps=n_obs_steps, horizon=horizon)
    scale = Affine(train.dim_obs, Normalizer.fit(train.observation, "mean_std"))

    def features(obs: Tensor) -> Tensor:
        flat = scale.normalize(obs).flatten(1).double()
        return torch.cat([flat, torch.ones(len(flat), 1, dtype=torch.double)], dim=1)

    known, action = features(torch.as_tensor(windows.observation)), torch.as_tensor(windows.action)
    target = action.flatten(1).double()
    gram = known.T @ known + ridge * len(known) * torch.eye(known.shape[1]).double()
    weight = torch.linalg.solve(gram, known.T @ target)
    error = target - known @ weight

    def draw(obs: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(error), (len(obs), n_samples), generator=generator)
        chunks = (features(obs) @ weight)[:, None] + error[rows]
        return chunks.to(action.dtype).unflatten(-1, action.shape[1:])

    return draw


def persistence_sampler(*, horizon: int, dim_act: int, relative: bool = False) -> ActionSampler:
    """Return the newest observation as the command: stay where you are.

    The rival to beat where actions are positions and the observation begins with the position
    they command, as in the recordings of the G1 and the Franka: at 30 Hz little changes. With
    ``relative`` actions are differences from it, and staying is 0.
    """

    def draw(obs: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        here = obs[:, -1, None, None, :dim_act]
        here = torch.zeros_like(here) if relative else here
        return here.expand(-1, n_samples, horizon, -1)

    return draw
