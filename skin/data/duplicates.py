"""Copies of a picture under other names: found by a perceptual hash, and kept in one split.

The hash is imagehash's `phash` with 16x16 bits: the signs, against their median, of the lowest 256
frequencies of the picture at 64 x 64. It was tried on copies of 171 pictures (HAM10000 at 200 x 150 and the demo
set): as a JPEG of quality 20, at half the size, squeezed to 224 x 224 or to 28 x 28, three times as large, or 15 %
brighter. Every copy differs from its picture in 30 bits or fewer, half of them in 10 or fewer. Copies cut by 5 %
mostly differ in more. Of the 50 million pairs of different lesions of HAM10000 just one differs in so few:
ISIC_0025226 and ISIC_0030074, the same spot under two lesion_ids. (64 bits, imagehash's default, join 40
pairs already at a distance of 2.)
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from skin.data.containers import container_of, is_member, read_member
from skin.data.contents import file_bytes
from skin.data.groups import join_pairs
from skin.data.images import FILE_LIMIT, PIXELS_VERSION, ImageError, Preprocess, more_decoders, read_image
from skin.data.index import Index
from skin.data.npz import is_npz_image
from skin.utils.errors import UserError, printable
from skin.utils.files import written_aside

import cv2
import imagehash
import numpy as np
import PIL
from PIL import Image

NEAR_BITS = 30  # of 256, at most so many differ between near duplicates; below 32, see `near_pairs`
JOIN_LIMIT = 30_000  # images that training reads only for this; a minute on two cores

_SIDE = 16
_THUMBNAIL = Preprocess(64, 64, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_VERSION = "1"
_BLOCK = 1 << 22  # candidate pairs looked at in one go; 200 MB

ResultT = TypeVar("ResultT")


def join_near_duplicates(
    index: Index, cache: Path | None = None, progress: Callable[[int], None] | None = None, limit: int = JOIN_LIMIT
) -> Index:
    """Return the index with groups joined if near duplicates are found between them.

    A note says so. Another names pairs with two labels, of which one must be wrong.

    A set of more than `limit` images is not read for this. It is joined by the hashes that an earlier `--check`
    has left in the cache, if there are any.

    Args:
        cache: the folder that keeps the hashes, so that each file is read once; None keeps nothing.
        progress: called with the number of images just done.
    """
    kept = HashCache(cache, index.root)
    paths = index.rows["path"].tolist()
    if len(paths) > limit and any(kept.get(path) is None for path in paths):
        note = f"near duplicates were not looked for among {len(paths):,} images; --check does so once and for all"
        return replace(index, notes=(*index.notes, note))
    pairs, _ = near_pairs(perceptual_hashes(paths, kept, progress))
    index = joined(index, pairs)
    labels, images = index.rows["label"].to_numpy(), index.rows["image"].to_numpy()
    conflicts = pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]]
    if not len(conflicts):
        return index
    named = [" and ".join(f"{printable(images[row])} ({labels[row]})" for row in pair) for pair in conflicts[:3]]
    more = f"; --check names all {len(conflicts):,}" if len(conflicts) > len(named) else ""
    return replace(index, notes=(*index.notes, f"near duplicates under two labels: {'; '.join(named)}{more}"))


def joined(index: Index, pairs: np.ndarray) -> Index:
    """Return the index with the groups joined that a pair of rows (int [M, 2]) links, and a note if there are any."""
    groups = index.rows["group"].to_numpy()
    apart = int((groups[pairs[:, 0]] != groups[pairs[:, 1]]).sum())
    if not apart:
        return index
    note = f"pairs of near duplicates in two groups: {apart:,}; their groups are joined (--keep-duplicates does not)"
    rows = index.rows.assign(group=join_pairs(index.rows["group"], pairs))
    return replace(index, rows=rows, notes=(*index.notes, note))


def perceptual_hash(path: str) -> np.ndarray:
    """Return the hash of an image, uint64 [4]; raises `ImageError`."""
    small = Image.fromarray(read_image(path, _THUMBNAIL))
    return np.packbits(imagehash.phash(small, hash_size=_SIDE).hash).view(np.uint64)


def perceptual_hashes(
    paths: Sequence[str], kept: HashCache | None = None, progress: Callable[[int], None] | None = None
) -> np.ma.MaskedArray:
    """Return the hashes of images, uint64 [N, 4], masked if an image cannot be read.

    Hashes in `kept` are taken from there. The other images are read, by threads, and their hashes added to it.
    """
    kept = kept or HashCache(None, Path())

    def hash_of(path: str) -> np.ndarray | None:
        with suppress(ImageError):
            found = kept.get(path)
            return kept.add(path, perceptual_hash(path)) if found is None else found
        return None

    hashes: np.ma.MaskedArray = np.ma.masked_all((len(paths), 4), dtype=np.uint64)
    for row, found in enumerate(in_threads(hash_of, paths, progress)):
        if found is not None:
            hashes[row] = found
    kept.save()
    return hashes


def in_threads(
    function: Callable[[str], ResultT], paths: Sequence[str], progress: Callable[[int], None] | None = None
) -> Iterator[ResultT]:
    """Yield `function` of each path, in order. Threads will do: decoders release Python's lock."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), 1024):  # so that Ctrl-C need not wait for a million images
            part = paths[start : start + 1024]
            for result in pool.map(function, part):
                yield result
                if progress:
                    progress(1)


