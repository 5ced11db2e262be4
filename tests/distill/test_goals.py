"""A goal is a part of every observation: teacher, student and policy file go where it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vdd_ros.core.contract import ActionField, ObservationField, PolicyContract
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.distill.denoisers import sample_actions
from vdd_ros.distill.export import export_policy
from vdd_ros.distill.loading import load_teacher
from vdd_ros.distill.methods.mixture_training import DistillSettings
from vdd_ros.distill.mixtures.student import StudentSettings
from vdd_ros.distill.pipeline import distill, train_teacher
from vdd_ros.distill.teachers.settings import TeacherSettings
from vdd_ros.runtime.loading import load_policy

CONTRACT = PolicyContract(
    name="toy",
    rate_hz=10.0,
    observations=(
        ObservationField(key="position", dim=2),
        ObservationField(key="goal", dim=1),
    ),
    actions=(ActionField(key="step", dim=2),),
)


def demonstrations() -> Demonstrations:
    """From wherever one is, half a step to the side on which the goal is."""
    rng = np.random.default_rng(0)
    observation, action = [], []
    for episode in range(80):
        goal = (-1.0, 1.0)[episode % 2]
        position = 0.3 * rng.standard_normal((12, 2))
        observation.append(np.column_stack([position, np.full(12, goal)]))
        action.append(np.array([0.5 * goal, 0.0]) + 0.1 * rng.standard_normal((12, 2)))
    return Demonstrations(
        observation=np.concatenate(observation),
        action=np.concatenate(action),
        episode_ends=12 * np.arange(1, 81),
        mode=None,
        source="goals",
    )


def test_every_step_of_the_way_follows_the_goal(tmp_path: Path) -> None:
    """A teacher that reads the goal as a token, a student beside the state, and its file."""
    settings = TeacherSettings(
        backbone="transformer", dim_goal=1, n_heads=2, n_obs_steps=2, width=32, depth=2,
        n_iters=300, batch_size=128, learning_rate=3e-3, ema_decay=0.98, dropout=0.0,
        dropout_attention=0.0,
    )  # fmt: skip
    demos = demonstrations()
    folder = train_teacher(demos, settings, tmp_path / "teacher").folder
    chosen = DistillSettings(
        student=StudentSettings(n_experts=2, width=32, depth=2, head_width=16),
        n_iters=150, warm_start_iters=100, batch_size=128, ema_decay=0.95, learning_rate=3e-3,
        cache_states=512, cache_samples=4,
    )  # fmt: skip
    distill(folder, demos, chosen, out_dir=tmp_path / "student")
    policy = load_policy(export_policy(tmp_path / "student", CONTRACT, tmp_path / "s.onnx").path)
    teacher = load_teacher(folder)
    for goal in (-1.0, 1.0):
        windows = np.tile(np.array([0.1, -0.1, goal], np.float32), (200, 2, 1))
        drawn = sample_actions(
            teacher, teacher.observation.normalize(torch.from_numpy(windows)),
            torch.randn(200, 1, 2), n_steps=12, sigma_min=teacher.sigma_min,
            sigma_max=teacher.sigma_max,
        )  # fmt: skip
        for actions in (
            teacher.action.unnormalize(drawn)[:, 0].detach().numpy(),
            policy.act_batch(windows)[0].reshape(200, 2),
        ):
            arrived = actions[:, 0] * goal > 0
            assert arrived.mean() > 0.9
