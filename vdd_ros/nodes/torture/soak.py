"""A long run of one node: does its memory stay where it is, and does it answer every call?

The robot's side is that of the campaign. Besides the states, services of the node are called all
the time, and now and then the policy is loaded anew. Two figures of ``/proc/PID/smaps_rollup``
must stay: what is resident (``Rss``), and what the process has written to and so has for itself
(``Private_Dirty``). ``Private_Clean`` is noted only: pages of libraries move between private and
shared, 11 MB at once, whenever another process that uses the same libraries begins or ends.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from vdd_ros.core.config_io import load_yaml
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.core.shipped import shipped_file
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.torture.judge import HOLD
from vdd_ros.nodes.torture.rig import START_S, Rig
from vdd_ros.nodes.torture.settings import RigSettings

GROWTH_KB = 1024.0
"""Each of the two figures may grow by so much."""
WARM_UP_S = 60.0
"""Growth is measured from then on: by then every cache has been filled once."""
CALL_S = 0.2
"""Time from one call of a service to the next."""
RELOAD_S = 30.0
"""Time from one loading of the policy to the next."""
SAMPLE_S = 2.0
"""Time from one look at the memory to the next."""
REPLY_S = 10.0
"""A reply that is later than this is missed."""
_EDGE = 15
"""Samples at each end whose medians are compared: a policy being loaded is there twice."""
_SAY_S = 60.0
_SOME = ["rate_hz", "selection.rule"]


@dataclass(frozen=True)
class Memory:
    """What a process holds, in kB, at one moment."""

    at_s: float
    """Seconds since the beginning."""
    resident: float
    """All that is in memory of it."""
    dirty: float
    """What it has written to and shares with nobody."""
    clean: float
    """Of files, and mapped by nobody else at this moment."""


@dataclass
class Soak:
    """What came out of a long run."""

    rate_hz: float
    """Observations per second."""
    seconds: float = 0.0
    """How long it took, with the warm-up."""
    warm_up_s: float = 0.0
    """How much of it came before the memory counted."""
    memory: list[Memory] = field(default_factory=list)
    """One look after the other."""
    commands: int = 0
    """Commands that were checked."""
    calls: int = 0
    """Services called."""
    reloads: int = 0
    """Those of them that loaded the policy anew."""
    missed_replies: int = 0
    """Calls without a reply; must be 0."""
    refused: int = 0
    """Replies that said no; must be 0, as nothing wrong was asked."""
    slowest_ms: float = 0.0
    """The longest time to a reply, loading apart."""
    slowest_reload_ms: float = 0.0
    """The longest time of a reload."""
    missed_ticks: int = 0
    """By the node's own count."""
    outside: int = 0
    """Commands out of limits; must be 0."""
    lost: int = 0
    """Observations that the node was handed and did not answer."""
    unseen: int = 0
    """Observations that the node was never handed."""
    holds: int = 0
    """Ticks at level HOLD or above."""
    silent: int = 0
    """Holds without a published reason."""
    interrupted: bool = False
    """Somebody ended it before its time."""
    examples: list[str] = field(default_factory=list)
    """What was wrong, in words: the first few."""

    @property
    def counted(self) -> list[Memory]:
        """What was seen after the warm-up."""
        return [memory for memory in self.memory if memory.at_s >= self.warm_up_s]

    @property
    def dirty(self) -> Trend:
        """What became of the memory that it has for itself."""
        return Trend.of([(m.at_s, m.dirty) for m in self.counted])

    @property
    def resident(self) -> Trend:
        """What became of all of it."""
        return Trend.of([(m.at_s, m.resident) for m in self.counted])

    @property
    def passed(self) -> bool:
        """Tell whether the memory stayed, every call was answered, and no limit was left."""
        wrong = self.missed_replies or self.refused or self.outside or self.silent
        stayed = max(self.dirty.growth_kb, self.resident.growth_kb) <= GROWTH_KB
        return not wrong and self.calls > 0 and bool(self.counted) and stayed


