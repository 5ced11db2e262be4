"""Who judges the policies of one task and one seed: simulated robots, or held-out episodes.

Both say what there is to learn from, because what is judged on may be kept from it, and both give
figures by name (`figures.KNOWN`). Nothing else in a study knows which of them it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.npz import load_demonstrations
from vdd_ros.data.relative import as_differences
from vdd_ros.distill.judging.action_samplers import (
    ActionSampler,
    climatology_sampler,
    linear_sampler,
    persistence_sampler,
    teacher_sampler,
)
from vdd_ros.distill.judging.closed_loop import closed_loop, student_policy, teacher_policy
from vdd_ros.distill.judging.heldout import (
    HeldOut,
    HeldOutSettings,
    held_out,
    sample_figures,
    split_episodes,
    student_figures,
)
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts
from vdd_ros.distill.study.recipes import teacher_settings
from vdd_ros.distill.study.settings import StudySettings, StudyTask
from vdd_ros.distill.study.variants import Row
from vdd_ros.tasks.protocol import Policy, make_task

# Fresh robots, and not those of any training seed's own evaluation.
_ROLLOUT_SEED = 1000
_CURVE_SIMULATED = ("success", "entropy", "score", "reward")
_CURVE_HELD_OUT = ("energy_score", "energy_score_acting", "nll", "coverage_90")


@runtime_checkable
class Judging(Protocol):
    """What judges every policy of one task and one seed."""

    demos: Demonstrations
    """What there is to learn from."""
    n_modes: int | None
    """Modes the task counts; None where there are none to count."""

    def figures(self, model: Any, row: Row) -> tuple[Mapping[str, float], int]:  # noqa: ANN401
        """Return a finished policy's figures, and on how many rollouts or windows they rest."""
        ...

    def curve(self, model: Any, row: Row) -> Mapping[str, float]:  # noqa: ANN401
        """Return what a learning curve shows of a policy in training, at less cost."""
        ...


def load(task: StudyTask, *, seed: int = 0) -> Demonstrations:
    """Return a task's demonstrations, all of them.

    Raises:
        VddError: none, or none that could be used.
    """
    spec = task.data or ""
    if not task.is_held_out:
        return load_demonstrations(
            spec, task=task.task, level=task.level, n=task.episodes, seed=seed
        )
    demos = load_demonstrations(spec, fit_task=False)
    return as_differences(demos) if task.relative else demos


def make_judge(settings: StudySettings, task: StudyTask, *, seed: int) -> Judging:
    """Return what judges the policies of a task and a training seed.

    Raises:
        VddError: no demonstrations, or too few episodes to hold any out.
    """
    kind = HeldOutEpisodes if task.is_held_out else SimulatedRobots
    return kind(settings, task, seed=seed)


class SimulatedRobots:
    """Rolls policies out.

    Args:
        settings: of the study.
        task: the robots.
        seed: training seed.
    """

    def __init__(self, settings: StudySettings, task: StudyTask, *, seed: int) -> None:
        self.demos = load(task, seed=seed)
        self.n_modes: int | None = make_task(task.task, level=task.level).n_modes
        self._task, self._seed, self._curve_rollouts = task, seed, settings.curve_rollouts

    def figures(self, model: Any, row: Row) -> tuple[Mapping[str, float], int]:  # noqa: ANN401
        """Return success, entropy, modes, score, reward and the task's own figures."""
        return self._rolled_out(model, row, self._task.rollouts), self._task.rollouts

    def curve(self, model: Any, row: Row) -> Mapping[str, float]:  # noqa: ANN401
        """Return success, entropy, score and reward of fewer rollouts."""
        found = self._rolled_out(model, row, self._curve_rollouts)
        return {name: found[name] for name in _CURVE_SIMULATED}

    def _rolled_out(self, model: Any, row: Row, rollouts: int) -> Mapping[str, float]:  # noqa: ANN401
        return closed_loop(
            _policy(model, row),
            task=self._task.task,
            level=self._task.level,
            rollouts=rollouts,
            seed=_ROLLOUT_SEED + self._seed,
            n_obs_steps=model.n_obs_steps,
            n_action_steps=self._task.n_action_steps,
        )


