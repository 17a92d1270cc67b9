"""Predictions on a terminal: a table that grows row by row, and a bar that tells how far it has come."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from skin.data.class_names import readable_name
from skin.utils.errors import printable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from skin.model.classifier import Answer

_BAR = 16  # characters
_EIGHTHS = " ▏▎▍▌▋▊▉█"


class Terminal:
    """A context in which answers are shown and counted.

    Args:
        stream: the terminal, stdout or stderr.
        total: images to come, or None where nobody knows.
    """

    def __init__(self, stream: TextIO, total: int | None) -> None:
        self._console = Console(file=stream, highlight=False)
        self._header = True
        self._progress: Progress | None = None
        if total is None or total > 1:
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.speed:.0f} images/s") if total is None else TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Terminal:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def advance(self, images: int) -> None:
        if self._progress:
            self._progress.advance(self._task, images)

    def show(self, answer: Answer[str], top_k: int) -> None:
        """Print an image's row: its `top_k` classes below one another, and its prediction set."""
        prediction = answer.prediction
        if prediction is None:
            return
        table = self._table()
        classes, bars, shares = Text(), Text(style="cyan"), Text()
        for line, (name, probability) in enumerate(prediction.top(top_k)):
            style = "bold" if line == 0 else ""
            classes.append(printable(readable_name(name)) + "\n", style)
            bars.append(_bar(probability) + "\n")
            shares.append(f"{100 * probability:.1f} %\n", style)
        members = Text(", ".join(map(printable, prediction.prediction_set)))
        if prediction.unlike:
            members.append("\nunlike the training images", "yellow")
        table.add_row(Text(printable(answer.source, limit=4096)), classes, bars, shares, members)
        self._console.print(table)

    def _table(self) -> Table:
        """A table of one row whose columns are as wide as those of the next."""
        table = Table(box=None, show_header=self._header, expand=True, padding=(0, 1), header_style="dim")
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
