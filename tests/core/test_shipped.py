"""Shipped files are found in the source tree and in both kinds of installation."""

from pathlib import Path

import pytest

from vdd_ros.core.errors import VddError
from vdd_ros.core.shipped import shipped_file


def _package(root: Path, inside: str) -> Path:
    folder = root / inside / "vdd_ros"
    folder.mkdir(parents=True)
    return folder


def test_the_contract_of_the_source_tree_is_found() -> None:
    """The path this repository ships its contract at leads to a file."""
    assert shipped_file("config/contracts/avoiding.yaml").is_file()


@pytest.mark.parametrize("site", ["lib/python3.12/site-packages", "local/lib/python3/dist"])
def test_an_installation_is_found_from_the_imported_package(tmp_path: Path, site: str) -> None:
    """Below the prefix that holds the package stands share/vdd_ros, wherever the prefix is."""
    package = _package(tmp_path, site)
    expected = tmp_path / "share" / "vdd_ros" / "models" / "a.onnx"
    expected.parent.mkdir(parents=True)
    expected.write_bytes(b"x")
    assert shipped_file("models/a.onnx", package=package) == expected


def test_the_source_tree_wins_over_an_installation(tmp_path: Path) -> None:
    """Who works in a checkout tests its files, not those installed before."""
    package = _package(tmp_path, "checkout")
    for folder in (tmp_path / "share" / "vdd_ros", tmp_path / "checkout"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.yaml").write_text("x", encoding="utf-8")
    assert shipped_file("a.yaml", package=package) == tmp_path / "checkout" / "a.yaml"


def test_a_missing_file_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    """The message names the file and the first place that was tried."""
    package = _package(tmp_path, "lib")
    with pytest.raises(VddError, match=r"no/such\.onnx was not found") as caught:
        shipped_file("no/such.onnx", package=package)
    assert str(tmp_path / "lib") in str(caught.value)
