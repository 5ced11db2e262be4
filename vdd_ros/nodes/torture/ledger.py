"""Which observations a node never saw: what was sent, against the node's own count.

A node keeps the newest message of a topic only, so one that is followed by the next before the
node has looked is replaced, and nothing in the node can tell. Its ``~/status`` says how many it
was handed (``received``). Between two rows that answer known observations as many were handed over
as were sent, or the difference was never seen. An observation that the node was handed and did not
answer cannot hide here: the count would include it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_MEMORY = 4096


@dataclass
class _Anchor:
    number: int
    received: int
    unseen: int
    """Messages between the anchor before and this one that were never handed over."""


class Ledger:
    """Numbers what is sent and compares with what a node says it received."""

    def __init__(self) -> None:
        """Begin empty."""
        self._count = 0
        self._numbers: dict[int, int] = {}
        self._anchors: deque[_Anchor] = deque(maxlen=_MEMORY)

    def sent(self, stamp_ns: int) -> int:
        """Take note of an observation; return its number."""
        self._count += 1
        # Of two with one stamp the first is answered.
        self._numbers.setdefault(stamp_ns, self._count)
        if len(self._numbers) > _MEMORY:
            del self._numbers[next(iter(self._numbers))]
        return self._count

    def row(self, stamp_ns: int, received: int) -> None:
        """Take note of a status row: the answer to ``stamp_ns`` was its ``received``-th message.

        Rows that answer nothing that was sent say nothing about what came between.
        """
        number = self._numbers.get(stamp_ns)
        last = self._anchors[-1] if self._anchors else None
        if number is None or (last is not None and number <= last.number):
            return
        if last is None or received <= last.received:
            # The node was activated anew and counts from nothing.
            self._anchors.clear()
            self._anchors.append(_Anchor(number, received, 0))
            return
        unseen = (number - last.number) - (received - last.received)
        self._anchors.append(_Anchor(number, received, max(0, unseen)))

    def forget(self) -> None:
        """The node begins to count anew, or others send to it: compare from the next row on."""
        self._anchors.clear()

    def claim(self, number: int) -> bool:
        """Tell whether a message was never seen; every gap in the count excuses one message."""
        before: _Anchor | None = None
        for anchor in self._anchors:
            if anchor.number >= number:
                if before is None or anchor.number == number or anchor.unseen == 0:
                    return False
                anchor.unseen -= 1
                return True
            before = anchor
        return False
