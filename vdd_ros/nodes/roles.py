"""Who commands: a commanding node and its standby, and how the command changes hands.

Two nodes watch each other's ``~/status``. The *command* node commands whenever it can; the
*standby* decides at every tick without sending, takes over when the other falls silent or cannot
act, and gives the command back after a healthy spell. Every row of ``~/status`` says

- ``commanding``: my commands go out; ``fault``: I hold and do not know what to do; ``ready``: I
  acted at my last tick; ``paused``: an operator holds the robot through me;
- ``term``: counts the takings of the command, the highest either node has heard of;
- ``sent_us``: my steady clock when I said this; ``heard_us``: the newest ``sent_us`` I have heard
  of you. A node compares ``heard_us`` with its own clock only; no two clocks are compared.

With P the control period (at least 10 ms counts), rows are sent at every tick and whenever none
was sent for 0.35 P. The rules:

1. **Lease.** A node may send a command only while its own last row is younger than 1.2 P. Asked
   right before each command goes out. A node that overslept it (stopped, swapped out, hung) may
   have been replaced: it goes quiet and is not ready before its next good tick.
2. **Silence.** A node that is quiet takes the command when it has heard nothing for 8 of its own
   watches, which are 0.2 P apart, hence after 1.4 to 1.6 P. Watches are counted instead of time:
   a node that slept itself did not watch, and must not mistake its own sleep for the other's.
3. **Release.** A commanding node gives up by saying so: ``commanding`` 0, then no command any
   more. The standby releases when the other has been ready for the healthy spell; either releases
   when it has a fault and the other is ready.
4. **Return.** The command node takes a released command when the standby's row says ``commanding``
   0 AND has heard (``heard_us``) that the command node is quiet and ready.
5. **Loss.** The standby takes from a node that says it neither commands nor is ready, if it is
   ready itself. While the command node is quiet but ready the standby leaves the command to it.
   For 4 and 5 a row counts only if what it has heard was said less than 1.2 P ago, by the clock of
   the one who said it and now reads the row: one that lay in a queue while its reader was stopped
   does not, however late it is read, as its sender may have taken the command since (rule 2).
6. **Terms.** Taking raises the term. A commanding node that hears of a commander with a higher
   term, or with its own if it is the standby, goes quiet at once.
7. A standby never takes from a node it has not heard commanding: it does not start a robot. A
   command node that is ready and has heard neither a partner nor anybody's command since it was
   activated starts after ``listen_s``: nodes may need seconds to find each other.

8. **Token.** Two nodes on one machine also share a token (`token`), which cannot be late. Taking
   the command takes it. A node that finds it taken goes quiet before it sends, as by rule 1; while
   the partner is seen to have its end of it, rule 1 itself is not needed. When the process of the
   partner has ended, that counts as silence at once; as long as the process of the standby runs,
   the command node waits for 5 P, not 1.4, before it believes in silence.

What is guaranteed. With a token, two nodes never command at once, whatever is late. Without one,
no time matters between rules 4 and 5: rows arrive in the order they were sent, so the standby
takes by rule 5 only after a newer row than the one its own reply (rule 4) could have answered.
Rules 1 and 2 need one assumption: a row is handled within 0.2 P of being sent, or its receiver is
not running. Then the lease of the one ends 1.2 P after its last row was sent, the patience of the
other at least 1.4 P after it was received, and what a row has heard was said before that row was
sent. Where the assumption breaks (a network parted in two, a row held up longer: measured on a
machine with more work than processors), both may command until they hear each other; rule 6 then
ends it with the next row.

What is not. Without a token, a node stopped in the microseconds between the question of rule 1 and
the sending of the command sends that one command when it wakes. Its stamp is that of the
observation it answers, so a robot that checks stamps ignores it.

Nothing here knows ROS: time comes in as nanoseconds of a steady clock.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

Role = Literal["command", "standby"]
Move = Literal["", "take", "begin", "tell"]
"""What the node has to do now: nothing; take the command of one that fell silent, whose robot is
waiting; begin with the next tick, as the other answered this one; or just send a row."""

_LEASE = 1.2
_HEARTBEAT = 0.35
_WATCH = 0.2
_SILENT_WATCHES = 8
_LIVING_WATCHES = 25
"""The same for a command node whose standby is known to run: it is busy commanding, not gone."""
_SHORTEST_PERIOD_S = 0.01
"""Faster loops watch as if they ran at 100 Hz: a general-purpose system does not keep less."""
_START_PERIODS = 10
_FAULT_TICKS = 2
"""Holds in a row that are a fault; one is a sample lost or one bad answer."""


class Standing(NamedTuple):
    """What a node says of itself in ``~/status``, from ``commanding`` on."""

    commanding: float = 0.0
    fault: float = 0.0
    ready: float = 0.0
    paused: float = 0.0
    term: float = 0.0
    sent_us: float = 0.0
    heard_us: float = 0.0


class Token(Protocol):
    """What two nodes on one machine have in common beside messages; see rule 8."""

    @property
    def shared(self) -> bool:
        """The partner had its end of it when this node looked last."""
        ...

    @property
    def gone(self) -> bool:
        """The partner's process has ended."""
        ...

    @property
    def mine(self) -> bool:
        """The command is this node's."""
        ...

    def look(self) -> None:
        """See whether the partner is there."""
        ...

    def take(self) -> None:
        """Make the command this node's."""
        ...