def same_files(paths: Sequence[str], others: Sequence[str]) -> list[int]:
    """Return for each of `paths` the first of `others` with the very same bytes, -1 if there is none.

    Only files of a size that both lists have are read. An image within an .npz has no file of its own and no match,
    and neither has a file that cannot be read.
    """
    size_of = {path: file_bytes(path) for path in {*paths, *others} if not is_npz_image(path)}
    sizes = {size_of.get(path) for path in paths} & {size_of.get(path) for path in others} - {None}
    alike = [path for path, size in size_of.items() if size in sizes]
    digest_of = dict(zip(alike, in_threads(_digest, alike), strict=True))
    first: dict[bytes, int] = {}
    for number, path in enumerate(others):
        if digest := digest_of.get(path):
            first.setdefault(digest, number)
    return [first.get(digest_of.get(path) or b"", -1) for path in paths]


def copies_within(paths: Sequence[str]) -> np.ndarray:
    """Return each row whose file has the bytes of an earlier row's, and the first such row: int64 [M, 2].

    Only files of a size that another one has are read.
    """
    sizes = [file_bytes(path) for path in paths]
    of_size = Counter(sizes)
    rows = [row for row, size in enumerate(sizes) if of_size[size] > 1]
    alike = [paths[row] for row in rows]
    pairs = [(row, rows[first]) for row, first in zip(rows, same_files(alike, alike), strict=True) if first >= 0]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)


def near_copies(
    paths: Sequence[str], others: Sequence[str], kept: HashCache, kept_others: HashCache, limit: int = JOIN_LIMIT
) -> np.ndarray | None:
    """Return for each of `paths` the nearest of `others` that is a near copy, int64 [N]; -1 if there is none.

    Args:
        kept, kept_others: hashes of the files of either list; those that are new are added.
        limit: of images that are read for this. If there are more, the answer is None.
    """
    unread = sum(kept.get(path) is None for path in paths) + sum(kept_others.get(path) is None for path in others)
    if unread > limit:
        return None
    hashes = np.ma.concatenate([perceptual_hashes(paths, kept), perceptual_hashes(others, kept_others)])
    rows = np.flatnonzero(~np.ma.getmaskarray(hashes).any(axis=1))
    unique, number = np.unique(np.asarray(hashes)[rows], axis=0, return_inverse=True)
    number, theirs = number.reshape(-1), rows >= len(paths)
    nearest = np.full(len(unique), -1, np.int64)  # for each hash, the first of `others` that has it
    nearest[number[theirs][::-1]] = rows[theirs][::-1] - len(paths)
    pairs, distances = near_pairs(np.ma.array(unique))
    one, other = np.concatenate([pairs, pairs[:, ::-1]])[np.argsort(np.tile(distances, 2), kind="stable")].T
    reached = (nearest[one] < 0) & (nearest[other] >= 0)
    hash_of_path, at = np.unique(one[reached], return_index=True)  # the first is the nearest
    nearest[hash_of_path] = nearest[other[reached][at]]
    found = np.full(len(paths), -1, np.int64)
    found[rows[~theirs]] = nearest[number[~theirs]]
    return found


def _digest(path: str) -> bytes | None:
    try:
        if is_member(path):
            return hashlib.blake2b(read_member(path, FILE_LIMIT)).digest()
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except (OSError, UserError):
        return None


