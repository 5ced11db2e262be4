"""MoePolicy: the distilled student. One network pass, then the expert is chosen outside it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.core.gating import ExpertSelector, SelectionSettings
from vdd_ros.runtime.policy import PolicyOutput
from vdd_ros.runtime.policy_file import PolicyFile
from vdd_ros.runtime.session import SessionSettings

Array = NDArray[np.float32]

_OUTPUTS = ("gating_logits", "expert_actions")


class MoePolicy:
    """A Mixture of Experts at control rate; see `vdd_ros.runtime.policy.Policy`.

    The acting session computes gate and actions only: a covariance in the file costs nothing.
    """

    def __init__(
        self,
        file: PolicyFile,
        *,
        selection: SelectionSettings | None = None,
        session: SessionSettings | None = None,
    ) -> None:
        """Open and warm up the acting session.

        Raises:
            VddError: the file holds no MoE, or provider or selection do not fit.
        """
        if file.kind != "moe":
            raise VddError(
                f"{file.path}: holds a {file.kind}, expected a mixture of experts; run it as a "
                "teacher instead"
            )
        self.file = file
        self.selection = selection or SelectionSettings()
        self._selector = ExpertSelector(self.selection, file.n_experts)
        choice = file.session(_OUTPUTS, session or SessionSettings())
        self.session = choice.session
        """Computes gate and actions; warmed up."""
        self.description = choice.reason
        c, k = file.contract, file.n_experts
        self._observation = np.zeros((1, c.n_obs_steps, c.dim_obs), np.float32)
        self._logits = np.zeros((1, k), np.float32)
        self._actions = np.zeros((1, k, c.horizon, c.dim_act), np.float32)
        self._binding = self.session.bind(
            {"observation": self._observation},
            {"gating_logits": self._logits, "expert_actions": self._actions},
        )
        # Taken once: a view costs a fifth of a microsecond to make, and a tick needs three.
        self._window = self._observation[0]
        self._logits_row = self._logits[0]
        self._proposals = self._actions[0]
        self._each = tuple(self._proposals)
        # The first decision pays for what every later one finds ready; it is taken here.
        self.act(file.golden.inputs["observation"][0])
        self.reset(self.selection.seed)

    @property
    def contract(self) -> PolicyContract:
        """What it reads and writes."""
        return self.file.contract

    @property
    def provider(self) -> str:
        """Where the network really runs."""
        return self.session.provider

    @property
    def n_experts(self) -> int:
        """Number of experts."""
        return len(self._each)

    def act(self, window: Array) -> PolicyOutput:
        """Decide from one window [n_obs_steps, dim_obs] in raw units; allocates only the gate."""
        if window.shape != self._window.shape:
            raise ValueError(f"window: shape {window.shape}, expected {self._window.shape}")
        self._window[...] = window
        self._binding.run()
        expert, gate = self._selector.select_one(self._logits_row)
        return PolicyOutput(self._each[expert], expert, gate, self._proposals)

    def act_batch(self, windows: Array) -> tuple[Array, NDArray[np.int64]]:
        """Decide for windows [B, n_obs_steps, dim_obs]: action [B, horizon, dim_act], expert [B].

        Robots are rows: with rule ``sticky`` each row keeps its own expert from call to call.
        """
        logits, actions = self.session.run(
            {"observation": np.ascontiguousarray(windows, np.float32)}, _OUTPUTS
        )
        expert = self._selector.select(logits)
        return actions[np.arange(len(expert)), expert], expert

    def select_by(self, selection: SelectionSettings) -> None:
        """Choose experts by other settings from the next call on; the random stream starts anew.

        Raises:
            VddError: the settings do not fit this policy; the old ones stay.
        """
        self._selector = ExpertSelector(selection, self.n_experts)
        self.selection = selection

    def network_pass(self) -> None:
        """Run the network alone on the last window: what `vdd bench` subtracts from `act`."""
        self._binding.run()

    def reset(self, seed: int | None = None) -> None:
        """Forget a sticky expert; with ``seed`` start the random stream anew."""
        self._selector.reset(seed)
