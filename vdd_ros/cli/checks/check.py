"""What one check of `vdd doctor` found."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """What one check found."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    optional_absent: bool = False
    """Fine, but something optional is not there: `fix` says how to get it."""

    @property
    def mark(self) -> str:
        """Two letters for the table."""
        if not self.ok:
            return "FAIL"
        return "--" if self.optional_absent else "ok"


def lacking(name: str, detail: str, fix: str) -> Check:
    """Return a check that is passed though something optional is not there."""
    return Check(name, True, detail, fix, optional_absent=True)


def installed(distribution: str) -> str:
    """Return the version of an installed distribution; empty where there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
