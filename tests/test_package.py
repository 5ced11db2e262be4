"""The package as a whole: what it weighs, what it installs, and what it never imports."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import setuptools

import vdd_ros

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 1_000_000

# What a robot must be able to do without, room by room; DESIGN: "torch is never on the robot".
OFFLINE = ("torch", "onnx", "onnxscript", "safetensors", "jaxtyping", "diffusers")
ROBOT_ROOMS = ("core", "data", "tasks", "evaluation", "runtime", "nodes")

# Runs in a fresh interpreter: refuses the named packages, then imports what follows.
IMPORT_WITHOUT = """
import importlib, sys

refused = set({refused!r})

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ImportError(f"{{name}} must not be imported here")

sys.meta_path.insert(0, Refuse())
for name in {modules!r}:
    importlib.import_module(name)
{then}
"""


def modules_of(room: str) -> list[str]:
    """The dotted names of every module in one room of the house."""
    files = sorted((ROOT / "vdd_ros" / room).rglob("*.py"))
    dotted = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)
    return [name.removesuffix(".__init__") for name in dotted]


def text_of(path: Path) -> str:
    """A source file's text, whatever the locale of the machine."""
    return path.read_text(encoding="utf-8")


def imports_launch(module: str) -> bool:
    """Whether a module needs the launch framework, which no wheel brings."""
    path = ROOT.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return re.search(r"^(from|import) launch", text_of(source), re.M) is not None


def import_without(refused: tuple[str, ...], modules: list[str], then: str = "") -> str:
    """Imports modules in a fresh interpreter that lacks `refused`; returns what it printed."""
    script = IMPORT_WITHOUT.format(refused=refused, modules=modules, then=then)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py hands to setuptools, without building anything."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def repository_files() -> list[Path]:
    """Every file git tracks or would track; skips the test outside a checkout."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    paths = (ROOT / name for name in done.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("room", ROBOT_ROOMS)
def test_robot_side_room_imports_without_the_training_tools(room: str) -> None:
    """Every module of the robot side imports where torch and its companions are absent."""
    if room == "nodes" and importlib.util.find_spec("rclpy") is None:
        pytest.skip("rclpy is not importable here")
    modules = modules_of(room)
    if importlib.util.find_spec("launch_ros") is None:
        modules = [name for name in modules if not imports_launch(name)]
    assert f"vdd_ros.{room}" in modules
    import_without(OFFLINE, modules)


@pytest.mark.parametrize("room", ["core", "data", "tasks", "evaluation", "runtime"])
def test_room_below_the_nodes_imports_without_ros(room: str) -> None:
    """Only the nodes know ROS 2: everything below them imports where rclpy is absent."""
    import_without(("rclpy", "launch", "std_msgs"), modules_of(room))


def test_package_imports_nothing_but_itself() -> None:
    """`import vdd_ros` costs nothing: not even numpy is loaded by it."""
    import_without(("numpy", "yaml", *OFFLINE), ["vdd_ros"])


def test_command_line_answers_without_any_heavy_import() -> None:
    """Every command module loads, and help is shown, without torch, rclpy or onnxruntime."""
    heavy = (*OFFLINE, "rclpy", "onnxruntime", "matplotlib")
    then = """
sys.argv = ["vdd", "--help"]
try:
    status = importlib.import_module("vdd_ros.cli.main").main()
except SystemExit as end:
    status = end.code
