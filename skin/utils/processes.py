"""The end of a script: whatever happens, it and all its processes are gone within seconds.

Two things would keep it alive for ever. First, a loader's process ignores SIGTERM, and Python's exit waits for it
without a limit: `end_children` kills it. Second, a thread or a library may hang while the process ends: `leave` gives
them five seconds. `skin.utils.signals.StopWatch` guards against a third, a signal that is never handled.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from skin.utils.signals import handled

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

LONGEST_TMPDIR = 55  # bytes: a socket's name has 103 on macOS, 107 on Linux, and `/pymp-…/listener-…` takes 45
SECONDS_TO_END = 5.0  # for threads, exit functions and libraries at the end of a script


def end_children() -> None:
    """Kill the live processes that this one started through `multiprocessing`, mostly loader processes."""
    if "multiprocessing" not in sys.modules:
        return
    import multiprocessing

    children = multiprocessing.active_children()
    # Torch has a handler that raises an exception if a loader process is killed.
    deaf = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    with handled([signal.SIGCHLD] if deaf and children else [], signal.SIG_DFL):
        for child in children:
            child.kill()
        for child in children:
            child.join(1)


@contextlib.contextmanager
def spawned(processes: int, initializer: Callable[..., object], *arguments: object) -> Iterator[ProcessPoolExecutor]:
    """Yield an executor of new processes, one for each task; in the main thread alone.

    They ignore Ctrl-C, which reaches all processes of a terminal: in the middle of its imports, each would print a
    traceback. Whatever ends the block early kills them, and all others of `end_children`.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(processes, get_context("spawn"), initializer, arguments) as executor:
        with handled([signal.SIGINT], signal.SIG_IGN):  # each inherits it at its start, by a first task
            for _ in range(processes):
                executor.submit(int)
        try:
            yield executor
        except BaseException:
            end_children()
            raise


def leave(code: int) -> NoReturn:
    """End this process with `code`: by SystemExit, and after five seconds by force."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        end_now(code)  # in the midst: the peers may be gone, and libraries would wait for them at the end
    threading.Thread(target=_end_if_it_hangs, args=(code,), name="end", daemon=True).start()
    gc.freeze()  # the interpreter's last search for garbage would take as long as half of torch's import
    sys.exit(code)


def _end_if_it_hangs(code: int) -> None:
    time.sleep(SECONDS_TO_END)
    if not threading.main_thread().is_alive():  # otherwise somebody has caught the SystemExit, and goes on
        end_now(code)


def end_now(code: int) -> NoReturn:
    """End this process and its children at once, past all handlers, exit functions and other threads."""
    end_children()
    if "multiprocessing.util" in sys.modules:
        shutil.rmtree(_folder_of_children(), ignore_errors=True)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    os._exit(code)


def prepare_children() -> None:
    """Let later children put their sockets into this process's folder, which this process removes at its end.

    Otherwise each would make a folder of its own, and leave it behind when it is killed.
    """
    _folder_of_children()


def _folder_of_children() -> str:
    from multiprocessing import util

    before = tempfile.tempdir
    # If TMPDIR is long, the name of a socket in it is too long for the system. The error comes in a thread of the
    # child's queue, which prints a traceback. The batch is lost, and the main process waits for it for ever.
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_TMPDIR:
        tempfile.tempdir = next((path for path in ("/tmp", "/var/tmp", "/dev/shm") if os.access(path, os.W_OK)), None)
    try:
        return util.get_temp_dir()  # the first call makes it; children inherit it
    finally:
        tempfile.tempdir = before
