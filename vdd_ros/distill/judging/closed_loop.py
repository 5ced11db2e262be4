"""Torch models as closed-loop policies, for figures while training and before export.

The shipped figures come from the policy file through the robot's own runtime; these callables
exist so that a run can be judged without exporting it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from vdd_ros.core.gating import ExpertSelector, SelectionSettings
from vdd_ros.core.mixture import log_softmax, sample_categorical
from vdd_ros.core.samplers import SamplerKind
from vdd_ros.distill.denoisers import sample_actions
from vdd_ros.distill.methods.jumps import JumpModel
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts
from vdd_ros.distill.teachers.base import DenoisingTeacher
from vdd_ros.tasks.metrics import task_metrics
from vdd_ros.tasks.protocol import Policy, make_task
from vdd_ros.tasks.rollouts import rollout


def student_policy(
    student: GaussianMixtureOfExperts | JumpModel, selection: SelectionSettings | None = None
) -> Policy:
    """Return a policy that answers with the chosen expert's mean, or with one jump.

    Without ``selection`` a mixture's expert is drawn from the gate with the rollout's own
    generator, the published rule. A consistency model has no experts to select.
    """
    if isinstance(student, JumpModel):
        return teacher_policy(student, n_steps=1)
    selector = ExpertSelector(selection, student.settings.n_experts) if selection else None

    def act(
        window: NDArray[np.floating], rng: np.random.Generator
    ) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
        with torch.no_grad():
            obs = student.observation.normalize(torch.as_tensor(window, dtype=torch.float32))
            logits, mean = student.proposals(student.features(obs))
            raw = student.action.unnormalize(mean).numpy()
        gating = logits.numpy()
        if selector is not None:
            expert = selector.select(gating)
        else:
            expert = sample_categorical(log_softmax(gating), rng)
        return raw[np.arange(len(raw)), expert], expert

    return act


def teacher_policy(
    teacher: DenoisingTeacher | JumpModel,
    n_steps: int = 16,
    sampler: SamplerKind = "euler",
    *,
    start_sigma: float | None = None,
) -> Policy:
    """Return a policy that answers with a sampled chunk.

    Args:
        teacher: any denoiser with its normalisers.
        n_steps: steps of the sampler.
        sampler: its kind.
        start_sigma: where sampling starts, instead of at the teacher's largest sigma. One step
            from there ends at the mean of all actions; from a smaller sigma it keeps something
            of the noise it started from, and with it some diversity.
    """
    start = teacher.sigma_max if start_sigma is None else start_sigma

    def act(
        window: NDArray[np.floating], rng: np.random.Generator
    ) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
        with torch.no_grad():
            obs = teacher.observation.normalize(torch.as_tensor(window, dtype=torch.float32))
            noise = rng.standard_normal((len(window), teacher.horizon, teacher.dim_act))
            actions = sample_actions(
                teacher,
                obs,
                torch.as_tensor(noise, dtype=torch.float32),
                n_steps=n_steps,
                sigma_min=teacher.sigma_min,
                sigma_max=start,
                kind=sampler,
                schedule=teacher.schedule,
                generator=torch.Generator().manual_seed(int(rng.integers(2**62))),
            )
            raw = teacher.action.unnormalize(actions).numpy()
        return raw, np.full(len(window), -1)

    return act


def closed_loop(
    policy: Policy,
    *,
    task: str,
    level: str,
    rollouts: int,
    seed: int,
    n_obs_steps: int,
    n_action_steps: int = 1,
) -> Mapping[str, float]:
    """Roll a policy out: success, entropy, modes, score, reward and the task's own figures."""
    robots = make_task(task, level=level)
    result = rollout(
        robots,
        policy,
        n=rollouts,
        seed=seed,
        n_obs_steps=n_obs_steps,
        n_action_steps=n_action_steps,
    )
    metrics = task_metrics(result, robots.n_modes)
    return {
        "success": metrics.success,
        "entropy": metrics.entropy,
        "modes": metrics.modes,
        "score": metrics.score,
        "reward": metrics.reward,
        **metrics.extra,
    }
