"""The record of a run's images when it began, `contents.csv`, by which they are known again elsewhere.

It has the length of every file, and the digests of 64 images spread over the set. Other pictures under the same
names have other lengths; if a format gives all the same length, the digests differ.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from skin.data.containers import is_member, member_bytes, read_member
from skin.data.npz import is_npz_image, read_npz_image
from skin.utils.errors import UserError
from skin.utils.files import write_atomically

import numpy as np
import pandas as pd

NAME = "contents.csv"
SAMPLED = 64  # images whose digest is kept
_READ_LIMIT = 2**20  # bytes of a file that its digest looks at


def write(rows: pd.DataFrame, path: Path) -> None:
    """Write `image,bytes,blake2b` for the rows of an index; unknown values are left empty.

    Args:
        rows: with the columns image, path and split.
    """
    table = pd.DataFrame({"image": rows["image"], "bytes": _sizes(rows["path"])})
    table["bytes"] = table["bytes"].where(table["bytes"] >= 0).astype("Int64")
    # Arrays are read whole, so only those that training reads anyway.
    readable = np.flatnonzero((rows["split"] != "test") | ~rows["path"].map(is_npz_image))
    sampled = set(readable[np.linspace(0, len(readable) - 1, SAMPLED).astype(int)].tolist())
    table["blake2b"] = [digest(path) if i in sampled else "" for i, path in enumerate(rows["path"])]
    write_atomically(table.to_csv(index=False, lineterminator="\n").encode("utf-8", "surrogateescape"), path)


def changed(rows: pd.DataFrame, path: Path) -> list[str]:
    """Return the names of the images that differ from the record at `path`.

    Images of which it knows nothing count as unchanged.

    Raises:
        UserError: the record is damaged.
    """
    try:
        known = pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="surrogateescape")
        known = known.set_index("image")[["bytes", "blake2b"]].reindex(rows["image"]).fillna("")
        sizes = pd.to_numeric(known["bytes"]).to_numpy(np.float64)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it to go on without comparing images") from error
    other = ~np.isnan(sizes) & (sizes != _sizes(rows["path"]))
    for i in np.flatnonzero(known["blake2b"] != ""):
        other[i] = other[i] or digest(rows["path"].iloc[i]) != known["blake2b"].iloc[i]
    names: list[str] = rows["image"][other].tolist()
    return names


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
