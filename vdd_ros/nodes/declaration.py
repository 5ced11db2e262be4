"""How a parameter is declared: described, typed, within its range, and refused with a reason.

`declare` turns a table into ROS parameters with descriptors, so that ``ros2 param describe``
says what the documentation says, and refuses bad values with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from vdd_ros.core.errors import VddError, did_you_mean

Value = bool | int | float | str


@dataclass(frozen=True)
class Spec:
    """One parameter."""

    name: str
    """ROS name."""
    default: Value
    """Its type is the parameter's type."""
    description: str
    """For people; shown by ``ros2 param describe``."""
    low: float | None = None
    """Smallest allowed number."""
    high: float | None = None
    """Largest allowed number."""
    choices: tuple[str, ...] = ()
    """Allowed texts; empty for any."""
    changeable: bool = False
    """May be set while the node runs; others are read when it starts or is configured."""
    at_start: bool = False
    """Read once, when the process starts, also where others are read at every configure."""

    def descriptor(self, *, managed: bool = False) -> ParameterDescriptor:
        """Return the ROS descriptor; ``managed``: the node reads it whenever it is configured."""
        # rclpy refuses what is read only without a word on what to do: managed nodes do it.
        made = ParameterDescriptor(
            description=self.description, read_only=not (self.changeable or managed)
        )
        notes = [f"one of: {', '.join(self.choices)}"] if self.choices else []
        if managed and not self.changeable:
            notes.append("read when the process starts" if self.at_start else "read at configure")
        made.additional_constraints = "; ".join(notes)
        if self.low is not None and self.high is not None:
            if isinstance(self.default, float):
                made.floating_point_range = [
                    FloatingPointRange(from_value=float(self.low), to_value=float(self.high))
                ]
            else:
                made.integer_range = [
                    IntegerRange(from_value=int(self.low), to_value=int(self.high))
                ]
        return made

    def fault(self, value: object) -> str:
        """Return why a value of the right type is refused; empty when it is not."""
        if self.choices and value not in self.choices:
            return f"{self.name}: got '{value}'{did_you_mean(str(value), self.choices)}"
        return ""


_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

Check = Callable[[dict[str, Any]], str]
"""From the parameters as they would be to a reason against them, or an empty text."""


def declare(
    node: Node,
    specs: Iterable[Spec],
    check: Check | None = None,
    *,
    locked: Callable[[], bool] | None = None,
) -> None:
    """Declare parameters and refuse bad values, at start and later.

    Args:
        node: owns the parameters.
        specs: the table.
        check: looks at all of them together, before a change.
        locked: tells whether the node is configured, of one that reads its parameters then; None
            for a node that reads them once.

    Raises:
        VddError: a value given at start has the wrong type, is out of range or not a choice, or
            its name is a misspelt one of the table.
    """
    table = {spec.name: spec for spec in specs}
    for spec in table.values():
        try:
            value = node.declare_parameter(
                spec.name, spec.default, spec.descriptor(managed=locked is not None)
            ).value
        except InvalidParameterTypeException as error:
            raise VddError(
                f"{error}; write {_example(spec)}, as ROS parameters do not change their type"
            ) from None
        except InvalidParameterValueException as error:
            raise VddError(
                f"{spec.name}: {error}; allowed: {spec.low:g} to {spec.high:g}"
                if spec.low is not None
                else f"{spec.name}: {error}"
            ) from None
        fault = spec.fault(value)
        if fault:
            raise VddError(fault)

    _refuse_misspelt(node, table)

    def on_set(changes: list[Parameter]) -> SetParametersResult:
        for change in changes:
            if change.name in table:
                spec = table[change.name]
                fault = spec.fault(change.value) or _too_late(spec, locked is None or locked())
                if fault:
                    return SetParametersResult(successful=False, reason=fault)
        if check is not None:
            wanted = read(node, table.values())
            wanted |= {c.name: c.value for c in changes if c.name in table}
            reason = check(wanted)
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(on_set)


def _too_late(spec: Spec, configured: bool) -> str:
    """Return why a parameter cannot be set now, and how it can; empty where it can."""
    if spec.changeable:
        return ""
    if spec.at_start:
        return (
            f"{spec.name} is read when the process starts: end the node and start it with "
            f"-p {spec.name}:=VALUE"
        )
    if not configured:
        return ""
    return (
        f"{spec.name} is read when the node is configured: deactivate and clean up first, set it, "
        "then configure and activate"
    )


def read(node: Node, specs: Iterable[Spec]) -> dict[str, Any]:
    """Return the present values by name."""
    return {spec.name: node.get_parameter(spec.name).value for spec in specs}


def parse_value(name: str, given: str, like: Value) -> Value:
    """Convert the text of an argument to the type of ``like``.

    Raises:
        VddError: the text is not of that type.
    """
    if isinstance(like, bool):
        if given.lower() in _TRUE + _FALSE:
            return given.lower() in _TRUE
        raise VddError(f"{name}: got '{given}', expected true or false")
    if isinstance(like, str):
        return given
    try:
        return type(like)(given)
    except ValueError:
        kind = "a whole number" if isinstance(like, int) else "a number"
        raise VddError(f"{name}: got '{given}', expected {kind}") from None


def _example(spec: Spec) -> str:
    kind = {bool: "true or false", int: "a whole number like 1", float: "a decimal like 60.0"}
    return f"{spec.name} as {kind.get(type(spec.default), 'a text')}"


def _refuse_misspelt(node: Node, table: dict[str, Spec]) -> None:
    """Look through parameters given at start that no node declares; ROS ignores them silently.

    A near miss is an error: ``rolle: shadow`` would otherwise move a robot. Others are a warning,
    since one YAML file may serve several nodes.
    """
    given: dict[str, object] = getattr(node, "_parameter_overrides", {})
    for name in given:
        if name in table or node.has_parameter(name) or name.startswith("qos_overrides."):
            continue
        hint = did_you_mean(name, table)
        if "did you mean" in hint:
            raise VddError(f"unknown parameter '{name}'{hint}")
        node.get_logger().warning(f"parameter '{name}' is not one of this node and is ignored")
