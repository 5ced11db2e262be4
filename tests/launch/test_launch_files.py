"""Launch files by structure, and for real where the launch framework is installed."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="the parameter table needs the ROS 2 messages")

from vdd_ros.nodes.declaration import Spec
from vdd_ros.nodes.parameters import SAMPLER, SELECTION, SHELL, SIM, WATCHED

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "launch").glob("*.launch.py"))
TABLES = {"SHELL": SHELL, "SELECTION": SELECTION, "SAMPLER": SAMPLER, "SIM": SIM}

launch_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def calls(path: Path, name: str) -> list[ast.Call]:
    """Every call of a function of this name."""
    tree = ast.parse(path.read_text())
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name
    ]


def keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {str(k.arg): k.value for k in call.keywords}


def declared(path: Path) -> dict[str, dict[str, Any]]:
    """Launch arguments with what can be read off them without running the file."""
    found = {}
    for call in calls(path, "DeclareLaunchArgument"):
        given = {}
        for key, value in keywords(call).items():
            try:
                given[key] = ast.literal_eval(value)
            except ValueError:
                given[key] = ast.unparse(value)
        found[ast.literal_eval(call.args[0])] = given
    return found


def specs_of(call: ast.Call) -> dict[str, Spec]:
    names = re.findall(r"[A-Z]+", ast.unparse(keywords(call)["specs"]))
    return {spec.name: spec for name in names for spec in TABLES[name]}


def test_the_launch_files_are_there() -> None:
    """The documented three, and none that these tests would not see."""
    assert [p.name for p in FILES] == [
        "compare.launch.py",
        "policy.launch.py",
        "teacher.launch.py",
    ]


@launch_file
def test_every_argument_is_described_and_closed_where_it_can_be(path: Path) -> None:
    """`ros2 launch --show-args` explains each one; a default is one of the choices."""
    arguments = declared(path)
    assert {"namespace", "use_sim_time", "sim", "level", "log_level", "autostart"} <= set(
        arguments
    )
    for name, given in arguments.items():
        assert len(given["description"]) > 15, name
        assert given["description"].endswith("."), name
        if "choices" in given:
            assert given["default_value"] in given["choices"], name
        default = given["default_value"]
        assert (default in ("true", "false")) <= ("choices" in given), name


@launch_file
def test_what_is_passed_is_declared_on_both_sides(path: Path) -> None:
    """An argument handed to a node is one of the launch file and a parameter of that node."""
    arguments = declared(path)
    for call in calls(path, "node"):
        specs = specs_of(call)
        names = ast.literal_eval(keywords(call)["arguments"])
        for name in names:
            assert name in arguments, name
            assert name in specs, name
            spec = specs[name]
            if spec.choices:
                assert set(arguments[name]["choices"]) - {""} == set(spec.choices), name
        fixed = keywords(call).get("fixed")
        given = [d for d in ast.walk(fixed) if isinstance(d, ast.Dict)] if fixed else []
        for name in [ast.literal_eval(k) for d in given for k in d.keys if k]:
            assert name in specs, name


@launch_file
def test_every_argument_is_used(path: Path) -> None:
    """An argument nobody reads would be a promise that is not kept."""
    source = path.read_text()
    shared = (ROOT / "vdd_ros/nodes/bringup.py").read_text()
    for name in declared(path):
        assert source.count(f'"{name}"') + shared.count(f'"{name}"') >= 2, name


@launch_file
def test_executables_are_installed(path: Path) -> None:
    """`ros2 run` and `ros2 launch` find what setup.py installs."""
    setup = (ROOT / "setup.py").read_text()
    for call in calls(path, "node"):
        executable = ast.literal_eval(call.args[1])
        assert f'"{executable} = vdd_ros.nodes.{executable}:main"' in setup


@pytest.mark.parametrize(
    ("name", "specs"),
    [("policy", (*SHELL, *SELECTION, *WATCHED)), ("teacher", (*SHELL, *SAMPLER))],
)
def test_parameter_files_hold_every_parameter_with_its_type(
    name: str, specs: tuple[Spec, ...]
) -> None:
    """The YAML shows all there is to tune, in the types ROS insists on, each with a comment."""
    path = ROOT / f"config/nodes/{name}.yaml"
    tree = yaml.safe_load(path.read_text())
    assert list(tree) == ["/**"], "a bare node name would be ignored in a namespace"
    flat: dict[str, Any] = {}
    for key, value in tree["/**"]["ros__parameters"].items():
        nested = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{key}.{inner}".rstrip("."): leaf for inner, leaf in nested}
    assert set(flat) == {spec.name for spec in specs}
    for spec in specs:
        assert type(flat[spec.name]) is type(spec.default), spec.name
        assert not spec.fault(flat[spec.name])
    for line in path.read_text().splitlines()[3:]:
        assert "#" in line, line


@launch_file
def test_launch_files_describe_their_nodes_for_real(path: Path) -> None:
    """Where the framework is here: the file loads and yields its nodes, with and without sim."""
    pytest.importorskip("launch_ros", reason="the launch framework is not installed here")
    from launch import LaunchContext

    module_spec = importlib.util.spec_from_file_location("launched", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    counts = []
    pairs = ["true", "false"] if "standby" in declared(path) else ["false"]
    for sim, standby in itertools.product(("true", "false"), pairs):
        context = LaunchContext()
        for entity in module.generate_launch_description().entities:
            if hasattr(entity, "name"):
                context.launch_configurations[entity.name] = "".join(
                    part.perform(context) for part in entity.default_value or []
                )
        context.launch_configurations.update(sim=sim, standby=standby)
        counts.append(len(module._nodes(context)) - (sim == "true") - (standby == "true"))
    assert len(set(counts)) == 1
