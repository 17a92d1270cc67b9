"""The pixel cache: each image is decoded once, and read back in a fraction of a millisecond from then on.

    python -m skin.data.cache              show what is kept, and where
    python -m skin.data.cache --clear      remove it

A training run waits for decoding: 2 ms or more for a 600x450 JPEG, against 0.05 ms to read its stored image
back. There is no pause to build the cache. The loader's workers fill it as they go through the first epoch: a
worker that has decoded an image writes it. `build` does the same ahead of a run.

Each stored image is a file of its own:

    <cache folder>/<size>-<interpolation>-<versions>/<two digits>/<digest of the image's path>.pixels

Versions are those of the decoders and of the code around them, since the pixels depend on them. The file holds a
header (magic, stamp of the image file, height, width, sum of the pixels, seal) and the pixels, uint8 [H, W, 3].

A file is written aside and renamed, so processes need not take turns, and a kill leaves at most a `*.tmp` that
nobody reads. The stamp shows that an image has changed since. Seal and sum show that a file was cut off, lost pages
in a power cut, or was copied to another's name. All of these are misses: the image is decoded and stored again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skin.data.containers import container_of, is_member
from skin.data.images import PIXELS_VERSION, ImageError, Preprocess, more_decoders, read_image
from skin.data.npz import UNPACKED
from skin.utils import cli
from skin.utils.errors import UserError, printable
from skin.utils.files import is_full, spare_bytes, write_all, written_aside
from skin.utils.hardware import usable_cores
from skin.utils.home import home
from skin.utils.processes import spawned

import cv2
import numpy as np
import PIL

NO_HOME = "no home folder is known (HOME is not set): decoded images are not kept; --cache DIR keeps them there"

_MAGIC = b"skinpix3"  # raise it with any change of a file's layout
_OLD_MAGIC = b"skinpix"  # of layouts with one file for a data folder: they are shown and cleared
_HEADER = struct.Struct("<8s16sIIQ")  # magic, stamp, height, width, sum of the pixels; then the seal
_SEAL_SIZE = 8
_HEADER_SIZE = _HEADER.size + _SEAL_SIZE
_SUFFIX = ".pixels"
_KIND = re.compile(r"(\d+)-(bilinear|bicubic)-[0-9a-f]{8}")  # a sub-folder of stored images
_FOLDERS = tuple(f"{number:02x}" for number in range(256))  # of a kind
_SAMPLE = 4000  # files whose sizes are added up before the rest is estimated
_SHARE = 16  # a process adds this part of the room that is left before it measures again
_STOPPED = {
    "limit": "its size limit is reached",
    "disk": "the disk is nearly full",
    "error": "it cannot be written",
}


class PixelCache:
    """The stored images of a list of files: from the cache if it has them, otherwise decoded and kept.

    One object serves any number of threads and, by fork or pickle, any number of processes. No failure of the
    cache reaches the caller: an image that cannot be read from it or written to it is decoded, and `note` says so
    in one line.
    """

    def __init__(self, paths: Sequence[str] | np.ndarray, preprocess: Preprocess, store: _Store | None) -> None:
        """Use `PixelCache.open` instead; this alone, without a store, decodes every time."""
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
        reserve_bytes: int = 0,
    ) -> PixelCache:
        """Open the cache of `paths`; it is made if it is not there yet. Never fails: see `note`.

        Args:
            paths: absolute paths of image files, as str or as `os.fsencode`d bytes.
            folder: the folder of all caches; None is `default_folder()`.
            limit_bytes: for all caches of `folder` together; None is as much as the disk has to spare. The folder
                is measured now and then, by a sample if it has more than 4,000 files (to about 2 %). Between two
                measurements each process counts its own additions, at most a sixteenth of the room that is left.
                So all of them together may exceed the limit by about an image each.
            reserve_bytes: bytes of the disk that the caller is going to need for other files. They are left free
                beside the usual reserve (a twentieth of the disk, 2 GiB at most).
        """
        folder = folder or default_folder()
        if folder is None:
            cache = cls(paths, preprocess, None)
            cache._said = NO_HOME
            return cache
        store = _Store(folder, preprocess, _Room(folder, limit_bytes, reserve_bytes))
        cache = cls(paths, preprocess, store)
        try:
            cache._said = store.prepare()
        except OSError as error:
            reason = error.strerror or str(error)
            cache._said = f"no pixel cache in {printable(folder)}: {reason}; images are decoded every time"
            cache._store = None
        return cache

    @property
    def note(self) -> str | None:
        """Return one line if the cache does not keep all images, in any of its processes; None if all is well."""
        reason = self._store.why_stopped() if self._store else None
        if reason is None:
            return self._said
        return f"pixel cache: {reason}; images that it has not kept are decoded every time"

    def read(self, index: int) -> np.ndarray:
        """Return the stored image of `paths[index]`, uint8 [H, W, 3], the caller's own to change.

        Raises:
            ImageError: the file cannot be read or decoded.
        """
        path = os.fsdecode(self._paths[index])
        if self._store is None:
            return read_image(path, self._preprocess)
        stored = self._store.load(path, None if self._checked[index] else _stamp(path))
        if stored is None:
            stamp = _stamp(path)  # before decoding, so that a change meanwhile shows afterwards
            stored = read_image(path, self._preprocess)
            self._store.add(path, stamp, stored)
        self._checked[index] = True
        return stored

    def kept(self) -> int:
        """Return how many of the images are stored, by reading all of them."""
        paths = [os.fsdecode(path) for path in self._paths]
        return sum(self._store is not None and self._store.load(path, _stamp(path)) is not None for path in paths)

    def build(self, processes: int | None = None) -> None:
        """Decode the missing images ahead, in `processes` (None: one per core).

        The run will report images that cannot be read.

        Raises:
            UserError: a process was killed; the images that it has stored stay.
        """
        from skin.utils.console import progress

        from rich.console import Console

        processes = processes or usable_cores()
        chunks = [range(i, min(i + 64, len(self._paths))) for i in range(0, len(self._paths), 64)]
        with progress(Console(stderr=True), "decoding images", len(self._paths)) as advance:
            if processes == 1:
                for chunk in chunks:
                    advance(self._fill(chunk))
                return
            try:
                with spawned(processes, _start_filling, self) as pool:
                    for future in [pool.submit(_fill_chunk, chunk) for chunk in chunks]:
                        advance(future.result())
            except BrokenProcessPool as error:
                raise UserError("a process filling the pixel cache was killed; start again to go on") from error

    def _fill(self, chunk: range) -> int:
        for index in chunk:
            if self._store is None or not self._store.growing:
                break
            with suppress(ImageError):
                self.read(index)
        return len(chunk)

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


class _Room:
    """The room that is left in a cache folder. The arguments are those of `PixelCache.open`."""

    def __init__(self, folder: Path, limit_bytes: int | None, reserve_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._reserve = reserve_bytes
        self._left = 0  # bytes that this process may add before it measures again

    def take(self, size: int) -> str | None:
        """Count `size` bytes as added; return why there is no room for them (a key of `_STOPPED`), or None."""
        if spare_bytes(self._folder) - self._reserve < size:
            return "disk"
        if self._limit is None:
            return None
        if self._left < size:
            left = self._limit - sum(entry.size for entry in list_caches(self._folder, _SAMPLE))
            if left < size:
                return "limit"
            self._left = max(size, left // _SHARE)
        self._left -= size
        return None


class _Store:
    """The files of the stored images of one kind: of one size, interpolation and version of the decoders."""

    def __init__(self, folder: Path, preprocess: Preprocess, room: _Room) -> None:
        versions = f"{PIXELS_VERSION} {PIL.__version__} {cv2.__version__} {more_decoders()}"
        digest = hashlib.blake2b(versions.encode(), digest_size=4).hexdigest()
        self._folder = folder / f"{preprocess.resize_size}-{preprocess.interpolation}-{digest}"
        self._room = room
        self._stopped: str | None = None  # why this process adds no more, a key of `_STOPPED` or ""
        self._marks: dict[str, int] = {}  # when processes of earlier runs have stopped

    @property
    def growing(self) -> bool:
        """Return True if this process still adds images."""
        return self._stopped is None

    def prepare(self) -> str | None:
        """Make the folder; return a line for the user, or None.

        Raises:
            OSError: there can be no cache here.
        """
        self._marks = {reason: self._marked(reason) for reason in _STOPPED}
        try:
            self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # these are pictures of patients
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with written_aside(self._folder / "writable"):
                pass
            (self._folder / "writable").unlink(missing_ok=True)
        except OSError as error:
            if not self._folder.is_dir():
                raise
            if is_full(error):  # stored images can still be read
                self._stop("disk")
                return None
            self._stopped = ""
            return f"pixel cache: {printable(self._folder)} is read-only; what it lacks is decoded every time"
        return None

    def why_stopped(self) -> str | None:
        """Return why this or another process has stopped adding images since `prepare`, or None."""
        for reason, words in _STOPPED.items():
            if self._stopped == reason or self._marked(reason) != self._marks[reason]:
                return words
        return None

    def load(self, path: str, stamp: bytes | None) -> np.ndarray | None:
        """Return the pixels kept for `path` if they are whole and from the file with `stamp` (None: any)."""
        digest, file = self._place(path)
        try:
            with open(file, "rb", buffering=0) as stored:
                header = stored.read(_HEADER_SIZE)
                if len(header) < _HEADER_SIZE or header[_HEADER.size :] != _seal(header[: _HEADER.size], digest):
                    return None
                magic, kept, height, width, checksum = _HEADER.unpack_from(header)
                if magic != _MAGIC or stamp not in (None, kept):
                    return None
                pixels = np.empty((height, width, 3), np.uint8)
                length = stored.readinto(pixels.data.cast("B"))
        except (OSError, MemoryError):
            return None
        return pixels if length == pixels.nbytes and _checksum(pixels) == checksum else None

    def add(self, path: str, stamp: bytes, pixels: np.ndarray) -> None:
        """Keep an image, unless there is no room or it cannot be written."""
        if not self.growing or not stamp:
            return
        digest, file = self._place(path)
        height, width = pixels.shape[:2]
        header = _HEADER.pack(_MAGIC, stamp, height, width, _checksum(pixels))
        header += _seal(header, digest)
        try:
            reason = self._room.take(_HEADER_SIZE + pixels.nbytes)
            if reason is None:
                _write(file, header, pixels)
        except OSError as error:
            if os.name == "nt" and isinstance(error, PermissionError) and Path(file).exists():
                return  # another process reads the file just now, and Windows keeps it until then
            reason = "disk" if is_full(error) else "error"
        if reason:
            self._stop(reason)

    def _place(self, path: str) -> tuple[bytes, str]:
        """Return the digest of an image's path, and the file that its pixels are kept in."""
        digest = hashlib.blake2b(os.fsencode(path), digest_size=16)
        name = digest.hexdigest()
        return digest.digest(), f"{self._folder}/{name[:2]}/{name[2:]}{_SUFFIX}"

    def _stop(self, reason: str) -> None:
        """Add no more images. An empty file tells the process that talks to the user, even if the disk is full."""
        self._stopped = reason
        with suppress(OSError):
            self._mark(reason).touch()

    def _mark(self, reason: str) -> Path:
        return self._folder / f"stopped-{reason}"

    def _marked(self, reason: str) -> int:
        """Return the time in ns when a process has last stopped for a reason; 0 if none has."""
        try:
            return self._mark(reason).stat().st_mtime_ns
        except OSError:
            return 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stopped": "" if self._stopped == "" else None}


