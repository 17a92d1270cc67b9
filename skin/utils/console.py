"""The messages of a run on stdout and in train.log, and the progress bar of every script."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from skin.utils.errors import printable

from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)  # fmt: skip
from rich.table import Column
from rich.text import Text

LINE_MINUTES = 3.0  # between lines on how far a bar has come, where there is no terminal to draw it on


@contextlib.contextmanager
def progress(
    console: Console, title: str, total: int | None, done: int = 0, note: Callable[[], str] = lambda: ""
) -> Iterator[Callable[[int], None]]:
    """Show a bar with images per second and the time left; yield a function to call with the number of images done.

    Nothing is drawn if `console` is quiet, or where a bar cannot be drawn over itself (see `can_redraw`).

    Args:
        total: images in total; None if nobody knows.
        done: images that were done before.
        note: returns what else there is to say, such as when all the work ends.
    """
    if console.quiet or not can_redraw(console):
        yield lambda images: None
        return
    start, seen = time.perf_counter(), 0
    with Progress(*_columns(console.width, total), console=console, transient=True) as bar:
        task = bar.add_task(title, total=total, completed=done, speed="", note=note())

        def advance(images: int) -> None:
            nonlocal seen
            seen += images
            speed = _speed(seen, time.perf_counter() - start)
            bar.update(task, advance=images, speed=speed, note=note())

        yield advance


def _columns(width: int, total: int | None) -> list[ProgressColumn]:
    """Return the columns of a bar on a terminal of `width` columns: the narrower it is, the fewer they are."""
    title, note = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
    if width < 40:
        room = Column(max_width=width - len(" 100%"), no_wrap=True)
        short = TextColumn("{task.description}", table_column=room)
        return [short, TaskProgressColumn() if total else MofNCompleteColumn()]
    bar = BarColumn(bar_width=max(4, min(40, width - 68)))
    if width < 80:
        return [title, bar, MofNCompleteColumn(), TimeRemainingColumn()]
    return [title, bar, MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn(), note]


def _speed(images: int, seconds: float) -> str:
    return f"{images / seconds:.0f} images/s" if seconds > 0 else ""


def can_redraw(console: Console) -> bool:
    """Return True if what `console` shows can be drawn over: on a terminal, and in a notebook that has ipywidgets.

    FORCE_COLOR, which notebooks and some CI set for the programs that they start, asks for colour alone. Rich takes
    a pipe for a terminal by it.
    """
    if console.is_jupyter:  # rich draws through ipywidgets there, and would warn at each frame if they are missing
        return importlib.util.find_spec("ipywidgets") is not None
    return _is_screen(console)


def _is_screen(console: Console) -> bool:
    return console.is_terminal and console.file.isatty()


class Log:
    """The messages of a run. Only the main process prints them (`quiet` in the others).

    Args:
        file: gets every line as well, after the date and time; it is appended to.
    """

    def __init__(self, file: Path | None = None, quiet: bool = False) -> None:
        self.quiet = quiet
        self._said: set[str] = set()
        self.file = file
        stream: Any = sys.stdout and _Lasting(sys.stdout)  # None if the caller closed it: Console is silent then
        self.console = Console(file=stream, highlight=False, soft_wrap=True, emoji=False, quiet=quiet)

    @property
    def width(self) -> int | None:
        """The columns of the terminal; None if the lines do not go to one, and may have any length."""
        return self.console.width if _is_screen(self.console) else None

    def say(self, text: str = "", style: str | None = None, on_terminal: str | None = None) -> None:
        """Print one or more lines, their foreign text made printable; a terminal gets them wrapped between words.

        If the disk is full, the file lacks a line and the run goes on: saving a checkpoint will report it.

        Args:
            on_terminal: lines that a terminal gets instead, as they are.
        """
        lines = shown = [printable(line, limit=1000) for line in text.split("\n")]
        if self.width is not None and on_terminal is None:
            shown = [part for line in lines for part in _wrapped(line, self.console)]
        elif self.width is not None and on_terminal is not None:
            shown = [printable(line, limit=1000) for line in on_terminal.split("\n")]
        for line in shown:
            self.console.print(line, style=style, markup=False)
        self._keep(lines)

    def _keep(self, lines: list[str]) -> None:
        if self.file is None or self.quiet:
            return
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OSError), open(self.file, "a", encoding="utf-8") as file:
            file.writelines(f"{now}  {line}\n" for line in lines if line)

    def warn(self, text: str) -> None:
        """Print a line on stderr, apart from the script's answers on stdout, and write it to the file."""
        if not self.quiet:
            print(printable(text, limit=1000), file=sys.stderr, flush=True)
        self._keep([printable(text, limit=1000)])

    def say_once(self, text: str) -> None:
        """Say `text`, unless it was said before."""
        if text not in self._said:
            self._said.add(text)
            self.say(text)

    @contextlib.contextmanager
    def progress(
        self, title: str, total: int, done: int = 0, note: Callable[[], str] = lambda: ""
    ) -> Iterator[Callable[[int], None]]:
        """Show a bar, as `progress` does; off a terminal, say a line every few minutes."""
        if self.quiet or can_redraw(self.console):
            with progress(self.console, title, total, done, note) as advance:
                yield advance
            return
        start = last = time.perf_counter()
        seen = 0

        def count(images: int) -> None:
            nonlocal seen, last
            seen += images
            now = time.perf_counter()
            if now - last >= 60 * LINE_MINUTES:
                last = now
                where = f"{title}: {done + seen:,} of {total:,}", _speed(seen, now - start), note()
                self.say(", ".join(filter(None, where)))

        yield count


_LABEL = re.compile(r" *(?:\w+  +)?")  # what stands before a line's text: "model   efficientnet_b0, ..."


def _wrapped(line: str, console: Console) -> list[str]:
    """Return a line in pieces as wide as the terminal, broken between words and indented below its text.

    A command, which is there to be copied, stays whole, and so does a word that is too long.
    """
    if cell_len(line) <= console.width or "python " in line:
        return [line]
    label = _LABEL.match(line)[0]  # type: ignore[index]  # it matches an empty text, too
    if len(label) > console.width // 3:
        label, line = "", line.lstrip()
    indent = len(label) or 2
    text = Text(line[len(label) :], overflow="ignore")
    first, *others = (piece.plain.rstrip() for piece in text.wrap(console, console.width - indent))
    return [label + first, *(" " * indent + piece for piece in others)]


class _Lasting:
    """A stream that discards its text once its reader or its terminal is gone: the run still has train.log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            return self._lost()

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._lost()

    def _lost(self) -> int:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
