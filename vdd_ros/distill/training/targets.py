"""Which actions a student looks at: those of the demonstrations, or the teacher's own.

Both are the same thing to the algorithms: observations with a few actions each.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vdd_ros.data.windows import Windows
from vdd_ros.distill.denoisers import Teacher, sample_actions
from vdd_ros.distill.networks.normalization import Affine
from vdd_ros.distill.training.augmentation import ObservationNoise

# Rows per denoiser call while sampling: large enough to keep one core busy, small enough for
# its cache.
_CHUNK = 4096


class Targets:
    """Normalised observations and actions to draw minibatches from.

    Args:
        obs: [N, T, O] normalised windows.
        action: [N, S, H, A] normalised action chunks, S per window.
        noise: perturbs every minibatch anew; None where the perturbation is already in.
    """

    def __init__(
        self,
        obs: Float[Tensor, "N T O"],
        action: Float[Tensor, "N S H A"],
        noise: ObservationNoise | None = None,
    ) -> None:
        self.obs, self.action, self.noise = obs, action, noise

    def draw(self, batch: int) -> tuple[Float[Tensor, "B T O"], Float[Tensor, "B S H A"]]:
        """Draw a minibatch with replacement."""
        rows = torch.randint(len(self.obs), (batch,))
        obs, action = self.obs[rows], self.action[rows]
        return self.noise(obs, action) if self.noise else (obs, action)


def data_targets(
    windows: Windows, observation: Affine, action: Affine, noise: ObservationNoise | None
) -> Targets:
    """Return the demonstrations' own actions as targets."""
    return Targets(
        observation.normalize(torch.as_tensor(windows.observation)),
        action.normalize(torch.as_tensor(windows.action))[:, None],
        noise,
    )


def teacher_targets(
    teacher: Teacher,
    states: Targets,
    *,
    n_states: int,
    n_samples: int,
    n_steps: int,
) -> Targets:
    """Sample the teacher at demonstrated (and perturbed) states, once, to be drawn from often.

    Args:
        teacher: sampled with Euler steps over its own schedule.
        states: where the states come from; their actions are not used.
        n_states: distinct states.
        n_samples: actions per state.
        n_steps: denoiser calls per action.
    """
    obs, example = states.draw(n_states)
    rows = obs.repeat_interleave(n_samples, 0)
    actions = []
    for chunk in rows.split(_CHUNK):
        noise = torch.randn(len(chunk), *example.shape[2:])
        actions.append(
            sample_actions(
                teacher,
                chunk,
                noise,
                n_steps=n_steps,
                sigma_min=teacher.sigma_min,
                sigma_max=teacher.sigma_max,
                schedule=teacher.schedule,
            )
        )
    action = torch.cat(actions).view(n_states, n_samples, *example.shape[2:])
    return Targets(obs, action)
