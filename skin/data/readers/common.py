"""The type of a layout, and the functions that the readers of several layouts share."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass, replace

from skin.data.folder import Folder
from skin.data.index import COLUMNS, Draft
from skin.data.tables import find_column, header, without_words
from skin.utils.errors import printable

import numpy as np
import pandas as pd

# The splits, under the names that data sets have for them.
SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A layout that data folders have.

    Attributes:
        name: its name in messages.
        signs: the files or folders by which it is known, in a few words, for people.
        read: returns the rows of a folder; None if the signs are not there.
        by_folders: classes are the names of folders.
    """

    name: str
    signs: str
    read: Callable[[Folder], Draft | None]
    by_folders: bool = False


def rows_of(
    image: pd.Series,
    label: pd.Series | str,
    *,
    group: pd.Series | str = "",
    split: pd.Series | str = "",
    attributes: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return the rows of a `Draft`. Attributes with the name of one of its own columns get another."""
    rows = pd.DataFrame({"image": image, "label": label, "group": group, "split": split})
    if attributes is None:
        return rows
    names = {name: f"table_{name}" for name in attributes.columns if name in (*COLUMNS, "file")}
    return rows.join(attributes.apply(without_words).rename(columns=names))


def present_columns(table: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Return those of the columns `names` that `table` has, under its own spelling."""
    found = (find_column(list(table.columns), name) for name in names)
    return table[[name for name in found if name is not None]]


def metadata(folder: Folder, key: str) -> list[str]:
    """List the tables named metadata, or nearly so, that have the column `key`, without copies of one another."""
    named = folder.distinct([path for path in folder.tables if "metadata" in posixpath.basename(path).lower()])
    return [path for path in named if find_column(header(folder.root / path), key)]


def listed(paths: list[str]) -> str:
    """Return two paths or more as words: `a, b and c`."""
    shown = paths if len(paths) < 4 else [*paths[:2], f"{len(paths) - 2:,} more tables"]
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def without_unmarked(draft: Draft, marked: np.ndarray) -> Draft:
    """Leave out the rows whose one-hot marks (`marked` of them, int [N]) do not add up to one, and say so."""
    wrong = marked != 1
    if not wrong.any():
        return draft
    first = draft.rows["image"].iloc[int(np.flatnonzero(wrong)[0])]
    none, several = int((marked == 0).sum()), int((marked > 1).sum())
    note = f"{draft.source}: rows that mark no class: {none:,}, several: {several:,} (first: {printable(first)})"
    return replace(
        draft,
        rows=draft.rows[~wrong],
        unusable={**draft.unusable, note: int(wrong.sum())},
        left_out=(*draft.left_out, *draft.rows.loc[wrong, "image"]),
    )
