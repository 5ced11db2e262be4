r"""DiffusionPolicy: a denoiser run by a sampler, the teacher and fair opponent.

Three ways to run the same sampler, which differ in time only:

- ``loop``: one ``session.run`` per denoiser call, as most code has it;
- ``bound``: the same loop over arrays bound once, two sets taken in turn;
- ``unrolled``: the whole Euler sampler as one graph, where the file holds it.

The loop works in the normalised coordinates of `core/samplers.py`. Every sampler ends on
sigma = 0, where its result IS the last denoised value, so the action in raw units is the graph's
own output of that last call and no normalizer exists outside the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.core.samplers import SamplerKind, n_function_evaluations, sample
from vdd_ros.core.schedules import ScheduleKind, sigma_schedule
from vdd_ros.runtime.interface import unrolled_name
from vdd_ros.runtime.policy import PolicyOutput
from vdd_ros.runtime.policy_file import PolicyFile
from vdd_ros.runtime.session import Binding, InferenceSession, SessionSettings

Array = NDArray[np.float32]
Variant = Literal["auto", "loop", "bound", "unrolled"]
VARIANTS: tuple[Variant, ...] = ("loop", "bound", "unrolled")

_OUTPUTS = ("denoised", "action")


@dataclass(frozen=True)
class DiffusionSettings:
    """How a denoiser becomes a policy."""

    n_steps: int = 16
    """Steps of the sampler; for all but heun the number of network passes (NFE)."""
    sampler: SamplerKind = "euler"
    """euler, heun, ddim, dpmpp_2m or euler_ancestral."""
    schedule: ScheduleKind | None = None
    """linear, exponential, karras or flow; by default the one recorded in the file."""
    variant: Variant = "auto"
    """loop, bound or unrolled; auto takes unrolled where the file holds it, else bound."""
    seed: int = 0
    """Seed of the noise; the same seed and observations replay the same actions."""


def default_settings(file: PolicyFile, *, seed: int = 0) -> DiffusionSettings:
    """Return the settings for a file when nobody asks for others: the steps it is made for."""
    return DiffusionSettings(n_steps=file.n_steps or DiffusionSettings.n_steps, seed=seed)


class DiffusionPolicy:
    """A denoiser and a sampler; see `vdd_ros.runtime.policy.Policy`."""

    n_experts = 0
    """A denoiser has none."""

    def __init__(
        self,
        file: PolicyFile,
        settings: DiffusionSettings | None = None,
        *,
        session: SessionSettings | None = None,
    ) -> None:
        """Open and warm up the sessions that the variant needs.

        Raises:
            VddError: the file holds no denoiser, or cannot do what the settings ask.
        """
        if file.kind != "denoiser":
            raise VddError(
                f"{file.path}: holds a {file.kind}, expected a denoiser; run it as a student "
                "instead"
            )
        self.file = file
        self.settings = settings = settings or default_settings(file)
        if file.n_steps not in (None, settings.n_steps):
            raise VddError(
                f"{file.path}: holds a {file.provenance.get('method', 'model')} that acts with "
                f"{file.n_steps} sampler step(s), got {settings.n_steps}; set nfe to "
                f"{file.n_steps}"
            )
        self._sigmas = self._schedule()
        self.nfe = n_function_evaluations(settings.sampler, settings.n_steps)
        """Network passes per action."""
        self.variant = self._choose_variant()
        """The variant in use, never ``auto``."""
        self._rng = np.random.default_rng(settings.seed)
        session = session or SessionSettings()
        outputs: tuple[str, ...] = _OUTPUTS
        if self.variant == "unrolled":
            outputs = (unrolled_name(settings.n_steps),)
        choice = file.session(outputs, session)
        self.session = choice.session
        """Computes what the variant needs; warmed up."""
        self._outputs = outputs
        self.description = (
            f"{settings.sampler}, {settings.n_steps} steps, {self.variant}; {choice.reason}"
        )
        self._allocate()
        # The first decision pays for what every later one finds ready; it is taken here.
        self.act(file.golden.inputs["observation"][0])
        self.reset(settings.seed)

    @property
    def contract(self) -> PolicyContract:
        """What it reads and writes."""
        return self.file.contract

    @property
    def provider(self) -> str:
        """Where the network really runs."""
        return self.session.provider

    def act(self, window: Array) -> PolicyOutput:
        """Decide from one window [n_obs_steps, dim_obs] in raw units."""
        if window.shape != self._window.shape:
            raise ValueError(f"window: shape {window.shape}, expected {self._window.shape}")
        self._window[...] = window
        self._rng.standard_normal(dtype=np.float32, out=self._noise)
        self.network_pass()
        return PolicyOutput(self._action, -1, self._no_gate, self._no_proposals)

    def act_batch(self, windows: Array) -> tuple[Array, NDArray[np.int64]]:
        """Decide for windows [B, n_obs_steps, dim_obs]: action [B, horizon, dim_act], expert -1.

        For B = 1 it draws the same noise as `act` and gives the same action.
        """
        windows = np.ascontiguousarray(windows, np.float32)
        shape = (len(windows), *self._noise.shape[1:])
        noise = self._rng.standard_normal(shape, dtype=np.float32)
        if self.variant == "unrolled":
            (action,) = self.session.run({"noise": noise, "observation": windows}, self._outputs)
        else:
            action = self._walk(noise, _Calls(self.session, windows))
        return action, np.full(len(windows), -1, np.int64)

    def network_pass(self) -> None:
        """Run the sampler from the window and noise that are in place: `act` without its rest."""
        if self.variant == "unrolled":
            self._unrolled.run()
        else:
            self._action[...] = self._walk(self._noise, self._calls)[0]

    def reset(self, seed: int | None = None) -> None:
        """Start a new episode; with ``seed`` start the random stream anew."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)

    def _schedule(self) -> list[float]:
        recorded = self.file.provenance
        sigmas = sigma_schedule(
            self.settings.schedule or recorded["sigma_schedule"],
            n_steps=self.settings.n_steps,
            sigma_min=recorded["sigma_min"],
            sigma_max=recorded["sigma_max"],
        )
        return [float(s) for s in sigmas]

    def _choose_variant(self) -> Variant:
        asked = self.settings.variant
        if asked not in ("auto", *VARIANTS):
            raise VddError(f"variant: got '{asked}'; known: auto, {', '.join(VARIANTS)}")
        held = self.file.provenance.get("unroll", [])
        recorded = self.file.provenance["sigma_schedule"]
        # DDIM without noise is Euler in these coordinates.
        same = self.settings.sampler in ("euler", "ddim") and (
            self.settings.schedule in (None, recorded)
        )
        possible = same and self.settings.n_steps in held
        if asked == "auto":
            return "unrolled" if possible else "bound"
        if asked == "unrolled" and not possible:
            raise VddError(
                f"{self.file.path}: holds no unrolled {self.settings.sampler} sampler of "
                f"{self.settings.n_steps} steps on this schedule; it holds euler on "
                f"'{recorded if isinstance(recorded, str) else 'its own levels'}' with "
                f"{held or 'no'} steps; use variant auto, bound or loop"
            )
        return asked

    def _allocate(self) -> None:
        c = self.file.contract
        self._observation = np.zeros((1, c.n_obs_steps, c.dim_obs), np.float32)
        self._noise = np.zeros((1, c.horizon, c.dim_act), np.float32)
        self._window = self._observation[0]
        action = np.zeros_like(self._noise)
        self._action = action[0]
        self._no_gate = np.zeros(0)
        self._no_proposals = np.zeros((0, *self._action.shape), np.float32)
        self._unrolled: Binding
        self._calls: _Calls | _BoundCalls
        if self.variant == "unrolled":
            self._unrolled = self.session.bind(
                {"noise": self._noise, "observation": self._observation},
                {self._outputs[0]: action},
            )
        elif self.variant == "bound":
            self._calls = _BoundCalls(self.session, self._observation, self._noise.shape)
        else:
            self._calls = _Calls(self.session, self._observation)

    def _walk(self, noise: Array, denoiser: _Calls | _BoundCalls) -> Array:
        """Run the sampler from standard normal noise; return the action in raw units."""
        sample(
            self.settings.sampler,
            denoiser,
            noise * np.float32(self._sigmas[0]),
            self._sigmas,
            noise=lambda: self._rng.standard_normal(noise.shape, dtype=np.float32),
        )
        return denoiser.action