assert status in (None, 0), status
"""
    shown = import_without(heavy, modules_of("cli"), then)
    for command in ("doctor", "demo", "train-teacher", "distill", "evaluate", "export"):
        assert command in shown
    for command in ("inspect", "bench", "compare"):
        assert command in shown


def test_version_is_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """package.xml, setup.py, the package and the newest changelog entry name one version."""
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    released = re.search(r"^(\d+\.\d+\.\d+)\b", text_of(ROOT / "CHANGELOG.rst"), re.M)
    assert released is not None
    assert {
        manifest.findtext("version"),
        setup_arguments(monkeypatch)["version"],
        vdd_ros.__version__,
        released[1],
    } == {vdd_ros.__version__}


def test_manifest_is_what_colcon_builds_as_ament_python() -> None:
    """Format 3 with a maintainer address colcon accepts; else it builds a plain Python package."""
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    assert manifest.get("format") == "3"
    assert manifest.findtext("name") == "vdd_ros"
    assert manifest.findtext("export/build_type") == "ament_python"
    assert manifest.findtext("license") == "Apache-2.0"
    maintainer = manifest.find("maintainer")
    assert maintainer is not None
    assert maintainer.text
    # catkin_pkg's own rule: a dot and a top-level domain of two letters or more.
    assert re.fullmatch(
        r"[-a-zA-Z0-9_%+]+(\.[-a-zA-Z0-9_%+]+)*@[-a-zA-Z0-9%]+(\.[-a-zA-Z0-9%]+)*\.[a-zA-Z]{2,}",
        maintainer.get("email", ""),
    )


def test_manifest_names_every_ros_package_the_code_imports() -> None:
    """A message package imported anywhere is an exec_depend, so rosdep installs it."""
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    declared = {element.text for element in manifest.findall("exec_depend")}
    ros_package = re.compile(r"\w+_(msgs|srvs|interfaces)|rclpy|launch(_ros)?|ament_index_python")
    imported = set()
    for path in [*(ROOT / "vdd_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        for node in ast.walk(ast.parse(text_of(path))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            imported |= {name.partition(".")[0] for name in names}
    used = {name for name in imported if ros_package.fullmatch(name)}
    assert "rclpy" in used
    assert used <= declared


def test_installed_files_are_all_launch_config_and_model_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is in launch/, config/ and models/ is what share/vdd_ros holds, at the same places."""
    installed = {
        Path(folder) / Path(name).name: name
        for folder, names in setup_arguments(monkeypatch)["data_files"]
        for name in names
    }
    share = Path("share/vdd_ros")
    shipped = {
        path.relative_to(ROOT)
        for folder in ("launch", "config", "models")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"launch/policy.launch.py", "launch/teacher.launch.py"} <= set(map(str, shipped))
    for path in shipped:
        assert installed.get(share / path) == str(path)
    assert share / "package.xml" in installed
    assert Path("share/ament_index/resource_index/packages/vdd_ros") in installed
    for name in installed.values():
        assert (ROOT / name).is_file()


def test_every_console_script_names_a_function_that_exists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each command of setup.py points at a module with that function in it."""
    scripts = setup_arguments(monkeypatch)["entry_points"]["console_scripts"]
    assert {script.partition(" ")[0] for script in scripts} == {
        "vdd",
        "policy_node",
        "teacher_node",
        "sim_node",
        "echo_node",
    }
    for script in scripts:
        module, function = script.partition(" = ")[2].split(":")
        source = ROOT / Path(*module.split(".")).with_suffix(".py")
        defined = {
            node.name
            for node in ast.parse(text_of(source)).body
            if isinstance(node, ast.FunctionDef)
        }
        assert function in defined


def test_repository_stays_small() -> None:
    """No file above 1 MB except models, and less than 25 MB in all."""
    sizes = {path.relative_to(ROOT): path.stat().st_size for path in repository_files()}
    big = {path for path, size in sizes.items() if size > MEGABYTE and path.parts[0] != "models"}
    assert not big
    assert sum(sizes.values()) < 25 * MEGABYTE


def test_no_code_loads_pickles_or_evaluates_text() -> None:
    """Policy files and data are never executed: no pickle, eval, exec or torch.load anywhere."""
    forbidden = {"eval", "exec", "pickle", "dill", "cloudpickle", "joblib"}
    found = []
    for path in (ROOT / "vdd_ros").rglob("*.py"):
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = {node.func.id}
            elif isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]}
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                names = {"eval"}
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                names = set() if ast.unparse(node.value) == "False" else {"pickle"}
            else:
                continue
            if names & forbidden:
                found.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '?')}")
    assert not found


def test_robot_side_has_no_print() -> None:
    """Logs are for operators: only commands print, and only their report."""
    for room in (*ROBOT_ROOMS, "distill"):
        for path in (ROOT / "vdd_ros" / room).rglob("*.py"):
            calls = (n for n in ast.walk(ast.parse(text_of(path))) if isinstance(n, ast.Call))
            assert all(ast.unparse(call.func) != "print" for call in calls), path
