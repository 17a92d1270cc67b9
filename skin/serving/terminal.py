"""Predictions on a terminal of any width, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from skin.data.class_names import readable_name
from skin.model.classifier import Answer
from skin.utils.errors import printable

import rich.table
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

_BAR = 16  # characters
_ROOM_FOR_BARS = 48  # columns of the terminal; a narrower one has no bars and no margins
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SHOWN = 10  # classes of a set


def console(stream: TextIO) -> Console:
    """Return the console of a terminal: stdout or stderr."""
    return Console(file=stream, highlight=False, emoji=False)


class Blocks:
    """Predictions as blocks of lines: the image, its first classes, and its prediction set.

    A class has a line of its own, on which its number comes first: a long name goes on below itself, and a terminal
    that writes Arabic from right to left has no reason to move the number.
    """

    def __init__(self, console: Console, top_k: int) -> None:
        self._console = console
        self._top_k = top_k
        self._wide = console.width >= _ROOM_FOR_BARS

    def show(self, answer: Answer[str], overlay: str | None = None) -> None:
        """Print the block of an image."""
        prediction = answer.prediction
        if prediction is None:
            return
        parts: list[RenderableType] = [Text(printable(answer.source, limit=4096), style="bold", overflow="fold")]
        if prediction.unlike:
            parts.append(Text("unlike the training images: the numbers mean little", "yellow"))
        parts.append(self._classes(prediction.top(self._top_k)))
        parts.append(Text(f"90 % set: {_listed(prediction.prediction_set)}", overflow="fold"))
        indent = (0, 0, 0, 2 if self._wide else 0)
        self._console.print(Group(parts[0], *(Padding(part, indent, expand=False) for part in parts[1:])))

    def _classes(self, top: Sequence[tuple[str, float]]) -> rich.table.Table:
        grid = rich.table.Table.grid(padding=(0, 1 + self._wide, 0, 0))
        grid.add_column(justify="right", no_wrap=True, min_width=len("100.0 %"))
        if self._wide:
            grid.add_column(width=_BAR, style="cyan")
        grid.add_column(overflow="fold")
        for line, (name, probability) in enumerate(top):
            style = "bold" if line == 0 else ""
            cells = [Text(f"{100 * probability:.1f} %", style), Text(_bar(probability))]
            grid.add_row(*cells[: 1 + self._wide], Text(printable(readable_name(name)), style))
        return grid


def _listed(names: Sequence[str]) -> str:
    """Return the classes of a set, as far as a person reads them."""
    shown = ", ".join(printable(readable_name(name)) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")


def _bar(share: float) -> str:
    eighths = round(share * _BAR * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
