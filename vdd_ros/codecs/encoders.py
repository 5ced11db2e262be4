"""From numbers to messages; see `table` for which type is written by what.

An encoder owns one message, made once: a tick copies numbers into it and allocates nothing. Where
the message comes from is the caller's: rclpy's classes live, a bag reader's classes offline.
"""

from __future__ import annotations

import array
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vdd_ros.codecs.decoders import named_paths
from vdd_ros.codecs.schemas import INTEGERS, leaf
from vdd_ros.core.errors import VddError

Rows = NDArray[np.float64]
"""Commands [T, D]: row 0 is the command of now, later rows are the plan behind it."""

Empty = Callable[[str], Any]
"""Makes a message of the named type with every number 0 and every sequence empty."""

_TYPECODES = {"float": "f", "double": "d", "int32": "i"}


class Encoder(Protocol):
    """Writes commands into one message that is made once and used for ever."""

    message: Any

    def write(self, rows: Rows) -> None:
        """Write finite commands [T, D] in place; types without a time axis take row 0."""
        ...


def path_encoder(
    type_name: str, select: tuple[str, ...], *, empty: Empty, threshold: float
) -> Encoder:
    """Build the encoder of numbers behind paths: ``twist.linear.x``, ``data.0``.

    Raises:
        VddError: a path that the type does not have.
    """
    message = empty(type_name)
    leaves = [leaf(type_name, path) for path in select]
    if all(index < 0 and kind in ("float", "double") for _, kind, index in leaves):
        return ScalarEncoder(message, [attribute for attribute, _, _ in leaves])
    if len({attribute for attribute, _, _ in leaves}) == 1 and leaves[0][2] >= 0:
        attribute, kind, _ = leaves[0]
        return ArrayEncoder(message, attribute, kind, [index for _, _, index in leaves])
    return MixedEncoder(message, leaves, threshold)


class ScalarEncoder:
    """Scalars behind attribute paths; the owners of the last attributes are looked up once."""

    def __init__(self, message: Any, paths: list[str]) -> None:  # noqa: ANN401
        """Find the owner of every value."""
        self.message = message
        self._owners = [_owner(message, path) for path in paths]

    def write(self, rows: Rows) -> None:
        """Set every selected attribute to its value of row 0."""
        for (owner, name), value in zip(self._owners, rows[0].tolist(), strict=True):
            setattr(owner, name, value)


class ArrayEncoder:
    """Entries of one array without names, written in place."""

    def __init__(
        self,
        message: Any,  # noqa: ANN401
        attribute: str,
        kind: str,
        index: list[int],
    ) -> None:
        """Give the message as many entries as the largest index needs."""
        self.message = message
        self._index = np.array(index)
        self._whole = kind in INTEGERS
        self._view = _own_array(*_owner(message, attribute), kind, int(self._index.max()) + 1)

    def write(self, rows: Rows) -> None:
        """Write row 0 by index."""
        self._view[self._index] = np.rint(rows[0]) if self._whole else rows[0]


class MixedEncoder:
    """Any mixture of scalars, switches, whole numbers and arrays of one message."""

    def __init__(
        self,
        message: Any,  # noqa: ANN401
        leaves: list[tuple[str, str, int]],
        threshold: float,
    ) -> None:
        """Sort the values by how they are written; a switch is on from ``threshold`` upwards."""
        self.message = message
        self._scalars: list[tuple[int, Any, str, Callable[[float], Any]]] = []
        self._arrays: list[tuple[NDArray[np.intp], ArrayEncoder]] = []
        for attribute in dict.fromkeys(a for a, _, index in leaves if index >= 0):
            columns = [c for c, (a, _, _) in enumerate(leaves) if a == attribute]
            part = ArrayEncoder(
                message, attribute, leaves[columns[0]][1], [leaves[c][2] for c in columns]
            )
            self._arrays.append((np.array(columns), part))
        for column, (attribute, kind, index) in enumerate(leaves):
            if index >= 0:
                continue
            convert: Callable[[float], Any] = float
            if kind == "boolean":
                convert = float(threshold).__le__
            elif kind in INTEGERS:
                convert = round
            self._scalars.append((column, *_owner(message, attribute), convert))

    def write(self, rows: Rows) -> None:
        """Write row 0."""
        values = rows[0].tolist()
        for column, owner, name, convert in self._scalars:
            setattr(owner, name, convert(values[column]))
        for columns, part in self._arrays:
            part.write(rows[:1, columns])


