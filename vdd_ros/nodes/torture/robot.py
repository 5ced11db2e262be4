"""The robot whose states a node under test is given: where it is, and what time it has."""

from __future__ import annotations

import math
import time
from typing import Any

from sensor_msgs.msg import JointState

NAMES = ("x", "y", "x_desired", "y_desired")
"""Joints of the simulated robot."""
NS = 1_000_000_000
"""Nanoseconds in a second."""


class Robot:
    """Moves up and down in steps that the limits allow, or stands."""

    def __init__(self, rate_hz: float) -> None:
        """Begin in the middle; ``rate_hz``: states per second."""
        self._rate_hz = rate_hz
        self._phase = 0.0
        self._last_stamp = 0
        self.still = False
        """The robot stands: the same state again and again."""
        self.clock_shift_ns = 0
        """What the published clock is ahead of the true one."""
        self.clock_stands_ns = 0
        """Where the published clock stands still; 0 while it goes."""

    def now_ns(self) -> int:
        """Return the time by the clock the node is given."""
        return self.clock_stands_ns or time.time_ns() + self.clock_shift_ns

    def message(self) -> Any:  # noqa: ANN401 - a JointState
        """Return the robot's present state, stamped now and never twice alike."""
        if not self.still:
            self._phase += 1.0 / self._rate_hz
        # Up and down through the rows of obstacles at a speed the limits allow.
        across = 0.03 * math.sin(1.7 * self._phase)
        x, y = 0.5 + across, 0.27 * math.sin(0.5 * self._phase)
        message = JointState(name=list(NAMES), position=[x, y, x, y])
        self.stamp(message, self.fresh_stamp())
        return message

    def fresh_stamp(self) -> int:
        """Return the time now, but later than any stamp before it."""
        self._last_stamp = max(self.now_ns(), self._last_stamp + 1)
        return self._last_stamp

    def forget_stamps(self) -> None:
        """Let stamps go back: the clock was set."""
        self._last_stamp = 0

    @staticmethod
    def stamp(message: Any, stamp_ns: int) -> None:  # noqa: ANN401
        """Write a stamp into the header of a message."""
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, NS)


def stamp_of(message: Any) -> int:  # noqa: ANN401
    """Return the stamp in a message's header (ns)."""
    return int(message.header.stamp.sec) * NS + int(message.header.stamp.nanosec)
