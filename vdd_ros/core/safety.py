"""The safety ladder: what may leave the node, decided once per tick.

ACT -> CLAMP -> HOLD -> SAFE -> STOP. Every level above ACT carries a reason for people to read.
Whatever the level, the command that comes out is finite and has passed the limiter: there is one
way out of this class, and what is guaranteed there (`vdd_ros.core.limiter`) holds for everything
the node sends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.contract import PolicyContract, SafetyAction
from vdd_ros.core.errors import VddError
from vdd_ros.core.limiter import Limiter

_RETURN_S = 0.25
"""A start outside the bounds is led back where it takes no longer than this (s); further outside
it is more likely that the measurement is wrong, or that a person has to move the robot."""


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
        self._limiter = Limiter(contract, rate_hz)
        self._max_hold_steps = contract.safety.max_hold_s * rate_hz
        self._ramp_steps = contract.safety.ramp_s * rate_hz
        self._outside = self._limiter.step * rate_hz * _RETURN_S
        self._relative = _sources(contract, ("relative_to",))
        self._measured = _sources(contract, ("measured", "relative_to"))
        self._observed = [f"{o.key}[{i}]" for o in contract.observations for i in range(o.dim)]
        self._refused = ""
        self._held_steps = 0
        self._acted_steps = 0

    @property
    def last_command(self) -> NDArray[np.float64] | None:
        """The command sent last, the point the next one may not jump from."""
        return self._limiter.last

    def seed(self, observation: NDArray[np.floating]) -> bool:
        """Start from the measured state, so that the first command cannot jump.

        Components without a measuring observation stay unseeded: their first command is only
        limited in position. A start outside the bounds is led back inside with the allowed step;
        where it is too far outside, nothing is sent, and False is returned: seed again when the
        robot was moved.
        """
        held = self._held_steps if self._refused else 0
        self.forget()
        self._held_steps = held
        measured = self._measured_values(observation)
        if measured is None:
            return True
        excess = np.maximum(self._limiter.low - measured, measured - self._limiter.high)
        excess[np.isnan(excess)] = -np.inf
        if (excess > self._outside).any():
            worst = int(np.argmax(excess - self._outside))
            self._refused = (
                f"start outside the position limit: {self._limiter.names[worst]} is measured "
                f"outside its bounds, more than {_RETURN_S:g} s away; move the robot inside"
            )
            return False
        self._limiter.start(measured)
        return True

    @property
    def motion(self) -> NDArray[np.float64]:
        """How the commands move (`Limiter.motion`)."""
        return self._limiter.motion

    def follow(
        self, command: NDArray[np.floating], motion: NDArray[np.float64] | None = None
    ) -> None:
        """Count limits from what somebody else sent last.

        Args:
            command: the command [D_act].
            motion: how the commands moved, by `motion` of a guard with the same limits; None where
                it is unknown: then the robot is taken to stand still there.
        """
        self.forget()
        self._limiter.start(np.array(command, dtype=np.float64))
        if motion is not None:
            self._limiter.resume(motion)

    def forget(self) -> None:
        """Start a new episode: the last command is no reference any more until the next seed."""
        self._limiter.start(None)
        self._refused = ""
        self._held_steps = self._acted_steps = 0

    def plan(self, actions: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return limited commands [T, D_act] for actions [T, D_act] that follow the last command.

        What a trajectory message carries behind the command of now. Increments are added up from
        the last command; the plan ends before the first action that is not finite. Nothing is
        remembered: every planned action is decided on again when its time has come.
        """
        finite = np.isfinite(actions).all(axis=-1)
        usable = actions[: len(actions) if finite.all() else int(np.argmin(finite))]
        commands = np.array(usable, dtype=np.float64)
        limiter, steps = self._limiter.fork(), self._acted_steps
        for i, wanted in enumerate(commands):
            if limiter.last is not None:
                for target, _ in self._relative:
                    wanted[target] += limiter.last[target]
            commands[i], _ = limiter.next(wanted, self._share(steps + i))
        return commands

    def act(
        self, observation: NDArray[np.floating], action: NDArray[np.floating]
    ) -> SafetyDecision:
        """Decide on a policy action [D_act] computed from ``observation`` [D_obs].

        A non-finite action or observation is never sent: the robot holds and the reason names the
        component.
        """
        if not _all_finite(observation):
            return self.hold(None, f"non-finite observation {_bad(observation, self._observed)}")
        if not _all_finite(action):
            names = self._limiter.names
            return self.hold(observation, f"non-finite action {_bad(action, names)}")
        if self._refused:
            return self.hold(None, self._refused)
        wanted = action.astype(np.float64)
        for target, source in self._relative:
            wanted[target] += observation[source]
        command, reason = self._limiter.next(wanted, self._share(self._acted_steps))
        self._acted_steps += 1
        self._held_steps = 0
        level = SafetyLevel.CLAMP if reason else SafetyLevel.ACT
        return SafetyDecision(command, level, reason)

    def hold(self, observation: NDArray[np.floating] | None, reason: str) -> SafetyDecision:
        """Do not act: hold the measured position, or the last command where none is measured."""
        self._held_steps += 1
        self._acted_steps = 0
        if self._held_steps > self._max_hold_steps:
            return self._stopped(
                observation, SafetyLevel.SAFE, reason, self._contract.safety.on_stale
            )
        return self._stopped(observation, SafetyLevel.HOLD, reason, "hold")

    def stay(self, observation: NDArray[np.floating], reason: str) -> SafetyDecision:
        """Hold the position measured in ``observation`` [D_obs] for as long as it is asked for."""
        self._held_steps = self._acted_steps = 0
        return self._stopped(observation, SafetyLevel.HOLD, reason, "hold")

    def stop(self, observation: NDArray[np.floating] | None, reason: str) -> SafetyDecision:
        """Return the declared stop action, to be sent last."""
        return self._stopped(observation, SafetyLevel.STOP, reason, self._contract.safety.on_stop)

    def _share(self, steps: int) -> float:
        """Return the share of the allowed step, ``steps`` actions after the start or a hold."""
        return (steps + 1) / self._ramp_steps if steps + 1 < self._ramp_steps else 1.0

    def _stopped(
        self,
        observation: NDArray[np.floating] | None,
        level: SafetyLevel,
        reason: str,
        action: SafetyAction,
    ) -> SafetyDecision:
        command: NDArray[np.float64] | None
        last = self._limiter.last
        if action == "none":
            self._limiter.halt()
            return SafetyDecision(None, level, reason)
        if self._refused:
            return SafetyDecision(None, level, reason)
        if action == "zeros":
            command = np.zeros(self._contract.dim_act)
        else:
            usable = observation is not None and bool(np.isfinite(observation).all())
            command = self._measured_values(observation) if usable else None
            if command is None:
                command = last
            elif np.isnan(command).any():
                # What is not measured stays where it was sent to.
                command = None if last is None else np.where(np.isnan(command), last, command)
        if command is None or np.isnan(command).any():
            return SafetyDecision(None, level, f"{reason}; nothing measured or sent to hold")
        command, _ = self._limiter.next(command, follow=False)
        return SafetyDecision(command, level, reason)

    def _measured_values(
        self, observation: NDArray[np.floating] | None
    ) -> NDArray[np.float64] | None:
        """Return what is measured of the command [D_act], NaN where nothing is; None: nothing."""
        if observation is None or not self._measured:
            return None
        command = np.full(self._contract.dim_act, np.nan)
        for target, source in self._measured:
            if not np.isfinite(observation[source]).all():
                return None
            command[target] = observation[source]
        return command


def _sources(contract: PolicyContract, roles: tuple[str, ...]) -> list[tuple[slice, slice]]:
    """Pair each action slice with the observation slice of its first declared role."""
    pairs = []
    for action in contract.actions:
        key = next((getattr(action, r) for r in roles if getattr(action, r)), "")
        if key:
            pairs.append((contract.action_slice(action.key), contract.observation_slice(key)))
    return pairs


def _all_finite(values: NDArray[np.floating]) -> bool:
    # A sum is finite only if every part is, and cheaper for a few numbers than asking each.
    return math.isfinite(sum(values.tolist())) or bool(np.isfinite(values).all())


def _bad(values: NDArray[np.floating], names: list[str]) -> str:
    return ", ".join(names[i] for i in np.flatnonzero(~np.isfinite(values)))
