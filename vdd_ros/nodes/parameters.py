"""The parameters of the nodes, declared once: name, default, description, range, choices.

`declare` turns the table into ROS parameters with descriptors, so that ``ros2 param describe``
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
    """May be set while the node runs; all others are read when the node starts."""

    def descriptor(self) -> ParameterDescriptor:
        """Return the ROS descriptor."""
        made = ParameterDescriptor(description=self.description, read_only=not self.changeable)
        if self.choices:
            made.additional_constraints = f"one of: {', '.join(self.choices)}"
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


SHELL = (
    Spec("policy", "", "Policy file (.onnx). Empty: the one shipped with the package."),
    Spec(
        "contract",
        "",
        "Contract YAML replacing topics, limits and rates of the one inside the "
        "policy file. Empty: the file's own.",
    ),
    Spec(
        "role",
        "command",
        "command publishes the contract's action topics; shadow publishes "
        "~/shadow_action instead and never commands.",
        choices=("command", "shadow"),
    ),
    Spec(
        "rate_hz",
        0.0,
        "Control rate in Hz, for the limits and the count of missed ticks. 0.0: the contract's.",
        low=0.0,
        high=10_000.0,
    ),
    Spec(
        "trigger",
        "observation",
        "observation answers every complete observation at once; timer "
        "ticks at rate_hz with the newest one.",
        choices=("observation", "timer"),
    ),
    Spec("autostart", False, "Configure and activate without a lifecycle manager."),
    Spec(
        "provider",
        "cpu",
        "Where the network runs; auto takes the fastest that reproduces the file's golden sample.",
        choices=("cpu", "cuda", "tensorrt", "auto"),
    ),
    Spec(
        "n_threads",
        1,
        "Threads for one network pass. More than one rarely pays for a network this small.",
        low=1,
        high=64,
    ),
    Spec(
        "executor",
        "auto",
        "events is the fastest but newer; auto takes it where it works, else single.",
        choices=("auto", "events", "single"),
    ),
    Spec("frame_id", "", "Put into the header of stamped commands."),
    Spec(
        "discovery_s",
        1.0,
        "Longest wait at configure for publishers of the observed topics, so that a wrong type is "
        "refused before anything moves. Later ones are found later, and held.",
        low=0.0,
        high=60.0,
    ),
)
"""Parameters of every node on the lifecycle shell."""

SELECTION = (
    Spec(
        "selection.rule",
        "sample",
        "How the expert is chosen: sample from the gate, argmax, "
        "sticky (keep it while plausible) or pinned.",
        choices=("sample", "argmax", "sticky", "pinned"),
        changeable=True,
    ),
    Spec(
        "selection.seed",
        0,
        "Seed of the choice; the same seed and observations replay the same experts.",
        low=0,
        high=2**31 - 1,
        changeable=True,
    ),
    Spec(
        "selection.pinned_expert",
        0,
        "Rule pinned: the expert that acts.",
        low=0,
        high=4095,
        changeable=True,
    ),
    Spec(
        "selection.temperature",
        1.0,
        "Divides the gating logits before sampling; below 1 prefers likely experts.",
        low=1e-3,
        high=1e3,
        changeable=True,
    ),
    Spec(
        "selection.sticky_ratio",
        0.25,
        "Rule sticky: keep the expert while its probability is at "
        "least this fraction of the largest.",
        low=0.0,
        high=1.0,
        changeable=True,
    ),
)
"""Parameters of the student's expert choice."""

SAMPLER = (
    Spec(
        "nfe",
        16,
        "Steps of the sampler, the network passes per action (heun takes twice as many less one).",
        low=1,
        high=1024,
    ),
    Spec(
        "sampler",
        "euler",
        "How the noise is removed.",
        choices=("euler", "heun", "ddim", "dpmpp_2m", "euler_ancestral"),
    ),
    Spec(
        "variant",
        "auto",
        "How the sampler is run: unrolled into one graph, bound arrays, or a "
        "plain loop; auto takes the fastest the file offers.",
        choices=("auto", "unrolled", "bound", "loop"),
    ),
    Spec("seed", 0, "Seed of the sampler's noise.", low=0, high=2**31 - 1),
)
"""Parameters of the teacher's sampler."""

SIM = (
    Spec(
        "level",
        "ideal",
        "ideal: the rod is where it is told to be; panda: it follows like the "
        "simulated arm of the benchmark.",
        choices=("ideal", "panda"),
    ),
    Spec("lag", False, "Measured positions are one control step old, as in the benchmark."),
    Spec(
        "episodes",
        0,
        "Episodes to run before the node ends with exit code 0; 0: endless.",
        low=0,
        high=1_000_000,
    ),
    Spec("seed", 0, "Seed of the task's randomness.", low=0, high=2**31 - 1),
    Spec(
        "speed",
        1.0,
        "How much faster than real time; at any other than 1.0 the node publishes "
        "/clock and the other nodes need use_sim_time.",
        low=0.01,
        high=1000.0,
    ),
    Spec(
        "wait_for_start",
        False,
        "Start the first episode at the first message on ~/start: a recorder sends it when it "
        "hears the robot, since two nodes may find each other seconds apart.",
    ),
    Spec("publish_clock", False, "Publish /clock at speed 1.0 too, for nodes with use_sim_time."),
    Spec(
        "executor",
        "auto",
        "events is the fastest but newer; auto takes it where it works, else single.",
        choices=("auto", "events", "single"),
    ),
)
"""Parameters of the simulated robot."""

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

Check = Callable[[dict[str, Any]], str]
"""From the parameters as they would be to a reason against them, or an empty text."""


def declare(node: Node, specs: Iterable[Spec], check: Check | None = None) -> None:
    """Declare parameters and refuse bad values, at start and later.

    Args:
        node: owns the parameters.
        specs: the table.
        check: looks at all of them together, after a change.

    Raises:
        VddError: a value given at start has the wrong type, is out of range or not a choice, or
            its name is a misspelt one of the table.
    """
    table = {spec.name: spec for spec in specs}
    for spec in table.values():
        try:
            value = node.declare_parameter(spec.name, spec.default, spec.descriptor()).value
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
                fault = table[change.name].fault(change.value)
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
