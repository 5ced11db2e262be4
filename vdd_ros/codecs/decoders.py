"""From messages to numbers; see `table` for which type is read by what.

Everything that can be resolved once is resolved once: attribute paths when a decoder is built,
joint positions whenever the list of names changes. A tick then copies numbers. A decoder reads
attributes only, so the classes of rclpy and those of a bag reader serve alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vdd_ros.codecs.schemas import SCHEMAS, leaf
from vdd_ros.core.errors import VddError

Values = Sequence[float] | NDArray[np.floating]
"""The values of one message [D]."""


class Decoder(Protocol):
    """Reads the selected values of one message."""

    def read(self, message: Any) -> Values:  # noqa: ANN401
        """Return the values [D], valid until the next call.

        Raises:
            VddError: the message lacks one of them.
        """
        ...


def path_decoder(type_name: str, select: tuple[str, ...]) -> Decoder:
    """Build the decoder of numbers behind paths: ``pose.position.x``, ``axes.2``.

    Raises:
        VddError: a path that the type does not have.
    """
    scalars: dict[int, str] = {}
    arrays: dict[str, list[tuple[int, int]]] = {}
    for column, path in enumerate(select):
        attribute, _, index = leaf(type_name, path)
        if index < 0:
            scalars[column] = attribute
        else:
            arrays.setdefault(attribute, []).append((column, index))
    parts: list[tuple[list[int], Decoder]] = [
        ([c for c, _ in pairs], ArrayDecoder(name, [i for _, i in pairs]))
        for name, pairs in arrays.items()
    ]
    if scalars:
        parts.append((list(scalars), ScalarDecoder(tuple(scalars.values()))))
    return parts[0][1] if len(parts) == 1 else JoinedDecoder(parts)


class ScalarDecoder:
    """Scalars behind attribute paths."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        """Resolve the paths once."""
        getter = attrgetter(*paths)
        self._get = getter if len(paths) > 1 else lambda message: (getter(message),)

    def read(self, message: Any) -> Sequence[float]:  # noqa: ANN401
        """Return the scalars in the order they were selected."""
        values: Sequence[float] = self._get(message)
        return values


class ArrayDecoder:
    """Entries of one array without names (``Float64MultiArray``, ``Joy``)."""

    def __init__(self, attribute: str, index: Sequence[int]) -> None:
        """Take the entries ``index`` of the array at path ``attribute``."""
        self._attribute = attribute
        self._get = attrgetter(attribute)
        self._index = np.array(index)
        self._needed = int(self._index.max()) + 1

    def read(self, message: Any) -> NDArray[np.floating]:  # noqa: ANN401
        """Return the selected entries.

        Raises:
            VddError: the array is shorter than the contract expects.
        """
        values = np.asarray(self._get(message))
        if len(values) < self._needed:
            raise VddError(
                f"'{self._attribute}' holds {len(values)} values; the contract selects entry "
                f"{self._needed - 1}"
            )
        selected: NDArray[np.floating] = values[self._index]
        return selected


class JoinedDecoder:
    """Several arrays and scalars of one message, for example axes and buttons of a ``Joy``."""

    def __init__(self, parts: list[tuple[list[int], Decoder]]) -> None:
        """Take the columns every decoder fills."""
        self._parts = [(np.array(columns), decoder) for columns, decoder in parts]
        self._row = np.zeros(sum(len(columns) for columns, _ in parts))

    def read(self, message: Any) -> NDArray[np.floating]:  # noqa: ANN401
        """Return the values of all parts; raises `VddError` like them."""
        for columns, decoder in self._parts:
            self._row[columns] = decoder.read(message)
        return self._row


class NamedDecoder:
    """Arrays beside a list of names (``JointState``, ``JointTrajectory``): ``position.elbow``.

    Of a trajectory the first point is read: the command of now.
    """

    def __init__(self, type_name: str, select: tuple[str, ...]) -> None:
        """Split the paths; positions are looked up with the first message."""
        self._trajectory = "points" in SCHEMAS[type_name]
        self._names_of = "joint_names" if self._trajectory else "name"
        self._paths = named_paths(type_name, select)
        self._known: list[str] | None = None
        self._plan: list[tuple[str, NDArray[np.intp], NDArray[np.intp]]] = []
        self._row = np.zeros(len(select))

    def read(self, message: Any) -> NDArray[np.floating]:  # noqa: ANN401
        """Return the values of the selected joints; valid until the next call.

        Raises:
            VddError: a joint is not in the message or twice, or its array has another length
                than the names.
        """
        names = getattr(message, self._names_of)
        if names != self._known:
            self._resolve(list(names))
        if self._trajectory:
            if not message.points:
                raise VddError("the trajectory has no points; expected at least one")
            message = message.points[0]
        count = len(names)
        for attribute, target, source in self._plan:
            values = np.asarray(getattr(message, attribute))
            if len(values) != count:
                raise VddError(
                    f"'{attribute}' holds {len(values)} values for {count} names; expected one "
                    "per name (does this driver report it?)"
                )
            self._row[target] = values[source]
        return self._row

    def _resolve(self, names: list[str]) -> None:
        self._known = None
        index = {name: i for i, name in enumerate(names)}
        wanted = {joint for _, joint in self._paths}
        missing = sorted(joint for joint in wanted if joint not in index)
        if missing:
            raise VddError(
                f"no joint {', '.join(repr(m) for m in missing)} in the message, which names "
                f"{', '.join(names) or 'none'}; correct 'select' in the contract or the driver"
            )
        if len(index) != len(names):
            twice = sorted(joint for joint in wanted if names.count(joint) > 1)
            if twice:
                raise VddError(
                    f"joint {', '.join(repr(t) for t in twice)} stands twice in the message; "
                    "which value is right cannot be told: correct the driver"
                )
        self._plan = []
        for attribute in dict.fromkeys(a for a, _ in self._paths):
            target = [i for i, (a, _) in enumerate(self._paths) if a == attribute]
            source = [index[self._paths[i][1]] for i in target]
            self._plan.append((attribute, np.array(target), np.array(source)))
        self._known = names


def named_paths(type_name: str, select: tuple[str, ...]) -> list[tuple[str, str]]:
    """Split paths such as ``position.elbow`` into array and joint name.

    Raises:
        VddError: the type has no such array, or no joint is named.
    """
    trajectory = "points" in SCHEMAS[type_name]
    known = (
        ("positions", "velocities", "accelerations", "effort")
        if trajectory
        else ("position", "velocity", "effort")
    )
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
