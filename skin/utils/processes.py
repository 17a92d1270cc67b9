"""Ends of processes: whatever happens, a script and all that it started are gone within seconds.

Three things would keep it alive for ever. A loader's process ignores SIGTERM, and Python's exit waits for it without
a limit: `end_children` kills it. A thread or a library may hang while the process ends: `leave` gives them five
seconds. A signal to stop reaches Python's handler only between two steps of the interpreter, and none comes while
the process waits in C++ for a peer that is gone: a `StopWatch` sees the signal from a thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, NoReturn

STOP_SIGNALS = tuple(
    int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)  # Windows has no SIGHUP, and it alone has SIGBREAK
SECONDS_TO_STOP = 8.0  # that a process may wait for others after a signal to stop
LONGEST_TMPDIR = 55  # bytes: a socket's name has 103 on macOS, 107 on Linux, and `/pymp-…/listener-…` takes 45
SECONDS_TO_END = 5.0  # that threads, exit functions and libraries have at the end of a script


def end_children() -> None:
    """Kill what this process started through `multiprocessing` and is still alive: loader processes, for the most."""
    if "multiprocessing" not in sys.modules:
        return
    import multiprocessing

    children = multiprocessing.active_children()
    if not children:
        return
    with _deaf_to_children():
        for child in children:
            child.kill()
        for child in children:
            child.join(1)


@contextlib.contextmanager
def _deaf_to_children() -> Iterator[None]:
    """Let nobody hear of a child's end meanwhile: torch makes an exception of a loader process that is killed."""
    number = getattr(signal, "SIGCHLD", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL if before is None else before)


def leave(code: int) -> NoReturn:
    """End this process with `code`: by SystemExit, and in five seconds by force."""
    distributed = sys.modules.get("torch.distributed")
    if code and distributed is not None and distributed.is_available() and distributed.is_initialized():
        end_now(code)  # its peers may be gone, and what libraries do at the end would wait for them
    threading.Thread(target=_end_if_it_hangs, args=(code,), name="end", daemon=True).start()
    sys.exit(code)


def _end_if_it_hangs(code: int) -> None:
    time.sleep(SECONDS_TO_END)
    if not threading.main_thread().is_alive():  # otherwise somebody has caught the SystemExit, and goes on
        end_now(code)


def end_now(code: int) -> NoReturn:
    """End this process and its children at once: no handler, no exit function, no other thread has a say."""
    end_children()
    if "multiprocessing.util" in sys.modules:
        shutil.rmtree(_folder_of_children(), ignore_errors=True)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    os._exit(code)


def prepare_children() -> None:
    """Let the children that come after this have their sockets in this process's folder, which removes it at its end.

    Each would make a folder of its own otherwise, and leave it behind when it is killed.
    """
    _folder_of_children()


def _folder_of_children() -> str:
    from multiprocessing import util

    before = tempfile.tempdir
    # Where TMPDIR is long, a socket in it has no name that the system takes. That shows in a thread of the child's
    # queue, which prints a traceback; the batch is lost, and the main process waits for it for ever.
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_TMPDIR:
        tempfile.tempdir = next((path for path in ("/tmp", "/var/tmp", "/dev/shm") if os.access(path, os.W_OK)), None)
    try:
        return util.get_temp_dir()  # is made at the first call; children inherit it
    finally:
        tempfile.tempdir = before


class _Wait(NamedTuple):
    what: str
    since: float


_wait: _Wait | None = None  # of the main thread; signals are the process's, and so is this


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Mark that this process does nothing but wait for another one, such as "a loader process"."""
    global _wait
    before, _wait = _wait, _Wait(what, time.monotonic())
    try:
        yield
    finally:
        _wait = before


def is_waiting_for(what: str) -> bool:
    """Return whether this process waits for just that."""
    return _wait is not None and _wait.what == what


class StopWatch:
    """`with StopWatch():` ends this process where a signal to stop has not done so within eight seconds.

    Within `patience` it may take as long as it needs to come to a clean place, such as the end of a step that takes a
    minute, and only the time that it spends in `waiting` counts.
    """

    def __init__(self) -> None:
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
            self._end_if_stuck(number, came)

    def _end_if_stuck(self, number: int, came: float) -> None:
        if not number:
            return
        wait, now = _wait, time.monotonic()
        since = came if not _patient else max(came, wait.since) if wait else now
        if now - since > SECONDS_TO_STOP:
            what = f"waited for {wait.what}" if wait else "did not end"
            _say(f"error: stopped, though this process {what} for {SECONDS_TO_STOP:g} s after the signal")
            end_now(128 + number)


_patient = False


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Let this process come to a clean place after a signal to stop, however long its own work takes."""
    global _patient
    before, _patient = _patient, True
    try:
        yield
    finally:
        _patient = before


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
