"""Altered copies of images (turned, cropped, brightened), told by their names: each is of its original's group."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from skin.data.groups import join_pairs
from skin.data.naming import stem
from skin.utils.errors import printable

import numpy as np
import pandas as pd

_WAY = "h|v|lr|ud|horizontal|vertical|left|right"
_WAYS = rf"(?:(?:{_WAY}|random)[ _-]?)?"
_WORDS = {  # by the letters that each has
    "aug": "aug(?:ment(?:ed|ation)?s?)?",
    "flip": f"{_WAYS}flip(?:ped|lr|ud)?",
    "mirror": f"{_WAYS}mirror(?:ed)?",
    "rot": "rot(?:at(?:ed?|ion))?",
    "crop": "(?:random[ _-]?)?crop(?:ped)?",
    "bright": "bright(?:ness|er|ened)?",
    "contrast": "contrast",
    "nois": "(?:sp[ _-]?)?nois[ey]",
    "blur": "blur(?:red)?",
    "zoom": "zoom(?:ed)?",
    "shear": "shear(?:ed)?",
    "thumb": "thumb(?:nail)?",
    "resiz": "resized?",
    "hue": "hue",
    "gamma": "gamma",
    "saturat": "saturat(?:ed|ion)",
    "jitter": "(?:colou?r[ _-]?)?jitter(?:ed)?",
    "sharpe": "sharpen(?:ed)?",
    "gaussian": "gaussian",
    "elastic": "elastic",
    "cutout": "cutout",
    "transform": "transform(?:ed)?",
    "translat": "translat(?:ed?|ion)",
    "scaled": "scaled",
}
_WORD = f"(?:{'|'.join(_WORDS.values())})"
_SETTING = rf"[ _-]?(?:-?\d+(?:\.\d+)?(?:deg)?|{_WAY})"
_AFTER = re.compile(rf"(.+?)[ _.(-]+{_WORD}(?:{_SETTING}){{0,2}}\)?", re.IGNORECASE)
_BEFORE = re.compile(rf"{_WORD}[ _.-]+(.+)", re.IGNORECASE)
_BEFORE_NUMBERED = re.compile(rf"{_WORD}(?:{_SETTING})[ _.-]+(.+)", re.IGNORECASE)
_ROBOFLOW = re.compile(r"(.+?)(?:_(?:jpe?g|png|bmp|tiff?|webp))?\.rf\.[0-9a-z]{16,}", re.IGNORECASE)
_AUGMENTOR = re.compile(r".*?_original_(.+)\.(?:jpe?g|png|bmp|gif)_[0-9a-f-]{30,}", re.IGNORECASE)
_PARTS = (*_WORDS, ".rf.", "_original_")
# A number after one of these counts or measures alterations; after `crop` or `zoom`, it may count pictures.
_TELLING = ("aug", "flip", "mirror", "rot", "nois", "shear")
_YEAR = r"(?:19|20)\d\d"
_MONTH = re.compile(r"aug(?![a-z])", re.IGNORECASE)
_DATE = re.compile(rf"aug[ _.-]?(?:\d\d?[ _.-]+)?{_YEAR}(?!\d)", re.IGNORECASE)
_DAY_OR_YEAR = re.compile(rf"0?[1-9]|[12]\d|3[01]|{_YEAR}")
_COPIES = 20  # of one image: more are a series of their own, such as a site's or a year's


class _Original(NamedTuple):
    """The name that an image's original may have; `sure` if it need not be there to tell that this is a copy."""

    name: str
    sure: bool


