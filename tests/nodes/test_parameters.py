"""The parameter table: complete, described, and strict about what is set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from vdd_ros.core.errors import VddError
from vdd_ros.core.gating import SelectionSettings
from vdd_ros.nodes.declaration import Spec, declare, parse_value, read
from vdd_ros.nodes.parameters import SAMPLER, SELECTION, SHELL, SIM
from vdd_ros.runtime.diffusion_policy import DiffusionSettings
from vdd_ros.tasks.avoiding import LEVELS

TABLES = (SHELL, SELECTION, SAMPLER, SIM)


def node_with(context: Context, **overrides: object) -> Node:
    values = [Parameter(name, value=value) for name, value in overrides.items()]
    return Node("parameters", context=context, parameter_overrides=values)


@pytest.fixture
def context() -> Iterator[Context]:
    """A ROS context of its own; nothing here talks to anybody."""
    made = Context()
    rclpy.init(context=made)
    yield made
    made.try_shutdown()


@pytest.mark.parametrize("table", TABLES, ids=["shell", "selection", "sampler", "sim"])
def test_every_parameter_is_described_and_its_default_allowed(table: tuple[Spec, ...]) -> None:
    """No name twice, a sentence each, ranges in pairs, and no default that would be refused."""
    assert len({spec.name for spec in table}) == len(table)
    for spec in table:
        assert spec.description.endswith("."), spec.name
        assert not spec.fault(spec.default), spec.name
        assert (spec.low is None) == (spec.high is None), spec.name
        numeric = isinstance(spec.default, (int, float)) and not isinstance(spec.default, bool)
        assert numeric == (spec.low is not None), spec.name


def test_the_table_agrees_with_the_settings_it_becomes() -> None:
    """Defaults and choices are those of the rooms behind the nodes."""
    settings = SelectionSettings()
    for spec in SELECTION:
        assert spec.default == getattr(settings, spec.name.removeprefix("selection."))
    by_name = {spec.name: spec for table in TABLES for spec in table}
    assert by_name["level"].choices == LEVELS
    assert by_name["nfe"].default == DiffusionSettings().n_steps
    assert by_name["sampler"].default == DiffusionSettings().sampler
    assert by_name["variant"].default == DiffusionSettings().variant


def test_declared_values_are_read_back(context: Context) -> None:
    """Overrides win over defaults."""
    node = node_with(context, role="shadow", rate_hz=50.0)
    declare(node, SHELL)
    values = read(node, SHELL)
    assert values["role"] == "shadow"
    assert values["rate_hz"] == 50.0
    assert values["trigger"] == "observation"
    node.destroy_node()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("role", "comand", "role: got 'comand'; did you mean 'command'"),
        ("rate_hz", 60, "as a decimal like 60.0"),
        ("rate_hz", -5.0, "allowed: 0 to 10000"),
        ("n_threads", 0, "allowed: 1 to 64"),
        ("autostart", "yes", "as true or false"),
        ("rolle", "shadow", "unknown parameter 'rolle'; did you mean 'role'"),
    ],
)
def test_bad_values_at_start_are_user_errors(
    context: Context, name: str, value: object, expected: str
) -> None:
    """Not a traceback of rclpy's, but what came, what is allowed, and what to write."""
    node = node_with(context, **{name: value})
    with pytest.raises(VddError, match=expected):
        declare(node, SHELL)
    node.destroy_node()


def test_parameters_of_other_nodes_are_ignored(context: Context) -> None:
    """One YAML file may serve several nodes."""
    node = node_with(context, gripper_force=3.0)
    declare(node, SHELL)
    assert not node.has_parameter("gripper_force")
    node.destroy_node()


def test_a_check_sees_all_parameters_as_they_would_be(context: Context) -> None:
    """Combinations are judged with the change in them; a refused change changes nothing."""
    node = node_with(context)
    seen: list[float] = []

    def check(values: dict[str, object]) -> str:
        seen.append(values["selection.temperature"])
        return "too hot" if values["selection.temperature"] > 5.0 else ""

    declare(node, SELECTION, check)
    change = Parameter("selection.temperature", value=9.0)
    (result,) = node.set_parameters([change])
    assert (result.successful, result.reason) == (False, "too hot")
    assert seen == [9.0]
    assert node.get_parameter("selection.temperature").value == 1.0
    (result,) = node.set_parameters([Parameter("selection.temperature", value=2.0)])
    assert result.successful
    (result,) = node.set_parameters([Parameter("selection.rule", value="best")])
    assert "known: argmax, pinned, sample, sticky" in result.reason
    node.destroy_node()


@pytest.mark.parametrize(
    ("given", "like", "expected"),
    [
        ("100", 0.0, 100.0),
        ("4", 16, 4),
        ("True", False, True),
        ("off", True, False),
        ("007", "", "007"),
        ("4.5", 16, "nfe: got '4.5', expected a whole number"),
        ("fast", 0.0, "nfe: got 'fast', expected a number"),
        ("maybe", False, "nfe: got 'maybe', expected true or false"),
    ],
)
def test_launch_arguments_become_the_declared_type(
    given: str, like: object, expected: object
) -> None:
    """ROS parameters do not change their type, so text is converted or refused by name."""
    if isinstance(expected, str) and expected.startswith("nfe:"):
        with pytest.raises(VddError, match=expected):
            parse_value("nfe", given, like)
    else:
        value = parse_value("nfe", given, like)
        assert (value, type(value)) == (expected, type(like))
