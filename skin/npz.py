"""Images inside a MedMNIST archive (`.npz`): a row of an array stands where other sets have a file.

Such an image is named `<archive>.npz::<array>/<row>`, as in `/data/dermamnist.npz::train_images/123`.
Pickled objects in an archive are never opened.
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from skin.errors import UserError

import numpy as np

PIXEL_LIMIT = 50_000_000  # of an image, in an archive or a file of its own: what the largest cameras give

_MARK = ".npz::"
# RuntimeError is what zipfile raises for an encrypted member, and for a compression that it does not know.
_BROKEN = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)
_HEADER_LIMIT = 10_000  # bytes, as numpy has it
_KEEP_BYTES = 256 * 2**20  # an array up to this size is kept in memory whole
_BLOCK_BYTES = 4 * 2**20  # of a larger one, inflated in one go


class NpzFile:
    """What an archive says of its arrays: `arrays` holds shape and dtype by name, read from the headers.

    Raises:
        UserError: it is no such archive, or an array in it is pickled.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arrays: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    member = entry.filename
                    with _open_member(archive, member) as file:
                        shape, dtype = _array_header(file)
                    if math.prod(shape) * dtype.itemsize > entry.file_size:
                        raise ValueError(f"the array {member} is cut off")
                    if dtype.hasobject:
                        raise UserError(f"{path}: the array {member} holds pickled objects, which are never opened")
                    self.arrays[member.removesuffix(".npy")] = (shape, dtype)
        except _BROKEN as error:
            raise UserError(f"{path} cannot be read as an .npz archive: {error}; download it again") from error

    def image_count(self, name: str) -> int:
        """The number of images in the array `name`, uint8 [N, H, W] or [N, H, W, 3]; else a `UserError`.

        So are images of more than 50 million pixels.
        """
        shape, dtype = self._find(name)
        if dtype != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)) or 0 in shape[1:]:
            raise UserError(f"{self.path}: {name} is {dtype} {list(shape)}, not images: uint8 [N, H, W, 3]")
        if reason := _too_large(shape):
            raise UserError(f"{self.path}: {name} has {reason}")
        return shape[0]

    def labels(self, name: str, count: int, classes: int) -> np.ndarray:
        """The class numbers in the array `name`, int64 [count]; a `UserError` where they are not that."""
        shape, dtype = self._find(name)
        if shape not in ((count,), (count, 1)) or dtype.kind not in "iu":
            raise UserError(f"{self.path}: {name} is {dtype} {list(shape)}, not {count} class numbers")
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                labels = archive[name].reshape(-1).astype(np.int64)
        except _BROKEN as error:
            raise UserError(f"{self.path}: {name} cannot be read: {error}; download it again") from error
        if count and (labels.min() < 0 or labels.max() >= classes):
            raise UserError(f"{self.path}: {name} has numbers outside 0 to {classes - 1}, the classes of the set")
        return labels

    def _find(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        if name not in self.arrays:
            raise UserError(f"{self.path} lacks the array {name}; it has {', '.join(self.arrays) or 'none'}")
        return self.arrays[name]


def is_npz_image(path: str | os.PathLike[str]) -> bool:
    """Whether `path` names an image inside an archive rather than a file."""
    return _MARK in os.fspath(path)


def archive_of(path: str) -> str:
    """The file that holds an image: the archive of one that is in an archive, else `path` itself."""
    return path[: path.index(_MARK) + len(".npz")] if _MARK in path else path


def read_npz_image(path: str | os.PathLike[str]) -> np.ndarray:
    """The image that `path` (`<archive>.npz::<array>/<row>`) names: uint8 [H, W, 3], RGB; grey is repeated.

    An array up to 256 MiB is read into memory, once. A larger one is inflated, once, into a temporary file
    that has no name ($TMPDIR says where), so that a row in any order costs one read. All threads share either,
    and so do processes that are forked afterwards.

    Raises:
        UserError: there is no such archive, array or row, it is damaged, a row has more than 50 million pixels,
            or the disk has no room for the temporary file.
    """
    archive, array, row = _parts(os.fspath(path))
    with _naming(path):
        image = _rows(archive, array)[row]
    return np.stack([image] * 3, axis=-1) if image.ndim == 2 else np.array(image)


def npz_image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height of the image that `path` names, from the array's header. Raises as `read_npz_image`."""
    archive, array, row = _parts(os.fspath(path))
    with _naming(path):
        shape = _shape(archive, array, _stamp(archive))
    if row >= shape[0]:
        raise UserError(f"cannot read the image {path}: the array has {shape[0]} rows")
    return shape[2], shape[1]


def _parts(path: str) -> tuple[str, str, int]:
    archive, _, member = path.rpartition(_MARK)
    array, _, row = member.rpartition("/")
    if not row.isdecimal():
        raise UserError(f"{path} is not the name of an image in an archive: <archive>.npz::<array>/<row>")
    return archive + ".npz", array, int(row)


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """What a missing or damaged archive raises, as a `UserError` that names the image."""
    try:
        yield
    except (*_BROKEN, KeyError, IndexError) as error:
        raise UserError(f"cannot read the image {path}: {str(error) or type(error).__name__}") from error


_loading = threading.Lock()


def _free_lock() -> None:
    """In a forked process: the thread that held the lock is not there to let go of it."""
    global _loading
    _loading = threading.Lock()


os.register_at_fork(after_in_child=_free_lock)


def _rows(archive: str, array: str) -> np.ndarray | _OnDisk:
    with _loading:  # where several threads ask first, one loads and the others wait
        found = _load(archive, array, _stamp(archive))
    if isinstance(found, str):
        raise ValueError(found)
    return found


def _stamp(archive: str) -> tuple[int, int]:
    status = os.stat(archive)  # noqa: PTH116 (a Path costs more than the call)
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=6)
def _load(archive: str, array: str, stamp: tuple[int, int]) -> np.ndarray | _OnDisk | str:
    """The rows, or the reason why there are none: a minute's work is not done anew for each of 10,000 images."""
    try:
        with _opened(archive, array) as (file, shape):
            size = math.prod(shape)
            if size > _KEEP_BYTES:
                return _OnDisk(_inflated(file, size), shape)
            return np.frombuffer(_exactly(file, size), np.uint8).reshape(shape)
    except (*_BROKEN, KeyError, UserError) as error:
        return str(error) or type(error).__name__


