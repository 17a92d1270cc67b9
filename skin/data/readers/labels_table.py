"""A table that the user names with `--labels`, for any folder."""

from __future__ import annotations

from pathlib import Path

from skin.data.folder import Folder
from skin.data.groups import join_groups
from skin.data.index import Draft
from skin.data.readers.common import people_of, rows_of, split_words, without_unmarked
from skin.data.tables import find_column, from_one_hot, is_one_hot, need_column, read_table
from skin.utils.errors import UserError

import numpy as np


def labels_table(folder: Folder, path: Path) -> Draft:
    """Read the table that the user names, `image,label[,group][,split][,...]`; it works for any folder.

    Raises:
        UserError: it does not exist, or lacks a column.
    """
    if not path.is_file():
        raise UserError(f"the table {path} does not exist: check --labels")
    table = read_table(path)
    columns = list(table.columns)
    image = need_column(
        table, path, "image", "image_id", "image_name", "filename", "file_name", "file", "path", "image_path",
        "filepath", "isic_id", "img_id", "id", "name", "md5hash",
    )  # fmt: skip
    label = find_column(columns, "label", "labels", "class", "dx", "diagnosis", "diagnostic", "target", "category")
    group = find_column(columns, "group", "group_id")
    groups = [group] if group else [
        name for name in (find_column(columns, "patient_id", "patient"), find_column(columns, "lesion_id", "lesion"))
        if name
    ]  # fmt: skip
    split = find_column(columns, "split", "set", "subset", "partition")
    rest = [name for name in columns if name not in (image, label, split, *groups)]
    classes: tuple[str, ...] = ()
    if label is None and is_one_hot(table, rest):
        labels, marked = from_one_hot(table, rest, path)
        classes, rest = tuple(rest), []
    else:
        label = label or need_column(table, path, "label", "class", "dx", "diagnosis")
        labels, marked = table[label], np.ones(len(table), dtype=np.int64)
    rows = rows_of(
        table[image],
        labels,
        group=join_groups(*(table[name] for name in groups)) if groups else "",
        split=split_words(table[split], path) if split else "",
        attributes=table[rest],
        people=people_of(table[groups]),
    )
    return without_unmarked(Draft(rows, path.name, classes), marked)
