"""Let OpenMP's threads spin while the cores are this process's alone, and sleep as soon as others need them.

A thread that waits for the others of its team spins first, and sleeps if that takes too long. One that spins goes on
at once, while one that sleeps must be woken, some hundred times in a training step. But when another program computes
on the same cores, threads that spin keep from its core the very thread that they wait for.

libgomp reads how long to spin, `GOMP_SPINCOUNT`, when it is loaded, and takes no other number afterwards. It has a
second number, though, of a hundred turns: for a process that has more OpenMP threads than cores (`do_spin` in
libgomp/config/linux/wait.h, `gomp_managed_threads` in libgomp/team.c). So a team that only sleeps, held by a thread
of Python, makes all other teams wait asleep, and its end lets them spin again. What they compute stays the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from pathlib import Path
from types import TracebackType

from skin.utils import hardware

PERIOD = 0.5  # seconds between two looks
CROWDED, CROWDED_SECONDS = 0.3, 1.0  # if threads wait for as many cores for so long, they sleep
FREE = 0.2  # cores: with less, for long enough, they spin; a loader's process leads to 0.1
PATIENCE, MOST_PATIENCE = 3.0, 60.0  # seconds of free cores before they spin: at first, and after many relapses

_TASKS = Path("/proc/self/task")


class Pressure:
    """Asks how many cores this process's threads have waited for, since it was asked last."""

    def __init__(self, tasks: Path = _TASKS) -> None:
        self._tasks = tasks
        self._before: dict[str, int] = {}
        self._waited()

    def __call__(self, seconds: float) -> float:
        """Return the mean number of threads, over the last `seconds`, that could run and had no core."""
        return self._waited() / (1e9 * seconds)

    def _waited(self) -> int:
        """Return the nanoseconds that live threads have waited for a core since the last call."""
        now: dict[str, int] = {}
        with contextlib.suppress(OSError):
            for thread in self._tasks.iterdir():
                with contextlib.suppress(OSError, IndexError, ValueError):  # it has ended
                    now[thread.name] = int((thread / "schedstat").read_text().split()[1])
        waited = sum(value - self._before.get(thread, 0) for thread, value in now.items())
        self._before = now
        return waited


class Policy:
    """Decides whether threads sleep. They do at first, and spin when the cores have been free for some time.

    After each relapse that takes twice as long: a neighbour that comes and goes is as good as one that stays. It is
    forgotten when they have spun for a minute.
    """

    def __init__(self) -> None:
        self.asleep = True
        self._patience = PATIENCE
        self._seconds = 0.0  # asleep: that the cores have been free; otherwise: that threads have spun
        self._crowded = 0.0  # seconds

    def look(self, pressure: float, seconds: float) -> bool:
        """Take the pressure of the last `seconds`, in cores; return True if threads are to sleep."""
        if self.asleep:
            self._seconds = self._seconds + seconds if pressure < FREE else 0.0
            if self._seconds >= self._patience:
                self.asleep, self._seconds, self._crowded = False, 0.0, 0.0
        else:
            self._seconds += seconds
            self._crowded = self._crowded + seconds if pressure > CROWDED else 0.0
            if self._crowded >= CROWDED_SECONDS:
                relapse = self._seconds < MOST_PATIENCE
                self._patience = min(2 * self._patience, MOST_PATIENCE) if relapse else PATIENCE
                self.asleep, self._seconds = True, 0.0
        return self.asleep


class SleepingTeam:
    """A team of OpenMP threads of its own that do nothing, as many as make more than there are cores."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._end, begun = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(library, begun), name="sleeping team", daemon=True)
        self._thread.start()
        begun.wait()

    def _hold(self, library: ctypes.CDLL, begun: threading.Event) -> None:
        threads = max(2, library.omp_get_num_procs() - library.omp_get_max_threads() + 2)
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # of a null pointer: it does nothing
        library.GOMP_parallel(nothing, None, ctypes.c_uint(threads), ctypes.c_uint(0))
        begun.set()
        self._end.wait()  # the team lives as long as the thread that has made it

    def end(self) -> None:
        """Let the threads end."""
        self._end.set()
        self._thread.join()


class CoreWatch:
    """`with CoreWatch():` watches over the cores of a script until the block ends.

    It does nothing if the user has said how threads wait, or if this system does not tell how long they wait for a
    core (`hardware.let_threads_spin`).
    """

    def __init__(self) -> None:
        self._stop = threading.Event()

    def __enter__(self) -> CoreWatch:
        if "torch" not in sys.modules:
            hardware.let_threads_spin()
        if os.environ.get("GOMP_SPINCOUNT") == hardware.LONG_SPIN_COUNT:
            with contextlib.suppress(RuntimeError):  # no more threads may be started here
                threading.Thread(target=self._watch, name="core watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    def _watch(self) -> None:
        library = loaded_libgomp()
        while library is None:  # torch is not in yet
            if self._stop.wait(PERIOD):
                return
            library = loaded_libgomp()
        if library.omp_get_max_threads() > 1:
            with contextlib.suppress(RuntimeError):
                self._decide(library)

    def _decide(self, library: ctypes.CDLL) -> None:
        pressure, policy = Pressure(), Policy()
        team: SleepingTeam | None = SleepingTeam(library)
        while not self._stop.wait(PERIOD):
            asleep = policy.look(pressure(PERIOD), PERIOD)
            if asleep and team is None:
                team = SleepingTeam(library)
            elif team is not None and not asleep:
                team.end()
                team = None
        if team is not None:
            team.end()


def loaded_libgomp() -> ctypes.CDLL | None:
    """Return the libgomp that torch has loaded; None if there is none, or not yet."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    paths = dict.fromkeys(line.split(maxsplit=5)[5] for line in lines if "libgomp" in line)
    # Another package may have brought one of its own.
    return next((ctypes.CDLL(path) for path in sorted(paths, key=lambda path: "torch" not in path)), None)