@functools.lru_cache(maxsize=6)
def _shape(archive: str, array: str, stamp: tuple[int, int]) -> tuple[int, ...]:
    with _opened(archive, array) as (_, shape):
        return shape


@contextmanager
def _opened(archive: str, array: str) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """An array of images, opened behind its header, and its shape; nothing is inflated that is no such array."""
    member = array + ".npy"
    with zipfile.ZipFile(archive) as whole, _open_member(whole, member) as file:
        shape, dtype = _array_header(file)
        if dtype != np.uint8 or len(shape) not in (3, 4):
            raise ValueError(f"{member} holds {dtype} {list(shape)}, not images")
        if reason := _too_large(shape):
            raise ValueError(f"{member} has {reason}")
        if math.prod(shape) > whole.getinfo(member).file_size:
            raise EOFError(f"{member} is cut off")
        yield file, shape


def _too_large(shape: tuple[int, ...]) -> str:
    """Why images of an array of this shape are not read, or nothing."""
    height, width = shape[1:3]
    if max(3 * height * width, math.prod(shape[1:])) <= 3 * PIXEL_LIMIT:
        return ""
    return f"images {list(shape[1:])}, of more than the {PIXEL_LIMIT:,} pixels that are read"


class _OnDisk:
    """The rows of an array in a temporary file: any thread or forked process reads any of them at any time."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...]) -> None:
        self._file = file
        self.shape = shape

    def __getitem__(self, row: int) -> np.ndarray:
        if row >= self.shape[0]:
            raise IndexError(f"the array has {self.shape[0]} rows")
        size = math.prod(self.shape[1:])
        data = os.pread(self._file.fileno(), size, row * size)  # unlike a read it moves no position, which all share
        return np.frombuffer(data, np.uint8).reshape(self.shape[1:])

    def __del__(self) -> None:
        self._file.close()


def _inflated(file: IO[bytes], size: int) -> IO[bytes]:
    """The next `size` bytes of `file`, in a temporary file without a name: it goes when the last process does."""
    with _room_for(size):
        scratch = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (it is kept open)
    try:
        with _room_for(size):
            os.posix_fallocate(scratch.fileno(), 0, size)  # a full disk is told before the work, not in the middle
        for start in range(0, size, _BLOCK_BYTES):
            block = _exactly(file, min(_BLOCK_BYTES, size - start))
            with _room_for(size):
                while block:  # a disk that fills up takes a part
                    block = block[scratch.write(block) :]
    except BaseException:
        scratch.close()
        raise
    return scratch


@contextmanager
def _room_for(size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = tempfile.tempdir or "a temporary folder"  # None where tempfile found no folder that it can write to
        raise UserError(
            f"no room to unpack {size / 2**30:.2f} GiB in {where}: {error.strerror}; set TMPDIR to a folder with room"
        ) from error


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError("the array is cut off")
    return data


def _open_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """A file in the archive. Only what numpy writes: bzip2 and LZMA give a thousandfold of what was asked for."""
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that numpy does not write")
    return archive.open(name)


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # numpy reads as much as the file says, up to 4 GiB, before it looks at the length
        if int.from_bytes(file.read(4), "little") > _HEADER_LIMIT:
            raise ValueError("the description of an array is too long")
        file.seek(-4, os.SEEK_CUR)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file)
    except Exception as error:  # it is a Python literal, and numpy's parser raises whatever that leads it to
        raise ValueError("the description of an array is damaged") from error
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of {list(shape)}")
    if fortran and len(shape) > 1:
        raise ValueError("an array in Fortran order")
    return shape, dtype