def near_pairs(hashes: np.ma.MaskedArray, bits: int = NEAR_BITS) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of rows whose hashes differ in at most `bits` bits.

    Each hash is cut into 16 pieces of 16 bits. Two hashes that differ in fewer than 32 bits have a piece in which
    they differ in at most one bit. So only rows that share a piece, or all but a bit of it, are compared: a
    five-hundredth of all pairs, if pieces are evenly spread. Of rows with the very same hash, each is paired only
    with the next.

    Args:
        hashes: uint64 [N, 4]; masked rows are passed over.
        bits: below 32.

    Returns:
        pairs: int64 [M, 2], the lesser row first, sorted.
        distances: int64 [M], bits.
    """
    if bits >= 32:
        raise ValueError(f"at most 31 bits, not {bits}")
    rows = np.flatnonzero(~np.ma.getmaskarray(hashes).any(axis=1))
    unique, number = np.unique(np.asarray(hashes)[rows], axis=0, return_inverse=True)
    order = np.argsort(number.reshape(-1), kind="stable")
    alike = np.flatnonzero(np.diff(number.reshape(-1)[order]) == 0)
    same = np.stack([rows[order[alike]], rows[order[alike + 1]]], axis=1)
    first = rows[order[np.searchsorted(number.reshape(-1)[order], np.arange(len(unique)))]]
    found = first[_near(unique, bits)]
    pairs = np.concatenate([same, found]).astype(np.int64)
    pairs.sort(axis=1)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    values = np.asarray(hashes)
    distances = np.empty(len(pairs), dtype=np.int64)
    for start in range(0, len(pairs), _BLOCK):  # in blocks: the hashes take twice 64 bytes per pair
        one, other = pairs[start : start + _BLOCK].T
        distances[start : start + _BLOCK] = np.bitwise_count(values[one] ^ values[other]).sum(axis=1, dtype=np.int64)
    return pairs, distances


def _near(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Find the pairs of different hashes (uint64 [N, 4]) at most `bits` apart: int64 [M, 2], each once, sorted.

    Each pair is taken at the first piece that finds it. Pictures that are alike find one another by nearly every
    piece, and 10,000 of them are 50 million pairs.
    """
    pieces = np.ascontiguousarray(hashes).view(np.uint16)
    flips = np.array([0, *(1 << bit for bit in range(16))], dtype=np.uint16)
    found = [np.empty(0, dtype=np.int64)]
    for number, piece in enumerate(pieces.T):
        order = np.argsort(piece, kind="stable")
        starts = np.searchsorted(piece[order], np.arange(2**16 + 1))
        for flip in flips:
            partner = (piece ^ flip).astype(np.int64)
            for one, other in _expand(starts[partner], starts[partner + 1]):
                other = order[other]
                one, other = one[one < other], other[one < other]
                apart = hashes[one] ^ hashes[other]
                near = np.bitwise_count(apart).sum(axis=1, dtype=np.int64) <= bits
                one, other, apart = one[near], other[near], apart[near].view(np.uint16)
                first = (np.bitwise_count(apart[:, :number]) > 1).all(axis=1)
                found.append(one[first] * len(hashes) + other[first])
    keys = np.concatenate(found)
    found.clear()
    keys.sort()
    pairs = np.empty((len(keys), 2), dtype=np.int64)
    np.divmod(keys, max(1, len(hashes)), out=(pairs[:, 0], pairs[:, 1]))
    return pairs


def _expand(starts: np.ndarray, ends: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield row `i` with each of `starts[i]` to `ends[i] - 1`, as two arrays, some millions at a time."""
    lengths = ends - starts
    totals = np.cumsum(lengths)
    row = 0
    while row < len(lengths):
        done = totals[row - 1] if row else 0
        stop = max(row + 1, int(np.searchsorted(totals, done + _BLOCK, side="right")))
        part = lengths[row:stop]
        one = np.repeat(np.arange(row, stop), part)
        within = np.arange(len(one)) - np.repeat(np.cumsum(part) - part, part)
        yield one, np.repeat(starts[row:stop], part) + within
        row = stop


class HashCache:
    """Hashes of the files of a data folder, kept in a cache folder between runs.

    A hash is kept under the file's path, size and times of change (see `skin.data.cache._stamp`), and the versions of
    the code that made it. If the file of hashes cannot be read or written, the hashes are made again.
    """

    def __init__(self, cache: Path | None, root: Path) -> None:
        name = hashlib.blake2b(os.fsencode(root), digest_size=8).hexdigest()
        self._file = None if cache is None else cache / f"{name}.hashes.npz"
        self._hashes: dict[bytes, np.ndarray] = {}
        self._changed = False
        if self._file is None:
            return
        with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            with self._file.open("rb") as file, np.load(file, allow_pickle=False) as file_of_hashes:
                keys, hashes = file_of_hashes["keys"], file_of_hashes["hashes"]
            if keys.dtype == np.uint64 and hashes.dtype == np.uint64 and keys.shape[1:] == (2,):
                self._hashes = dict(zip(map(bytes, keys), hashes.reshape(len(keys), 4), strict=True))

    def get(self, path: str) -> np.ndarray | None:
        """Return the hash of the image at `path`, uint64 [4], if it is known."""
        return self._hashes.get(self._key(path))

    def add(self, path: str, found: np.ndarray) -> np.ndarray:
        """Keep a hash, and return it."""
        self._hashes[self._key(path)] = found
        self._changed = True
        return found

    def save(self) -> None:
        """Write the added hashes, whole or not at all."""
        if self._file is None or not self._changed:
            return
        keys = np.frombuffer(b"".join(self._hashes), dtype=np.uint64).reshape(-1, 2)
        with suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with written_aside(self._file) as file:
                np.savez(file, keys=keys, hashes=np.stack(list(self._hashes.values())))
            self._changed = False

    @staticmethod
    def _key(path: str) -> bytes:
        try:
            status = Path(container_of(path)).stat()
        except OSError:
            return b""  # a missing file has no hash; `perceptual_hash` says why
        made_by = f"{_VERSION} {PIXELS_VERSION} {PIL.__version__} {cv2.__version__} {more_decoders()}"
        text = f"{made_by}\0{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}"
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()
