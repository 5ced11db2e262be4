"""A node's link to its partner: the protocol of `roles`, bound to topics and timers.

Subscribes to the partner's ``~/status`` and to the action topics, so that the limits of the first
own command count from the last one the robot got. Says on ``~/role`` (latched) who commands and
why, whenever that changes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from std_msgs.msg import Float64MultiArray, String

from vdd_ros.codecs.topics import topic_readers
from vdd_ros.control.loop import ControlLoop
from vdd_ros.control.tick import Tick
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.core.health import Health
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.nodes.codecs import message_class
from vdd_ros.nodes.diagnostics import LATCHED, STATUS_FIELDS, NodeReport, Section, read_labelled
from vdd_ros.nodes.roles import Membership, Move, Standing
from vdd_ros.nodes.token import CommandToken, token_path

_AT = STATUS_FIELDS.index("commanding")
_LABEL = ",".join(STATUS_FIELDS)
_STATUS_QOS = QoSProfile(depth=10)


def open_token(
    node: Node, partner: str, *, role: str, contract: PolicyContract, rate_hz: float, motion: int
) -> CommandToken | None:
    """Return this node's end of the token it has in common with ``partner``, or None.

    Without one (no shared memory, another user's file) the node says so once and goes on. How
    commands move (``motion`` numbers) is of use to a partner with the same limits and rate.
    """
    path = token_path(
        node.get_fully_qualified_name(),
        node.resolve_topic_name(f"{partner}/status").removesuffix("/status"),
        domain=node.context.get_domain_id(),
    )
    limits = repr((rate_hz, [action.limits for action in contract.actions]))
    layout = int.from_bytes(hashlib.sha256(limits.encode()).digest()[:7], "little")
    try:
        return CommandToken(path, role=role, dim=contract.dim_act, motion=motion, layout=layout)
    except VddError as error:
        node.get_logger().warning(str(error))
        return None


class SeenCommand:
    """The last command that went over the action topics, whoever sent it.

    Messages are kept as bytes: reading them waits until somebody wants to know.
    """

    def __init__(self, contract: PolicyContract) -> None:
        """Prepare to read the contract's action topics."""
        self._dim = contract.dim_act
        self._max_age_ns = round(min(o.max_age_ms for o in contract.observations) * 1e6)
        self._readers = topic_readers(contract.actions)
        self.topics = [(reader.topic, reader.type) for reader in self._readers]
        """Topic and type of every action topic."""
        self._kept: list[tuple[bytes, int] | None] = [None] * len(self._readers)

    def keep(self, index: int, message: bytes, now_ns: int) -> None:
        """Keep a message of the ``index``-th topic."""
        self._kept[index] = message, now_ns

    def forget(self) -> None:
        """Whatever was seen belongs to an earlier run."""
        self._kept = [None] * len(self._kept)

    def read(self, now_ns: int) -> NDArray[np.float64] | None:
        """Return the command [D_act]; None where it is unknown, unreadable or long ago.

        Longer than the contract's strictest ``max_age_ms`` ago, the robot may be anywhere else.
        """
        command = np.full(self._dim, np.nan)
        for kept, reader in zip(self._kept, self._readers, strict=True):
            if kept is None or now_ns - kept[1] > self._max_age_ns:
                return None
            try:
                message = deserialize_message(kept[0], message_class(reader.type))
                command[reader.columns] = reader.read(message)
            except VddError:
                return None
        return command if np.isfinite(command).all() else None


class PartnerLink:
    """What a node with a partner has beyond one without."""

    def __init__(
        self,
        node: Node,
        part: Membership,
        *,
        name: str,
        loop: ControlLoop[Any],
        report: NodeReport,
        contract: PolicyContract,
        qos: Sequence[QoSProfile],
        token: CommandToken | None = None,
    ) -> None:
        """Subscribe and watch, inactive.

        Args:
            node: owns the entities.
            part: this node's part in the protocol.
            name: the partner, by its node name or path.
            loop: asked to take over; asks whether it may send.
            report: sends the rows.
            contract: names the action topics.
            qos: of the action topics, one each.
            token: the one that ``part`` has; closed with the link.
        """
        self._part = part
        self._token = token
        self._max_age_ns = round(min(o.max_age_ms for o in contract.observations) * 1e6)
        self._loop = loop
        self._report = report
        self._name = name
        self._node = node
        self._seen = SeenCommand(contract)
        self._said = ""
        self._undo: list[Callable[[], Any]] = []
        self.topic = f"{name}/status"
        """Where the partner is heard."""
        self._role = node.create_publisher(String, "~/role", LATCHED)
        self._undo.append(partial(node.destroy_publisher, self._role))
        status = node.create_subscription(
            Float64MultiArray, self.topic, self._on_status, _STATUS_QOS
        )
        self._undo.append(partial(node.destroy_subscription, status))
        for index, ((topic, kind), profile) in enumerate(zip(self._seen.topics, qos, strict=True)):
            action = node.create_subscription(
                message_class(kind), topic, partial(self._on_command, index), profile, raw=True
            )
            self._undo.append(partial(node.destroy_subscription, action))
        # On the steady clock: simulated time may run, jump and stand still as it likes.
        self._timer = node.create_timer(
            part.watch_s, self._on_watch, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._timer.cancel()
        self._undo.append(partial(node.destroy_timer, self._timer))
        loop.may_send = self._may_send
        loop.after_send = self._after_send
        if token is not None:
            self._undo.append(token.close)
        self._say()

    def start(self) -> None:
        """Begin to listen; the loop is active."""
        self._seen.forget()
        self._part.activate(time.monotonic_ns())
        self._timer.reset()
        self._say()

    def stop(self) -> None:
        """Say, last, that this node does not command any more; the loop is not active."""
        self._timer.cancel()
        self._part.deactivate()
        self._report.beat(self._loop.tick)
        self._say()

    def destroy(self) -> None:
        """Remove the entities."""
        self._loop.may_send = self._loop.after_send = None
        while self._undo:
            self._undo.pop()()

    def on_tick(self, tick: Tick, *, well: bool = True) -> None:
        """Take note of a tick, before its row is sent; ``well``: nothing else is wrong."""
        self._part.paused = self._loop.paused
        self._part.on_tick(acted=well and tick.level <= SafetyLevel.CLAMP)
        if self._part.why != self._said:
            self._say()

    def standing(self) -> Standing:
        """Return what this node is to say of itself now."""
        return self._part.standing(time.monotonic_ns())

    def section(self, *, active: bool) -> Section:
        """Return what ``/diagnostics`` says about who commands."""
        part = self._part
        level, message = Health.OK, part.why
        if not active:
            level = Health.STALE
        elif part.alone:
            level = Health.WARN
            message = f"{part.why}; partner '{self._name}' is {part.partner_state}: nobody else "
            message += "commands if this node fails"
        values = {
            "role": part.role,
            "commanding": part.commanding,
            "partner": self._name,
            "partner_state": part.partner_state,
        }
        return Section("role", level, message, values)

    @property
    def text(self) -> str:
        """Who commands, and why."""
        return self._said

    def _may_send(self, command: NDArray[np.float64], stamp_ns: int) -> bool:
        token = self._token
        if token is None:
            return self._part.may_send(time.monotonic_ns())
        token.enter()
        allowed = self._part.may_send(time.monotonic_ns())
        if allowed and not token.answered(stamp_ns, self._max_age_ns):
            token.sent(command, stamp_ns, self._loop.motion)
            return True
        token.leave()
        if allowed:
            # The partner was faster, and the robot is where its command leads.
            self._loop.follow(*self._last())
        return False

    def _after_send(self) -> None:
        if self._token is not None:
            self._token.leave()

    def _on_status(self, message: Float64MultiArray) -> None:
        dim = message.layout.dim
        if dim and dim[0].label == _LABEL and len(message.data) == len(STATUS_FIELDS):
            row = Standing._make(message.data[_AT : _AT + len(Standing._fields)])
        else:  # another version of this package: by name
            values = read_labelled(message)
            row = Standing(**{k: values.get(k, 0.0) for k in Standing._fields})
        self._do(self._part.on_partner(row, time.monotonic_ns()))

    def _on_command(self, index: int, message: bytes) -> None:
        now_ns = time.monotonic_ns()
        self._seen.keep(index, message, now_ns)
        self._part.on_command(now_ns)

    def _on_watch(self) -> None:
        self._do(self._part.on_watch(time.monotonic_ns()))

    def _do(self, move: Move) -> None:
        if move in ("take", "begin"):
            if self._part.role == "standby" and self._part.partner_paused:
                # The operator's pause outlives the node through which it was asked for.
                self._loop.pause()
            self._loop.take_over(*self._last(), at_once=move == "take")
        if move in ("begin", "tell"):
            self._report.beat(self._loop.tick)
        if self._part.why != self._said:
            self._say()

    def _last(self) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """Return what the robot was sent last, and how it moved where that is known.

        The token knows both, though the topic may be late; the topic tells of the command alone.
        """
        token = self._token
        last = None if token is None else token.last(self._max_age_ns)
        if token is None or last is None:
            return self._seen.read(time.monotonic_ns()), None
        motion = token.motion
        return last, None if motion is None else motion.reshape(self._loop.motion.shape)

    def _say(self) -> None:
        part = self._part
        self._said = part.why
        text = f"{part.role}, {'COMMANDING' if part.commanding else 'quiet'}: {part.why}"
        text += f" (partner '{self._name}')"
        self._role.publish(String(data=text))
        self._node.get_logger().info(text)
