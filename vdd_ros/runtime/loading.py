"""From a path to a policy that is verified, warmed up and ready to act."""

from __future__ import annotations

from pathlib import Path

from vdd_ros.core.gating import SelectionSettings
from vdd_ros.runtime.diffusion_policy import DiffusionPolicy, DiffusionSettings
from vdd_ros.runtime.moe_policy import MoePolicy
from vdd_ros.runtime.policy_file import PolicyFile
from vdd_ros.runtime.session import SessionSettings


def load_policy(
    path: str | Path | PolicyFile,
    *,
    selection: SelectionSettings | None = None,
    diffusion: DiffusionSettings | None = None,
    session: SessionSettings | None = None,
) -> MoePolicy | DiffusionPolicy:
    """Open a policy file and return the policy it holds.

    Args:
        path: the file, or one already opened.
        selection: how a mixture chooses its expert; a denoiser has none to choose.
        diffusion: how a denoiser is sampled; a mixture needs no sampler.
        session: provider, threads, warm-up.

    Raises:
        VddError: the file is refused, or the settings do not fit it.
    """
    file = path if isinstance(path, PolicyFile) else PolicyFile.open(path)
    if file.kind == "moe":
        return MoePolicy(file, selection=selection, session=session)
    return DiffusionPolicy(file, diffusion, session=session)
