"""Pictures inside one large file, each as the bytes of a JPEG or PNG: HDF5, tar (WebDataset) and parquet.

Such a picture is named `<file>::<member>`, as in `/data/train-image.hdf5::ISIC_0015670`. `skin.data.npz` has the
archives of arrays.

A process looks through such a file once, and keeps 24 bytes per member: where it is. Then a picture costs one open
and one read, as if it were a file. No library holds the file open, so nothing open crosses a fork, and forked
processes share the list. A parquet file is unpacked once, since its rows have no place of their own: see
`skin.data.npz`.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from skin.data.npz import archive_of, kept, stamp_of, unpacked_name, unpacking
from skin.utils.errors import UserError
from skin.utils.files import write_all

import numpy as np

if TYPE_CHECKING:
    import h5py
    import pyarrow.parquet

HDF5_SUFFIXES = (".hdf5", ".h5", ".hdf", ".he5")
PARQUET, TAR = ".parquet", ".tar"
SUFFIXES = (*HDF5_SUFFIXES, PARQUET, TAR)

_MARK = re.compile(rf"({'|'.join(map(re.escape, SUFFIXES))})::", re.IGNORECASE)
_PICTURES = re.compile(rb"\xff\xd8\xff|\x89PNG|GIF8|BM|II\*\0|MM\0\*|RIFF....WEBP|....ftyp|.{128}DICM", re.DOTALL)
_HEAD = 132  # bytes that tell if something is a picture
_DEPTH = 8  # of groups in an HDF5 file; more would be a circle
_ELSEWHERE = -1  # the offset of a member that has no place of its own: compressed or in chunks
_ROWS = 16  # of a parquet file, held at a time
_WHOLE = b"skinrows"  # at the end of an unpacked file


class Places(NamedTuple):
    """The members of a file: sorted digests of their names (uint64 [N]), and where they are in `file` (int64 [N])."""

    file: str
    digests: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray

    def find(self, member: str) -> tuple[int, int]:
        """Return offset and length of a member, in bytes."""
        digest, digests = _digest(member), self.digests.data  # a memoryview gives plain numbers, ten times as fast
        row = bisect_left(digests, digest)
        if row == len(digests) or digests[row] != digest:
            raise UserError(f"it has no member {member}")
        return self.offsets.data[row], self.lengths.data[row]


def is_member(path: str | os.PathLike[str]) -> bool:
    """Return True if `path` names a picture inside such a file."""
    text = os.fspath(path)
    return "::" in text and _MARK.search(text) is not None


def container_of(path: str) -> str:
    """Return the file that holds a picture, if it is in one (an archive of arrays, too); otherwise `path` itself."""
    return _parts(path)[0] if is_member(path) else archive_of(path)


def read_member(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the bytes of the picture that `path` names, but no more than `most` of them.

    Raises:
        UserError: there is no such file or member, or it is damaged.
    """
    file, member = _parts(os.fspath(path))
    with _readable(file):
        try:
            return _read(file, member, most)
        except FileNotFoundError:  # the unpacked file was removed meanwhile: by --clear, for example
            with _lock:
                _known.pop(file, None)
            return _read(file, member, most)


def member_bytes(path: str) -> int:
    """Return the length of the picture that `path` names, in bytes; -1 if it is not known, or there is none."""
    file, member = _parts(path)
    try:
        with _readable(file):
            offset, length = _places(file).find(member)
    except UserError:
        return -1
    return -1 if offset == _ELSEWHERE else length


def hdf5_pictures(file: Path) -> list[str]:
    """Return the names of the pictures in an HDF5 file: datasets of bytes, with their groups; none if it has none."""
    with _readable(os.fspath(file)):
        return _members(os.fspath(file), _find_in_hdf5)


def tar_members(file: Path) -> list[str]:
    """Return the names of the files in a tar. Raises `UserError` if it is damaged or cut off."""
    with _readable(os.fspath(file)):
        return _members(os.fspath(file), _find_in_tar)


