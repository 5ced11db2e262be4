"""What every policy on the robot can do, whichever method made it.

The nodes and the evaluation know this protocol only: student and teacher run through one
interface on one engine, so a comparison between them is one of methods, not of programs.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.contract import PolicyContract
from vdd_ros.runtime.policy_file import PolicyFile
from vdd_ros.runtime.session import InferenceSession

Array = NDArray[np.float32]


class PolicyOutput(NamedTuple):
    """One decision for one robot.

    ``action`` and ``proposals`` are views into the policy's memory: valid until its next call.
    Values that are not finite are handed on as they are; the node's safety ladder decides.
    """

    action: Array
    """[horizon, dim_act] in raw units."""
    expert: int
    """Index of the expert that acts; -1 where there are none."""
    gate: NDArray[np.float64]
    """[K] probability of every expert; [0] where there are none."""
    proposals: Array
    """[K, horizon, dim_act] what every expert would do, in raw units; [0, ...] without experts."""


class Policy(Protocol):
    """A verified policy, warmed up. Not thread-safe: one caller at a time."""

    file: PolicyFile
    """The file it was made from."""
    session: InferenceSession
    """Its network, for measurements."""
    description: str
    """One line for the log: provider, variant, and why they were chosen."""

    @property
    def contract(self) -> PolicyContract:
        """What it reads and writes."""
        ...

    @property
    def provider(self) -> str:
        """Where the network really runs: cpu, cuda or tensorrt."""
        ...

    @property
    def n_experts(self) -> int:
        """Number of experts; 0 for a denoiser."""
        ...

    def act(self, window: Array) -> PolicyOutput:
        """Decide for one robot from its observation window [n_obs_steps, dim_obs], raw units.

        Raises:
            ValueError: the window has another shape.
        """
        ...

    def act_batch(self, windows: Array) -> tuple[Array, NDArray[np.int64]]:
        """Decide for B robots from windows [B, n_obs_steps, dim_obs].

        Returns action [B, horizon, dim_act] and expert [B] (-1 without experts), newly
        allocated. For evaluation: it shares the network with `act`, not the speed.
        """
        ...

    def reset(self, seed: int | None = None) -> None:
        """Start a new episode; with ``seed`` also start the random stream anew, for replays."""
        ...
