"""The record of a run's images when it began, `contents.csv`, by which they are known again elsewhere.

It has the length of every file, and the digests of 64 images spread over the set. Other pictures under the same
names have other lengths; if a format gives all the same length, the digests differ.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from skin.data.containers import is_member, member_bytes, read_member
from skin.data.metadata import column_of
from skin.data.npz import is_npz_image, read_npz_image
from skin.utils.errors import UserError
from skin.utils.files import refuse_pipe, write_atomically

import numpy as np
import pandas as pd

NAME = "contents.csv"
SAMPLED = 64  # images whose digest is kept
_READ_LIMIT = 2**20  # bytes of a file that its digest looks at


def write(rows: pd.DataFrame, path: Path, metadata: Sequence[str] = ()) -> None:
    """Write `image,bytes,blake2b` for the rows of an index; unknown values are left empty.

    Args:
        rows: with the columns image, path and split.
        metadata: columns of `--metadata`, whose values have a digest in a fourth column.
    """
    table = pd.DataFrame({"image": rows["image"], "bytes": _sizes(rows["path"])})
    table["bytes"] = table["bytes"].where(table["bytes"] >= 0).astype("Int64")
    # Arrays are read whole, so only those that training reads anyway.
    readable = np.flatnonzero((rows["split"] != "test") | ~rows["path"].map(is_npz_image))
    sampled = set(readable[np.linspace(0, len(readable) - 1, SAMPLED).astype(int)].tolist())
    table["blake2b"] = [digest(path) if i in sampled else "" for i, path in enumerate(rows["path"])]
    if metadata:
        table["metadata"] = _digests(rows, metadata)
    write_atomically(table.to_csv(index=False, lineterminator="\n").encode("utf-8", "surrogateescape"), path)


def changed(rows: pd.DataFrame, path: Path) -> list[str]:
    """Return the names of the images that differ from the record at `path`.

    Images of which it knows nothing count as unchanged.

    Raises:
        UserError: the record is damaged.
    """
    try:
        known = _read(path).set_index("image")[["bytes", "blake2b"]].reindex(rows["image"]).fillna("")
        sizes = pd.to_numeric(known["bytes"]).to_numpy(np.float64)
    except (ValueError, KeyError) as error:
        raise _damaged(path, error) from error
    other = ~np.isnan(sizes) & (sizes != _sizes(rows["path"]))
    for i in np.flatnonzero(known["blake2b"] != ""):
        other[i] = other[i] or digest(rows["path"].iloc[i]) != known["blake2b"].iloc[i]
    names: list[str] = rows["image"][other].tolist()
    return names


def with_other_metadata(rows: pd.DataFrame, path: Path, metadata: Sequence[str]) -> list[str]:
    """Return the names of the images whose values in the columns `metadata` differ from the record at `path`.

    Raises:
        UserError: the record is damaged.
    """
    if not metadata:
        return []
    known = _read(path)
    if "metadata" not in known:  # of a run of an earlier version
        return []
    try:
        before = known.set_index("image")["metadata"].reindex(rows["image"]).to_numpy()
    except (ValueError, KeyError) as error:
        raise _damaged(path, error) from error
    return [image for image, old, new in zip(rows["image"], before, _digests(rows, metadata), strict=True)
            if isinstance(old, str) and old != new]  # fmt: skip


def _read(path: Path) -> pd.DataFrame:
    try:
        refuse_pipe(path)
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="surrogateescape")
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read ({error}): remove it to go on without comparing images")


def _digests(rows: pd.DataFrame, metadata: Sequence[str]) -> list[str]:
    """Return a digest of each row's values in some columns."""
    own = [name for name in (column_of(rows.columns, name) for name in metadata) if name]
    # One by one: a column that becomes one of texts may keep its missing values, which cannot be joined.
    lines = rows[own].map(str).agg("\x1f".join, axis=1) if own else pd.Series("", index=rows.index)
    return [hashlib.blake2b(line.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest() for line in lines]


def sha256_of(rows: pd.DataFrame) -> str:
    """Return one SHA-256 for a set of images: of each one's name and length, and the digests of 64 spread over it.

    Args:
        rows: with the columns image and path, in their order.
    """
    paths = rows["path"].tolist()
    sampled = [digest(paths[i]) for i in np.linspace(0, len(paths) - 1, min(SAMPLED, len(paths))).astype(int)]
    lines = [f"{image},{size}" for image, size in zip(rows["image"], _sizes(rows["path"]).tolist(), strict=True)]
    return hashlib.sha256("\n".join([*lines, *sampled]).encode("utf-8", "surrogateescape")).hexdigest()


def _sizes(paths: pd.Series) -> np.ndarray:
    """Return the bytes of each file, int64 [N]; -1 if unknown, and for a row of an archive."""
    return np.array([file_bytes(path) for path in paths], dtype=np.int64)


def file_bytes(path: str) -> int:
    """Return the length of a file, or of a picture in a container; -1 if there is none, and for a row of an array."""
    if is_npz_image(path):
        return -1
    if is_member(path):
        return member_bytes(path)
    try:
        return os.stat(path).st_size  # noqa: PTH116 (a Path costs more than the call)
    except OSError:
        return -1


def digest(path: str) -> str:
    """Return the digest of a file's first MiB, or of an archived image's pixels; `""` if it cannot be read."""
    try:
        if is_npz_image(path):
            content = read_npz_image(path).tobytes()
        elif is_member(path):
            content = read_member(path, _READ_LIMIT)
        else:
            with open(path, "rb") as file:
                content = file.read(_READ_LIMIT)
    except (OSError, UserError):
        return ""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
