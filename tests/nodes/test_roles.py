"""The hand-over protocol under every schedule that hypothesis thinks of; no ROS, no clock."""

from __future__ import annotations

import copy
import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")

from vdd_ros.nodes.roles import Membership, Move, Standing

PERIOD = 20_000_000
STEP = PERIOD // 20
"""The simulation's step, a quarter of a watch."""
HEALTHY_S = 0.2


class ModelToken:
    """The token as a process sees it; the kernel knows who is dead, however late rows are."""

    def __init__(self, world: World, role: str) -> None:
        self.world, self.role = world, role
        self.shared = self.gone = self.seen = False

    @property
    def mine(self) -> bool:
        return self.world.holder == self.role

    def look(self) -> None:
        self.shared = not (self.world.spare if self.role == "command" else self.world.main).dead
        self.seen |= self.shared
        self.gone = self.seen and not self.shared

    def take(self) -> None:
        self.world.holder = self.role


@dataclass
class Node:
    """A node as the executor runs it: ticks, watches, rows, in an order nobody promises."""

    part: Membership
    tick_at: int
    watch_at: int
    inbox: deque[tuple[int, Standing]] = field(default_factory=deque)
    stopped_until: int = 0
    deaf_until: int = 0
    """Rows wait, though the process runs: its thread that receives them does not."""
    dead: bool = False
    acts: bool = True
    sent: list[int] = field(default_factory=list)
    rows: list[Standing] = field(default_factory=list)

    def runs(self, now: int) -> bool:
        return not self.dead and now >= self.stopped_until


