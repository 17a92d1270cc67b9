"""The messages of a run on stdout and in train.log, and the progress bar of every script."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from skin.utils.errors import printable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress(console: Console, title: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a bar with images per second and the time left; yield a function to call with the number of images done.

    Nothing is drawn if `console` is quiet, or where a bar cannot be drawn over itself (see `can_redraw`).

    Args:
        total: images in total; None if nobody knows.
        done: images that were done before.
    """
    if console.quiet or not can_redraw(console):
        yield lambda images: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:.0f} images/s"),
        TimeRemainingColumn(),
    )
    start, seen = time.perf_counter(), 0
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total, completed=done, speed=0.0)

        def advance(images: int) -> None:
            nonlocal seen
            seen += images
            bar.update(task, advance=images, speed=seen / (time.perf_counter() - start))

        yield advance


def can_redraw(console: Console) -> bool:
    """Return True if what `console` shows can be drawn over: on a terminal, and in a notebook that has ipywidgets.

    FORCE_COLOR, which notebooks and some CI set for the programs that they start, asks for colour alone. Rich takes
    a pipe for a terminal by it.
    """
    if console.is_jupyter:  # rich draws through ipywidgets there, and would warn at each frame if they are missing
        return importlib.util.find_spec("ipywidgets") is not None
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

    def say(self, text: str = "", style: str | None = None) -> None:
        """Print one or more lines; foreign text in them is made printable.

        If the disk is full, the file lacks a line and the run goes on: saving a checkpoint will report it.
        """
        lines = [printable(line, limit=1000) for line in text.split("\n")]
        for line in lines:
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

    def progress(
        self, title: str, total: int, done: int = 0
    ) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        """Show a bar, as `progress` does, on the console of this log."""
        return progress(self.console, title, total, done)


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
