"""The safety ladder: what may leave the node, decided once per tick.

ACT -> CLAMP -> HOLD -> SAFE -> STOP. Every level above ACT carries a reason for people to read.
Whatever the level, the command that comes out is finite, inside the limits and within one allowed
step of the command before it: there is one way out of this class and it ends in the limiter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.contract import PolicyContract, SafetyAction
from vdd_ros.core.errors import VddError


class SafetyLevel(IntEnum):
    """How far the robot is from acting freely; higher is more severe."""

    ACT = 0
    """The policy's command, unchanged."""
    CLAMP = 1
    """The policy's command, limited."""
    HOLD = 2
    """No usable command: the measured position is held."""
    SAFE = 3
    """Held for too long: the contract's declared safety action."""
    STOP = 4
    """The node is not active: the declared stop action was sent last."""


@dataclass(frozen=True)
class SafetyDecision:
    """What to publish. ``command`` is None when nothing may be sent."""

    command: NDArray[np.float64] | None
    level: SafetyLevel
    reason: str


class SafetyGuard:
    """Turns policy actions into commands that are safe to send; one instance per robot."""

    def __init__(self, contract: PolicyContract, *, rate_hz: float | None = None) -> None:
        """Lay the limits out as vectors.

        Args:
            contract: limits, measured and relative fields, safety actions.
            rate_hz: the rate commands are really sent at; the contract's when None.

        Raises:
            VddError: the rate is not a positive number.
        """
        rate_hz = contract.rate_hz if rate_hz is None else rate_hz
        if not (math.isfinite(rate_hz) and rate_hz > 0):
            raise VddError(f"rate_hz: got {rate_hz}, expected a positive number of hertz")
        self._contract = contract
        self._low = _vector(contract, "min", -np.inf)
        self._high = _vector(contract, "max", np.inf)
        self._max_step = _vector(contract, "max_rate", np.inf) / rate_hz
        self._max_hold_steps = contract.safety.max_hold_s * rate_hz
        self._relative = _sources(contract, ("relative_to",))
        self._measured = _sources(contract, ("measured", "relative_to"))
        self._last: NDArray[np.float64] | None = None
        self._held_steps = 0

    @property
    def last_command(self) -> NDArray[np.float64] | None:
        """The command sent last, the point the next one may not jump from."""
        return self._last

    def seed(self, observation: NDArray[np.floating]) -> None:
        """Start from the measured state, so that the first command cannot jump.

        Components without a measuring observation stay unseeded: their first command is only
        limited in position.
        """
        measured = self._measured_command(observation)
        self._last = None if measured is None else np.clip(measured, self._low, self._high)
        self._held_steps = 0

    def follow(self, command: NDArray[np.floating]) -> None:
        """Count limits from a command [D_act] that somebody else sent last."""
        self._last = np.array(command, dtype=np.float64)
        self._held_steps = 0

    def forget(self) -> None:
        """Start a new episode: the last command is no reference any more until the next seed."""
        self._last = None
        self._held_steps = 0

    def plan(self, actions: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return limited commands [T, D_act] for actions [T, D_act] that follow the last command.

        What a trajectory message carries behind the command of now. Increments are added up from
        the last command; the plan ends before the first action that is not finite. Nothing is
        remembered: every planned action is decided on again when its time has come.
        """
        finite = np.isfinite(actions).all(axis=-1)
        usable = actions[: len(actions) if finite.all() else int(np.argmin(finite))]
        commands = np.array(usable, dtype=np.float64)
        before = self._last
        for command in commands:
            if before is not None:
                for target, _ in self._relative:
                    command[target] += before[target]
                np.clip(command, before - self._max_step, before + self._max_step, out=command)
            np.clip(command, self._low, self._high, out=command)
            before = command
        return commands

    def act(
        self, observation: NDArray[np.floating], action: NDArray[np.floating]
    ) -> SafetyDecision:
        """Decide on a policy action [D_act] computed from ``observation`` [D_obs].

        A non-finite action or observation is never sent: the robot holds and the reason names the
        component.
        """
        if not np.isfinite(observation).all():
            return self.hold(None, f"non-finite observation {_names_of_bad(observation)}")
        if not np.isfinite(action).all():
            return self.hold(observation, f"non-finite action {_names_of_bad(action)}")
        wanted = action.astype(np.float64)
        for target, source in self._relative:
            wanted[target] += observation[source]
        command, reason = self._limit(wanted)
        self._last = command
        self._held_steps = 0
        level = SafetyLevel.CLAMP if reason else SafetyLevel.ACT
        return SafetyDecision(command, level, reason)

    def hold(self, observation: NDArray[np.floating] | None, reason: str) -> SafetyDecision:
        """Do not act: hold the measured position, or the last command where none is measured."""
        self._held_steps += 1
        if self._held_steps > self._max_hold_steps:
            return self._stopped(
                observation, SafetyLevel.SAFE, reason, self._contract.safety.on_stale
            )
        return self._stopped(observation, SafetyLevel.HOLD, reason, "hold")

    def stay(self, observation: NDArray[np.floating], reason: str) -> SafetyDecision:
        """Hold the position measured in ``observation`` [D_obs] for as long as it is asked for."""
        self._held_steps = 0
        return self._stopped(observation, SafetyLevel.HOLD, reason, "hold")

    def stop(self, observation: NDArray[np.floating] | None, reason: str) -> SafetyDecision:
        """Return the declared stop action, to be sent last."""
        return self._stopped(observation, SafetyLevel.STOP, reason, self._contract.safety.on_stop)

    def _stopped(
        self,
        observation: NDArray[np.floating] | None,
        level: SafetyLevel,
        reason: str,
        action: SafetyAction,
    ) -> SafetyDecision:
        command: NDArray[np.float64] | None
        if action == "none":
            return SafetyDecision(None, level, reason)
        if action == "zeros":
            command = np.zeros(self._contract.dim_act)
        else:
            usable = observation is not None and bool(np.isfinite(observation).all())
            command = self._measured_command(observation) if usable else None
            command = self._last if command is None else command
        if command is None:
            return SafetyDecision(None, level, f"{reason}; nothing measured or sent to hold")
        self._last, _ = self._limit(command)
        return SafetyDecision(self._last, level, reason)

    def _measured_command(
        self, observation: NDArray[np.floating] | None
    ) -> NDArray[np.float64] | None:
        covered = sum(target.stop - target.start for target, _ in self._measured)
        if observation is None or covered < self._contract.dim_act:
            return None
        command = np.empty(self._contract.dim_act)
        for target, source in self._measured:
            command[target] = observation[source]
        return command if np.isfinite(command).all() else None

    def _limit(self, wanted: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
        reasons = []
        command = np.clip(wanted, self._low, self._high)
        if not np.array_equal(command, wanted):
            reasons.append(f"position limit {_changed(wanted, command)}")
        if self._last is not None:
            stepped = np.clip(command, self._last - self._max_step, self._last + self._max_step)
            if not np.array_equal(stepped, command):
                reasons.append(f"rate limit {_changed(command, stepped)}")
            command = stepped
        return command, "; ".join(reasons)


def _vector(contract: PolicyContract, name: str, default: float) -> NDArray[np.float64]:
    parts = [getattr(a.limits, name) or (default,) * a.dim for a in contract.actions]
    return np.array([v for part in parts for v in part], dtype=np.float64)


def _sources(contract: PolicyContract, roles: tuple[str, ...]) -> list[tuple[slice, slice]]:
    """Pair each action slice with the observation slice of its first declared role."""
    pairs = []
    for action in contract.actions:
        key = next((getattr(action, r) for r in roles if getattr(action, r)), "")
        if key:
            pairs.append((contract.action_slice(action.key), contract.observation_slice(key)))
    return pairs


def _names_of_bad(values: NDArray[np.floating]) -> str:
    return f"at component {', '.join(map(str, np.flatnonzero(~np.isfinite(values))))}"


def _changed(before: NDArray[np.float64], after: NDArray[np.float64]) -> str:
    parts = [f"[{i}] {before[i]:.6g} -> {after[i]:.6g}" for i in np.flatnonzero(before != after)]
    return ", ".join(parts)
