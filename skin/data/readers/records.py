"""Records that stand beside pictures in one file: their columns become label, group and attributes."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Sequence

from skin.data import folder_names
from skin.data.folder import Folder
from skin.data.index import COLUMNS, Draft
from skin.data.readers.common import group_columns, joined_people, people_of, rows_of
from skin.data.tables import LABEL_COLUMNS, find_column, without_nan
from skin.utils.errors import UserError

import pandas as pd

NAMES = ("label_name", "label_names", "label_text", "class_name", "class_names", "target_name")  # of numbered classes


def label_column(columns: Sequence[str]) -> str | None:
    """Return the column that tells the class; None if there is none."""
    return find_column(columns, *LABEL_COLUMNS)


def label_note(rows: pd.DataFrame, source: str) -> str:
    """Return a note on the column of the labels if other columns of the records could be meant, otherwise `""`.

    Args:
        rows: from `rows_of_records`.
    """
    others = [name for name in rows.columns if name not in COLUMNS and find_column([name], *LABEL_COLUMNS, *NAMES)]
    if not others:
        return ""
    label = rows.attrs["columns"]["label"]
    listed = ", ".join(others)
    return f"labels are the column {label} of {source}; others: {listed}; --label-column NAME takes another"


def rows_of_records(image: pd.Series, records: pd.DataFrame, label: str, split: str) -> pd.DataFrame:
    """Return the rows of a `Draft`.

    Args:
        image: the name of each.
        records: text, one row for each image, `""` if a value is missing.
        label: the column that tells the class.
        split: of all of them.
    """
    columns = [name for name in records.columns if name != label]
    groups = group_columns(records[columns])
    group = joined_people(records, groups) if groups else ""
    attributes = records[[name for name in columns if name not in groups]]
    people = people_of(records[columns])
    return rows_of(image, records[label], group=group, split=split, attributes=attributes, people=people)


def split_of(path: str) -> str:
    """Return the split that a file's name or a folder tells: `train` for `data/train-00000-of-00002.parquet`.

    A name that tells none, or several, leaves it to the folders; the answer is `""` if these tell none, either.
    """
    name, _, _ = posixpath.basename(path).partition(".")
    return folder_names.split_of(name) or folder_names.split_of_folders(posixpath.dirname(path))


def texts_of(text: str) -> dict[str, str] | None:
    """Return the values of a record in JSON as text, without lists and records in it; None if it is no record."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    return {
        name.strip(): "" if value is None else without_nan(str(value).strip())
        for name, value in record.items()
        if not isinstance(value, (dict, list))
    }


def of_suffix(folder: Folder, suffix: str) -> list[str]:
    """List the files of a folder with this ending, in no layout's tables or images."""
    found = [path for path in folder.others if path.lower().endswith(suffix)]
    for path in found:
        folder.refuse_link(path)
    return found


def unless_others_read(folder: Folder, read: Callable[[Folder], Draft | None]) -> Draft | None:
    """Return what `read` returns.

    A fault of its files is an error only if nothing else in the folder could be a data set. Otherwise it is among the
    reasons why images are missing.
    """
    try:
        return read(folder)
    except UserError as error:
        if not folder.images and not folder.tables and not folder.archives:
            raise
        folder.unread.append(str(error))
        return None
