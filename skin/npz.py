"""Images inside a MedMNIST archive (`.npz`): a row of an array stands where other sets have a file.

Such an image is named `<archive>.npz::<array>/<row>`, as in `/data/dermamnist.npz::train_images/123`.
Pickled objects in an archive are never opened.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from skin.errors import UserError

_MARK = ".npz::"
_BROKEN = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error)
_KEEP_BYTES = 256 * 2**20  # an array up to this size is kept in memory whole, by each process


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
                    with archive.open(member) as file:
                        shape, dtype = _array_header(file)
                    if math.prod(shape) * dtype.itemsize > entry.file_size:
                        raise ValueError(f"the array {member} is cut off")
                    if dtype.hasobject:
                        raise UserError(f"{path}: the array {member} holds pickled objects, which are never opened")
                    self.arrays[member.removesuffix(".npy")] = (shape, dtype)
        except _BROKEN as error:
            raise UserError(f"{path} cannot be read as an .npz archive: {error}; download it again") from error

    def image_count(self, name: str) -> int:
        """The number of images in the array `name`, uint8 [N, H, W] or [N, H, W, 3]; else a `UserError`."""
        shape, dtype = self._find(name)
        if dtype != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)) or 0 in shape[1:]:
            raise UserError(f"{self.path}: {name} is {dtype} {list(shape)}, not images: uint8 [N, H, W, 3]")
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


def read_npz_image(path: str | os.PathLike[str]) -> np.ndarray:
    """The image that `path` (`<archive>.npz::<array>/<row>`) names: uint8 [H, W, 3], RGB; grey is repeated.

    Arrays up to 256 MiB are read once a process; of larger compressed ones the rows come fast in
    ascending order (as a cache is built), while a row before the last one starts the archive anew.

    Raises:
        UserError: there is no such archive, array or row, or it is damaged.
    """
    archive, array, row = _parts(os.fspath(path))
    try:
        image = _rows(archive, array, os.getpid())[row]
    except (OSError, EOFError, KeyError, IndexError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read the image {path}: {error or type(error).__name__}") from error
    return np.stack([image] * 3, axis=-1) if image.ndim == 2 else np.array(image)


def npz_image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height of the image that `path` names, from the array's header. Raises as `read_npz_image`."""
    archive, array, row = _parts(os.fspath(path))
    try:
        shape = _rows(archive, array, os.getpid()).shape
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read the image {path}: {error or type(error).__name__}") from error
    if row >= shape[0]:
        raise UserError(f"cannot read the image {path}: the array has {shape[0]} rows")
    return shape[2], shape[1]


def _parts(path: str) -> tuple[str, str, int]:
    archive, _, member = path.rpartition(_MARK)
    array, _, row = member.rpartition("/")
    if not row.isdecimal():
        raise UserError(f"{path} is not the name of an image in an archive: <archive>.npz::<array>/<row>")
    return archive + ".npz", array, int(row)


@functools.lru_cache(maxsize=6)
def _rows(archive: str, array: str, process: int) -> _Stream | np.ndarray:
    # The process is part of the key: a file that was open before a fork would be read by both at once.
    stream = _Stream(archive, array)
    return stream.whole() if stream.nbytes <= _KEEP_BYTES else stream


class _Stream:
    """Rows of an array in an archive, read forwards; what is asked for again is read from the start."""

    def __init__(self, archive: str, array: str) -> None:
        self._zip = zipfile.ZipFile(archive)
        self._member = array + ".npy"
        self._lock = threading.Lock()
        self._open()
        self.nbytes = self.shape[0] * self._row_bytes

    def _open(self) -> None:
        self._file = self._zip.open(self._member)
        self.shape, dtype = _array_header(self._file)
        if dtype != np.uint8 or len(self.shape) not in (3, 4):
            raise ValueError(f"{self._member} holds {dtype} {list(self.shape)}, not images")
        self._row_bytes = int(np.prod(self.shape[1:]))
        self._next = 0

    def __getitem__(self, row: int) -> np.ndarray:
        if row >= self.shape[0]:
            raise IndexError(f"the array has {self.shape[0]} rows")
        with self._lock:
            if row < self._next:
                self._open()
            while self._next <= row:
                data = self._file.read(self._row_bytes)
                if len(data) < self._row_bytes:
                    raise EOFError(f"{self._member} is cut off")
                self._next += 1
        return np.frombuffer(data, np.uint8).reshape(self.shape[1:])

    def whole(self) -> np.ndarray:
        data = self._file.read(self.nbytes)
        if len(data) < self.nbytes:
            raise EOFError(f"{self._member} is cut off")
        self._zip.close()
        return np.frombuffer(data, np.uint8).reshape(self.shape)


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file)
    except Exception as error:  # it is a Python literal, and numpy's parser raises whatever that leads it to
        raise ValueError("the description of an array is damaged") from error
    if fortran and len(shape) > 1:
        raise ValueError("an array in Fortran order")
    return shape, dtype