class World:
    """Two nodes, the rows between them, and a clock."""

    def __init__(
        self, *, delay: int = 1, timers_first: bool = True, phase: int = 0, token: bool = False
    ) -> None:
        self.now = 10**12
        self.token = token
        self.holder = ""
        self.delay = delay * STEP
        self.timers_first = timers_first
        self.main = self._node("command", 0)
        self.spare = self._node("standby", phase * STEP)

    def _node(self, role: str, phase: int) -> Node:
        part = Membership(
            role,  # type: ignore[arg-type]
            rate_hz=1e9 / PERIOD,
            healthy_s=HEALTHY_S,
            token=ModelToken(self, role) if self.token else None,
        )
        part.activate(self.now)
        return Node(part, self.now + phase, self.now + phase // 2)

    def restart(self, node: Node) -> None:
        """The process was started again: it remembers nothing."""
        fresh = self._node(node.part.role, 3 * STEP)
        node.part, node.dead, node.acts = fresh.part, False, True
        node.tick_at, node.watch_at = fresh.tick_at, fresh.watch_at
        node.inbox.clear()

    def other(self, node: Node) -> Node:
        return self.spare if node is self.main else self.main

    def step(self) -> None:
        self.now += STEP
        for node in (self.main, self.spare):
            if node.runs(self.now):
                if self.timers_first:
                    self.watch(node)
                    self.read(node)
                else:
                    self.read(node)
                    self.watch(node)
                self.tick(node)

    def send(self, node: Node) -> None:
        """Send a command, if the node may; no other running node could send at this moment."""
        if node.part.may_send(self.now):
            node.sent.append(self.now)
            other = self.other(node)
            rival = copy.copy(other.part)
            assert not (other.runs(self.now) and rival.may_send(self.now)), "two may send"

    def run(self, periods: float) -> None:
        for _ in range(round(periods * PERIOD / STEP)):
            self.step()

    def read(self, node: Node) -> None:
        while node.inbox and node.inbox[0][0] <= self.now >= node.deaf_until:
            self.do(node, node.part.on_partner(node.inbox.popleft()[1], self.now))

    def watch(self, node: Node) -> None:
        if self.now >= node.watch_at:
            # A timer that was missed fires once.
            node.watch_at = self.now + round(node.part.watch_s * 1e9)
            self.do(node, node.part.on_watch(self.now))

    def tick(self, node: Node) -> None:
        if self.now >= node.tick_at:
            node.tick_at += PERIOD * (1 + (self.now - node.tick_at) // PERIOD)
            self.send(node)
            node.part.on_tick(acted=node.acts)
            self.say(node)

    def do(self, node: Node, move: Move) -> None:
        if move == "take":
            self.send(node)
        if move:
            self.say(node)

    def say(self, node: Node) -> None:
        row = node.part.standing(self.now)
        node.rows.append(row)
        self.other(node).inbox.append((self.now + self.delay, row))


def settled(**kwargs: Any) -> World:
    world = World(**kwargs)
    world.run(20)
    assert world.main.part.commanding
    assert not world.spare.part.commanding
    return world


def gap(world: World, since: int) -> float:
    """Longest time without a command since then, in periods."""
    times = sorted(t for n in (world.main, world.spare) for t in n.sent if t >= since)
    ends = [since, *times, world.now]
    return max(b - a for a, b in itertools.pairwise(ends)) / PERIOD


@pytest.mark.parametrize("phase", range(0, 20, 3))
@pytest.mark.parametrize("kill_at", range(0, 20, 3))
def test_a_dead_commander_is_replaced_within_two_periods_of_its_last_row(
    phase: int, kill_at: int
) -> None:
    """Whenever it dies in its period, and however the two loops stand to each other."""
    world = settled(phase=phase)
    world.run(kill_at / 20)
    world.main.dead = True
    last_row = world.main.rows[-1].sent_us * 1000
    world.run(3)
    assert world.spare.part.commanding
    assert world.spare.sent[0] - last_row <= 2 * PERIOD
    assert "silent" in world.spare.part.why


@pytest.mark.parametrize("kill_at", range(0, 20, 3))
def test_with_a_token_the_death_of_a_process_is_known_with_the_next_watch(kill_at: int) -> None:
    """No silence has to be waited for: the kernel knows."""
    world = settled(token=True)
    world.run(kill_at / 20)
    world.main.dead = True
    died = world.now
    world.run(1)
    assert world.spare.sent[0] - died <= 0.25 * PERIOD


def test_with_a_token_a_late_row_does_not_cost_the_command() -> None:
    """Two periods without a chance to say anything: nobody took it, so nothing changes."""
    world = settled(token=True)
    world.spare.stopped_until = world.now + 3 * PERIOD
    world.main.stopped_until = world.now + 2 * PERIOD
    world.run(2.5)
    assert world.main.part.commanding
    world.run(10)
    assert world.spare.sent == []


def test_control_returns_after_a_restart_and_a_healthy_spell_without_a_gap() -> None:
    """The spell is waited for, and the hand-over back loses no command."""
    world = settled()
    world.main.dead = True
    world.run(5)
    world.restart(world.main)
    begin = world.now
    world.run(HEALTHY_S * 50 - 1)
    assert world.spare.part.commanding
    world.run(5)
    assert world.main.part.commanding
    assert not world.spare.part.commanding
    assert gap(world, begin) <= 2.0


def test_a_node_that_wakes_up_stays_quiet_until_it_is_given_the_command() -> None:
    """A second asleep: not one command on waking, then the way back of any other node."""
    world = settled()
    world.main.stopped_until = world.now + 50 * PERIOD
    woken = world.main.stopped_until
    world.run(55)
    assert world.spare.part.commanding
    assert not [t for t in world.main.sent if woken <= t < woken + 5 * PERIOD]
    world.run(HEALTHY_S * 50 + 3)
    assert world.main.part.commanding


def test_a_sleeping_standby_does_not_mistake_its_own_sleep_for_the_others() -> None:
    """Nothing was heard, but nothing was watched either."""
    for first in (True, False):
        world = settled(timers_first=first)  # type: ignore[arg-type]
        world.spare.stopped_until = world.now + 50 * PERIOD
        world.run(60)
        assert world.main.part.commanding
        assert world.spare.sent == []


def test_a_fault_hands_over_and_back() -> None:
    """Two holds in a row are a fault; the standby acts until the healthy spell is over."""
    world = settled()
    world.main.acts = False
    begin = world.now
    world.run(6)
    assert world.spare.part.commanding
    assert world.main.rows[-1].fault
    world.main.acts = True
    world.run(HEALTHY_S * 50 + 5)
    assert world.main.part.commanding
    assert gap(world, begin) <= 2.0


def test_one_hold_is_not_a_fault() -> None:
    """A lost sample does not move the command."""
    world = settled()
    world.main.acts = False
    world.run(1)
    world.main.acts = True
    world.run(5)
    assert world.main.part.commanding
    assert world.spare.sent == []


def test_nothing_is_gained_by_handing_over_to_one_that_cannot_act_either() -> None:
    """Observations that stop stop both: the command stays where it is."""
    world = settled()
    world.main.acts = world.spare.acts = False
    world.run(20)
    assert world.main.part.commanding
    assert world.spare.sent == []


def test_a_commander_that_is_deactivated_is_replaced() -> None:
    """What it says last is that it does not command."""
    world = settled()
    world.main.part.deactivate()
    world.say(world.main)
    world.main.dead = True
    world.run(2)
    assert world.spare.part.commanding
    assert "cannot command" in world.spare.part.why


def test_a_pause_stays_a_pause_for_the_standby() -> None:
    """A paused commander keeps the command; if it dies the standby knows that it was paused."""
    world = settled()
    world.main.part.paused = True
    world.run(20)
    assert world.main.part.commanding
    world.main.dead = True
    world.run(3)
    assert world.spare.part.commanding
    assert world.spare.part.partner_paused


def test_a_standby_does_not_start_a_robot_and_a_commander_does_not_wait_for_ever() -> None:
    """Alone, the one stays quiet and the other begins when discovery is over."""
    world = World()
    world.main.dead = True
    world.run(100)
    assert world.spare.sent == []
    world = World()
    world.spare.dead = True
    world.run(9)
    assert world.main.sent == []
    world.run(5)
    assert len(world.main.sent) >= 2


def test_the_higher_term_wins_where_both_command() -> None:
    """After a parted network the two agree with the next row."""
    world = settled()
    world.delay = 10**6 * STEP
    main, spare = world.main.part, world.spare.part
    spare._take("a parted network")
    row = spare.standing(world.now)
    assert main.on_partner(row, world.now) == "tell"
    assert not main.commanding
    assert spare.on_partner(main.standing(world.now), world.now) == ""
    assert spare.commanding
    equal = Standing(commanding=1.0, term=row.term)
    assert spare.on_partner(equal, world.now) == "tell"
    assert not spare.commanding


KINDS = ("stop", "kill", "restart", "fault", "heal", "pause", "resume", "nothing")
EVENTS = st.tuples(
    st.sampled_from(KINDS),
    st.booleans(),
    st.floats(0.05, 30.0),
    st.floats(0.1, 8.0),
)


@example(
    events=[("stop", False, 0.5, 1.0), ("stop", True, 23.75, 3.1875)]
    + [("stop", False, 1.0, wait) for wait in (1.25, 1.25, 2.5, 2.25, 2.75, 4.25, 6.125)]
    + [("stop", False, 2.0, 1.75)],
    delay=0,
    first=True,
    phase=0,
)
@settings(max_examples=400, deadline=None)
@given(
    events=st.lists(EVENTS, max_size=12),
    delay=st.integers(0, 3),
    first=st.booleans(),
    phase=st.integers(0, 19),
)
def test_no_two_nodes_may_ever_send(
    events: list[tuple[str, bool, float, float]], delay: int, first: bool, phase: int
) -> None:
    """Stops, deaths, restarts, faults and pauses in any order; afterwards one of them commands."""
    torment(World(delay=delay, timers_first=first, phase=phase), events)


LATE_EVENTS = st.tuples(
    st.sampled_from((*KINDS, "deaf")),
    st.booleans(),
    st.floats(0.05, 30.0),
    st.floats(0.1, 8.0),
)


@settings(max_examples=400, deadline=None)
@given(
    events=st.lists(LATE_EVENTS, max_size=12),
    delay=st.integers(0, 60),
    first=st.booleans(),
    phase=st.integers(0, 19),
)
def test_with_a_token_no_two_nodes_may_send_however_late_rows_are(
    events: list[tuple[str, bool, float, float]], delay: int, first: bool, phase: int
) -> None:
    """Rows of three periods ago, or none for thirty, while all processes run."""
    torment(World(delay=delay, timers_first=first, phase=phase, token=True), events)


def torment(world: World, events: list[tuple[str, bool, float, float]]) -> None:
    """Let events befall the two; then leave them in peace, and see that one commands."""
    for kind, of_main, length, wait in events:
        node = world.main if of_main else world.spare
        if kind == "stop":
            node.stopped_until = world.now + round(length * PERIOD)
        elif kind == "deaf":
            node.deaf_until = world.now + round(length * PERIOD)
        elif kind == "kill":
            node.dead = True
        elif kind == "restart" and node.dead:
            world.restart(node)
        elif kind in ("fault", "heal"):
            node.acts = kind == "heal"
        elif kind in ("pause", "resume"):
            node.part.paused = kind == "pause"
        world.run(wait)
    world.delay = min(world.delay, 3 * STEP)
    for node in (world.main, world.spare):
        node.acts, node.stopped_until, node.part.paused = True, 0, False
        node.deaf_until = 0
        if node.dead:
            world.restart(node)
    world.run(HEALTHY_S * 50 + 40)
    assert world.main.part.commanding
    assert len([t for t in world.main.sent if t > world.now - 3 * PERIOD]) >= 2
