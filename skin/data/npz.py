"""Images inside a MedMNIST archive (`.npz`): a row of an array takes the place of a file.

Such an image is named `<archive>.npz::<array>/<row>`, as in `/data/dermamnist.npz::train_images/123`.
Pickled objects in an archive are never opened.

An array is unpacked once, to a `.npy` file that is mapped into memory from then on. A row in any order costs a copy
of its bytes, and all processes share the pages that the system has read. `unpack_in` sets the folder of such files.
`skin.data.containers` keeps what it unpacks there, too.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import math
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.util import Finalize
from pathlib import Path
from typing import IO, BinaryIO, TypeVar

from skin.utils.errors import UserError
from skin.utils.files import lock, spare_bytes, write_all, written_aside

import numpy as np

PIXEL_LIMIT = 50_000_000  # of an image in an archive: a row is copied a few times before it is shrunk

KeptT = TypeVar("KeptT")

_MARK = ".npz::"
# zipfile raises RuntimeError for an encrypted member, and for a compression that it does not know.
_BROKEN = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)
_HEADER_LIMIT = 10_000  # bytes, as numpy has it
_BLOCK_BYTES = 4 * 2**20  # of an array, inflated in one go
_LOCK_SECONDS = 600.0  # that a process waits while another unpacks the same array
_FOLDER, _TEMPORARY = "SKIN_UNPACKED", "SKIN_UNPACKED_TEMPORARY"  # in the environment, so that a process's children
# unpack to the same folders

UNPACKED = re.compile(r"\.?[0-9a-f]{16}-[0-9a-f]{16}\.(npy|bytes)(\.lock|\.[0-9a-f]+\.tmp)?")
"""Names of the files of unpacked arrays and rows, of their locks, and of the rest that a killed process leaves."""


class NpzFile:
    """An archive's list of its arrays: `arrays` holds shape and dtype by name, read from the headers.

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
        """Return the number of images in the array `name`, uint8 [N, H, W] or [N, H, W, 3].

        Raises:
            UserError: it is no such array, or has images of more than 50 million pixels.
        """
        shape, dtype = self._find(name)
        if dtype != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)) or 0 in shape[1:]:
            raise UserError(f"{self.path}: {name} is {dtype} {list(shape)}, not images: uint8 [N, H, W, 3]")
        if reason := _too_large(shape):
            raise UserError(f"{self.path}: {name} has {reason}")
        return shape[0]

    def labels(self, name: str, count: int, classes: int) -> np.ndarray:
        """Return the class numbers in the array `name`, int64 [count]. Raises `UserError` if they are not that."""
        shape, dtype = self._find(name)
        if shape not in ((count,), (count, 1)) or dtype.kind not in "iu":
            raise UserError(f"{self.path}: {name} is {dtype} {list(shape)}, not {count} class numbers")
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                labels: np.ndarray = archive[name].reshape(-1).astype(np.int64)
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
    """Return True if `path` names an image inside an archive rather than a file."""
    return _MARK in os.fspath(path)


def unpack_in(folder: Path | None) -> None:
    """Set the folder in which this process and those that it starts keep unpacked arrays; None is a temporary one.

    The temporary folder is made at its first use, and removed when the process that made it ends.
    """
    if folder is not None:
        os.environ[_FOLDER] = os.fspath(folder.absolute())
    else:
        os.environ.pop(_FOLDER, None)


def archive_of(path: str) -> str:
    """Return the file that holds an image: its archive if it is in one, otherwise `path` itself."""
    return path[: path.index(_MARK) + len(".npz")] if _MARK in path else path


def read_npz_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the image that `path` (`<archive>.npz::<array>/<row>`) names: uint8 [H, W, 3], RGB; grey is repeated.

    Raises:
        UserError: there is no such archive, array or row, it is damaged, a row has more than 50 million pixels,
            or the disk has no room to unpack the array.
    """
    archive, array, row = _parts(os.fspath(path))
    with _naming(path):
        rows = _load(archive, array, stamp_of(archive))
        if isinstance(rows, str):
            raise ValueError(rows)
        if row >= len(rows):
            raise IndexError(f"the array has {len(rows)} rows")
        image = np.array(rows[row])
    return np.stack([image] * 3, axis=-1) if image.ndim == 2 else image


def npz_image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return width and height of the image that `path` names, from the array's header. Raises as `read_npz_image`."""
    archive, array, row = _parts(os.fspath(path))
    with _naming(path):
        shape = _shape(archive, array, stamp_of(archive))
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
    """Turn the errors of a missing or damaged archive into a `UserError` that names the image."""
    try:
        yield
    except (*_BROKEN, KeyError, IndexError) as error:
        raise UserError(f"cannot read the image {path}: {str(error) or type(error).__name__}") from error


def stamp_of(archive: str) -> tuple[int, int]:
    """Return the size of a file and the time of its last change in ns. Raises `OSError`."""
    status = os.stat(archive)  # noqa: PTH116 (a Path costs more than the call)
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=6)
def _load(archive: str, array: str, stamp: tuple[int, int]) -> np.ndarray | str:
    """Return the rows, or the reason why there are none: so a minute's work is not repeated for each image."""
    try:
        return _unpacked(archive, array, stamp)
    except (*_BROKEN, KeyError, UserError) as error:
        return str(error) or type(error).__name__


def _unpacked(archive: str, array: str, stamp: tuple[int, int]) -> np.ndarray:
    """Map the rows of an array, uint8 [N, H, W] or [N, H, W, 3], from its unpacked file. It is made if missing."""
    shape = _shape(archive, array, stamp)
    if 0 in shape:
        return np.empty(shape, np.uint8)
    return kept(
        unpacked_name(archive, array, stamp) + ".npy",
        math.prod(shape),
        lambda target, reserve: _unpack(archive, array, target, reserve),
        lambda file: _mapped(file, shape),
    )


