"""What a run says: lines on stdout and in train.log, a progress bar where there is a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from skin.utils.errors import printable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Log:
    """One voice for a run. Only the main process speaks (`quiet` elsewhere).

    Args:
        file: also written to, with the time of day before each line; appended to.
    """

    def __init__(self, file: Path | None = None, quiet: bool = False) -> None:
        self.quiet = quiet
        self._said: set[str] = set()
        self.file = file
        stream: Any = sys.stdout and _Lasting(sys.stdout)  # None where the caller closed it: Console is silent then
        self.console = Console(file=stream, highlight=False, soft_wrap=True, emoji=False, quiet=quiet)

    def say(self, text: str = "", style: str | None = None) -> None:
        """Print a line (or several); foreign text in it is made printable.

        A full disk costs the file a line and not the user a run: the checkpoints tell of it.
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
        """Print a line on stderr, where a script's answers do not hide it, and keep it in the file."""
        if not self.quiet:
            print(printable(text, limit=1000), file=sys.stderr, flush=True)
        self._keep([printable(text, limit=1000)])

    def say_once(self, text: str) -> None:
        """Say what is worth saying, but not after every epoch."""
        if text not in self._said:
            self._said.add(text)
            self.say(text)

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


class _Lasting:
    """A stream that goes on to nowhere when its reader, or its terminal, has gone away: a run has train.log."""

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
