"""``~/experts``: what every expert would do, where the action has a place to draw.

A MarkerArray for RViz and Foxglove: a sphere at each expert's proposal, for chunks a line through
it, as opaque and as large as the gate's weight; the acting expert is encircled. The policy
computes all proposals anyway (`PolicyOutput.proposals`). Markers are made only while somebody
subscribes, at a bounded rate, from the newest prediction: a tick pays nothing for them.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from vdd_ros.control.tick import Tick
from vdd_ros.core.contract import ActionField, PolicyContract

FIXED_FRAME = "world"
"""Frame of the markers where the node's ``frame_id`` is empty: RViz draws nothing without one."""
LIFETIME_S = 0.5
"""Markers vanish this long after the last ones: a node that died leaves no ghosts."""
_AXES = ("x", "y", "z")
_PLACES = ("Point", "PointStamped", "Pose", "PoseStamped")
_LABELLED = 0.05
"""Gate weight from which an expert's number is written beside it."""


@dataclass(frozen=True)
class Place:
    """Which values of an action are a point in space."""

    topic: str
    """Topic of the action."""
    columns: tuple[int, ...]
    """Indices in the action vector."""
    axes: tuple[int, ...]
    """Axis (0, 1, 2) of every column."""
    base: tuple[int, ...]
    """Indices in the observation vector that the action is added to; empty if to none."""

    def points(
        self, actions: NDArray[np.floating], row: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Return points [K, T, 3] for actions [K, T, D_act] on observation ``row`` [D_obs]."""
        values = np.asarray(actions[..., list(self.columns)], np.float64)
        if self.base:
            values = np.cumsum(values, axis=1) + row[list(self.base)]
        points = np.zeros((*values.shape[:2], 3))
        points[..., list(self.axes)] = values
        return points


def places(contract: PolicyContract) -> list[Place]:
    """Return where the actions of a contract can be drawn; empty where nowhere.

    That is where a topic's values are named x and y (and z) in metres, or are those of a Point or
    Pose message.
    """
    by_topic: dict[str, list[tuple[int, int, int]]] = {}
    for action in contract.actions:
        start = contract.action_slice(action.key).start
        base = contract.observation_slice(action.relative_to).start if action.relative_to else -1
        for i, axis in enumerate(_axes(action)):
            if axis >= 0:
                base_column = base + i if base >= 0 else -1
                by_topic.setdefault(action.topic, []).append((axis, start + i, base_column))
    found = []
    for topic, entries in by_topic.items():
        axes = tuple(axis for axis, _, _ in entries)
        bases = tuple(base for _, _, base in entries)
        drawable = {0, 1} <= set(axes) and len(set(axes)) == len(axes)
        if drawable and len({b < 0 for b in bases}) == 1:
            columns = tuple(column for _, column, _ in entries)
            found.append(Place(topic, columns, axes, () if bases[0] < 0 else bases))
    return found


def _axes(action: ActionField) -> list[int]:
    """Return the axis of every value of an action field, -1 for one that is no place."""
    of_place = action.type.rpartition("/")[2] in _PLACES
    if not of_place and action.unit != "m":
        return [-1] * action.dim
    names = list(action.select) or [*_AXES, *[""] * action.dim][: action.dim]
    axes = []
    for name in names:
        parent, _, last = name.rpartition(".")
        axes.append(_AXES.index(last) if last in _AXES and "orientation" not in parent else -1)
    return axes


class ExpertMarkers:
    """Publishes ``~/experts`` for one configured policy."""

    def __init__(
        self, node: Node, contract: PolicyContract, *, frame_id: str, size_m: float
    ) -> None:
        """Create the publisher, unless there is nothing to draw.

        Args:
            node: owns it.
            contract: says what the actions are.
            frame_id: frame of the markers; `FIXED_FRAME` if empty.
            size_m: diameter of the marker of an expert that is certain to act.
        """
        self.places = places(contract)
        self._node = node
        self._frame = frame_id or FIXED_FRAME
        self._size = size_m
        self._publisher: Any = None
        if self.places:
            self._publisher = node.create_publisher(MarkerArray, "~/experts", QoSProfile(depth=1))

    def destroy(self) -> None:
        """Remove the publisher."""
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)

    def wanted(self) -> bool:
        """Tell whether somebody subscribes."""
        return self._publisher is not None and self._publisher.get_subscription_count() > 0

    def publish(self, tick: Tick, row: NDArray[np.floating]) -> None:
        """Publish the proposals of the newest prediction; none after a hold."""
        output = tick.output
        if output is None or not len(output.gate):
            return
        seconds, nanoseconds = divmod(tick.predicted_ns, 10**9)
        markers: list[Marker] = []
        for place in self.places:
            points = place.points(output.proposals, row)
            markers += self._of_place(place, points, output.gate, output.expert)
        for marker in markers:
            marker.header.frame_id = self._frame
            marker.header.stamp.sec = seconds
            marker.header.stamp.nanosec = nanoseconds
            marker.lifetime.nanosec = round(LIFETIME_S * 1e9)
        self._publisher.publish(MarkerArray(markers=markers))

    def _of_place(
        self,
        place: Place,
        points: NDArray[np.float64],
        gate: NDArray[np.float64],
        active: int,
    ) -> list[Marker]:
        markers = []
        space = f"/{place.topic}" if len(self.places) > 1 else ""
        for k, (path, weight) in enumerate(zip(points, gate.tolist(), strict=True)):
            if not np.isfinite(path).all():
                continue
            size = self._size * (0.3 + 0.7 * weight**0.5)
            color = _color(k, len(gate), 0.15 + 0.85 * weight)
            along = [Point(x=x, y=y, z=z) for x, y, z in path.tolist()]
            if len(along) > 1:
                markers.append(_line(f"experts{space}", k, along, size / 3, color))
            markers.append(_ball(f"experts{space}", k + len(gate), along[-1], size, color))
            if weight >= _LABELLED:
                markers.append(_label(f"weights{space}", k, along[-1], self._size, weight))
            if k == active:
                bright = ColorRGBA(r=1.0, g=1.0, b=1.0, a=0.5)
                markers.append(_ball(f"active{space}", 0, along[-1], 1.6 * self._size, bright))
                if len(along) > 1:
                    markers.append(_line(f"active{space}", 1, along, size / 1.5, bright))
        return markers


def _color(expert: int, n_experts: int, alpha: float) -> ColorRGBA:
    """A hue of its own for every expert, the same in every message."""
    r, g, b = colorsys.hsv_to_rgb(expert / n_experts, 0.8, 0.95)
    return ColorRGBA(r=r, g=g, b=b, a=min(alpha, 1.0))


def _ball(space: str, number: int, at: Point, size: float, color: ColorRGBA) -> Marker:
    marker = Marker(ns=space, id=number, type=Marker.SPHERE, action=Marker.ADD, color=color)
    marker.pose.position = at
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = marker.scale.z = size
    return marker


def _line(space: str, number: int, along: list[Point], width: float, color: ColorRGBA) -> Marker:
    marker = Marker(ns=space, id=number, type=Marker.LINE_STRIP, action=Marker.ADD, color=color)
    marker.points = along
    marker.pose.orientation.w = 1.0
    marker.scale.x = width
    return marker


def _label(space: str, number: int, at: Point, size: float, weight: float) -> Marker:
    marker = Marker(ns=space, id=number, type=Marker.TEXT_VIEW_FACING, action=Marker.ADD)
    marker.text = f"{number}: {weight:.2f}"
    marker.color = ColorRGBA(r=0.6, g=0.6, b=0.6, a=1.0)
    marker.pose.position = Point(x=at.x, y=at.y, z=at.z + size)
    marker.pose.orientation.w = 1.0
    marker.scale.z = size
    return marker
