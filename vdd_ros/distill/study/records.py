"""Records of studies, small enough to be kept, and pages that show their tables.

A record is a folder with the settings of a study and all of its rows in one file: no weights, no
paths of the machine. A page written by people says where a table belongs,

::

    <!-- study: NAME/TASK -->
    <!-- end of study -->

with NAME the record's folder and TASK the task's name. What stands between the marks is then the
record's own table, so that no figure of a page is typed by hand. Nothing here needs torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vdd_ros.core.config_io import dump_json, write_atomic
from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.distill.study import published
from vdd_ros.distill.study.render import markdown
from vdd_ros.distill.study.rows import CLAIM, ROWS, read_rows, read_settings
from vdd_ros.distill.study.summary import summarise

_MARKED = re.compile(
    r"(?P<begin><!-- study: (?P<name>[\w.=+-]+/[\w.=+-]+) -->\n)"
    r"(?P<table>.*?)"
    r"(?P<end><!-- end of study -->)",
    re.DOTALL,
)


def keep_record(folder: str | Path, record: str | Path) -> Path:
    """Write a study's settings and rows to a folder of their own.

    A record that is there already is replaced.

    Args:
        folder: of the study.
        record: where to; the folder's name is the one that pages use.

    Returns:
        The record's folder.

    Raises:
        VddError: not a study's folder, or ``record`` holds something else.
    """
    folder, record = Path(folder), Path(record)
    settings, rows = read_settings(folder), list(read_rows(folder))
    if record.exists() and any(path.name not in {CLAIM, ROWS} for path in record.iterdir()):
        raise VddError(
            f"{record}: holds more than a record ({CLAIM}, {ROWS}); choose another folder"
        )
    tasks = tuple(replace(task, data=_file_name(task.data)) for task in settings.tasks)
    write_atomic(record / CLAIM, dump_json(replace(settings, tasks=tasks), indent=2) + "\n")
    write_atomic(record / ROWS, "".join(dump_json(row) + "\n" for row in rows))
    return record


def record_tables(folder: str | Path) -> dict[str, str]:
    """Return the Markdown of every table of a study or a record, by `NAME/TASK`.

    Raises:
        VddError: not a study's folder.
    """
    folder = Path(folder)
    tables = summarise(read_settings(folder), list(read_rows(folder)))
    source = f"\n\n[p] {published.SOURCE}"
    return {
        f"{folder.resolve().name}/{table.task.name}": markdown(table)
        + (source if any(line.published for line in table.rows) else "")
        for table in tables
    }


def fill_page(text: str, tables: Mapping[str, str], *, where: str) -> str:
    """Return a page with every table of ``tables`` that it asks for in its place.

    Tables of studies that are not among ``tables`` stay as they are.

    Args:
        text: of the page.
        tables: Markdown by `NAME/TASK`.
        where: the page, for messages.

    Raises:
        VddError: a mark that names a task its study does not have, or one that does not end.
    """
    if text.count("<!-- study: ") != len(_MARKED.findall(text)):
        raise VddError(
            f"{where}: a table's place begins with '<!-- study: NAME/TASK -->' on a line of its "
            "own and ends with '<!-- end of study -->'; at least one does not"
        )
    studies = {name.partition("/")[0] for name in tables}

    def filled(match: re.Match[str]) -> str:
        name = match["name"]
        if name in tables:
            return f"{match['begin']}\n{tables[name]}\n\n{match['end']}"
        if name.partition("/")[0] in studies:
            raise VddError(f"{where}: no table '{name}'{did_you_mean(name, tables)}")
        return match[0]

    return _MARKED.sub(filled, text)


def refresh_page(page: str | Path, folders: Sequence[str | Path]) -> bool:
    """Put the tables of studies or records into a page; returns whether it has changed.

    Raises:
        VddError: an unreadable page, or what `fill_page` and `record_tables` raise.
    """
    page = Path(page)
    try:
        before = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VddError(f"{page}: cannot be read ({error})") from None
    tables: dict[str, str] = {}
    for folder in folders:
        tables |= record_tables(folder)
    after = fill_page(before, tables, where=str(page))
    if after != before:
        write_atomic(page, after)
    return after != before


def _file_name(data: str | None) -> str | None:
    """Return what a record says of where demonstrations came from: no folders of a machine."""
    if data is None:
        return None
    prefix, colon, path = data.rpartition(":")
    return prefix + colon + Path(path).name
