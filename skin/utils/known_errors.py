"""Turn errors that are not the user's fault into one clear line: memory, killed processes, lost peers.

torch reports these by a dozen exceptions whose texts run over pages. Here, and only here, they become a
`UserError` that says what happened and how to go on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from skin.utils.errors import UserError

_ROOT = Path(__file__).parents[2]
_OURS = ("skin", "tests", "train")
_GPU_IS_FULL = re.compile(r"OutOfMemoryError|out of memory|_ALLOC_FAILED")
_HOST_IS_FULL = re.compile(r"MemoryError|std::bad_alloc|[Cc]an('|no)t allocate memory")
_NO_ROOM = re.compile(r"failed to map segment|cannot allocate memory", re.IGNORECASE)
_TOO_MANY_FILES = "Too many open files"
# gloo's errors are bare RuntimeErrors that name its source files; NCCL's have classes, such as DistBackendError.
_FROM_PEERS = re.compile(r"\bDist\w*Error|gloo|Connection closed by peer|ProcessGroup")
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (exited unexpectedly|is killed by [^.]*)")


@contextlib.contextmanager
def as_user_errors(
    batch_size: int | None = None, go_on: Callable[[], str] = lambda: "", passes: int | None = None
) -> Iterator[None]:
    """Turn the errors that are known here into a `UserError`; let every other exception pass.

    Args:
        batch_size: images in a pass on each device; None if no other could be tried.
        go_on: called after a fault; returns how to go on once it is mended.
        passes: that a training step is made of; None if nothing is trained.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        line = advice_on(error, batch_size, passes)
        if line is None:
            raise
        raise UserError("; ".join(filter(None, (line, go_on())))) from error


def advice_on(error: BaseException, batch_size: int | None = None, passes: int | None = None) -> str | None:
    """Return one line that says what happened and what to do; None if the exception is not known here.

    Args:
        batch_size, passes: as in `as_user_errors`.
    """
    text = str(error)
    if _GPU_IS_FULL.search(_line(error)):
        return "the GPU has too little memory" + _smaller(batch_size, passes)
    workers = "" if batch_size is None else ", or fewer --workers"  # which such a script may not have
    if _TOO_MANY_FILES in text:
        return f"this process may not open as many files as it needs: raise the limit by ulimit -n 4096{workers}"
    if isinstance(error, ImportError) and _NO_ROOM.search(text):
        return (
            "this machine, or a limit such as ulimit -v, leaves too little memory to load a library "
            f"({text.partition(':')[0]}): end what else uses it, or raise the limit"
        )
    if _HOST_IS_FULL.search(_line(error)):
        return "this machine has too little memory" + _smaller(batch_size, passes) + workers
    if "Bus error" in text or re.search(r"</torch_\S*>: No space left", text) or _is_of_a_semaphore(error):
        return "the loader's processes have too little shared memory (/dev/shm): enlarge it, or use --workers 0"
    if worker := _WORKER.search(text):
        return f"loader process {worker[1]} {worker[2]} (for want of memory, often): try fewer --workers"
    if is_about_peers(_line(error)):
        if re.search(r"[Tt]im(ed|e) ?out", text):
            return "another of the training processes has not answered in time, so this one stops"
        return "another of the training processes has ended, so this one stops; its own message says why"
    if "CUDA error" in text or type(error).__name__ == "AcceleratorError":
        return f"the GPU has failed: {text.partition(chr(10))[0]}"
    if "Symlink loop" in text:
        return f"{text}: a link that leads back to itself; name another path"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return None if package in _OURS else _missing(package)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return None


def is_out_of_memory(line: str | BaseException) -> bool:
    """Return True if an exception, or the last line of a traceback, says that memory ran out, on a GPU or host."""
    text = line if isinstance(line, str) else _line(line)
    return bool(_GPU_IS_FULL.search(text) or _HOST_IS_FULL.search(text))


def is_about_peers(line: str) -> bool:
    """Return True if the last line of a traceback tells of the end of another process. Its message says more."""
    return bool(_FROM_PEERS.search(line))


def _missing(package: str) -> str:
    """Return what to do about a package that this Python lacks: most often, .venv is there and not activated."""
    made = _ROOT / ".venv"
    script = made / ("Scripts/activate" if os.name == "nt" else "bin/activate")
    if script.is_file() and Path(sys.prefix).resolve() != made.resolve():
        activate = _quoted(script) if os.name == "nt" else f"source {_quoted(script)}"
        return f"the package {package} is not installed for {sys.executable}: run `{activate}` first"
    install = f"{_quoted(Path(sys.executable))} -m pip install -r {_quoted(_ROOT / 'requirements.txt')}"
    return f"the package {package} is not installed: run `{install}`"


def _quoted(path: Path) -> str:
    """Return a path as it is typed, relative to the working folder if it lies in that."""
    here = Path.cwd()
    text = str(path.relative_to(here) if path.is_relative_to(here) else path)
    return f'"{text}"' if " " in text else text


def _is_of_a_semaphore(error: BaseException) -> bool:
    """Return True if there was no room for a lock between processes: Linux keeps those in shared memory, too."""
    frames = traceback.extract_tb(error.__traceback__)
    return getattr(error, "errno", None) == errno.ENOSPC and any("multiprocessing" in f.filename for f in frames)


def _line(error: BaseException) -> str:
    """Return an exception as the last line of its traceback shows it."""
    return f"{type(error).__name__}: {error}"


def _smaller(batch_size: int | None, passes: int | None) -> str:
    if batch_size is None:  # the script has no batches of its own, or has not come to them
        return ": end what else uses it, or use a smaller model"
    if batch_size < 2:
        return ": start a new run with a smaller --image-size or --model"
    if passes is None:
        return f" for {batch_size} images at a time: try --batch-size {batch_size // 2}"
    # The steps stay what they were, if the number is even.
    return f" for {batch_size} images at a time: try --batch-size {batch_size // 2} --accumulate {2 * passes}"
