"""Altered copies of images (turned, cropped, brightened), told by their names: each is of its original's group."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence

from skin.data.groups import join_pairs
from skin.data.naming import stem
from skin.utils.errors import printable

import numpy as np
import pandas as pd

_PARTS = (
    "aug", "flip", "mirror", "rot", "crop", "bright", "contrast", "nois", "blur", "zoom", "shear", "thumb", "resiz",
    ".rf.",
)  # fmt: skip
_WAY = "h|v|lr|ud|horizontal|vertical|left|right"
_WORD = (
    rf"(?:aug(?:ment(?:ed|ation)?s?)?|(?:(?:{_WAY}|random)[ _-]?)?(?:flip(?:ped|lr|ud)?|mirror(?:ed)?)|"
    r"rot(?:at(?:ed?|ion))?|(?:random[ _-]?)?crop(?:ped)?|bright(?:ness|er|ened)?|contrast|nois[ey]|blur(?:red)?|"
    r"zoom(?:ed)?|shear(?:ed)?|thumb(?:nail)?|resized?)"
)
_SETTING = rf"[ _-]?(?:-?\d+(?:\.\d+)?(?:deg)?|{_WAY})"
_AFTER = re.compile(rf"(.+?)[ _.(-]+{_WORD}(?:{_SETTING}){{0,2}}\)?", re.IGNORECASE)
_BEFORE = re.compile(rf"{_WORD}[ _.-]+(.+)", re.IGNORECASE)
_BEFORE_NUMBERED = re.compile(rf"{_WORD}(?:{_SETTING})[ _.-]+(.+)", re.IGNORECASE)
_ROBOFLOW = re.compile(r"(.+?)(?:_(?:jpe?g|png|bmp|tiff?|webp))?\.rf\.[0-9a-z]{16,}", re.IGNORECASE)
_HALF = 0.5


def join_altered(rows: pd.DataFrame, files: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return `rows` with the altered copies of an image in one group, and a note if there are any.

    `x_flip.jpg`, `x_rot90.jpg` and `aug_0_x.jpg` are of `x.jpg`, or of one image that is not there if its name has a
    number. `x_1.jpg`, `x (1).jpg` and `x - Copy.jpg` are not looked at: public sets number different images so.

    Args:
        rows: with the columns image, label and group, in which no group is empty.
        files: their paths, relative to the data folder.
    """
    text = "\0".join(files).lower()  # one look at all of them: nearly no set has any
    if not any(part in text for part in _PARTS):
        return rows, []
    stems, labels = [stem(file) for file in files], rows["label"].tolist()
    # Where names begin anew in each folder, one name in two folders is of two images.
    again = len(set(zip(labels, stems, strict=True))) < len(stems)
    places = [(label, posixpath.dirname(file) if again else "") for label, file in zip(labels, files, strict=True)]
    row_of = {key: row for row, key in reversed(list(enumerate(zip(places, stems, strict=True))))}
    pairs: list[tuple[int, int]] = []
    families: dict[tuple[tuple[str, str], str], list[int]] = {}
    for row, (place, name) in enumerate(zip(places, stems, strict=True)):
        plain = list(_plain(name))
        original = next((row_of[place, it] for it in plain if (place, it) in row_of), None)
        if original is not None:
            pairs.append((row, original))
        elif plain and (any(map(str.isdigit, plain[-1])) or ".rf." in name):
            families.setdefault((place, plain[-1]), []).append(row)
    sizes = rows["label"].value_counts()
    for ((label, _), _), members in families.items():
        if len(members) <= _HALF * sizes[label]:  # a word that most names of a class have tells nothing
            pairs += [(row, members[0]) for row in members[1:]]
    if not pairs:
        return rows, []
    number, first = len(pairs), printable(rows["image"].iloc[pairs[0][0]])
    copies = "1 image is named like an altered copy of another" if number == 1 else (
        f"{number:,} images are named like altered copies of others"
    )  # fmt: skip
    note = f"{copies} (first: {first}): copies of one image stay together"
    return rows.assign(group=join_pairs(rows["group"], np.array(pairs))), [note]


def _plain(name: str) -> Iterator[str]:
    """Yield the names that an image's original may have, from the longest on; none if it is named like no copy."""
    while match := _ROBOFLOW.fullmatch(name) or _AFTER.fullmatch(name):
        name = match[1]
        yield name
    for pattern in (_BEFORE, _BEFORE_NUMBERED):
        if match := pattern.fullmatch(name):
            yield match[1]
