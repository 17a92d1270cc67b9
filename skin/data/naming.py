"""Which images the rows of a table are about, if the reader of the layout has not read that table itself.

A name in a table may have folders or none, and another extension than the file. So names are compared by their
stems, and by as many of the folders above as both have: `mel/001.jpg` is not the row of `nv/001`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable
from typing import NamedTuple

from skin.data.folder import composed, image_suffix
from skin.data.tables import IMAGE_COLUMNS, is_index, spelling

import pandas as pd

_LOOKED_AT = 1000  # values of a column, to see if it names images
_HALF = 0.5


class Rows(NamedTuple):
    """The rows of a table that are about images.

    Attributes:
        rows: the table's columns, with the image's path in `_image`; a row that names several is there for each.
        unclear: names that may be any of several images, each with two of these. Their rows are left out.
    """

    rows: pd.DataFrame
    unclear: dict[str, tuple[str, str]]


class Images:
    """The images of a data set, to be found by the names that tables give them."""

    def __init__(self, paths: Iterable[str]) -> None:
        """Take paths relative to the data folder, or names without folders."""
        self._of_stem: dict[str, list[str]] = {}
        for path in paths:
            self._of_stem.setdefault(stem(path), []).append(path)

    def rows_of(self, table: pd.DataFrame, path: str, but: Collection[str] = ()) -> Rows | None:
        """Return the rows of a table that name images; None if no column does.

        Args:
            path: of the table, relative to the data folder: names may be relative to its folder.
            but: columns that hold something else.
        """
        columns = self._columns(table, [name for name in table.columns if name not in but])
        parts: list[pd.DataFrame] = []
        unclear: dict[str, tuple[str, str]] = {}
        for column in columns:
            found = {value: self._named(value, posixpath.dirname(path)) for value in table[column].unique()}
            if not parts:  # the column that tells best; what it tells need not be clear from another one
                unclear = {value: (images[0], images[1]) for value, (images, _, clear) in found.items() if not clear}
            pairs = [(number, image, found[value].alike) for number, value in enumerate(table[column])
                     if found[value].clear for image in found[value].images]  # fmt: skip
            named = pd.DataFrame(pairs, columns=["row", "_image", "_alike"])
            rows = table.iloc[named["row"]].drop(columns=column).reset_index(drop=True)
            parts.append(rows.assign(_image=named["_image"], _alike=named["_alike"]))
        if not parts:
            return None
        rows = pd.concat(parts, ignore_index=True).fillna("")
        closest = rows["_alike"] == rows.groupby("_image")["_alike"].transform("max")
        return Rows(rows[closest].drop(columns="_alike").reset_index(drop=True), unclear)

    def _columns(self, table: pd.DataFrame, names: list[str]) -> list[str]:
        """Return the columns that name images: the likeliest one, and others whose values are names of files, too.

        Where files are called `45.jpg`, ages are the stems of some of them.
        """
        hits = {}
        for name in names:
            values = table[name].unique()
            if any(stem(value) in self._of_stem for value in values[:: max(1, len(values) // _LOOKED_AT)]):
                hits[name] = sum(stem(value) in self._of_stem for value in values)
        many = [name for name in hits if hits[name] >= _HALF * max(hits.values())]
        if not many:
            return []

        def likely(name: str) -> tuple[bool, bool, int, int]:
            known = spelling(name)
            rank = IMAGE_COLUMNS.index(known) if known in IMAGE_COLUMNS else len(IMAGE_COLUMNS)
            return not is_index(name), _are_files(table[name]), -rank, hits[name]

        first = max(many, key=likely)
        return [first, *(name for name in hits if name != first and self._names_more(table[name]))]

    def _names_more(self, values: pd.Series) -> bool:
        """Return True if a column names images besides that which names the most; numbers are something else."""
        there = pd.Series(values[values != ""].unique())
        known = sum(stem(value) in self._of_stem for value in there)
        return _are_files(values) or (known >= _HALF * len(there) and not there.str.isdecimal().any())

    def _named(self, value: str, beside: str) -> _Named:
        images = self._of_stem.get(stem(value), [])
        if not images:
            return _Named([], 0, clear=True)
        name = posixpath.normpath(posixpath.join(beside, value.replace("\\", "/")))
        alike = {image: folders_alike(image, name) for image in images}
        most = max(alike.values())
        nearest = [image for image in images if alike[image] == most]
        for narrower in (
            [image for image in nearest if beside and image.startswith(f"{beside}/")],
            [image for image in nearest if image_suffix(image) == image_suffix(name)],
        ):
            nearest = narrower or nearest
        # One picture in two formats is one picture.
        return _Named(nearest, most, clear=len({posixpath.dirname(image) for image in nearest}) == 1)


class _Named(NamedTuple):
    images: list[str]
    alike: int  # folders that the name and the images have in common
    clear: bool


def folders_alike(one: str, other: str) -> int:
    """Return how many folders, from the file upwards, two paths have in common."""
    number = 0
    above = (composed(path).replace("\\", "/").split("/")[-2::-1] for path in (one, other))
    for ours, theirs in zip(*above, strict=False):
        if ours != theirs:
            break
        number += 1
    return number


def may_name(name: str, image: str) -> bool:
    """Return True if a table's `name` may be the image's, by its stem, and its ending and folders if it has any."""
    suffix, folders = image_suffix(name), posixpath.dirname(posixpath.normpath(name.replace("\\", "/")))
    if stem(name) != stem(image) or (suffix and suffix != image_suffix(image)):
        return False
    return not folders or folders_alike(name, image) > 0


def _are_files(values: pd.Series) -> bool:
    """Return True if most values that are there are names of image files."""
    there = values[values != ""].head(_LOOKED_AT)
    return bool(len(there)) and there.map(lambda value: bool(image_suffix(value))).mean() > _HALF


def stem(name: str) -> str:
    """Return the last part of a name without the extension of an image."""
    last = composed(posixpath.basename(name.replace("\\", "/")))
    return last[: -len(suffix)] if (suffix := image_suffix(last)) else last