def join_altered(rows: pd.DataFrame, files: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return `rows` with the altered copies of an image in one group, and notes on them.

    `x_flip.jpg`, `x_rot90.jpg` and `aug_0_x.jpg` are of `x.jpg`. If that is not there, `x3_flip.jpg` and
    `x3_rot90.jpg` are of one image all the same; `x3_crop_1.jpg` and `x3_crop_2.jpg` need not be, nor the dates
    `01-aug-2019.jpg` and `01-aug-2020.jpg`. `x_1.jpg`, `x (1).jpg` and `x - Copy.jpg` are not looked at: public sets
    number different images so. No two known lesions or patients are joined.

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
    folders = [posixpath.dirname(file).removesuffix("/output") if again else "" for file in files]  # as of Augmentor
    places = list(zip(labels, folders, strict=True))
    row_of = {key: row for row, key in reversed(list(enumerate(zip(places, stems, strict=True))))}
    copies_of: dict[tuple[tuple[str, str], str, bool], list[int]] = {}  # of which original, and if it is sure
    for row, (place, name) in enumerate(zip(places, stems, strict=True)):
        originals = list(_originals(name))
        found = next((it for it in originals if (place, it.name) in row_of), None)
        certain = found is not None and found.sure
        if found is None:  # the copies tell of one image all the same, if its name has a number
            shortest = next((it for it in reversed(originals) if it.sure), None)
            if shortest and (any(map(str.isdigit, shortest.name)) or ".rf." in name):
                found = shortest
        if found is not None:
            copies_of.setdefault((place, found.name, certain), []).append(row)
    pairs: list[tuple[int, int]] = []
    left: list[int] = []  # of each image with too many copies
    for (place, name, certain), copies in copies_of.items():
        original = row_of.get((place, name), copies[0])
        others = [row for row in copies if row != original]
        if certain or len(others) < _COPIES:
            pairs += [(row, original) for row in others]
        else:
            left.append(original)
    notes = []
    if left:
        name = printable(rows["image"].iloc[left[0]])
        notes.append(
            f"more than {_COPIES} images are named like copies of one, {name} among them: taken for different ones; "
            "if they are copies, --group-by keeps them together"
        )
    joined = _of_one_patient(rows, np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2))
    if not len(joined):
        return rows, notes
    number, example = len(joined), printable(rows["image"].iloc[joined[0, 0]])
    named = "1 image is named like an altered copy of another" if number == 1 else (
        f"{number:,} images are named like altered copies of others"
    )  # fmt: skip
    notes.append(f"{named} (first: {example}): copies of one image stay together")
    return rows.assign(group=join_pairs(rows["group"], joined)), notes


def _originals(name: str) -> Iterator[_Original]:
    """Yield the names that an image's original may have, from the longest on; none if it is named like no copy."""
    sure = True
    while match := _ROBOFLOW.fullmatch(name) or _AUGMENTOR.fullmatch(name) or _AFTER.fullmatch(name):
        plain, change = match[1], name[match.end(1) :]
        if _DATE.search(change):
            return
        month = _MONTH.search(change) and _DAY_OR_YEAR.fullmatch(plain)
        told = match.re is not _AFTER or _tells(change) or not any(map(str.isdigit, change))
        sure = sure and not month and told
        yield _Original(plain, sure)
        name = plain
    if match := _BEFORE.fullmatch(name):
        yield _Original(match[1], sure)
    if match := _BEFORE_NUMBERED.fullmatch(name):
        change = name[: match.start(1)]
        if not _DATE.search(change) and (_tells(change) or not match[1].isdecimal()):  # crop_7_1: whose first crop?
            yield _Original(match[1], False)


def _tells(change: str) -> bool:
    return any(word in change.lower() for word in _TELLING)


def _of_one_patient(rows: pd.DataFrame, pairs: np.ndarray) -> np.ndarray:
    """Return the pairs of rows, int [M, 2], that join no two known lesions or patients, alone or with others."""
    known = rows["group"].where(rows["group"] != rows["image"]).to_numpy()  # NaN for an image on its own
    one, other = known[pairs.T]
    pairs = pairs[pd.isna(one) | pd.isna(other) | (one == other)]
    together = join_pairs(rows["image"], pairs)
    several = pd.Series(known, index=rows.index).groupby(together).transform("nunique").to_numpy() > 1
    kept: np.ndarray = pairs[~several[pairs[:, 0]]]
    return kept