def _write(file: str, header: bytes, pixels: np.ndarray) -> None:
    for again in (True, False):
        try:
            with written_aside(file) as stored:
                write_all(stored, header)
                write_all(stored, pixels.data)
            return
        except FileNotFoundError:  # the first of its sub-folder, or the cache was cleared
            if not again:
                raise
            Path(file).parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def _seal(header: bytes, digest: bytes) -> bytes:
    """Return the 8 bytes that end a sound header in the file of the path with that digest."""
    return hashlib.blake2b(header, digest_size=_SEAL_SIZE, key=digest).digest()


def _stamp(path: str) -> bytes:
    """Return 16 bytes that change when a file does; no bytes if it is not there, which no header has.

    A picture in a container changes with the container: its own name is in the path, which each entry is bound to.

    The times are of the contents and of the entry. Two files of one size and one mtime may swap their names, or be
    written over each other by `cp -p`: only the second time shows that.
    """
    try:
        status = os.stat(container_of(path) if is_member(path) else path)  # noqa: PTH116 (a Path costs more)
    except (OSError, ValueError):
        return b""
    parts = struct.pack("<3q", status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.blake2b(parts, digest_size=16).digest()


def _checksum(pixels: np.ndarray) -> int:
    """Return the sum of the pixels as 64-bit words: 0.006 ms for 427x320 (CRC-32: 0.1). It sees lost pages."""
    flat = pixels.reshape(-1)
    words = flat[: flat.size // 8 * 8].view(np.uint64)
    return (int(words.sum(dtype=np.uint64)) + int(flat[words.nbytes :].sum())) % 2**64


# --- the list of the caches, and their removal ------------------------------------------------------


@dataclass(frozen=True)
class CacheEntry:
    """Something kept in a cache folder: a folder of stored images, a file of an earlier layout, or an unpacked array.

    `files` and `size` (bytes) may be estimates, see `list_caches`.
    """

    path: Path
    what: str
    files: int
    size: int


def default_folder() -> Path | None:
    """Return `$XDG_CACHE_HOME/skin`, or `~/.cache/skin`; None if no home folder is known."""
    base, known = os.environ.get("XDG_CACHE_HOME", ""), home()
    if base.startswith("/"):
        return Path(base) / "skin"
    return known / ".cache" / "skin" if known else None


def folder_of(cache: str) -> Path | None:
    """Return the folder that `--cache` means ("auto", "off" or a path); None if nothing is kept."""
    if cache == "off":
        return None
    return default_folder() if cache == "auto" else Path(cache)


def list_caches(folder: Path, sample: int | None = None) -> list[CacheEntry]:
    """List the caches in `folder`, by name; files that are not ours are passed over.

    Args:
        sample: number of files in a folder of stored images after which the rest is estimated. Their names are
            digests, so all sub-folders have about the same number. None looks at all files.
    """
    found = []
    for path in sorted(folder.glob("*")):
        with suppress(OSError):
            if (kind := _KIND.fullmatch(path.name)) and path.is_dir():
                found.append(CacheEntry(path, f"{kind[1]} px {kind[2]}", *_measure(path, sample)))
            elif path.suffix == _SUFFIX:
                with path.open("rb") as file:
                    if file.read(len(_OLD_MAGIC)) == _OLD_MAGIC:
                        found.append(CacheEntry(path, "earlier layout", 1, path.stat().st_size))
            elif UNPACKED.fullmatch(path.name):
                found.append(CacheEntry(path, "array", 1, path.stat().st_size))
    return found


def _measure(kind: Path, sample: int | None) -> tuple[int, int]:
    """Count the files in a folder of stored images, and their bytes."""
    files = size = 0
    for looked_at, name in enumerate(_FOLDERS):
        if sample is not None and files >= sample:
            return files * len(_FOLDERS) // looked_at, size * len(_FOLDERS) // looked_at
        with suppress(OSError), os.scandir(kind / name) as entries:
            for entry in entries:
                with suppress(OSError):  # renamed meanwhile
                    size += entry.stat().st_size
                    files += 1
    return files, size


def clear(folder: Path) -> None:
    """Remove the caches that `list_caches` lists, and the perceptual hashes of `skin.data.duplicates` beside them.

    Raises:
        UserError: something cannot be removed.
    """
    for path in [entry.path for entry in list_caches(folder, 1)] + list(folder.glob("*.hashes.npz")):
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot remove {error.filename or path}: {error.strerror}") from error


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
        size, name = f"{entry.size / 2**20:,.1f} MiB", printable(entry.path.name)
        print(f"{size:>14} {entry.files:10,} files  {entry.what:15}  {name}")
    if settings.clear:
        clear(folder)
    total = sum(entry.size for entry in entries) / 2**20
    done = "removed" if settings.clear else "kept"
    print(f"{len(entries)} caches, {total:,.1f} MiB {done} in {printable(folder)}")
    return 0


if __name__ == "__main__":
    cli.run(main)
