"""Outlet: where commands leave a loop, if they may."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.control.tick import Sink


class Outlet:
    """The command topics, and who is asked and told when something goes out."""

    def __init__(
        self,
        sinks: Sequence[Sink],
        publishers: Sequence[Any],
        on_send: Callable[[NDArray[np.float64], int], None] | None,
    ) -> None:
        """Pair the writers of the topics with their publishers.

        Args:
            sinks: writers of the command topics.
            publishers: one per sink, with a ``publish`` method.
            on_send: called with commands [T, D_act] and their stamp (ns) when they were sent.
        """
        self.may_send: Callable[[NDArray[np.float64], int], bool] | None = None
        """Asked with command [D_act] and stamp (ns) right before it goes out; None where nobody
        else could be commanding."""
        self.after_send: Callable[[], None] | None = None
        """Told when a command that `may_send` allowed is out."""
        self.plans = any(sink.planned for sink in sinks)
        """A topic has a time axis and takes the whole plan."""
        self._outputs = list(zip(sinks, publishers, strict=True))
        self._on_send = on_send

    def send(self, rows: NDArray[np.float64], stamp_ns: int) -> bool:
        """Publish commands [T, D_act], that of now first; return False where they may not go."""
        if self.may_send is not None and not self.may_send(rows[0], stamp_ns):
            return False
        try:
            for sink, publisher in self._outputs:
                publisher.publish(sink.write(rows, stamp_ns))
        finally:
            if self.after_send is not None:
                self.after_send()
        if self._on_send is not None:
            self._on_send(rows, stamp_ns)
        return True
