"""The families of message types and how their values are reached; see `codecs` for the table.

Everything that can be resolved once is resolved once: attribute paths when a codec is built, joint
positions whenever the list of names changes. A tick then copies numbers between preallocated
arrays and allocates no message.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError, did_you_mean

Rows = NDArray[np.float64]
"""Commands [T, D]: row 0 is the command of now, later rows are the plan behind it."""


class Decoder(Protocol):
    """Reads the selected values of one message."""

    def read(self, message: Any) -> Sequence[float] | NDArray[np.floating]:  # noqa: ANN401
        """Return the values [D]; raises `VddError` where the message lacks one of them."""
        ...


class Encoder(Protocol):
    """Writes commands into one message that is made once and used for ever."""

    message: Any

    def write(self, rows: Rows) -> None:
        """Write commands [T, D] in place; types without a time axis take row 0."""
        ...


class PathDecoder:
    """Scalars behind attribute paths, for example ``pose.position.x``."""

    def __init__(self, message_type: type, select: tuple[str, ...]) -> None:
        """Resolve the paths once, on an empty message."""
        _check_paths(message_type, select)
        getter = attrgetter(*select)
        self._get = getter if len(select) > 1 else lambda message: (getter(message),)

    def read(self, message: Any) -> Sequence[float]:  # noqa: ANN401
        """Return the scalars in the order they were selected."""
        values: Sequence[float] = self._get(message)
        return values


class PathEncoder:
    """The same paths, written; the owners of the last attributes are looked up once."""

    def __init__(
        self, message_type: type, select: tuple[str, ...], horizon: int, step_s: float
    ) -> None:
        """Make the message and find the owner of every value."""
        del horizon, step_s
        _check_paths(message_type, select)
        self.message = message_type()
        split = [path.rpartition(".") for path in select]
        self._owners = [
            (attrgetter(owner)(self.message) if owner else self.message, name)
            for owner, _, name in split
        ]

    def write(self, rows: Rows) -> None:
        """Set every selected attribute to its value of row 0."""
        for (owner, name), value in zip(self._owners, rows[0].tolist(), strict=True):
            setattr(owner, name, value)


class NamedDecoder:
    """Arrays beside a list of names (``JointState``, ``JointTrajectory``): ``position.elbow``."""

    def __init__(self, message_type: type, select: tuple[str, ...]) -> None:
        """Split the paths; positions are looked up with the first message."""
        self._names_of = _names_attribute(message_type)
        self._trajectory = hasattr(message_type, "points")
        self._paths = _named_paths(message_type, select)
        self._known: list[str] | None = None
        self._plan: list[tuple[str, NDArray[np.intp], NDArray[np.intp], int]] = []
        self._row = np.zeros(len(select))

    def read(self, message: Any) -> NDArray[np.floating]:  # noqa: ANN401
        """Return the values of the selected joints; valid until the next call.

        Raises:
            VddError: a joint is not in the message, or its array is shorter than the names.
        """
        names = getattr(message, self._names_of)
        if names != self._known:
            self._resolve(list(names))
        if self._trajectory:
            if not message.points:
                raise VddError("the trajectory has no points; expected at least one")
            message = message.points[0]
        for attribute, target, source, needed in self._plan:
            values = np.asarray(getattr(message, attribute))
            if len(values) < needed:
                raise VddError(
                    f"'{attribute}' holds {len(values)} values for {len(self._known or ())} "
                    "names; expected one per name (does this driver report it?)"
                )
            self._row[target] = values[source]
        return self._row

    def _resolve(self, names: list[str]) -> None:
        index = {name: i for i, name in enumerate(names)}
        missing = sorted({joint for _, joint in self._paths if joint not in index})
        if missing:
            self._known = None
            raise VddError(
                f"no joint {', '.join(repr(m) for m in missing)} in the message, which names "
                f"{', '.join(names) or 'none'}; correct 'select' in the contract or the driver"
            )
        self._plan = []
        for attribute in dict.fromkeys(a for a, _ in self._paths):
            target = [i for i, (a, _) in enumerate(self._paths) if a == attribute]
            source = [index[self._paths[i][1]] for i in target]
            self._plan.append((attribute, np.array(target), np.array(source), max(source) + 1))
        self._known = names


class JointStateEncoder:
    """``JointState`` with the names of the contract, written through array views."""

    def __init__(
        self, message_type: type, select: tuple[str, ...], horizon: int, step_s: float
    ) -> None:
        """Make the message with every selected joint; unused arrays stay empty."""
        del horizon, step_s
        paths = _named_paths(message_type, select)
        names = list(dict.fromkeys(joint for _, joint in paths))
        self.message: Any = message_type()
        self.message.name = names
        self._writes: list[tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]] = []
        for attribute in dict.fromkeys(a for a, _ in paths):
            columns = [i for i, (a, _) in enumerate(paths) if a == attribute]
            places = [names.index(paths[i][1]) for i in columns]
            # A joint without a value of this kind says so: NaN is "not commanded" in ROS.
            view = _own_array(self.message, attribute, "d", len(names))
            view[:] = np.nan
            self._writes.append((view, np.array(places), np.array(columns)))

    def write(self, rows: Rows) -> None:
        """Write row 0 by joint."""
        for view, places, columns in self._writes:
            view[places] = rows[0, columns]


class JointTrajectoryEncoder:
    """``JointTrajectory``: the command and the plan behind it.

    As joint trajectory controllers take it: the first point is due one control step from now.
    """

    def __init__(
        self, message_type: type, select: tuple[str, ...], horizon: int, step_s: float
    ) -> None:
        """Make the message with ``horizon`` points."""
        from trajectory_msgs.msg import JointTrajectoryPoint

        paths = _named_paths(message_type, select)
        other = sorted({attribute for attribute, _ in paths} - {"positions"})
        if other:
            raise VddError(
                f"select names '{other[0]}' of a JointTrajectory command; expected "
                "'positions.<joint>': velocities follow from the positions"
            )
        self.message: Any = message_type()
        self.message.joint_names = [joint for _, joint in paths]
        self._points = []
        self._views = []
        for i in range(horizon):
            point = JointTrajectoryPoint()
            self._views.append(_own_array(point, "positions", "d", len(paths)))
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


class IndexedDecoder:
    """Plain arrays without names (``Float64MultiArray``, ``Joy``): ``data.0``."""

    def __init__(self, message_type: type, select: tuple[str, ...]) -> None:
        """Split the paths into attribute and index."""
        self._attribute, self._index = _indexed_paths(message_type, select)
        self._needed = int(self._index.max()) + 1

    def read(self, message: Any) -> NDArray[np.floating]:  # noqa: ANN401
        """Return the selected entries.

        Raises:
            VddError: the array is shorter than the contract expects.
        """
        values = np.asarray(getattr(message, self._attribute))
        if len(values) < self._needed:
            raise VddError(
                f"'{self._attribute}' holds {len(values)} values; the contract selects entry "
                f"{self._needed - 1}"
            )
        selected: NDArray[np.floating] = values[self._index]
        return selected


class IndexedEncoder:
    """The same arrays, written in place."""

    def __init__(
        self, message_type: type, select: tuple[str, ...], horizon: int, step_s: float
    ) -> None:
        """Make the message with as many entries as the largest selected index needs."""
        del horizon, step_s
        attribute, self._index = _indexed_paths(message_type, select)
        self.message = message_type()
        kind = getattr(self.message, attribute).typecode
        self._view = _own_array(self.message, attribute, kind, int(self._index.max()) + 1)

    def write(self, rows: Rows) -> None:
        """Write row 0 by index."""
        self._view[self._index] = rows[0]


def _check_paths(message_type: type, select: tuple[str, ...]) -> None:
    empty = message_type()
    for path in select:
        try:
            value = attrgetter(path)(empty)
        except AttributeError:
            owner, _, name = path.rpartition(".")
            raise VddError(
                f"select '{path}' does not exist in {message_type.__name__}"
                f"{_known_fields(empty, owner, name)}"
            ) from None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise VddError(
                f"select '{path}' of {message_type.__name__} is a {type(value).__name__}, not a "
                "number; select the numbers inside it"
            )


def _known_fields(empty: object, owner: str, name: str) -> str:
    try:
        parent: Any = attrgetter(owner)(empty) if owner else empty
        return did_you_mean(name, parent.get_fields_and_field_types())
    except AttributeError:
        return ""


def _names_attribute(message_type: type) -> str:
    return "joint_names" if hasattr(message_type, "joint_names") else "name"


def _named_paths(message_type: type, select: tuple[str, ...]) -> list[tuple[str, str]]:
    trajectory = hasattr(message_type, "points")
    known = ("positions", "velocities") if trajectory else ("position", "velocity", "effort")
    paths = []
    for path in select:
        attribute, _, joint = path.partition(".")
        if attribute not in known or not joint:
            raise VddError(
                f"select '{path}': expected '<array>.<joint name>' with one of "
                f"{', '.join(known)} as array, for example {known[0]}.joint1"
            )
        paths.append((attribute, joint))
    return paths


def _indexed_paths(message_type: type, select: tuple[str, ...]) -> tuple[str, NDArray[np.intp]]:
    split = [path.partition(".") for path in select]
    attribute = split[0][0]
    if any(a != attribute or not i.isdecimal() for a, _, i in split) or not hasattr(
        message_type, attribute
    ):
        raise VddError(
            f"select {list(select)} of {message_type.__name__}: expected '<array>.<index>' of one "
            "array, for example data.0"
        )
    return attribute, np.array([int(i) for _, _, i in split])


def _own_array(owner: object, attribute: str, kind: str, size: int) -> NDArray[Any]:
    """Give ``owner`` an array of ``size`` zeros and return a numpy view to write it through."""
    storage = array.array(kind, bytes(array.array(kind).itemsize * size))
    setattr(owner, attribute, storage)
    return np.frombuffer(getattr(owner, attribute), dtype=kind)
