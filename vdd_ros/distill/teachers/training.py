"""Fits a teacher of any family to demonstrations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vdd_ros.distill.teachers.base import DenoisingTeacher
from vdd_ros.distill.training.ema import Ema
from vdd_ros.distill.training.learning_rate import cosine_rate
from vdd_ros.distill.training.targets import Targets

# Starting at three times the spread narrows samples by 5 % along that direction.
_START_TO_SPREAD = 3.0


class TeacherTraining:
    """A `trainer.Trainable` that fits a teacher to demonstrations.

    Args:
        teacher: trained in place.
        targets: normalised windows with their action chunks.
    """

    teacher_queries = 0

    def __init__(self, teacher: DenoisingTeacher, targets: Targets) -> None:
        settings = teacher.settings
        self.teacher, self.targets, self.settings = teacher, targets, settings
        self.n_iters = settings.n_iters
        self._ema = Ema(teacher, settings.ema_decay) if settings.ema_decay else None
        self._optimizer = torch.optim.AdamW(
            teacher.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def step(self, iteration: int) -> Mapping[str, Tensor | float]:
        """Take one optimiser step on one minibatch."""
        settings = self.settings
        obs, action = self.targets.draw(settings.batch_size)
        sigma = self.teacher.draw_sigma(len(obs))
        loss = self.teacher.loss(action[:, 0], obs, sigma, torch.randn_like(action[:, 0]))
        rate = settings.learning_rate * cosine_rate(iteration, self.n_iters)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        if self._ema:
            self._ema.update(iteration)
        return {"loss": loss.detach()}

    def parts(self) -> dict[str, nn.Module]:
        """Return the teacher and its average."""
        parts: dict[str, nn.Module] = {"teacher": self.teacher}
        return parts | ({"ema": self._ema.shadow} if self._ema else {})

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the one optimiser."""
        return {"adam": self._optimizer}

    def acting(self) -> nn.Module:
        """Return the averaged teacher."""
        return self._ema.shadow if self._ema else self.teacher


def sampling_notes(sigma_max: float, action: Float[Tensor, "N S H A"]) -> tuple[str, ...]:
    """Say where sampling starts too low for the spread of the training chunks.

    It starts from N(0, sigma_max^2 I), which stands for the data blurred by sigma_max and lacks
    their own variance. Along the widest direction of a chunk, which is wide because its actions
    go one way together, that matters first.
    """
    flat = action.flatten(0, 1).flatten(1)
    rows = flat[:: max(1, len(flat) // 20_000)]
    widest = float(torch.linalg.eigvalsh(torch.cov(rows.T).reshape(2 * (rows.shape[1],)))[-1])
    spread = math.sqrt(max(widest, 0.0))
    if sigma_max >= _START_TO_SPREAD * spread:
        return ()
    return (
        f"sigma_max {sigma_max:g} is less than {_START_TO_SPREAD:g} times the spread of the "
        f"training chunks along their widest direction ({spread:.2g}): samples will crowd at the "
        f"mean and ways will be lost; set sigma_max to {_START_TO_SPREAD * spread:.2g} or more",
    )
