"""Where the files that come with the package are: models, contracts, settings.

The same relative path stands at the top of the source tree and below ``share/vdd_ros`` of an
installation (pip or colcon), which is found from where this package was imported from: no
environment variable can point it at another version's files.
"""

from __future__ import annotations

from pathlib import Path

from vdd_ros.core.errors import VddError

STUDENT = "models/avoiding/student.onnx"
"""The shipped policy."""
TEACHER = "models/avoiding/teacher.onnx"
"""The shipped diffusion teacher it was distilled from."""

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_file(relative: str, *, package: Path = _PACKAGE) -> Path:
    """Return the path of a shipped file, for example ``models/avoiding/student.onnx``.

    Args:
        relative: path inside the source tree or inside ``share/vdd_ros``.
        package: folder of the imported package.

    Raises:
        VddError: it is in neither place; the message names both.
    """
    in_source_tree = package.parent / relative
    if in_source_tree.is_file():
        return in_source_tree
    for prefix in package.parents:
        installed = prefix / "share" / "vdd_ros" / relative
        if installed.is_file():
            return installed
    raise VddError(
        f"the shipped file {relative} was not found: neither at {in_source_tree} nor below "
        "share/vdd_ros of this installation; name a file of your own, or install the package again"
    )
