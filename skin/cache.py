"""The pixel cache: each image is decoded once, and read back in a fraction of a millisecond ever after.

    python -m skin.cache              what is kept, and where
    python -m skin.cache --clear      remove it

Decoding is what a training run waits for: 2 ms or more for a 600x450 JPEG, against 0.05 ms to read its stored
image back. There is no pause to build the cache. The loader's workers fill it as they go through the first
epoch, each image written where it has just been decoded; `build` does the same ahead of a run.

A cache is one file for one data folder, one stored size and one version of the decoders, named by all of
them. It holds

    header      4 KiB: magic, number of slots, end of the pixels, images kept, why it is full, whether
                somebody has given up waiting for a turn to add; then JSON
    slots       64 bytes each, a hash table by path (open addressing, at most a quarter full at first)
    pixels      the stored images, uint8 [H, W, 3], one after the other

Why a hash table in the file: the sizes of images are not known before they are decoded, and a set is read
in another order, split and subset by each run. Opening costs the same for a million images as for ten,
nothing is loaded or kept in memory, and what one process adds all others see at once, with no message.

Why no kill can harm it: additions take turns (`flock`, which the kernel takes back from the dead), and go
header, pixels, slot. A slot is written last, in one piece, and names the file's size and times. Killed
before that, the space is lost and the image is decoded again; there is nothing to repair. Each read checks
the slot's seal and the sum of the pixels, so that a file that was cut off or lost its last pages in a power
cut is a miss and not a wrong picture.

Why `pread` and not a mapping: a mapped file that shrinks kills its reader (SIGBUS), and its pages would
count as the training process's own memory. The copy costs 0.01 ms an image.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from skin import cli
from skin.errors import UserError, printable
from skin.home import home
from skin.images import PIXELS_VERSION, ImageError, Preprocess, read_image

import cv2
import numpy as np
import PIL

NO_HOME = "no home folder is known (HOME is not set): decoded images are not kept; --cache DIR keeps them there"
LOCK_SECONDS = 2.0  # an addition takes a millisecond; whoever holds the lock for longer is stopped or stuck

_MAGIC = b"skinpix2"  # raise it with any change of the file's layout
_ANY_MAGIC = b"skinpix"  # of earlier layouts, too: their files are shown and cleared
_HEADER = struct.Struct("<8s4Q")  # magic, then _Header
_HEADER_SIZE = 4096
_WAITED_AT = _HEADER.size  # a byte: whether a process has given up adding, since it never got its turn
_TEXT_AT = 64  # JSON, for people and `list_caches`
_SLOT = struct.Struct("<16s16sQIIQ8s")  # path digest, stamp, offset, height, width, sum, seal
_FEWEST_SLOTS = 2**16  # 4 MiB, of which the disk gives only what is used
_PROBES = 256  # more in a row are taken only where the table is nearly full
_SUFFIX = ".pixels"
_FULL = ("", "its size limit is reached", "the disk is nearly full", "its table is full", "it cannot be written")
_LIMIT, _DISK, _TABLE, _ERROR = 1, 2, 3, 4


class _Record(NamedTuple):
    """One slot: where an image's pixels are, and which file they were decoded from."""

    digest: bytes  # of the path
    stamp: bytes  # of the file
    offset: int
    height: int
    width: int
    checksum: int

    def pack(self) -> bytes:
        body = _SLOT.pack(*self, b"")[:-8]
        return body + _seal(body)


class _Header(NamedTuple):
    slots: int
    end: int  # of the pixels; the next image goes here
    images: int
    full: int  # index of `_FULL`


class _Handle(NamedTuple):
    pid: int
    fd: int
    threads: threading.Lock
    writable: bool


