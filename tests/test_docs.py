"""The pages say what is there: every link leads somewhere, every command and option exists."""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from vdd_ros.cli.main import COMMANDS
from vdd_ros.core.shipped import STUDENT
from vdd_ros.distill.study.records import fill_page, record_tables

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "models/**/*.md")
    for path in ROOT.glob(pattern)
    if path.is_file()
)
_LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")
_COMMAND = re.compile(r"(?:^|`|\s)vdd ([a-z][a-z-]*)((?: [^`|\n]*)?)", re.MULTILINE)


def _ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_pages_are_found() -> None:
    """Front page, house and contributing are among those checked."""
    names = {_ids(path) for path in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "docs/architecture.md"} <= names


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    """A moved file takes its links along."""
    links = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if ":" not in link]
    broken = [link for link in links if not (page.parent / link).exists()]
    assert broken == []


def _options(command: type) -> set[str]:
    """Return the options of a command, and those of its subcommands."""
    found = {name.replace("_", "-") for name in command.__dataclass_fields__}
    for hint in get_type_hints(command).values():
        found.update(*(_options(c) for c in get_args(hint) if hasattr(c, "__dataclass_fields__")))
    return found


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_every_documented_command_and_option_exists(page: Path) -> None:
    """`vdd train-teachr --dta x` would be found here, before a reader finds it."""
    # What is listed as missing is allowed to be.
    text = page.read_text(encoding="utf-8").partition("## Not yet")[0]
    for command, rest in _COMMAND.findall(text):
        assert command in COMMANDS, f"vdd {command}"
        fields = _options(COMMANDS[command])
        for word in shlex.split(rest.partition("#")[0].replace("'", "")):
            if word.startswith("--"):
                assert word.removeprefix("--") in {*fields, "help"}, f"vdd {command} {word}"


def test_every_table_of_results_is_what_its_rows_say() -> None:
    """After new rows: vdd study --render-only docs/studies/* --page docs/results.md."""
    records = sorted(path for path in (ROOT / "docs/studies").iterdir() if path.is_dir())
    tables = {name: text for path in records for name, text in record_tables(path).items()}
    page = ROOT / "docs/results.md"
    text = page.read_text(encoding="utf-8")
    shown = set(re.findall(r"<!-- study: (\S+) -->", text))
    assert shown == set(tables), "a table without rows, or rows without a table"
    assert fill_page(text, tables, where=page.name) == text


def test_the_picture_on_the_front_page_shows_the_shipped_student() -> None:
    """New models, new picture: make demo && cp demo_output/demo.png docs/images/."""
    image = pytest.importorskip("PIL.Image", reason="reading a picture's notes needs Pillow")
    student = ROOT / STUDENT
    if not student.is_file():
        pytest.skip("no model is shipped")
    picture = ROOT / "docs" / "images" / "demo.png"
    assert picture.stat().st_size < 300_000
    with image.open(picture) as shown:
        policy = shown.text["Policy"]
    assert policy == hashlib.sha256(student.read_bytes()).hexdigest()