@dataclass(frozen=True)
class Trend:
    """How a figure went; NaN where too little was seen."""

    start_kb: float
    """Median right after the warm-up."""
    end_kb: float
    """Median at the end."""
    slope_kb_per_hour: float
    """Of a straight line through all of it."""

    @property
    def growth_kb(self) -> float:
        """From the start to the end."""
        return self.end_kb - self.start_kb

    @classmethod
    def of(cls, seen: list[tuple[float, float]]) -> Trend:
        """Return the trend of seconds and kB."""
        if len(seen) < 2:
            return cls(math.nan, math.nan, math.nan)
        at, size = np.array(seen).T
        start, end = np.median(size[:_EDGE]), np.median(size[-_EDGE:])
        return cls(float(start), float(end), float(np.polyfit(at / 3600.0, size, 1)[0]))


def memory_of(process: int, at_s: float = 0.0) -> Memory:
    """Return what a process holds now; ``at_s`` is written beside it.

    Raises:
        VddError: the process has ended, or this system does not tell.
    """
    path = Path(f"/proc/{process}/smaps_rollup")
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise VddError(
            f"{path} cannot be read ({error.strerror}); a soak run needs Linux, and its node alive"
        ) from None
    sizes = {words[0]: words[1] for words in map(str.split, lines)}
    dirty, clean = (float(sizes[f"Private_{kind}:"]) for kind in ("Dirty", "Clean"))
    return Memory(at_s, float(sizes["Rss:"]), dirty, clean)


class _Caller:
    """Calls the node's services in turn, one at a time, with clients that stay."""

    def __init__(self, rig: Rig, soak: Soak) -> None:
        self._rig, self._soak = rig, soak
        some: Any = Parameter("selection.seed", value=1).to_parameter_msg()
        asked: list[tuple[Any, str, Any]] = [
            (GetParameters, "get_parameters", GetParameters.Request(names=_SOME)),
            (DescribeParameters, "describe_parameters", DescribeParameters.Request(names=_SOME)),
            (ListParameters, "list_parameters", ListParameters.Request()),
            (GetState, "get_state", GetState.Request()),
            (SetParameters, "set_parameters", SetParameters.Request(parameters=[some])),
        ]
        create = rig.driver.node.create_client
        self._asked = deque((create(t, f"{rig.path}/{n}"), n, r) for t, n, r in asked)
        self._reload = create(Trigger, f"{rig.path}/reload")
        self._future: Any = None
        self._begun_s, self._name = 0.0, ""
        self._next_s = self._reload_s = time.monotonic()

    def ready(self) -> bool:
        """Tell whether every service has been found."""
        clients = [self._reload, *(client for client, _, _ in self._asked)]
        return all(client.service_is_ready() for client in clients)

    def step(self, now: float) -> None:
        """Look at the call under way, or make the next."""
        if self._future is not None:
            self._look(now)
        elif now >= self._next_s:
            self._call(now)

    def _call(self, now: float) -> None:
        reload = now >= self._reload_s
        client, name, request = (
            (self._reload, "reload", Trigger.Request()) if reload else self._asked[0]
        )
        self._future = client.call_async(request)
        self._begun_s, self._name, self._client = now, name, client
        self._soak.calls += 1
        self._next_s = now + CALL_S
        if reload:
            self._soak.reloads += 1
            self._reload_s = now + RELOAD_S
        else:
            self._asked.rotate(-1)

    def _look(self, now: float) -> None:
        soak, took_s = self._soak, now - self._begun_s
        if not self._future.done():
            if took_s > REPLY_S:
                soak.missed_replies += 1
                _note(soak, f"no reply of {self._name} within {REPLY_S:g} s")
                self._client.remove_pending_request(self._future)
                self._future = None
            return
        reply, self._future = self._future.result(), None
        results = getattr(reply, "results", [])
        if not getattr(reply, "success", True) or not all(r.successful for r in results):
            soak.refused += 1
            _note(soak, f"{self._name} was refused: {reply}")
        if self._name == "reload":
            soak.slowest_reload_ms = max(soak.slowest_reload_ms, took_s * 1e3)
        else:
            soak.slowest_ms = max(soak.slowest_ms, took_s * 1e3)


