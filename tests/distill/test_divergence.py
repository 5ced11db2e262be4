"""A training that diverges keeps its last good checkpoint and says where and why it stopped."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from vdd_ros.core.errors import VddError
from vdd_ros.distill import loading
from vdd_ros.distill.pipeline import train_teacher
from vdd_ros.distill.teachers.settings import TeacherSettings
from vdd_ros.distill.training import checkpoint
from vdd_ros.distill.training.trainer import LoopSettings, train

EVERY_TIME = LoopSettings(checkpoint_every_s=0.0)
NEVER = LoopSettings(checkpoint_every_s=1e9)


class Doomed:
    """Counts its iterations in a weight, until iteration ``end`` breaks the loss or the weight.

    With 1000 iterations the loop logs every fifth.
    """

    n_iters, teacher_queries = 1000, 0

    def __init__(self, *, end: int, loss: float, weight: float) -> None:
        self.end, self.last = end, (loss, weight)
        self.network = nn.Linear(1, 1, bias=False)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1)

    def step(self, iteration: int) -> dict[str, float]:
        loss, weight = self.last if iteration + 1 == self.end else (0.5, iteration + 1.0)
        self.network.weight.data.fill_(weight)
        return {"loss": loss}

    def parts(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"sgd": self.optimizer}

    def acting(self) -> nn.Module:
        return self.network


@pytest.mark.parametrize(
    ("loss", "weight", "message"),
    [
        (math.nan, 3.0, r"loss is nan at iteration 7: .*lower the learning rate.*iteration 6 in "),
        (math.inf, 3.0, r"loss is inf at iteration 7: .*iteration 6 in .* is kept"),
        (0.5, math.nan, r"weight 'weight' of network is not finite at iteration 7: .*iteration 6"),
        (0.5, -math.inf, r"weight 'weight' of network is not finite at iteration 7"),
    ],
)
def test_the_checkpoint_before_the_break_is_kept(tmp_path, loss, weight, message):
    """Between two logged iterations, too, and where the loss was finite but the step was not."""
    doomed = Doomed(end=7, loss=loss, weight=weight)
    with pytest.raises(VddError, match=message):
        train(doomed, tmp_path, loop=EVERY_TIME, resume=False, cpu_start_s=0.0)
    for name, key in ((checkpoint.WEIGHTS, "weight"), (checkpoint.STATE, "part.network.weight")):
        tensors, _ = checkpoint.read_tensors(tmp_path / name)
        assert tensors[key].item() == 6.0


def test_weights_that_break_last_are_not_saved_either(tmp_path):
    doomed = Doomed(end=1000, loss=0.5, weight=math.nan)
    with pytest.raises(VddError, match=r"at iteration 1000: .*none was saved"):
        train(doomed, tmp_path, loop=NEVER, resume=False, cpu_start_s=0.0)
    assert not (tmp_path / checkpoint.WEIGHTS).exists()


def test_a_resumed_run_that_diverges_names_the_checkpoint_it_started_from(tmp_path):
    with pytest.raises(VddError):
        train(
            Doomed(end=7, loss=math.nan, weight=0.0), tmp_path, loop=EVERY_TIME, resume=False,
            cpu_start_s=0.0,
        )  # fmt: skip
    again = Doomed(end=9, loss=math.nan, weight=0.0)
    with pytest.raises(VddError, match=r"at iteration 9: .*the checkpoint of iteration 6 in"):
        train(again, tmp_path, loop=NEVER, resume=True, cpu_start_s=0.0)


@pytest.mark.parametrize("family", ["edm", "ddpm", "flow"])
def test_a_real_teacher_that_diverges_is_stopped_and_stays_loadable(demos, tmp_path, family):
    settings = TeacherSettings(
        family=family, width=8, depth=1, n_iters=200, batch_size=8, learning_rate=1e38,
        ema_decay=0.0,
    )  # fmt: skip
    with pytest.raises(VddError, match=r"at iteration .*training diverged"):
        train_teacher(demos, settings, tmp_path / "run", loop=EVERY_TIME)
    if (tmp_path / "run" / checkpoint.WEIGHTS).exists():
        teacher = loading.load_teacher(tmp_path / "run")
        assert all(bool(p.isfinite().all()) for p in teacher.parameters())


def test_data_that_does_not_fit_the_teacher_is_named_with_file_and_field(demos, tmp_path):
    too_long = TeacherSettings(horizon=200, width=8, depth=1, n_iters=3)
    with pytest.raises(VddError, match=r"a toy: no window fits: .* 26 rows, horizon is 200"):
        train_teacher(demos, too_long, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(VddError, match=r"dim_goal: got 2 of 2 observation components"):
        train_teacher(demos, TeacherSettings(backbone="transformer", dim_goal=2), tmp_path / "run")


def test_constant_columns_are_learnt_as_constants(demos, tmp_path):
    """A gripper that never moves: no division by nothing, and the teacher says what it was."""
    action = demos.action.copy()
    action[:, 1] = 0.25
    demos = replace(demos, action=action)
    settings = TeacherSettings(
        family="ddpm", n_diffusion_steps=8, width=16, depth=1, n_iters=40, batch_size=32
    )
    teacher = train_teacher(demos, settings, tmp_path / "run").teacher
    denoised = teacher.denoise(
        torch.randn(50, 1, 2), torch.full((50,), 0.4), torch.zeros(50, 1, 2)
    )
    # The box has no room in that direction, so clipping alone is exact there.
    torch.testing.assert_close(
        teacher.action.unnormalize(denoised)[..., 1], torch.full((50, 1), 0.25)
    )
