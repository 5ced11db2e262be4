"""The one error a user can cause, and how it must read.

``VddError`` is raised for everything a user can fix: a wrong file, an unknown key, a contract that
does not fit. Its message says what came, what was expected and what to do next. The command line
prints it and exits with code 2; a node reports it and refuses to configure. Errors that are *our*
fault (a broken invariant) stay plain Python exceptions with a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VddError(ValueError):
    """Something the user can fix; the message names the value, the expectation and the remedy.

    Where several things are wrong at once, each is one of ``args``.
    """

    def __str__(self) -> str:
        """Return all that is wrong."""
        return "; ".join(str(problem) for problem in self.args)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, or the list of known words."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""
