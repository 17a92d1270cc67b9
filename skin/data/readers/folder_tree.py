"""The tree of a data folder: it tells folders of splits and classes from mere pieces of a download."""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple

from skin.data.containers import is_member
from skin.data.folder import Folder
from skin.data.readers.common import SPLITS

_PIECE = re.compile(r"(?P<of>.*[_ -])?(images?|imgs|(?P<input>input))(?P<part>(_part)?_?\d*)", re.IGNORECASE)


class Place(NamedTuple):
    """The place of a file: its path from the data folder, and its folders below the base."""

    path: str
    folders: tuple[str, ...]


def place(path: str, base: str) -> Place:
    """Return the place of the file `path`, which lies below `base`."""
    return Place(path, tuple(path[len(base) + 1 if base else 0 :].split("/")[:-1]))


def in_split_folders(folder: Folder, base: str) -> list[Place]:
    """List the images that lie in a class folder within a folder named like a split."""
    return [it for it in _images_below(folder, base) if len(it.folders) > 1 and it.folders[0].lower() in SPLITS]


def in_class_folders(folder: Folder, base: str) -> list[Place]:
    """List the images that lie in a class folder; none if one of those folders is a mere piece of a download."""
    places = [it for it in _images_below(folder, base) if it.folders]
    return [] if any(map(_is_piece, {it.folders[0] for it in places})) else places


def base_of(folder: Folder) -> str:
    """Return the folder under which the classes lie: the root, or the one folder in it that an archive made."""
    base = ""
    while True:
        inside = [f for f in folder.folders if posixpath.dirname(f) == base]
        deeper = len(inside) == 1 and any(posixpath.dirname(f) == inside[0] for f in folder.folders)
        if not deeper or any(posixpath.dirname(p) in (base, inside[0]) for p in folder.images):
            return base
        if posixpath.basename(inside[0]).lower() in SPLITS:
            return base
        base = inside[0]


def _images_below(folder: Folder, base: str) -> list[Place]:
    # The pictures in an HDF5 file lie in no folder: their names are for tables.
    return [place(path, base) for path in sorted(folder.images) if path.startswith(base) and not is_member(path)]


def _is_piece(name: str) -> bool:
    """Return True if a folder is no class but a piece of a set, by its name.

    Such are `train`, `images_2`, `HAM10000_images_part_1`, `test_images`, `ISIC2018_Task3_Training_Input`;
    `benign_images` may be a class.
    """
    found = _PIECE.fullmatch(name)
    if found is None:
        return name.lower() in SPLITS
    words = re.split(r"[\W_]+", (found["of"] or "").lower())
    return not found["of"] or bool(found["input"] or found["part"]) or any(word in SPLITS for word in words)
