"""Faults made of one odd observation message."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

from vdd_ros.nodes.torture.faults import (
    BadMessage,
    Fault,
    HarmlessMessage,
    Outcome,
)
from vdd_ros.nodes.torture.rig import Rig

_NAMED = "the reason names the joint or the array, at level HOLD"
_FINITE = "the reason names the components that are no numbers"
_SAME = "the command that answers it is the one that the same state got before"


def _short_arrays(message: Any, rig: Rig) -> None:  # noqa: ANN401
    message.position = message.position[: int(rig.rng.integers(1, 4))]


def _no_values(message: Any, rig: Rig) -> None:  # noqa: ANN401
    del rig
    message.position = []


def _empty_names(message: Any, rig: Rig) -> None:  # noqa: ANN401
    del rig
    message.name = []


def _missing_joint(message: Any, rig: Rig) -> None:  # noqa: ANN401
    gone = int(rig.rng.integers(4))
    message.position = [v for i, v in enumerate(message.position) if i != gone]
    message.name = [n for i, n in enumerate(message.name) if i != gone]


def _foreign_names(message: Any, rig: Rig) -> None:  # noqa: ANN401
    odd = ("", "x\n", "X", "y" * 500, "\N{GREEK SMALL LETTER CHI}", "position.x")
    message.name = [odd[int(i)] for i in rig.rng.integers(len(odd), size=4)]


def _twice(message: Any, rig: Rig) -> None:  # noqa: ANN401
    again = int(rig.rng.integers(4))
    message.name = [*message.name, message.name[again]]
    message.position = [*message.position, message.position[again] + 0.1]


def _shuffled(message: Any, rig: Rig) -> None:  # noqa: ANN401
    order = rig.rng.permutation(len(message.name))
    names, values = list(message.name), list(message.position)
    message.name = [names[i] for i in order]
    message.position = [values[i] for i in order]


def _extra(message: Any, rig: Rig) -> None:  # noqa: ANN401
    for k in range(int(rig.rng.integers(1, 60))):
        at = int(rig.rng.integers(len(message.name) + 1))
        names, values = list(message.name), list(message.position)
        names.insert(at, f"other_{k}")
        values.insert(at, float(rig.rng.normal()) * 1e6)
        message.name, message.position = names, values
    message.velocity = [float("nan")] * 3
    message.header.frame_id = "somewhere else"


def _put(message: Any, rig: Rig, value: float) -> None:  # noqa: ANN401
    for i in rig.rng.choice(4, size=int(rig.rng.integers(1, 5)), replace=False):
        message.position[int(i)] = value


def _nan(message: Any, rig: Rig) -> None:  # noqa: ANN401
    _put(message, rig, float("nan"))


def _infinite(message: Any, rig: Rig) -> None:  # noqa: ANN401
    _put(message, rig, float(rig.rng.choice([-1.0, 1.0])) * float("inf"))


def _huge(message: Any, rig: Rig) -> None:  # noqa: ANN401
    size = float(rig.rng.choice([1e4, 1e9, 3e38, 1e300]))
    _put(message, rig, float(rig.rng.choice([-1.0, 1.0])) * size)


def _tiny(message: Any, rig: Rig) -> None:  # noqa: ANN401
    # Smaller than single precision can tell from the value itself: the answer must not change.
    for i in range(4):
        message.position[i] += float(rig.rng.choice([5e-324, 1e-310, -1e-310, 1e-40]))


def _ahead(message: Any, rig: Rig) -> None:  # noqa: ANN401
    seconds = float(rig.rng.choice([1.0, 10.0, 3600.0, 1e6]))
    rig.stamp(message, rig.now_ns() + round(seconds * 1e9))


def _stale(message: Any, rig: Rig) -> None:  # noqa: ANN401
    seconds = float(rig.rng.choice([0.5, 1.0, 10.0, 1e6]))
    rig.stamp(message, rig.now_ns() - round(seconds * 1e9))


def _before_time(message: Any, rig: Rig) -> None:  # noqa: ANN401
    rig.stamp(message, int(rig.rng.choice([-1, -1_000_000_000, -2_000_000_000_000_000_000])))


@dataclass(frozen=True)
class OddStamp(Fault):
    """A stamp that is no fault in itself: what follows must be answered as if nothing was."""

    kind: str = "zero"
    """``zero``, ``again``, ``older`` or ``slightly-ahead``."""

    def inject(self, rig: Rig) -> Outcome:
        """Send one such message between good ones, all of which are due their answers."""
        rig.ticks(3)
        # Only the newest message is kept for a node: those before must have been taken.
        rig.settle_commands()
        message = rig.message()
        period_ns = round(1e9 / rig.settings.rate_hz)
        own = copy.deepcopy(message)
        if self.kind in ("again", "older"):
            rig.send(message, due=True)
            rig.settle_commands()
        if self.kind == "older":
            rig.stamp(own, rig.now_ns() - period_ns)
        elif self.kind == "slightly-ahead":
            rig.stamp(own, rig.now_ns() + round(float(rig.rng.uniform(2, 9)) * period_ns))
        elif self.kind == "zero":
            rig.stamp(own, 0)
        begun = time.monotonic()
        lost = rig.judge.finding().lost
        rig.send(own, due=False)
        rig.ticks(12)
        back = self.recovered(rig)
        took_s = next((at - begun for at, _ in rig.judge.command_times if at >= begun), None)
        return Outcome(took_s if rig.judge.finding().lost == lost else None, back)


MESSAGE_FAULTS: tuple[Fault, ...] = (
    BadMessage(
        "short-arrays", "fewer values than names", _NAMED, spoil=_short_arrays, says="hold"
    ),
    BadMessage("no-values", "names without any value", _NAMED, spoil=_no_values, says="hold"),
    BadMessage("empty-names", "no names at all", _NAMED, spoil=_empty_names, says="no joint"),
    BadMessage("missing-joint", "one joint left out", _NAMED, spoil=_missing_joint, says="joint"),
    BadMessage(
        "foreign-names",
        "names that are empty, long, of another case or alphabet",
        _NAMED,
        spoil=_foreign_names,
        says="joint",
    ),
    BadMessage(
        "duplicate-names",
        "one joint twice, with two values",
        _NAMED,
        spoil=_twice,
        says="joint",
    ),
    HarmlessMessage("joint-order", "the joints in another order", _SAME, spoil=_shuffled),
    HarmlessMessage(
        "extra-joints", "up to 60 other joints between them, odd velocities", _SAME, spoil=_extra
    ),
    BadMessage("nan", "NaN in some values", _FINITE, spoil=_nan, says="non-finite"),
    BadMessage("infinite", "+-Inf in some values", _FINITE, spoil=_infinite, says="non-finite"),
    BadMessage(
        "huge-values",
        "values of 1e4 to 1e300",
        "the reason names what is no number in single precision, or what was limited",
        spoil=_huge,
        says="non-finite|CLAMP|limit",
    ),
    HarmlessMessage("denormals", "values off by less than 1e-39", _SAME, spoil=_tiny),
    BadMessage(
        "future-stamp",
        "a stamp 1 s to days ahead",
        "the reason says it is ahead",
        spoil=_ahead,
        says="future",
    ),
    BadMessage(
        "stale-stamp",
        "a stamp 0.5 s to days old",
        "the reason says it is stale",
        spoil=_stale,
        says="stale",
    ),
    BadMessage(
        "negative-stamp",
        "a stamp before 1970",
        "the reason says it is stale",
        spoil=_before_time,
        says="stale",
    ),
    OddStamp(
        "zero-stamp",
        "a driver that does not stamp",
        "the time of receipt counts; no answer around it is lost",
        kind="zero",
    ),
    OddStamp(
        "duplicate-stamp",
        "the same message twice",
        "the second one is not acted on; no answer around it is lost",
        kind="again",
    ),
    OddStamp(
        "out-of-order",
        "a message that was overtaken by a newer one",
        "no answer around it is lost",
        kind="older",
    ),
    OddStamp(
        "slightly-ahead",
        "a stamp 2 to 9 periods ahead, less than what counts as stale",
        "no answer after it is lost",
        kind="slightly-ahead",
    ),
)
"""Kinds made of one message."""