class PixelCache:
    """The stored images of a list of files, from the cache where it has them, else decoded and kept.

    One object serves any number of threads and, by fork or pickle, any number of processes. Nothing that
    goes wrong with the cache reaches the caller: what cannot be read from it or written to it is decoded,
    and `note` says so in one line.
    """

    def __init__(self, paths: Sequence[str] | np.ndarray, preprocess: Preprocess, store: _Store | None) -> None:
        """Use `PixelCache.open`; this alone, without a store, decodes every time."""
        self._paths = paths
        self._preprocess = preprocess
        self._store = store
        self._said: str | None = None
        self._checked = np.zeros(len(paths), bool)  # compared with its file, by this process

    @classmethod
    def open(
        cls,
        paths: Sequence[str] | np.ndarray,
        preprocess: Preprocess,
        folder: Path | None = None,
        limit_bytes: int | None = None,
    ) -> PixelCache:
        """The cache of `paths`, made if it is not there yet. Never fails: see `note`.

        Args:
            paths: absolute paths of image files, as str or as `os.fsencode`d bytes. Runs share what they have
                in common when each gives all images of a data folder, whatever its split.
            folder: where caches are kept; None is `default_folder()`.
            limit_bytes: for all caches of `folder` together; None is as much as the disk has to spare.
        """
        folder = folder or default_folder()
        if folder is None:
            cache = cls(paths, preprocess, None)
            cache._said = NO_HOME
            return cache
        store = _Store(folder, *_identity(paths, preprocess))
        cache = cls(paths, preprocess, store)
        try:
            cache._said = store.prepare(limit_bytes)
        except OSError as error:
            reason = error.strerror or str(error)
            cache._said = f"no pixel cache in {printable(folder)}: {reason}; images are decoded every time"
            cache._store = None
        return cache

    @property
    def file(self) -> Path | None:
        """The cache's file; None where there is none."""
        return self._store.file if self._store else None

    @property
    def count(self) -> int:
        """How many images the file holds, whichever process added them."""
        header = self._store.header() if self._store else None
        return header.images if header else 0

    @property
    def note(self) -> str | None:
        """One line about what the cache does not do, in any of its processes; None when all is well."""
        header = self._store.header() if self._store else None
        if self._store is None or header is None:
            return self._said
        if header.full:
            why = _FULL[min(header.full, len(_FULL) - 1)]
            return f"pixel cache: {why}; {header.images:,} images are kept, the others decoded every time"
        if self._store.waited():
            return (
                f"pixel cache: a process waited {LOCK_SECONDS:g} s for its turn to add an image and adds no more; "
                f"{header.images:,} images are kept so far, what no other process adds is decoded every time"
            )
        return self._said

    def read(self, index: int) -> np.ndarray:
        """The stored image of `paths[index]`, uint8 [H, W, 3], the caller's own to change.

        Raises:
            ImageError: the file cannot be read or decoded.
        """
        path = os.fsdecode(self._paths[index])
        if self._store is None:
            return read_image(path, self._preprocess)
        digest = hashlib.blake2b(os.fsencode(path), digest_size=16).digest()
        stored = self._store.load(digest, None if self._checked[index] else _stamp(path))
        if stored is None:
            stamp = _stamp(path)  # before decoding, so that a change meanwhile shows afterwards
            stored = read_image(path, self._preprocess)
            self._store.add(digest, stamp, stored)
        self._checked[index] = True
        return stored

    def build(self, processes: int | None = None) -> int:
        """Decode ahead what is missing, in `processes` (None: one a core); returns how many are kept.

        Images that cannot be read are left for the run to report.

        Raises:
            UserError: a process was killed; what was done stays done.
        """
        from rich.console import Console
        from rich.progress import Progress

        processes = processes or len(os.sched_getaffinity(0))
        chunks = [range(i, min(i + 64, len(self._paths))) for i in range(0, len(self._paths), 64)]
        console = Console(stderr=True)
        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task("decoding images", total=len(self._paths))
            if processes == 1:
                for chunk in chunks:
                    progress.advance(task, self._fill(chunk))
                return self.count
            with ProcessPoolExecutor(processes, get_context("spawn"), _start_filling, (self,)) as pool:
                try:
                    for done in pool.map(_fill_chunk, chunks):
                        progress.advance(task, done)
                except BrokenProcessPool as error:
                    raise UserError("a process filling the pixel cache was killed; start again to go on") from error
                finally:
                    pool.shutdown(cancel_futures=True)
        return self.count

    def _fill(self, chunk: range) -> int:
        for index in chunk:
            if self._store is None or not self._store.growing:
                break
            with suppress(ImageError):
                self.read(index)
        return len(chunk)

    def close(self) -> None:
        """Let go of the file; a later `read` opens it again."""
        if self._store:
            self._store.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_checked": len(self._paths)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _checked=np.zeros(state["_checked"], bool))


_filling: PixelCache  # in a process of `build`


def _start_filling(cache: PixelCache) -> None:
    global _filling
    cv2.setNumThreads(0)
    _filling = cache


