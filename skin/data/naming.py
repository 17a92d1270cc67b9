"""Find the images that the rows of a table are about, if the reader of the layout has not read it itself.

A name in a table may have folders or none, and another extension than the file. So names are compared by their
stems, and by as many of the folders above as both have: `mel/001.jpg` is not the row of `nv/001`.
"""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import NamedTuple

from skin.data.folder import composed, image_suffix, without_suffix
from skin.data.tables import IMAGE_COLUMNS, find_column, is_index, spelling
from skin.utils.errors import printable

import pandas as pd

_LOOKED_AT = 1000  # values of a column, to see if it names images
_HALF = 0.5
_NUMBER = re.compile(r"0*([0-9]+?)(?:[.,]0+)?")


class Rows(NamedTuple):
    """The rows of a table that are about images.

    Attributes:
        rows: the table's columns, with the image's path in `_image`; a row that names several is there for each.
        unclear: names that may be any of several images, which have other folders. Their rows are left out.
        changed: words on names that are not those of the files, and were taken for them; `""` if there are none.
        columns: those that name the images.
    """

    rows: pd.DataFrame
    unclear: dict[str, list[str]]
    changed: str = ""
    columns: tuple[str, ...] = ()


class Images:
    """The images of a data set, to be found by the names that tables give them."""

    def __init__(self, paths: Iterable[str], classes: Mapping[str, str] | None = None) -> None:
        """Take paths relative to the data folder, or names without folders.

        Args:
            classes: the class of each path. A name that may be any of several images of one class is that of all of
                them, since what is told of it can then join too many, and never too few.
        """
        self._classes = classes
        self._of_stem: dict[str, list[str]] = {}
        self._of_folder: dict[tuple[str, str], list[str]] = {}  # by the folder's own name, and the stem
        self._without_folder: dict[tuple[str, str, str], list[str]] = {}
        for path in paths:
            self._of_stem.setdefault(stem(path), []).append(path)
            if folder := _folder(path):
                self._of_folder.setdefault((folder, stem(path)), []).append(path)

    def rows_of(self, table: pd.DataFrame, path: str, but: Collection[str] = ()) -> Rows | None:
        """Return the rows of a table that name images; None if no column does.

        Args:
            path: of the table, relative to the data folder: names may be relative to its folder.
            but: columns that hold something else.
        """
        parts: list[pd.DataFrame] = []
        unclear: dict[str, list[str]] = {}
        names, changed = [name for name in table.columns if name not in but], ""
        columns = self._columns(table, names)
        column = None if columns else find_column(names, *IMAGE_COLUMNS)
        if column and (files := changed_names(table[column].unique(), itertools.chain(*self._of_stem.values()))):
            table, columns, changed = table.assign(**{column: table[column].map(files)}), [column], example_of(files)
        for column in columns:
            found = {value: self.nearest(value, posixpath.dirname(path)) for value in table[column].unique()}
            clear = {value: self._is_clear(near.images) for value, near in found.items()}
            if not parts:  # the column that tells best; what it tells need not be clear from another one
                unclear = {value: near.images for value, near in found.items() if not clear[value]}
            pairs = [(number, image, found[value].alike) for number, value in enumerate(table[column])
                     if clear[value] for image in found[value].images]  # fmt: skip
            named = pd.DataFrame(pairs, columns=["row", "_image", "_alike"])
            rows = table.iloc[named["row"]].drop(columns=column).reset_index(drop=True)
            parts.append(rows.assign(_image=named["_image"], _alike=named["_alike"]))
        if not parts:
            return None
        rows = pd.concat(parts, ignore_index=True).fillna("")
        closest = rows["_alike"] == rows.groupby("_image")["_alike"].transform("max")
        return Rows(rows[closest].drop(columns="_alike").reset_index(drop=True), unclear, changed, tuple(columns))

    def nearest(self, name: str, beside: str = "") -> Near:
        """Return the images that a name may be: those of its stem that have the most folders in common with it.

        Args:
            beside: the folder of the table that has the name.
        """
        images = self._of_stem.get(stem(name), [])
        if not images:
            return Near([], 0)
        name = posixpath.normpath(posixpath.join(beside, name.replace("\\", "/")))
        in_folder = self._of_folder.get((_folder(name), stem(name)), [])
        if not in_folder:
            return Near(self._in_any_folder(images, name, beside), 0)
        alike = [folders_alike(image, name) for image in in_folder]
        most = max(alike)
        return Near(_of_suffix([image for image, n in zip(in_folder, alike, strict=True) if n == most], name), most)

    def _in_any_folder(self, images: list[str], name: str, beside: str) -> list[str]:
        key = (stem(name), image_suffix(name), beside)  # in a large set, many names may be of the same few stems
        if key not in self._without_folder:
            inside = [image for image in images if beside and image.startswith(f"{beside}/")]
            self._without_folder[key] = _of_suffix(inside or images, name)
        return self._without_folder[key]

    def _is_clear(self, images: list[str]) -> bool:
        """Return True if what is told of all of these may be told of each; one picture in two formats is one."""
        if len({posixpath.dirname(image) for image in images}) < 2:
            return True
        return self._classes is not None and len({self._classes[image] for image in images}) == 1

    def _columns(self, table: pd.DataFrame, names: list[str]) -> list[str]:
        """Return the columns that name images: the likeliest one, and others whose values are names of files, too."""
        hits = self.hits(table, names)
        first = likeliest(table, hits)
        if first is None:
            return []
        taken = set(map(stem, table[first]))
        return [first, *(name for name in hits if name != first and self._names_more(table[name], taken))]

    def hits(self, table: pd.DataFrame, names: list[str]) -> dict[str, int]:
        """Return how many different values of each column name images, of those columns that have such values."""
        hits = {}
        for name in names:
            values = table[name].unique()
            if any(stem(value) in self._of_stem for value in values[:: max(1, len(values) // _LOOKED_AT)]):
                hits[name] = sum(stem(value) in self._of_stem for value in values)
        return hits

    def _names_more(self, values: pd.Series, taken: set[str]) -> bool:
        """Return True if a column names images besides that which names the most of them.

        Args:
            taken: the stems of the latter. Numbers name images only if each does, and none of these.
        """
        there = values[values != ""]
        different = set(map(stem, there.unique()))
        known = different & self._of_stem.keys()
        if there.str.isdecimal().any():
            return known == different and known.isdisjoint(taken) and len(known) >= _HALF * len(there)
        return are_files(values) or len(known) >= _HALF * len(different)


def likeliest(table: pd.DataFrame, hits: Mapping[str, int]) -> str | None:
    """Return the column that is the likeliest to name the images; None if there are no `hits`, its number per column.

    Where files are called `45.jpg`, ages are the stems of some of them.
    """
    many = [name for name in hits if hits[name] >= _HALF * max(hits.values())]

    def likely(name: str) -> tuple[bool, bool, int, int]:
        known = spelling(name)
        rank = IMAGE_COLUMNS.index(known) if known in IMAGE_COLUMNS else len(IMAGE_COLUMNS)
        return not is_index(name), are_files(table[name]), -rank, hits[name]

    return max(many, key=likely, default=None)


class Near(NamedTuple):
    """The images that a name may be, and the number of folders that it has in common with each."""

    images: list[str]
    alike: int


def _of_suffix(images: list[str], name: str) -> list[str]:
    """Return those of some images that end as a name does, if there are any."""
    return [image for image in images if image_suffix(image) == image_suffix(name)] or images


def _folder(path: str) -> str:
    """Return the name of the folder that a file is in; "" for none."""
    return composed(posixpath.basename(posixpath.dirname(path)))


def folders_alike(one: str, other: str) -> int:
    """Return how many folders, from the file upwards, two paths have in common."""
    number = 0
    above = (composed(path).replace("\\", "/").split("/")[-2::-1] for path in (one, other))
    for ours, theirs in zip(*above, strict=False):
        if ours != theirs:
            break
        number += 1
    return number


def is_path(name: str) -> bool:
    """Return True if a name has folders."""
    return bool(posixpath.dirname(posixpath.normpath(name.replace("\\", "/"))))


def may_name(name: str, image: str) -> bool:
    """Return True if a table's `name` may be the image's, by its stem, and its ending and folders if it has any."""
    suffix = image_suffix(name)
    if stem(name) != stem(image) or (suffix and suffix != image_suffix(image)):
        return False
    return not is_path(name) or folders_alike(name, image) >= _folders_told(name, image)


def _folders_told(name: str, image: str) -> int:
    """Return how many folders of a table's name and an image must agree: all that both have, at least one.

    Two paths from the root may be of two machines, so that the last folder has to do.
    """
    paths = [path.replace("\\", "/") for path in (name, image)]
    if all(PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute() for path in paths):
        return 1
    folders = [[part for part in PurePosixPath(path).parts[:-1] if part not in ("..", "/")] for path in paths]
    return max(1, min(map(len, folders)))


def changed_names(names: Iterable[str], images: Iterable[str]) -> dict[str, str]:
    """Return the image of each name that a spreadsheet or another system has changed; none unless each has its own.

    `7.0` and `7` are `007.jpg`, and `img_7` is `IMG_7.jpg`. If both have folders, the last ones agree.
    """
    of_name: dict[str, list[str]] = {}
    in_folder: dict[tuple[str, str], list[str]] = {}
    for image in images:
        of_name.setdefault(_plain(image), []).append(image)
        in_folder.setdefault((_folder(image).casefold(), _plain(image)), []).append(image)
    found = {}
    for name in names:
        plain, folder = _plain(name), _folder(name.replace("\\", "/")).casefold()
        same = [image for above in (folder, "") for image in in_folder.get((above, plain), ())]
        if len(same := _of_suffix(same if folder else of_name.get(plain, []), name)) != 1:
            return {}
        found[name] = same[0]
    return found if len(set(found.values())) == len(found) else {}


def example_of(files: Mapping[str, str]) -> str:
    """Return words on what `changed_names` found."""
    name, file = next(iter(files.items()))
    return f"names images otherwise than their files are called: '{printable(name)}' is taken for {printable(file)}"


def _plain(name: str) -> str:
    """Return a name's stem without case, and a number's without zeros in front or behind a point."""
    plain = stem(name).casefold()
    return number[1] if (number := _NUMBER.fullmatch(plain)) else plain


def are_files(values: pd.Series) -> bool:
    """Return True if most values that are there are names of image files."""
    there = values[values != ""].head(_LOOKED_AT)
    return bool(len(there)) and there.map(lambda value: bool(image_suffix(value))).mean() > _HALF


def stem(name: str) -> str:
    """Return the last part of a name without the extension of an image."""
    return without_suffix(posixpath.basename(name.replace("\\", "/")))