class _Watch:
    """Looks at the memory and at the ticks that were held."""

    def __init__(self, rig: Rig, soak: Soak, say: Callable[[str], None]) -> None:
        self._rig, self._soak, self._say = rig, soak, say
        self._begun_s = self._next_s = self._say_s = self._seen_s = time.monotonic()
        self._missed = rig.row["missed"]

    def step(self, now: float) -> None:
        """Look, where it is time to."""
        if now < self._next_s:
            return
        self._next_s += SAMPLE_S
        rig, soak = self._rig, self._soak
        process = rig.process
        if process is None or process.exit_code is not None:
            raise VddError(f"the node ended; its last lines:\n{rig.driver.tails()}")
        soak.seconds = now - self._begun_s
        soak.memory.append(memory_of(process.pid, soak.seconds))
        new = [(at, level) for at, _, level in rig.judge.rows if at > self._seen_s]
        soak.holds += sum(level >= HOLD for _, level in new)
        self._seen_s = max((at for at, _ in new), default=self._seen_s)
        soak.missed_ticks = int(rig.row["missed"] - self._missed)
        if now >= self._say_s:
            self._say_s += _SAY_S
            self._say(
                f"{soak.seconds:.0f} s: {soak.memory[-1].dirty:.0f} kB of its own of "
                f"{soak.memory[-1].resident:.0f} kB resident, {soak.calls} calls, "
                f"{soak.missed_replies} replies missed, {soak.missed_ticks} ticks missed, "
                f"{soak.holds} held, {rig.judge.finding().outside} out of limits"
            )


def run_soak(
    *,
    minutes: float,
    seed: int,
    rate_hz: float,
    warm_up_s: float = WARM_UP_S,
    say: Callable[[str], None] = lambda text: None,
) -> Soak:
    """Run the shipped student in a ROS domain of its own; a Ctrl-C ends it with what is known.

    Args:
        minutes: how long, with the warm-up.
        seed: decides everything random.
        rate_hz: observations per second.
        warm_up_s: the memory counts from then on.
        say: told how far it is, once a minute.

    Raises:
        VddError: the node does not start, or ends.
    """
    contract = load_yaml(PolicyContract, shipped_file("config/contracts/avoiding.yaml"))
    soak = Soak(rate_hz, warm_up_s=min(warm_up_s, 30.0 * minutes))
    with Driver("soak", own_domain=True) as driver:
        rig = Rig(driver, contract, RigSettings(rate_hz=rate_hz), np.random.default_rng(seed))
        try:
            rig.start()
            rig.judge.label = "soak"
            caller = _Caller(rig, soak)
            if not rig.pace(caller.ready, timeout_s=START_S):
                raise VddError(f"services of {rig.path} were not found within {START_S:g} s")
            watch = _Watch(rig, soak, say)

            def step() -> bool:
                now = time.monotonic()
                caller.step(now)
                watch.step(now)
                return False

            try:
                rig.pace(step, timeout_s=60.0 * minutes)
            except KeyboardInterrupt:
                soak.interrupted = True
            rig.conclude()
        finally:
            rig.end()
    found = rig.judge.finding("soak")
    soak.outside, soak.lost, soak.unseen = found.outside, found.lost, found.unseen
    soak.silent, soak.commands = found.silent, rig.judge.commands
    soak.examples += found.examples
    return soak


def _note(soak: Soak, text: str) -> None:
    if len(soak.examples) < _EDGE:
        soak.examples.append(text)