def parquet_file(file: Path) -> pyarrow.parquet.ParquetFile:
    """Open a parquet file.

    Raises:
        UserError: it is damaged, or pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{file} is a parquet file: pip install pyarrow, which reads it") from None
    try:
        return pyarrow.parquet.ParquetFile(file, memory_map=True)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file} cannot be read as a parquet file: {reason}; download it again") from error


def picture_column(parquet: pyarrow.parquet.ParquetFile) -> str | None:
    """Return the column of a parquet file that holds pictures: bytes, or a struct with `bytes`; None if none does.

    A column named `image` comes first.
    """
    import pyarrow.types as kinds

    found = []
    for field in parquet.schema_arrow:
        inner = field.type.field("bytes").type if _has_bytes(field.type) else field.type
        if kinds.is_binary(inner) or kinds.is_large_binary(inner):
            found.append(str(field.name))
    return min(found, key=lambda name: name.lower() not in ("image", "img", "picture"), default=None)


def _has_bytes(kind: Any) -> bool:
    import pyarrow.types as kinds

    return bool(kinds.is_struct(kind) and kind.get_field_index("bytes") >= 0)


_known: dict[str, tuple[tuple[int, int], Places]] = {}  # by file, with its size and time
_lock = threading.Lock()


def _parts(path: str) -> tuple[str, str]:
    mark = _MARK.search(path)
    assert mark is not None
    return path[: mark.end() - 2], path[mark.end() :]


@contextmanager
def _readable(file: str) -> Iterator[None]:
    """Turn what libraries raise on a damaged file into a `UserError` that names it."""
    try:
        yield
    except UserError as error:
        name = os.path.basename(file)  # noqa: PTH119 (a Path costs more than the call)
        raise UserError(f"{name}: {error}" if not str(error).startswith(file) else str(error)) from error
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, tarfile.TarError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise UserError(f"{file} cannot be read: {reason}; download it again") from error


def _digest(member: str) -> int:
    name = member.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def _places(file: str) -> Places:
    """Return the members of a file; it is looked through if it is new or has changed."""
    stamp = stamp_of(file)
    found = _known.get(file)
    if found is not None and found[0] == stamp:
        return found[1]
    lower = file.lower()
    look = _find_in_tar if lower.endswith(TAR) else _find_in_parquet if lower.endswith(PARQUET) else _find_in_hdf5
    _members(file, look)
    return _known[file][1]


Found = tuple[str, list[str], list[int], list[int]]  # the file that is read, and names, offsets and lengths in it


def _members(file: str, look: Callable[[str], Found]) -> list[str]:
    """Look through a file, keep the places of its members, and return their names."""
    with _lock:
        stamp = stamp_of(file)
        read_from, names, offsets, lengths = look(file)
        digests = np.array([_digest(name) for name in names], np.uint64)
        order = np.argsort(digests, kind="stable")
        digests = digests[order]
        if (digests[1:] == digests[:-1]).any():
            raise UserError(f"{file} holds two members of one name: remove one of them")
        places = Places(read_from, digests, np.array(offsets, np.int64)[order], np.array(lengths, np.int64)[order])
        _known[file] = stamp, places
    return names


def _read(file: str, member: str, most: int) -> bytes:
    places = _places(file)
    offset, length = places.find(member)
    if offset == _ELSEWHERE:
        return _read_from_hdf5(file, member, most)
    wanted = min(length, most)
    opened = os.open(places.file, os.O_RDONLY | getattr(os, "O_BINARY", 0))  # in half the time of `open`
    try:
        os.lseek(opened, offset, os.SEEK_SET)
        data = os.read(opened, wanted)
    finally:
        os.close(opened)
    if len(data) < wanted:
        raise EOFError("it is cut off")
    return data


# --- HDF5: datasets of bytes ------------------------------------------------------------------------


def _find_in_hdf5(file: str) -> Found:
    import h5py

    names: list[str] = []
    offsets: list[int] = []
    lengths: list[int] = []
    with h5py.File(file, "r", locking=False) as opened, open(file, "rb", buffering=0) as raw:
        sound = False  # one picture will do: 400,000 take their time, and reading them shows the rest
        for name, dataset in _datasets(opened.id):
            place = _place(dataset)
            if place is None:
                continue
            offset, length = place
            if not sound:
                raw.seek(max(0, offset))
                head = raw.read(min(_HEAD, length)) if offset != _ELSEWHERE else _bytes_in(dataset, _HEAD)
                sound = _PICTURES.match(head) is not None
            names.append(name)
            offsets.append(offset)
            lengths.append(length)
    if not sound:  # numbers, such as the labels beside an array of pictures
        return file, [], [], []
    return file, names, offsets, lengths


def _datasets(group: h5py.h5g.GroupID, above: str = "", depth: int = 0) -> Iterator[tuple[str, h5py.h5d.DatasetID]]:
    """Yield the datasets of a group and of those in it. Links to other names and to other files are passed over."""
    import h5py

    names: list[bytes] = []

    def add(name: bytes, link: h5py.h5l.LinkInfo) -> None:
        if link.type == h5py.h5l.TYPE_HARD:
            names.append(name)

    group.links.iterate(add, info=True)
    for name in names:
        path = above + os.fsdecode(name)
        inside = h5py.h5o.open(group, name)
        if isinstance(inside, h5py.h5d.DatasetID):
            yield path, inside
        elif isinstance(inside, h5py.h5g.GroupID) and depth < _DEPTH:
            yield from _datasets(inside, f"{path}/", depth + 1)


def _place(dataset: h5py.h5d.DatasetID) -> tuple[int, int] | None:
    """Return offset and length of a dataset that holds bytes as one picture has them; None if it does not."""
    import h5py

    kind, space = dataset.get_type(), dataset.get_space()
    points = space.get_simple_extent_npoints()
    if isinstance(kind, h5py.h5t.TypeVlenID) or (isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()):
        return (_ELSEWHERE, -1) if points == 1 else None
    one_piece = isinstance(kind, (h5py.h5t.TypeOpaqueID, h5py.h5t.TypeStringID)) and points == 1
    of_bytes = isinstance(kind, h5py.h5t.TypeIntegerID) and kind.get_size() == 1
    row_of_bytes = of_bytes and space.get_simple_extent_ndims() == 1
    if not (one_piece or row_of_bytes):
        return None
    offset = dataset.get_offset()
    if offset is not None:
        return offset, kind.get_size() * points
    made = dataset.get_create_plist()
    if made.get_external_count() or made.get_layout() == h5py.h5d.VIRTUAL:  # in other files, wherever they are
        return None
    return _ELSEWHERE, -1


def _read_from_hdf5(file: str, member: str, most: int) -> bytes:
    """Read a dataset that has no place of its own. The file is opened for it: no handle may cross a fork."""
    import h5py

    with h5py.File(file, "r", locking=False) as opened:
        dataset = h5py.h5d.open(opened.id, os.fsencode(member))
        if _place(dataset) is None:
            raise ValueError(f"{member} is no picture")
        return _bytes_in(dataset, most)


def _bytes_in(dataset: h5py.h5d.DatasetID, most: int) -> bytes:
    import h5py

    if dataset.rank == 1 and dataset.get_type().get_size() == 1:  # of a row of bytes as many as are wanted
        return bytes(np.asarray(h5py.Dataset(dataset)[:most]).tobytes())
    value = h5py.Dataset(dataset)[()]
    if isinstance(value, np.ndarray) and value.dtype == object:  # one of variable length in an array of one
        value = value.reshape(-1)[0]
    return (value if isinstance(value, bytes) else np.asarray(value).tobytes())[:most]


# --- tar --------------------------------------------------------------------------------------------


def _find_in_tar(file: str) -> Found:
    names: list[str] = []
    offsets: list[int] = []
    lengths: list[int] = []
    size = os.stat(file).st_size  # noqa: PTH116
    end = 0
    with tarfile.open(file, "r:") as tar:
        for member in tar:
            vars(tar)["members"] = []  # it keeps them all: some 500 bytes each
            end = member.offset_data + (member.size if member.isreg() else 0)
            if end > size:
                raise EOFError(f"it is cut off in {member.name}")
            if member.isreg() and not member.sparse:
                names.append(member.name.removeprefix("./"))
                offsets.append(member.offset_data)
                lengths.append(member.size)
        with open(file, "rb") as raw:
            raw.seek(-(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
            if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # the mark of a tar's end
                raise EOFError("it is cut off")
    return file, names, offsets, lengths


# --- parquet ----------------------------------------------------------------------------------------


def _find_in_parquet(file: str) -> Found:
    """Return the places of the rows' pictures in the unpacked file; a row without one has none."""
    name = unpacked_name(file, "pictures", stamp_of(file)) + ".bytes"
    read_from, ends = kept(
        name, stamp_of(file)[0], lambda target, reserve: _unpack_rows(file, target, reserve), _unpacked_rows
    )
    lengths = np.diff(ends)
    rows = np.flatnonzero(lengths)
    return read_from, [str(row) for row in rows], ends[rows].tolist(), lengths[rows].tolist()


