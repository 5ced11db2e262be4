"""What the launch files share: arguments that are empty unless they are meant.

A launch argument left empty keeps what the parameter file says. One that is given is converted to
the type the node declares, so that ``rate_hz:=100`` is the decimal number it has to be.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launch.launch_context import LaunchContext
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from vdd_ros.core.shipped import shipped_file
from vdd_ros.nodes.declaration import Spec, parse_value


def text(context: LaunchContext, name: str) -> str:
    """Return the text of a launch argument."""
    value: str = LaunchConfiguration(name).perform(context)
    return value.strip()


def flag(context: LaunchContext, name: str) -> bool:
    """Return a launch argument that is true or false."""
    return parse_value(name, text(context, name), False) is True


def node(
    context: LaunchContext,
    executable: str,
    *,
    specs: Iterable[Spec],
    params_file: str = "",
    arguments: Iterable[str] = (),
    fixed: dict[str, Any] | None = None,
) -> Node:
    """Return a node action of this package.

    Args:
        context: where the arguments are looked up.
        executable: a console script of this package.
        specs: the node's parameters; those named in ``arguments`` are taken from the launch
            argument of the same name where that is not empty.
        params_file: YAML of the node's tuning.
        arguments: names of launch arguments that are parameters.
        fixed: parameters that the launch file decides.
    """
    table = {spec.name: spec for spec in specs}
    overrides: dict[str, Any] = {"use_sim_time": flag(context, "use_sim_time")}
    for name in arguments:
        given = text(context, name)
        if given:
            overrides[name] = parse_value(name, given, table[name].default)
    overrides |= fixed or {}
    files = [str(Path(params_file).expanduser())] if params_file else []
    return Node(
        package="vdd_ros",
        executable=executable,
        namespace=text(context, "namespace"),
        output="screen",
        parameters=[*files, overrides],
        ros_arguments=["--log-level", text(context, "log_level")],
    )


def shipped_params(name: str) -> str:
    """Return the path of a parameter file of this package."""
    return str(shipped_file(f"config/nodes/{name}.yaml"))
