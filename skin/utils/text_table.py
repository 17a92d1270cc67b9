"""Tables of plain text, as wide as the terminal allows: letters are counted as it shows them, columns dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

GAP = 2  # between columns
_LEAST_NAME = 8


@dataclass(frozen=True)
class Numbers:
    """A column of numbers, right-aligned. If the columns do not fit, that of the highest `rank` goes first."""

    title: str
    cells: Sequence[str]
    rank: int


def table(title: str, names: Sequence[str], columns: Sequence[Numbers], width: int | None, indent: int) -> list[str]:
    """Return the lines of a table whose first column holds names; a name that is too long is cut.

    Args:
        title: of the names.
        width: of the terminal; None is as wide as it needs to be.
        indent: of each line, less on a narrow terminal.
    """
    titled = [(column.title, *column.cells) for column in columns]
    widths = [max(map(cell_len, cells)) for cells in titled]
    longest = max(map(cell_len, (title, *names)))
    kept = list(range(len(columns)))
    if width is not None:
        indent = indent if width >= 60 else 0
        ranks = [-1, *(column.rank for column in columns)]
        kept = [i - 1 for i in fitting([_LEAST_NAME, *widths], ranks, width - indent)[1:]]
        longest = max(_LEAST_NAME, min(longest, width - indent - sum(GAP + widths[i] for i in kept)))
    lines = []
    for row, name in enumerate((title, *names)):
        numbers = "".join(right(titled[i][row], GAP + widths[i]) for i in kept)
        lines.append((" " * indent + cut(name, longest) + numbers).rstrip())
    return lines


def fitting(widths: Sequence[int], ranks: Sequence[int], width: int) -> list[int]:
    """Return which of the columns fit beside one another, in their order; the first one always stays."""
    kept = list(range(len(widths)))
    while len(kept) > 1 and sum(widths[i] for i in kept) + GAP * (len(kept) - 1) > width:
        kept.remove(max(kept[1:], key=lambda i: ranks[i]))
    return kept


def cut(text: str, width: int) -> str:
    """Return a text that takes `width` columns of a terminal: filled up with spaces, or cut with an ellipsis."""
    shown = Text(text)
    shown.truncate(width, overflow="ellipsis", pad=True)
    return shown.plain


def right(text: str, width: int) -> str:
    """Return a text at the right edge of `width` columns."""
    return " " * (width - cell_len(text)) + text
