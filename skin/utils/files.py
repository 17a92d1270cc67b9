"""Files that are written whole or not at all, locks, and file names that every system takes."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import itertools
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from skin.utils.errors import UserError, safe_cell

if TYPE_CHECKING:
    from filelock import BaseFileLock

RESERVE_BYTES = 2 * 2**30  # that caches leave free on a disk, or a twentieth of it if that is less

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # EDQUOT: the user's share of the disk is used up
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|$)", re.IGNORECASE)


def is_full(error: BaseException) -> bool:
    """Return True if an error says that the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def spare_bytes(folder: Path) -> int:
    """Return how much a cache in `folder` may still take of the disk; below zero if it has too much already."""
    disk = shutil.disk_usage(folder)
    return disk.free - min(RESERVE_BYTES, disk.total // 20)


class WriteError(UserError):
    """A file of the run that could not be written; the one that was there is kept.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        self.path = path
        reason = error.strerror or str(error)
        if is_full(error):
            reason = f"the disk, or your share of it, is full ({reason})"
        kept = "; the file that was there is kept" if path.exists() else ""
        super().__init__(f"cannot write {path}: {reason}{kept}")


@contextlib.contextmanager
def written_aside(
    path: str | os.PathLike[str], sync: bool = False, previous: Path | None = None
) -> Iterator[BinaryIO]:
    """Yield a file that takes the name `path` when the block ends, and is removed if the block raises.

    Readers see the whole old file or the whole new one. A process that is killed leaves a `.*.tmp` beside it.

    Args:
        sync: wait until the contents are on the disk, so that they outlive a power cut.
        previous: a name under which the file that was at `path` is kept.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.tmp")  # noqa: PTH118  (a Path costs more)
    try:
        with open(temporary, "xb", buffering=-1 if sync else 0) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if previous is not None:
            _keep(Path(path), previous)
        os.replace(temporary, path)
        if sync:
            _sync_folder(Path(folder))
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


@contextlib.contextmanager
def atomic(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a file of a run, as `written_aside` does, that is on the disk when the block ends.

    Raises:
        WriteError: with the system's reason; nothing half-written is left behind.
    """
    try:
        with written_aside(path, sync=True, previous=previous) as file:
            yield file
    except OSError as error:
        raise WriteError(path, error) from error


def write_atomically(content: bytes, path: Path) -> None:
    """Write a file of a run, whole or not at all. Raises `WriteError`."""
    with atomic(path) as file:
        file.write(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, indented, as `write_atomically` does. A number that is not finite becomes null."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    # The bytes of a path that is no UTF-8 become escapes, which readers of JSON turn back.
    write_atomically((text + "\n").encode("utf-8", "backslashreplace"), path)


def write_csv(
    path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]], for_people: bool = False,
    six_digits: bool = False,
) -> None:  # fmt: skip
    """Write a CSV table, as `write_atomically` does. None is an empty cell.

    Args:
        for_people: change a text that a spreadsheet would take for a formula (`safe_cell`).
        six_digits: of a float, which is otherwise written so that it is read back exactly.
    """

    def cells(row: Sequence[object]) -> Sequence[object]:
        if for_people:
            row = [safe_cell(cell) if isinstance(cell, str) else cell for cell in row]
        return [f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] if six_digits else row

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in itertools.chain([columns], rows):
        writer.writerow(cells(row))
    # A name that is no UTF-8 becomes escapes, as in `write_json`.
    write_atomically(text.getvalue().encode("utf-8", "backslashreplace"), path)


def columns_apart(fixed: Sequence[str], *more: tuple[str, Sequence[str]]) -> list[list[str]]:
    """Return the names of columns, in the groups of `more`, such that a spreadsheet has no two alike.

    A name that `fixed` or an earlier group has, or that looks like another one, gets its group's prefix, again until
    it stands alone.

    Args:
        more: groups of a prefix and names, the group that may keep its names first.
    """
    taken = set(map(safe_cell, fixed))
    groups = []
    for prefix, names in more:
        apart = list(names)
        clashing = []
        for place, name in enumerate(names):
            if safe_cell(name) in taken:
                clashing.append(place)
            taken.add(safe_cell(name))
        for place in clashing:
            while safe_cell(apart[place]) in taken:
                apart[place] = prefix + apart[place]
            taken.add(safe_cell(apart[place]))
        groups.append(apart)
    return groups


def joined(names: Iterable[str]) -> str:
    """Return the names of a set as one cell, `a|b`, each as at the head of a column; a `|` in a name is `\\|`."""
    return "|".join(safe_cell(name).replace("|", "\\|") for name in names)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _keep(path: Path, previous: Path) -> None:
    """Give the file at `path`, if there is one, the second name `previous`, so that `path` exists at every moment."""
    if not path.exists():
        return
    link = previous.with_name(f".{previous.name}.{os.getpid()}.tmp")
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links: for a moment there is no `path`
        os.replace(path, previous)
    else:
        os.replace(link, previous)
        link.unlink(missing_ok=True)  # a rename onto another name of the same file does nothing


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some network file systems cannot, and need not
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_output(
    flag: str, path: Path, suffix: str, mark: bytes, inputs: Mapping[str, Path | None] | None = None,
    stream: bool = False,
) -> None:  # fmt: skip
    """Check that a result may be written to `path`, before any work is done for it. Nothing is written here.

    A slip of the shell, such as `--csv *.jpg`, must not cost a picture, nor another table: a file that is there is
    overwritten only if it is an earlier result.

    Args:
        flag: the option that names the file, for the message.
        suffix: how the names of such results end.
        mark: what stands near their beginning.
        inputs: files that the command reads, by the option that names them.
        stream: the result is written from its beginning to its end, so that a pipe or a device takes it, too.

    Raises:
        UserError: there is no such folder, it cannot be written to, or `path` is something that is to be kept.
    """
    place = f"{flag} {path}"
    if not path.parent.is_dir():
        raise UserError(f"{place}: there is no folder {path.parent}")
    if path.is_dir():
        raise UserError(f"{place}: is a folder; name a file in it, such as {path / f'name{suffix}'}")
    for other, taken in (inputs or {}).items():
        if taken is not None and (path.resolve() == taken.resolve() or _same_file(path, taken)):
            raise UserError(f"{place}: is the file of {other}; name another one")
    if path.exists() and not path.is_file():
        if not stream:
            raise UserError(f"{place}: is a pipe or a device; name a file in a folder of yours")
    elif not os.access(path if stream and path.exists() else path.resolve().parent, os.W_OK):
        raise UserError(f"{place}: cannot be written; name a file in a folder of yours")
    elif path.exists() and not _begins_with(path, mark):
        raise UserError(f"{place}: is there and is no earlier result; name a new file, such as new{suffix}")


def _same_file(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:  # one of them is not there
        return False


def _begins_with(path: Path, mark: bytes) -> bool:
    """Return True if a file has the mark near its beginning, or is empty; one that cannot be read may be anything."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return not head or mark in head


def refuse_pipe(path: Path) -> None:
    """Raise `OSError` if `path` is a pipe or a device, from which a reader may wait for ever."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a process that was killed as it wrote. Nobody else may be writing."""
    for file in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            file.unlink()


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of `data` to a file without a buffer. A disk that fills up takes a part of it before it fails."""
    view = memoryview(data).cast("B")
    while view:
        view = view[file.write(view) :]


def lock(path: Path, seconds: float = 0.0) -> BaseFileLock | None:
    """Hold the lock file `path` until `release()` or the end of this process; None if the file system has no locks.

    The system lets go of the lock when the process is killed. A forked process does not hold it.

    Raises:
        TimeoutError: somebody else has held it for `seconds`.
    """
    from filelock import FileLock  # imported here since it takes time and most scripts need no lock

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
