"""The control loop over ROS messages: observations come from the contract's topics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.control import loop
from vdd_ros.control.observations import ObservationCollector
from vdd_ros.control.planning import PlanSettings
from vdd_ros.control.tick import Actor, Sink, Tick
from vdd_ros.core.contract import PolicyContract

__all__ = ["Actor", "ControlLoop", "Tick"]


class ControlLoop(loop.ControlLoop[ObservationCollector]):
    """The loop of `vdd_ros.control.loop`, its observations collected from messages."""

    def __init__(
        self,
        contract: PolicyContract,
        actor: Actor,
        *,
        rate_hz: float,
        sinks: Sequence[Sink],
        publishers: Sequence[Any],
        now_ns: Callable[[], int],
        on_tick: Callable[[Tick], None],
        on_send: Callable[[NDArray[np.float64], int], None] | None = None,
        planning: PlanSettings | None = None,
    ) -> None:
        """Build the loop, inactive; see the base class.

        Raises:
            VddError: the observations do not fit their message types, or the policy cannot be
                asked in that way.
        """
        super().__init__(
            contract,
            actor,
            collector=ObservationCollector(contract),
            rate_hz=rate_hz,
            sinks=sinks,
            publishers=publishers,
            now_ns=now_ns,
            on_tick=on_tick,
            on_send=on_send,
            planning=planning,
        )