class HeldOutEpisodes:
    """Compares what policies predict with what was done in episodes that nobody learns from.

    Args:
        settings: of the study.
        task: the recordings; its share of episodes is held out, another one for every seed.
        seed: training seed.
    """

    n_modes: int | None = None

    def __init__(self, settings: StudySettings, task: StudyTask, *, seed: int) -> None:
        self._task, self._seed, self._curve_windows = task, seed, settings.curve_rollouts
        self.demos, self._test = split_episodes(load(task), self._settings(task.windows))

    def figures(self, model: Any, row: Row) -> tuple[Mapping[str, float], int]:  # noqa: ANN401
        """Return scores, calibration and errors, as far as the policy has them."""
        return self._judged(model, row, self._task.windows)

    def curve(self, model: Any, row: Row) -> Mapping[str, float]:  # noqa: ANN401
        """Return the scores on fewer windows."""
        found, _ = self._judged(model, row, self._curve_windows)
        return {name: found[name] for name in _CURVE_HELD_OUT if name in found}

    def _settings(self, windows: int) -> HeldOutSettings:
        return HeldOutSettings(
            fraction=self._task.held_out,
            seed=self._seed,
            n_samples=self._task.samples,
            max_windows=windows,
        )

    def _judged(
        self,
        model: Any,  # noqa: ANN401
        row: Row,
        windows: int,
    ) -> tuple[Mapping[str, float], int]:
        settings = self._settings(windows)
        shape = teacher_settings(self._task, row, seed=0) if row.is_reference else model
        data = held_out(
            self.demos,
            self._test,
            n_obs_steps=shape.n_obs_steps,
            horizon=shape.horizon,
            settings=settings,
        )
        if isinstance(model, GaussianMixtureOfExperts):
            return _of_mixture(model, data, settings), len(data.action)
        sampler = self._reference(row, data) if row.is_reference else _sampler(model, row)
        found = sample_figures(sampler, data, settings)
        return {
            "energy_score": found.energy_score,
            "energy_score_acting": found.energy_score,
            "rmse_acting": found.rmse_sample,
            "rmse_mean": found.rmse_mean,
        }, found.windows

    def _reference(self, row: Row, data: HeldOut) -> ActionSampler:
        """Return what any model must beat."""
        steps, horizon = data.observation.shape[1], data.action.shape[1]
        if row.method == "persistence":
            dim_act = self.demos.dim_act
            return persistence_sampler(
                horizon=horizon, dim_act=dim_act, relative=self._task.relative
            )
        if row.method == "linear":
            return linear_sampler(self.demos, n_obs_steps=steps, horizon=horizon)
        return climatology_sampler(self.demos, horizon=horizon)


def _of_mixture(
    student: GaussianMixtureOfExperts, data: HeldOut, settings: HeldOutSettings
) -> Mapping[str, float]:
    """Return what a mixture has beyond samples: a density, and means that robots execute."""
    found = student_figures(student, data, settings)
    return {
        "energy_score": found.sampled.energy_score,
        "energy_score_acting": found.energy_score_means,
        "nll": found.nll_normalised,
        "coverage_50": found.coverage_50,
        "coverage_90": found.coverage_90,
        "rmse_acting": found.rmse_drawn,
        "rmse_mean": found.sampled.rmse_mean,
        "rmse_nearest": found.rmse_best,
    }


def _sampler(model: Any, row: Row) -> ActionSampler:  # noqa: ANN401 - a teacher or a jump model
    variant = row.variant
    return teacher_sampler(
        model, n_steps=row.nfe, kind=variant.sampler, start_sigma=variant.start_sigma
    )


def _policy(model: Any, row: Row) -> Policy:  # noqa: ANN401 - any teacher or student
    """Return how a model acts: mixtures by an expert's mean, all others by denoising."""
    if isinstance(model, GaussianMixtureOfExperts):
        return student_policy(model)
    variant = row.variant
    return teacher_policy(model, row.nfe, variant.sampler, start_sigma=variant.start_sigma)
