"""Signals, kept until a step is done: a run is asked to stop or to save, and does so at a clean place."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import NoReturn

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAVE = (signal.SIGUSR1,)


class Stopped(Exception):
    """All processes of a run have agreed to stop here, between two steps."""


class Interrupts:
    """`with Interrupts() as interrupts:` takes the signals of a run, from its first line to its last.

    Until `hold` is called, SIGINT, SIGTERM and SIGHUP end the process at once, as usual. From then on they
    set `stop`, and SIGUSR1 sets `save`, to be looked at between steps. A signal that the run was started to
    ignore (`nohup`) stays ignored.

    A second SIGINT does not wait: it raises KeyboardInterrupt. It must come a second later, though, since
    `torchrun` passes on the Ctrl-C that the terminal has sent to its processes already.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self.save = False
        self._holding = False
        self._first = 0.0
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Interrupts:
        for number in (*STOP, *SAVE):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not Python's

    def hold(self) -> None:
        """From now on signals wait for the end of a step."""
        self._holding = True

    def stopping(self) -> bool:
        """Whether this process was asked to stop."""
        return self.stop is not None

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number in SAVE:
            self.save = True
        elif not self._holding:
            _leave(number)
        elif self.stop is None:
            self.stop, self._first = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._first > 1:
            _leave(number)


def _leave(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def ignore_in_worker() -> None:
    """In a loader's process: what is sent to the whole group reaches it too (Ctrl-C, a lost terminal, the SIGTERM
    of torchrun, `timeout` and systemd), but its end is the main process's to say. That says it by an event, at its
    own exit too, and a loader's process whose parent is dead sees so within seconds: neither needs a signal."""
    for number in (*STOP, *SAVE):
        signal.signal(number, signal.SIG_IGN)