def unpacked_name(archive: str, what: str, stamp: tuple[int, int]) -> str:
    """Return the name, without extension, of the file to which something in an archive is unpacked."""
    return f"{_digest(archive, what)}-{_digest(*stamp)}"


def kept(name: str, size: int, make: Callable[[Path, bool], None], opened: Callable[[Path], KeptT | None]) -> KeptT:
    """Return an unpacked file as `opened` does, from the folder of such files. It is made if missing.

    Args:
        name: of the file.
        size: of the file, in bytes, for a message.
        make: makes the file that it gets, by `unpacking`; the second argument is that of `unpacking`.
        opened: returns None if the file is missing or not whole.

    Raises:
        UserError: the disk has no room for it.
    """
    if (folder := os.environ.get(_FOLDER)) is not None:
        with suppress(_CannotUnpack):  # the folder is read-only, or the disk has nothing to spare
            return _kept_in(Path(folder), name, size, make, opened, reserve=True)
    try:
        return _kept_in(_temporary_folder(), name, size, make, opened, reserve=False)
    except _CannotUnpack as error:
        raise UserError(f"{error}; set TMPDIR to a folder with room") from error


def _digest(*words: str | int) -> str:
    return hashlib.blake2b(repr(words).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


class _CannotUnpack(Exception):
    """A file that could not be written; the text has its place and the reason."""


def _kept_in(
    folder: Path, name: str, size: int, make: Callable[[Path, bool], None],
    opened: Callable[[Path], KeptT | None], reserve: bool,
) -> KeptT:  # fmt: skip
    """Return the file `name` of `folder` as `opened` does. If it is missing, one process makes it, others wait."""
    target = folder / name
    if (found := opened(target)) is not None:
        return found
    with _cannot_unpack(size, folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        held = lock(folder / f"{name}.lock", _LOCK_SECONDS)
    except TimeoutError:  # the holder is stopped; each writes aside, so two may unpack it
        held = None
    try:
        if (found := opened(target)) is not None:
            return found
        make(target, reserve)
    finally:
        if held is not None:
            held.release()
    with _cannot_unpack(size, folder):
        if (found := opened(target)) is None:
            raise OSError("the file has gone again")
    return found


def _mapped(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Map the array in a `.npy` file, which is read on use; None if there is none of that shape."""
    try:
        rows: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return rows if rows.shape == shape and rows.dtype == np.uint8 else None


def _unpack(archive: str, array: str, target: Path, reserve: bool) -> None:
    """Unpack an array into a file of its own. `reserve` is that of `unpacking`."""
    with _opened(archive, array) as (file, shape):
        size = math.prod(shape)
        with unpacking(target, size, reserve) as unpacked:
            np.lib.format.write_array_header_1_0(unpacked, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for start in range(0, size, _BLOCK_BYTES):
                write_all(unpacked, _exactly(file, min(_BLOCK_BYTES, size - start)))


@contextmanager
def unpacking(target: Path, size: int, reserve: bool) -> Iterator[BinaryIO]:
    """Yield the file that becomes `target`, and replaces that of an earlier version of the archive.

    Args:
        size: bytes that it is going to take.
        reserve: leave free the room that a cache leaves free.
    """
    folder = target.parent
    with _cannot_unpack(size, folder):
        if size > (spare_bytes(folder) if reserve else shutil.disk_usage(folder).free):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # before the work, not in the middle
        with written_aside(target, sync=True) as unpacked:
            yield unpacked
    for other in folder.glob(f"{target.name.partition('-')[0]}-*{target.suffix}"):
        if other != target:
            with suppress(OSError):  # Windows keeps a file that is in use
                other.unlink()


@contextmanager
def _cannot_unpack(size: int, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise _CannotUnpack(f"cannot unpack {size / 2**30:.2f} GiB in {folder}: {reason}") from error


def _temporary_folder() -> Path:
    """Return the folder that this process and its children unpack to. It is removed when its maker ends."""
    folder = os.environ.get(_TEMPORARY)
    if folder is None or not Path(folder).is_dir():
        try:
            folder = os.environ[_TEMPORARY] = tempfile.mkdtemp(prefix="skin-unpacked-")
        except OSError as error:
            raise _CannotUnpack(f"cannot make a temporary folder: {error.strerror or error}") from error
        Finalize(None, _remove, (folder,), exitpriority=0)  # unlike atexit's it runs in loaders, too
    return Path(folder)


def _remove(folder: str) -> None:
    _load.cache_clear()  # Windows removes no file that is mapped
    shutil.rmtree(folder, ignore_errors=True)


@functools.lru_cache(maxsize=6)
def _shape(archive: str, array: str, stamp: tuple[int, int]) -> tuple[int, ...]:
    with _opened(archive, array) as (_, shape):
        return shape


@contextmanager
def _opened(archive: str, array: str) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """Open an array of images behind its header, and yield its shape, too. Nothing else is unpacked."""
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
    """Return why images of an array of this shape are not read; `""` if they are."""
    height, width = shape[1:3]
    if max(3 * height * width, math.prod(shape[1:])) <= 3 * PIXEL_LIMIT:
        return ""
    return f"images {list(shape[1:])}, of more than the {PIXEL_LIMIT:,} pixels that are read"


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError("the array is cut off")
    return data


def _open_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Open a file in the archive, as numpy writes it. bzip2 and LZMA may give 1,000 times the bytes asked for."""
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
    except Exception as error:  # it is a Python literal, which can make numpy's parser raise anything
        raise ValueError("the description of an array is damaged") from error
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of {list(shape)}")
    if fortran and len(shape) > 1:
        raise ValueError("an array in Fortran order")
    return shape, dtype
