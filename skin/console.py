"""What a run says: lines on stdout and in train.log, a progress bar where there is a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from skin.errors import printable


class Log:
    """One voice for a run. Only the main process speaks (`quiet` elsewhere).

    Args:
        file: also written to, with the time of day before each line; opened for appending.
    """

    def __init__(self, file: Path | None = None, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(highlight=False, soft_wrap=True, quiet=quiet)
        self._file: TextIO | None = None
        if file and not quiet:
            self._file = open(file, "a", encoding="utf-8")  # noqa: SIM115  it is open as long as the run

    def say(self, text: str = "", style: str | None = None) -> None:
        """Print a line (or several); foreign text in it is made printable."""
        for line in text.split("\n"):
            line = printable(line, limit=1000)
            self.console.print(line, style=style, markup=False)
            if self._file is not None and line:
                self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
                self._file.flush()

    @contextlib.contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """A bar with images/s and the time left; the function it gives is called with images done.

        Off a terminal nothing is drawn: the line at the end of an epoch says it all.
        """
        if self.quiet or not self.console.is_terminal:
            yield lambda images: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:.0f} images/s"),
            TimeRemainingColumn(),
        )
        start = time.perf_counter()
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(title, total=total, completed=done, speed=0.0)
            seen = 0

            def advance(images: int) -> None:
                nonlocal seen
                seen += images
                bar.update(task, advance=images, speed=seen / (time.perf_counter() - start))

            yield advance

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


