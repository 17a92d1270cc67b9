"""The tree of a data folder: which of its folders are splits, classes, or mere parts of a download."""

from __future__ import annotations

import posixpath
import re

from skin.data.folder import Folder
from skin.data.readers.common import SPLITS

_PART_FOLDER = re.compile(r"(?P<of>.*[_ -])?(images?|imgs|(?P<input>input))(?P<part>(_part)?_?\d*)", re.IGNORECASE)


def split_paths(folder: Folder, base: str) -> list[tuple[str, ...]]:
    return [path for path in _below(folder, base) if path[1].lower() in SPLITS and len(path) > 3]


def class_paths(folder: Folder, base: str) -> list[tuple[str, ...]]:
    paths = [path for path in _below(folder, base) if len(path) > 2]
    return [] if any(map(_is_part, {path[1] for path in paths})) else paths


def _is_part(name: str) -> bool:
    """Whether a folder is part of a set by its name, and no class: `train`, `images_2`, `HAM10000_images_part_1`,
    `test_images`, `ISIC2018_Task3_Training_Input`. `benign_images` may be a class."""
    found = _PART_FOLDER.fullmatch(name)
    if found is None:
        return name.lower() in SPLITS
    words = re.split(r"[\W_]+", (found["of"] or "").lower())
    return not found["of"] or bool(found["input"] or found["part"]) or any(word in SPLITS for word in words)


def base_of(folder: Folder) -> str:
    """The folder under which the classes lie: the root, or the one folder in it that an archive made."""
    base = ""
    while True:
        inside = [f for f in folder.folders if posixpath.dirname(f) == base]
        deeper = len(inside) == 1 and any(posixpath.dirname(f) == inside[0] for f in folder.folders)
        if not deeper or any(posixpath.dirname(p) in (base, inside[0]) for p in folder.images):
            return base
        if posixpath.basename(inside[0]).lower() in SPLITS:
            return base
        base = inside[0]


def _below(folder: Folder, base: str) -> list[tuple[str, ...]]:
    """Each image under `base`: its path from the root, then the parts of its path from `base`."""
    return [parts(path, base) for path in sorted(folder.images) if path.startswith(base)]


def parts(path: str, base: str) -> tuple[str, ...]:
    return (path, *path[len(base) + 1 if base else 0 :].split("/"))
