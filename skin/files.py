"""Files that are written whole or not at all, locks, and file names that every system takes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from filelock import BaseFileLock

RESERVE_BYTES = 2 * 2**30  # of a disk that caches leave free, or a twentieth of it if that is less

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # EDQUOT: the user's share of the disk is used up
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|$)", re.IGNORECASE)


def is_full(error: BaseException) -> bool:
    """Return whether an error says that the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def spare_bytes(folder: Path) -> int:
    """Return how much a cache in `folder` may still take of the disk; below zero if it has too much already."""
    disk = shutil.disk_usage(folder)
    return disk.free - min(RESERVE_BYTES, disk.total // 20)


@contextlib.contextmanager
def written_aside(path: str | os.PathLike[str], sync: bool = False) -> Iterator[BinaryIO]:
    """Yield a file without a buffer that takes the name `path` when the block ends, and is removed if it raises.

    Readers see what was at `path` before or the whole new file. A process that is killed leaves a `*.tmp` beside it.

    Args:
        sync: wait until the contents are on the disk, so that they outlive a power cut.
    """
    temporary = f"{os.fspath(path)}.{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb", buffering=0) as file:
            yield file
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of `data` to a file without a buffer: a disk that fills up takes a part of it before it fails."""
    view = memoryview(data).cast("B")
    while view:
        view = view[file.write(view) :]


def lock(path: Path, seconds: float = 0.0) -> BaseFileLock | None:
    """Hold the lock file `path` until `release()` or the end of this process; None if the file system has no locks.

    The system lets go of the lock when the process is killed. A forked process does not hold it.

    Raises:
        TimeoutError: somebody else has held it for `seconds`.
    """
    from filelock import FileLock  # takes longer to import than most scripts have need of a lock

    held = FileLock(path, timeout=seconds, blocking=seconds > 0, thread_local=False, fallback_to_soft=False)
    try:
        held.acquire()
    except TimeoutError:
        raise
    except (OSError, NotImplementedError):
        return None
    return held


def safe_name(name: str) -> str:
    """Return `name` as a file name that Linux, macOS and Windows take: the same if it is one already.

    Two names may become the same one.
    """
    name = _NOT_IN_NAMES.sub("_", name)
    if name[-1:] in (" ", "."):  # Windows leaves them out
        name = name[:-1] + "_"
    return "_" + name if _DEVICES.match(name) else name
