"""Define the one exception that a user is meant to see, and make text safe to show.

Every mistake a user can make ends in a `UserError`: one line that says what is wrong, where, and what
to do. `skin.utils.cli.run` prints it on stderr and exits with code 2; nobody sees a traceback for a typo.
"""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend. Its text is one printable line: what, where, what to do.

    Attributes:
        what: the text without the `remedy`, for a caller that knows a better one.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        self.what = message
        super().__init__(printable(f"{message}; {remedy}" if remedy else message, limit=2000))


def printable(text: object, limit: int = 200) -> str:
    """Return text from files and tables, safe on a terminal and in a log: one line, no control characters.

    Characters that cannot be printed (newlines, escape sequences, bidirectional marks, lone surrogates
    from undecodable file names) become `\\x..`-style escapes; more than `limit` characters are cut with
    an ellipsis.
    """
    safe = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text)
    )
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    return "'" + text if text.startswith(FORMULA_STARTS) else text
