"""Handle the signals of our processes: a signal ends the process, waits for the end of a step, or is ignored.

A signal reaches Python's handler only between two steps of the interpreter. None comes while a process waits in C++
for a peer that is gone. So a `StopWatch` sees signals from a thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import NamedTuple, NoReturn

STOP_SIGNALS = tuple(
    int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)  # Windows has no SIGHUP, and it alone has SIGBREAK
SAVE_SIGNALS = tuple(int(getattr(signal, name)) for name in ("SIGUSR1",) if hasattr(signal, name))  # none on Windows
SECONDS_TO_STOP = 8.0  # that a process may wait for others after a signal to stop
LOADER = "a loader process"

Handler = Callable[[int, FrameType | None], object] | int


class Stopped(Exception):
    """All processes of a run have agreed to stop here, between two steps."""


@contextlib.contextmanager
def handled(numbers: Iterable[int], handler: Handler) -> Iterator[None]:
    """Let `handler` take these signals until the block ends. A signal that is ignored, as by `nohup`, stays so."""
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)  # None: it was not Python's


def end(number: int, frame: FrameType | None = None) -> NoReturn:
    """Raise the exception that ends a script after a signal: KeyboardInterrupt for SIGINT, otherwise SystemExit."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def ignore_in_worker() -> None:
    """Let a loader's process ignore the signals that are sent to its whole group.

    That is Ctrl-C, a lost terminal, and the SIGTERM of torchrun, `timeout` and systemd. The main process ends its
    workers: by an event, or by `skin.utils.processes.end_children`. A worker whose parent is dead ends by itself.
    """
    for number in (*STOP_SIGNALS, *SAVE_SIGNALS):
        signal.signal(number, signal.SIG_IGN)


class Interrupts:
    """`with Interrupts() as interrupts:` takes the signals of a run, from its first line to its last.

    Until `hold` is called, SIGINT, SIGTERM and SIGHUP end the process at once, as usual. From then on they set
    `stop`, and SIGUSR1 sets `save`. The loop looks at both between steps.

    A second SIGINT does not wait: it raises KeyboardInterrupt. It must come a second later, though, since `torchrun`
    passes on the Ctrl-C that the terminal has already sent to its processes.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self.save = False
        self._holding = False
        self._alone = False
        self._first = 0.0
        self._exits = ExitStack()
        self._held = ExitStack()

    def __enter__(self) -> Interrupts:
        self._exits.enter_context(handled((*STOP_SIGNALS, *SAVE_SIGNALS), self._take))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()
        self._exits.close()

    def hold(self, alone: bool = False) -> None:
        """Let signals wait for the end of a step from now on.

        Args:
            alone: no other process trains with this one. A signal then does not wait for a batch that has not come
                yet: it raises `Stopped`, and the step before is the last.
        """
        self._holding, self._alone = True, alone
        self._held.enter_context(patience())

    def release(self) -> None:
        """Let signals end the process at once again, also one that came while they were held."""
        self._holding = False
        self._held.close()
        if self.stop is not None:
            end(self.stop)

    def stopping(self) -> bool:
        """Return True if this process was asked to stop."""
        return self.stop is not None

    def saved(self) -> None:
        """Note that the save that SIGUSR1 asked for is done."""
        self.save = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number in SAVE_SIGNALS:
            self.save = True
        elif not self._holding:
            end(number)
        elif self.stop is None:
            self.stop, self._first = number, time.monotonic()
            if self._alone and _wait is not None and _wait.what == LOADER:
                raise Stopped
        elif number == signal.SIGINT and time.monotonic() - self._first > 1:
            end(number)


# ---- a process that a signal does not end ---------------------------------------------------------------


class _Wait(NamedTuple):
    what: str
    since: float


_wait: _Wait | None = None  # of the main thread; signals belong to the process, and so does this
_patient = False


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Mark that this process does nothing but wait for another one, such as "a loader process"."""
    global _wait
    before, _wait = _wait, _Wait(what, time.monotonic())
    try:
        yield
    finally:
        _wait = before


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Let this process come to a clean place after a signal to stop, however long its own work takes."""
    global _patient
    before, _patient = _patient, True
    try:
        yield
    finally:
        _patient = before


class StopWatch:
    """`with StopWatch(end_now):` ends this process if a signal to stop has not ended it within eight seconds.

    Within `patience`, it may take all the time that it needs to come to a clean place, such as the end of a step of a
    minute. Only the time that it spends in `waiting` counts there.

    Args:
        end_now: called with the exit code, in another thread; must end the process.
    """

    def __init__(self, end_now: Callable[[int], NoReturn]) -> None:
        self._end_now = end_now
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._before = -1

    def __enter__(self) -> StopWatch:
        if threading.current_thread() is threading.main_thread():  # Python gives signals to no other thread
            own, other = self._ends = socket.socketpair()  # a pipe would not do on Windows
            other.setblocking(False)
            self._before = signal.set_wakeup_fd(other.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._look_on, args=(own,), name="stop", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ends is not None:
            signal.set_wakeup_fd(self._before)
            _, other = self._ends
            other.close()  # so the thread reads an end

    def _look_on(self, own: socket.socket) -> None:
        number, came = 0, 0.0
        while True:
            own.settimeout(0.25 if number else None)
            with contextlib.suppress(TimeoutError):
                numbers = own.recv(64)
                if not numbers:
                    own.close()
                    return
                first = next((n for n in numbers if n in STOP_SIGNALS), 0)
                if first and not number:
                    number, came = first, time.monotonic()
            if number:
                self._end_if_stuck(number, came)

    def _end_if_stuck(self, number: int, came: float) -> None:
        wait, now = _wait, time.monotonic()
        since = came if not _patient else max(came, wait.since) if wait else now
        if now - since > SECONDS_TO_STOP:
            what = f"waited for {wait.what}" if wait else "did not end"
            line = f"error: stopped, though this process {what} for {SECONDS_TO_STOP:g} s after the signal\n"
            with contextlib.suppress(OSError):
                os.write(2, line.encode())
            self._end_now(128 + number)