class Membership:
    """One node's part in the protocol above."""

    def __init__(
        self,
        role: Role,
        *,
        rate_hz: float,
        healthy_s: float = 2.0,
        listen_s: float = 0.0,
        token: Token | None = None,
    ) -> None:
        """Begin quiet.

        Args:
            role: command or standby.
            rate_hz: control rate.
            healthy_s: how long the other has to be ready before a standby gives the command back.
            listen_s: how long a command node listens before it believes that it is alone.
            token: shared with the partner where that may be on this machine.
        """
        self._token = token
        period_s = max(1.0 / rate_hz, _SHORTEST_PERIOD_S)
        self.role: Role = role
        self.watch_s = _WATCH * period_s
        """Period of `on_watch`."""
        self.commanding = False
        self.paused = False
        self.why = "not active"
        """Why this node commands or does not, in words."""
        self._period_ns = period_s * 1e9
        self._lease_ns = _LEASE * self._period_ns
        self._heartbeat_ns = _HEARTBEAT * self._period_ns
        self._healthy_ns = healthy_s * 1e9
        self._start_ns = max(listen_s * 1e9, _START_PERIODS * self._period_ns)
        self._term = 0.0
        self._active = False
        self.activate(0)
        self.deactivate()

    def activate(self, now_ns: int) -> None:
        """Start quiet, knowing nothing of the other; the term is kept."""
        self._active = True
        self.commanding = False
        self.why = "listening for the partner"
        self._other = Standing()
        self._heard = self._heard_commanding = False
        self._watches = 0
        self._held = 0
        self._acted = False
        self._started_ns = self._sent_ns = now_ns
        self._offered_us = 0.0
        self._spell_ns: int | None = None

    def deactivate(self) -> None:
        """Neither command nor be ready from now on."""
        self._active = self.commanding = self._acted = False
        self.why = "not active"

    @property
    def alone(self) -> bool:
        """Nothing was heard for longer than a running partner is silent."""
        patient = self.role == "command" and self._token is not None and self._token.shared
        return not self._heard or self._watches >= (
            _LIVING_WATCHES if patient else _SILENT_WATCHES
        )

    @property
    def fault(self) -> bool:
        """This node holds and was not asked to."""
        return self._active and self._held >= _FAULT_TICKS

    @property
    def ready(self) -> bool:
        """This node could command: it acted at its last tick."""
        return self._active and self._acted and not self.paused

    @property
    def partner_state(self) -> str:
        """What the partner was when it was last heard, in words."""
        if self.alone:
            return "silent" if self._heard else "never heard"
        said = ("commanding", "fault", "ready", "paused")
        return ", ".join(name for name in said if getattr(self._other, name)) or "not ready"

    @property
    def partner_paused(self) -> bool:
        """The partner's robot was held by an operator when it was last heard."""
        return bool(self._other.paused)

    def may_send(self, now_ns: int) -> bool:
        """Tell whether a command may go out at this very moment; see rule 1."""
        token = self._token
        if self.commanding and token is not None and not token.mine:
            self._lose("the partner took the command")
            self._watches = 0
        elif (
            self.commanding
            and self._heard
            and now_ns - self._sent_ns > self._lease_ns
            and not (token is not None and (token.shared or token.gone))
        ):
            self._lose("overslept, may have been replaced")
        return self.commanding

    def on_tick(self, *, acted: bool) -> None:
        """Take note of this node's own tick: it acted, or it held for want of a decision."""
        self._acted = acted or self.paused
        self._held = 0 if self._acted else self._held + 1
        if self.commanding and self.fault and self._other_can():
            self._quiet("cannot act, the partner can")

    def on_partner(self, row: Standing, now_ns: int) -> Move:
        """Take note of a row of the partner."""
        if not self._active:
            return ""
        self._other = row
        self._heard = True
        self._watches = 0
        self._heard_commanding |= bool(row.commanding)
        if row.commanding or not row.ready:
            self._spell_ns = None
        elif self._spell_ns is None:
            self._spell_ns = now_ns
        if self.commanding:
            return self._answer(row, now_ns)
        self._term = max(self._term, row.term)
        if row.commanding:
            self.why = "the partner commands"
            return ""
        if row.heard_us * 1000 < now_ns - self._lease_ns:
            return ""
        if self.role == "command":
            released = 0 < self._offered_us <= row.heard_us
            return self._take("the standby is quiet and knows it", "begin") if released else ""
        if self._heard_commanding and not row.ready and self.ready:
            return self._take("the partner cannot command", "begin")
        return ""

    def on_command(self, now_ns: int) -> None:
        """Take note of a command by somebody else: this node is not alone."""
        self._started_ns = now_ns

    def on_watch(self, now_ns: int) -> Move:
        """Look after the partner and the own lease; to be called every `watch_s`."""
        if not self._active:
            return ""
        if self._token is not None:
            self._token.look()
        self.may_send(now_ns)
        self._watches += 1
        if self._token is not None and self._token.gone:
            self._watches = max(self._watches, _SILENT_WATCHES)
        if self.alone:
            self._spell_ns = None
            if not self.commanding and self._may_start(now_ns):
                return self._take(self._why_alone)
        return "tell" if now_ns - self._sent_ns >= self._heartbeat_ns else ""

    def standing(self, now_ns: int) -> Standing:
        """Return the row to be sent at this very moment."""
        sent_us = now_ns // 1000
        self._sent_ns = now_ns
        if self.commanding or not self.ready:
            self._offered_us = 0.0
        elif not self._offered_us:
            self._offered_us = sent_us
        return Standing(
            self.commanding,
            self.fault,
            self.ready,
            self.paused,
            self._term,
            sent_us,
            self._other.sent_us,
        )

    def _answer(self, row: Standing, now_ns: int) -> Move:
        """Keep or give up the command after a row of the partner."""
        if row.commanding:
            if row.term > self._term or (row.term == self._term and self.role == "standby"):
                self._term = row.term
                self._quiet("the partner took the command")
                return "tell"
            return ""
        spell_ns = -1 if self._spell_ns is None else now_ns - self._spell_ns
        if self.role == "standby" and spell_ns >= self._healthy_ns:
            self._quiet("given back, the partner is well")
            return "tell"
        if self.fault and self._other_can():
            self._quiet("cannot act, the partner can")
            return "tell"
        return ""

    def _other_can(self) -> bool:
        return not self.alone and bool(self._other.ready) and not self._other.commanding

    def _may_start(self, now_ns: int) -> bool:
        if self._heard:
            return self.role == "command" or self._heard_commanding
        listened = now_ns - self._started_ns >= self._start_ns
        return self.role == "command" and self.ready and listened

    def _take(self, why: str, move: Move = "take") -> Move:
        if self._token is not None:
            self._token.take()
        self.commanding = True
        self._term = max(self._term, self._other.term) + 1
        self.why = why
        self._spell_ns = None
        return move

    @property
    def _why_alone(self) -> str:
        if self._token is not None and self._token.gone:
            return "the partner's process has ended"
        return "the partner is silent" if self._heard else "nobody else does"

    def _lose(self, why: str) -> None:
        """Go quiet, and be ready only after the next good tick."""
        self._quiet(why)
        self._acted = False

    def _quiet(self, why: str) -> None:
        self.commanding = False
        self.why = why
        self._spell_ns = None