class JointStateEncoder:
    """``JointState`` with the names of the contract, written through array views."""

    def __init__(self, type_name: str, select: tuple[str, ...], *, empty: Empty) -> None:
        """Make the message with every selected joint; unused arrays stay empty."""
        paths = named_paths(type_name, select)
        names = list(dict.fromkeys(joint for _, joint in paths))
        self.message: Any = empty(type_name)
        self.message.name = names
        self._writes: list[tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]] = []
        for attribute in dict.fromkeys(a for a, _ in paths):
            columns = [i for i, (a, _) in enumerate(paths) if a == attribute]
            places = [names.index(paths[i][1]) for i in columns]
            # A joint without a value of this kind says so: NaN is "not commanded" in ROS.
            view = _own_array(self.message, attribute, "double", len(names))
            view[:] = np.nan
            self._writes.append((view, np.array(places), np.array(columns)))

    def write(self, rows: Rows) -> None:
        """Write row 0 by joint."""
        for view, places, columns in self._writes:
            view[places] = rows[0, columns]


class JointTrajectoryEncoder:
    """``JointTrajectory``: the command and the plan behind it.

    As joint trajectory controllers take it: positions only, the first point due one control step
    after the header's stamp, each later one a step after the one before.
    """

    def __init__(
        self,
        type_name: str,
        select: tuple[str, ...],
        *,
        empty: Empty,
        horizon: int,
        step_s: float,
    ) -> None:
        """Make the message with ``horizon`` points."""
        paths = named_paths(type_name, select)
        other = sorted({attribute for attribute, _ in paths} - {"positions"})
        if other:
            raise VddError(
                f"select names '{other[0]}' of a JointTrajectory command; expected "
                "'positions.<joint>': velocities follow from the positions"
            )
        self.message: Any = empty(type_name)
        self.message.joint_names = [joint for _, joint in paths]
        self._points = []
        self._views = []
        for i in range(horizon):
            point = empty("trajectory_msgs/msg/JointTrajectoryPoint")
            self._views.append(_own_array(point, "positions", "double", len(paths)))
            total_ns = round((i + 1) * step_s * 1e9)
            point.time_from_start.sec, point.time_from_start.nanosec = divmod(total_ns, 10**9)
            self._points.append(point)
        self.message.points = self._points[:1]

    def write(self, rows: Rows) -> None:
        """Write as many points as there are rows, at most ``horizon``."""
        count = min(len(rows), len(self._points))
        for i in range(count):
            self._views[i][:] = rows[i]
        if len(self.message.points) != count:
            self.message.points = self._points[:count]


def _owner(message: Any, path: str) -> tuple[Any, str]:  # noqa: ANN401
    owner, _, name = path.rpartition(".")
    return (attrgetter(owner)(message) if owner else message), name


def _own_array(owner: Any, attribute: str, kind: str, size: int) -> NDArray[Any]:  # noqa: ANN401
    """Give ``owner`` an array of ``size`` zeros and return a numpy view to write it through."""
    code = _TYPECODES[kind]
    if isinstance(getattr(owner, attribute), np.ndarray):
        # Arrays of fixed length, and every array of a bag reader's classes.
        if len(getattr(owner, attribute)) < size:
            setattr(owner, attribute, np.zeros(size, dtype=code))
        view: NDArray[Any] = getattr(owner, attribute)
        return view
    storage = array.array(code, bytes(array.array(code).itemsize * size))
    setattr(owner, attribute, storage)
    return np.frombuffer(getattr(owner, attribute), dtype=code)
