"""The epochs of a run as a table on a terminal: a row as each one ends, and no more columns than have room."""

from __future__ import annotations

from collections.abc import Sequence

from skin.training.columns import TABLE, Row, cell
from skin.utils import text_table

_BEST, _RANK_OF_BEST = "best", 5


class EpochTable:
    """The table on a terminal of so many columns.

    Args:
        width: columns of the terminal.
        epochs: of the whole run.
        monitor: metric that picks the best model; its column goes last.
    """

    def __init__(self, width: int, epochs: int, monitor: str) -> None:
        self._epochs = epochs
        widths = {name: it.width for name, it in TABLE.items()} | {_BEST: len(_BEST)}
        widths["epoch"] = max(widths["epoch"], len(f"{epochs}/{epochs}"))
        ranks = {name: it.rank for name, it in TABLE.items()} | {_BEST: _RANK_OF_BEST, f"val_{monitor}": 0}
        fit = text_table.fitting(list(widths.values()), [ranks[name] for name in widths], width)
        names = [list(widths)[place] for place in fit]
        self._with_best = _BEST in names
        self._widths = {name: widths[name] for name in names if name != _BEST}

    def header(self) -> str:
        """Return the two lines above the rows."""
        return "\n".join(self._line([TABLE[name].title[line] for name in self._widths]) for line in (0, 1))

    def row(self, row: Row, best: bool) -> str:
        """Return the line of an epoch."""
        cells = [cell(row, name) for name in self._widths]
        cells[0] += f"/{self._epochs}"
        return self._line(cells) + (" " * text_table.GAP + _BEST if best and self._with_best else "")

    def _line(self, cells: Sequence[str]) -> str:
        padded = [text_table.right(text, width) for text, width in zip(cells, self._widths.values(), strict=True)]
        return (" " * text_table.GAP).join(padded)