def _fill_chunk(chunk: range) -> int:
    return _filling._fill(chunk)


class _Store:
    """The file: its header, slots and pixels, and the order in which they are written."""

    def __init__(self, folder: Path, name: str, description: dict[str, Any], slots: int) -> None:
        self.file = folder / name
        self.growing = True  # this process still adds images
        self._description = description
        self._slots = slots
        self._data_start = _HEADER_SIZE + slots * _SLOT.size
        self._budget: int | None = None  # bytes that the file may take
        self._opened: _Handle | None = None

    def prepare(self, limit_bytes: int | None) -> str | None:
        """Make the file, or mend what a cut or a full disk has left of it; returns what there is to say.

        Raises:
            OSError: there can be no cache here.
        """
        folder = self.file.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # these are pictures of patients
        if limit_bytes is not None:
            others = (entry.size for entry in list_caches(folder) if entry.file != self.file)
            self._budget = limit_bytes - sum(others)
        handle = self._handle()
        if not handle.writable:
            return f"pixel cache: {printable(self.file)} is read-only; what it lacks is decoded every time"
        with self._turn(handle):
            header, size = self.header(), os.fstat(handle.fd).st_size
            if header is None:
                self._format(handle.fd)
                return "pixel cache: its file was damaged, so it is made anew" if size else None
            if size < header.end:
                end = max(size, self._data_start)
                os.truncate(handle.fd, end)
                self._write_header(handle.fd, header._replace(end=end, full=0))
                return "pixel cache: its file was cut off, so what is lost is decoded again"
            if header.full or self.waited():  # there may be room again, and nobody in the way
                self._write_header(handle.fd, header._replace(full=0))
                _write(handle.fd, b"\0", _WAITED_AT)
        return None

    def load(self, digest: bytes, stamp: bytes | None) -> np.ndarray | None:
        """The pixels kept under `digest`, if they are whole and (unless None) of the file with that stamp."""
        try:
            fd = self._handle().fd
            _, record = self._find(fd, digest)
            if record is None or stamp not in (None, record.stamp):
                return None
            pixels = np.empty((record.height, record.width, 3), np.uint8)
            length = os.preadv(fd, [pixels.data], record.offset)
        except (OSError, MemoryError):
            return None
        return pixels if length == pixels.nbytes and _checksum(pixels) == record.checksum else None

    def add(self, digest: bytes, stamp: bytes, pixels: np.ndarray) -> None:
        """Keep an image, unless somebody has done so meanwhile, there is no room, or it cannot be written."""
        if not self.growing:
            return
        try:
            handle = self._handle()
            with self._turn(handle):
                full = self._add(handle.fd, digest, stamp, pixels)
        except TimeoutError:  # the bad luck of this process alone: the others go on
            self.growing, full = False, 0
            with suppress(OSError):  # without the lock, which is what cannot be had: one byte is whole or not there
                _write(self._handle().fd, b"\1", _WAITED_AT)
        except OSError as error:
            full = _DISK if error.errno in (errno.ENOSPC, errno.EDQUOT) else _ERROR
        if full:
            self.growing = False
            with suppress(OSError):
                self._say_full(full)

    def _add(self, fd: int, digest: bytes, stamp: bytes, pixels: np.ndarray) -> int:
        """Append and enter an image; returns why there is no room for it, or 0. The order is the safety."""
        header = self.header()
        if header is None:  # cut to nothing under our feet
            header = self._format(fd)
        at, record = self._find(fd, digest)
        if record and self.load(digest, stamp) is not None:
            return 0  # somebody was quicker
        end = header.end + pixels.nbytes
        full = header.full or self._why_full(fd, end, pixels.nbytes)
        if full or at is None:
            return full or _TABLE
        self._write_header(fd, header._replace(end=end, images=header.images + (record is None)))
        _write(fd, pixels.data.cast("B"), header.end)
        height, width = pixels.shape[:2]
        entry = _Record(digest, stamp, header.end, height, width, _checksum(pixels))
        _write(fd, entry.pack(), at)
        return 0

    def _why_full(self, fd: int, end: int, more: int) -> int:
        if self._budget is not None and end > self._budget:
            return _LIMIT
        return _DISK if _free_bytes(fd) < more else 0

    def _say_full(self, full: int) -> None:
        """Leave the reason in the file, where the process that talks to the user finds it."""
        handle = self._handle()
        with self._turn(handle):
            header = self.header()
            if header and not header.full:
                self._write_header(handle.fd, header._replace(full=full))

    def _find(self, fd: int, digest: bytes) -> tuple[int | None, _Record | None]:
        """Where the slot of `digest` is or belongs (None: the table is full), and its record if it is sound."""
        first = int.from_bytes(digest[:8], "little")
        for probe in range(_PROBES):
            at = _HEADER_SIZE + (first + probe) % self._slots * _SLOT.size
            slot = os.pread(fd, _SLOT.size, at)
            if slot[:16] == digest:
                sound = len(slot) == _SLOT.size and _seal(slot[:-8]) == slot[-8:]
                return at, _Record(*_SLOT.unpack(slot)[:-1]) if sound else None
            if not any(slot):
                return at, None
        return None, None

    def _format(self, fd: int) -> _Header:
        header = _Header(self._slots, self._data_start, 0, 0)
        os.truncate(fd, 0)
        os.truncate(fd, self._data_start)
        text = json.dumps(self._description).encode()
        _write(fd, text.ljust(_HEADER_SIZE - _TEXT_AT), _TEXT_AT)
        self._write_header(fd, header)
        return header

    def header(self) -> _Header | None:
        """The header, or None where the file has none that fits."""
        try:
            header = _parse_header(os.pread(self._handle().fd, _HEADER.size, 0))
        except OSError:
            return None
        return header if header and header.slots == self._slots else None

    def waited(self) -> bool:
        """Whether any process has given up adding since a run last opened the file."""
        try:
            return os.pread(self._handle().fd, 1, _WAITED_AT) == b"\1"
        except OSError:
            return False

    def _write_header(self, fd: int, header: _Header) -> None:
        _write(fd, _HEADER.pack(_MAGIC, *header), 0)

    # --- one file, many processes and threads ---

    def _handle(self) -> _Handle:
        """This process's own: a descriptor that came through a fork would share its parent's lock."""
        if self._opened is None or self._opened.pid != os.getpid():
            self.close()
            writable = True
            try:
                fd = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not self.file.exists():
                    raise
                fd = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)  # what is there can still be read
                writable = self.growing = False
            self._opened = _Handle(os.getpid(), fd, threading.Lock(), writable)
        return self._opened

    @contextmanager
    def _turn(self, handle: _Handle) -> Iterator[None]:
        """Hold the file, alone among threads and processes.

        Raises:
            TimeoutError: (an OSError) somebody does not let go of it.
        """
        deadline = time.monotonic() + LOCK_SECONDS
        if not handle.threads.acquire(timeout=LOCK_SECONDS):
            raise TimeoutError(errno.ETIMEDOUT, "a thread does not let go of it")
        try:
            while True:
                try:
                    fcntl.flock(handle.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TimeoutError(errno.ETIMEDOUT, "another process does not let go of it") from None
                    time.sleep(0.0005)
            try:
                yield
            finally:
                fcntl.flock(handle.fd, fcntl.LOCK_UN)
        finally:
            handle.threads.release()

    def close(self) -> None:
        if self._opened is not None:
            os.close(self._opened.fd)
        self._opened = None

    def __del__(self) -> None:
        if self.__dict__.get("_opened"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "growing": True}


def _write(fd: int, data: bytes | memoryview, offset: int) -> None:
    """All of `data`; a disk that fills up takes a part of it before it fails."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _seal(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=8).digest()


def _stamp(path: str) -> bytes:
    """16 bytes that change when a file does; of a file that is not there none, which no record has.

    The times are of the contents and of the entry: two files of one size and one mtime may swap their names,
    or be written over each other by `cp -p`, and only the second time tells. A digest, so that a slot stays at
    64 bytes and never lies across two pages of the disk.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 (a Path costs more than the call)
    except (OSError, ValueError):
        return b""
    parts = struct.pack("<3q", status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.blake2b(parts, digest_size=16).digest()


def _checksum(pixels: np.ndarray) -> int:
    """Sum of the pixels as 64-bit words: 0.006 ms for 427x320 (CRC-32 takes 0.1), and sees lost pages."""
    flat = pixels.reshape(-1)
    words = flat[: flat.size // 8 * 8].view(np.uint64)
    return (int(words.sum(dtype=np.uint64)) + int(flat[words.nbytes :].sum())) % 2**64


def _free_bytes(fd: int) -> int:
    """What the disk has to spare beyond a reserve: a twentieth of it, 2 GiB at most."""
    disk = os.fstatvfs(fd)
    reserve = min(2 * 2**30, disk.f_blocks * disk.f_frsize // 20)
    return disk.f_bavail * disk.f_frsize - reserve


def _parse_header(data: bytes, magic: bytes = _MAGIC) -> _Header | None:
    if len(data) < _HEADER.size or not data.startswith(magic):
        return None
    return _Header(*_HEADER.unpack(data[: _HEADER.size])[1:])


def _identity(paths: Sequence[str] | np.ndarray, preprocess: Preprocess) -> tuple[str, dict[str, Any], int]:
    """A cache's file name, what it says of itself, and its slots (a power of two, at least 4 an image).

    The versions of the decoders and of the code around them belong to the name, since the bytes depend on them.
    """
    slots = max(_FEWEST_SLOTS, 1 << (4 * len(paths)).bit_length())
    ends = [os.fsdecode(min(paths)), os.fsdecode(max(paths))] if len(paths) else [""]
    # The first and last in order share what all share; splitting a million paths would take a second.
    data = os.path.dirname(os.path.commonprefix(ends))  # noqa: PTH120, RUF071
    description = {
        "data": printable(data, limit=1000),
        "resize_size": preprocess.resize_size,
        "interpolation": preprocess.interpolation,
        "pillow": PIL.__version__,
        "opencv": cv2.__version__,
        "pixels": PIXELS_VERSION,
    }
    key = json.dumps([description, os.fsencode(data).hex(), slots])
    digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    return f"{preprocess.resize_size}-{preprocess.interpolation}-{digest}{_SUFFIX}", description, slots


# --- what is kept, and removing it ------------------------------------------------------------------


@dataclass(frozen=True)
class CacheEntry:
    """A cache in a folder: its file, the bytes it takes on the disk, its images and what they are of."""

    file: Path
    size: int
    images: int
    description: dict[str, Any]


def default_folder() -> Path | None:
    """Return `$XDG_CACHE_HOME/skin`, or `~/.cache/skin`; None where no home folder is known."""
    base, known = os.environ.get("XDG_CACHE_HOME", ""), home()
    if base.startswith("/"):
        return Path(base) / "skin"
    return known / ".cache" / "skin" if known else None


def list_caches(folder: Path) -> list[CacheEntry]:
    """The caches in `folder`, by name; files that are not ours are passed over."""
    found = []
    for file in sorted(folder.glob(f"*{_SUFFIX}")):
        with suppress(OSError, ValueError), file.open("rb") as stream:
            header = _parse_header(stream.read(_HEADER.size), _ANY_MAGIC)
            stream.seek(_TEXT_AT)
            description = json.loads(stream.read(_HEADER_SIZE - _TEXT_AT))
            if header and isinstance(description, dict):
                size = os.fstat(stream.fileno()).st_blocks * 512
                found.append(CacheEntry(file, size, header.images, description))
    return found


@dataclass(frozen=True)
class Settings:
    folder: Path | None = cli.option(None, "where the caches are (default: ~/.cache/skin)", metavar="DIR")
    clear: bool = cli.option(False, "remove all caches there")


def main() -> int:
    settings = cli.parse(Settings, "Show or clear the pixel caches.")
    folder = settings.folder or default_folder()
    if folder is None:
        raise UserError("no home folder is known (HOME is not set), so there is no cache; or name one by --folder")
    entries = list_caches(folder)
    for entry in entries:
        what = entry.description
        stored = f"{what.get('resize_size')} px {what.get('interpolation')}"
        print(
            f"{entry.size / 2**20:10,.1f} MiB {entry.images:10,} images  {printable(stored):15}  "
            f"{printable(what.get('data'))}  ({entry.file.name})"
        )
    if settings.clear:
        # With the pictures go the perceptual hashes that skin.duplicates keeps beside them.
        for file in [*(entry.file for entry in entries), *folder.glob("*.hashes.npz")]:
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"cannot remove {file}: {error.strerror}") from error
    total = sum(entry.size for entry in entries) / 2**20
    done = "removed" if settings.clear else "kept"
    print(f"{len(entries)} caches, {total:,.1f} MiB {done} in {printable(folder)}")
    return 0


if __name__ == "__main__":
    cli.run(main)