def _unpack_rows(file: str, target: Path, reserve: bool) -> None:
    """Write the pictures of all rows one after another, then where each begins and the last ends, int64 [N + 1]."""
    ends = [0]
    with unpacking(target, Path(file).stat().st_size, reserve) as unpacked:
        for picture in _pictures_of_rows(file):
            write_all(unpacked, picture)
            ends.append(ends[-1] + len(picture))
        write_all(unpacked, np.array([*ends, len(ends)], "<i8").tobytes() + _WHOLE)


def _unpacked_rows(target: Path) -> tuple[str, np.ndarray] | None:
    """Return the unpacked file and its ends, or None if it is not there or not whole."""
    try:
        with target.open("rb") as unpacked:
            end = unpacked.seek(-16, os.SEEK_END)
            count, mark = int.from_bytes(unpacked.read(8), "little"), unpacked.read(8)
            if mark != _WHOLE or not 0 < count <= end // 8:
                return None
            unpacked.seek(end - 8 * count)
            ends = np.frombuffer(unpacked.read(8 * count), "<i8")
    except OSError:
        return None
    return (os.fspath(target), ends) if ends[-1] == end - 8 * count else None


def _pictures_of_rows(file: str) -> Iterator[bytes]:
    import pyarrow

    parquet = parquet_file(Path(file))
    name = picture_column(parquet)
    if name is None:
        raise UserError(f"{file} has no column of pictures")
    inside = _has_bytes(parquet.schema_arrow.field(name).type)
    try:
        for batch in parquet.iter_batches(_ROWS, columns=[f"{name}.bytes" if inside else name], use_threads=False):
            column = batch.column(0)
            for value in column.field("bytes") if inside else column:
                yield value.as_py() or b""
    except pyarrow.ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from error
