"""Predictions as a table on a terminal, row by row."""

from __future__ import annotations

from typing import TextIO

from skin.data.class_names import readable_name
from skin.model.classifier import Answer
from skin.utils.errors import printable

import rich.table
from rich.console import Console
from rich.text import Text

_BAR = 16  # characters
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def console(stream: TextIO) -> Console:
    """Return the console of a terminal: stdout or stderr."""
    return Console(file=stream, highlight=False)


class Table:
    """A table of predictions on a terminal, printed row by row."""

    def __init__(self, console: Console, top_k: int) -> None:
        self._console = console
        self._top_k = top_k
        self._header = True

    def show(self, answer: Answer[str], overlay: str | None = None) -> None:
        """Print the row of an image: its most probable classes, one below the other, and its prediction set."""
        prediction = answer.prediction
        if prediction is None:
            return
        classes, bars, percents = Text(), Text(style="cyan"), Text()
        for line, (name, probability) in enumerate(prediction.top(self._top_k)):
            style = "bold" if line == 0 else ""
            classes.append(printable(readable_name(name)) + "\n", style)
            bars.append(_bar(probability) + "\n")
            percents.append(f"{100 * probability:.1f} %\n", style)
        members = Text(", ".join(map(printable, prediction.prediction_set)))
        if prediction.unlike:
            members.append("\nunlike the training images", "yellow")
        row = self._one_row()
        row.add_row(Text(printable(answer.source, limit=4096)), classes, bars, percents, members)
        self._console.print(row)

    def _one_row(self) -> rich.table.Table:
        """Return a table for one row; its columns are as wide as those of the other rows' tables."""
        table = rich.table.Table(
            box=None, show_header=self._header, expand=True, padding=(0, 1), header_style="dim"
        )
        table.add_column("image", ratio=3, overflow="fold")
        table.add_column("class", ratio=3)
        table.add_column("", width=_BAR)
        table.add_column("", width=7, justify="right")
        table.add_column("90 % set", ratio=2)
        self._header = False
        return table


def _bar(share: float) -> str:
    eighths = round(share * _BAR * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