class _Calls:
    """Denoiser calls through ``session.run``: any batch, everything allocated afresh."""

    def __init__(self, session: InferenceSession, observation: Array) -> None:
        self._session, self._observation = session, observation
        self.action: Array = np.zeros(0, np.float32)

    def __call__(self, x: Array, sigma: float) -> Array:
        denoised, self.action = self._session.run(
            {
                "noisy_action": x,
                "sigma": np.full(len(x), sigma, np.float32),
                "observation": self._observation,
            },
            _OUTPUTS,
        )
        return denoised


class _BoundCalls:
    """Denoiser calls over fixed arrays, for one robot.

    Two sets of outputs are filled in turn, because multistep samplers look at the previous
    denoised value after the next call was made.
    """

    def __init__(
        self, session: InferenceSession, observation: Array, shape: tuple[int, ...]
    ) -> None:
        self._x, self._sigma = np.zeros(shape, np.float32), np.zeros(1, np.float32)
        inputs = {"noisy_action": self._x, "sigma": self._sigma, "observation": observation}
        self._turns: list[tuple[Binding, Array, Array]] = []
        for _ in range(2):
            denoised, action = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
            binding = session.bind(inputs, {"denoised": denoised, "action": action})
            self._turns.append((binding, denoised, action))
        self._next = 0
        self.action: Array = self._turns[0][2]

    def __call__(self, x: Array, sigma: float) -> Array:
        self._x[...] = x
        self._sigma[0] = sigma
        binding, denoised, self.action = self._turns[self._next]
        self._next = 1 - self._next
        binding.run()
        return denoised
