"""Signals, kept until a step is done: a run is asked to stop or to save, and does so at a clean place."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import NoReturn

from skin.utils import processes
from skin.utils.processes import STOP_SIGNALS

SAVE_SIGNALS = tuple(int(getattr(signal, name)) for name in ("SIGUSR1",) if hasattr(signal, name))  # none on Windows
LOADER = "a loader process"


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
        self._alone = False
        self._first = 0.0
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._patience = ExitStack()

    def __enter__(self) -> Interrupts:
        for number in (*STOP_SIGNALS, *SAVE_SIGNALS):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patience.close()
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not Python's

    def hold(self, alone: bool = False) -> None:
        """Let signals wait for the end of a step from now on.

        Args:
            alone: no other process trains with this one. Then a batch that has not come yet is not waited for
                either: the signal raises `Stopped` there, and the step before is the last.
        """
        self._holding, self._alone = True, alone
        self._patience.enter_context(processes.patience())

    def stopping(self) -> bool:
        """Return whether this process was asked to stop."""
        return self.stop is not None

    def saved(self) -> None:
        """Take note that what SIGUSR1 asked for has been saved."""
        self.save = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number in SAVE_SIGNALS:
            self.save = True
        elif not self._holding:
            _leave(number)
        elif self.stop is None:
            self.stop, self._first = number, time.monotonic()
            if self._alone and processes.is_waiting_for(LOADER):
                raise Stopped
        elif number == signal.SIGINT and time.monotonic() - self._first > 1:
            _leave(number)


def _leave(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def ignore_in_worker() -> None:
    """Let a loader's process ignore what is sent to the whole group: Ctrl-C, a lost terminal, and the SIGTERM of
    torchrun, `timeout` and systemd. Its end is the main process's to say, which does so by an event, or kills it
    (`skin.utils.processes.end_children`); one whose parent is dead sees so within seconds."""
    for number in (*STOP_SIGNALS, *SAVE_SIGNALS):
        signal.signal(number, signal.SIG_IGN)
