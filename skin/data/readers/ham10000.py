"""HAM10000 (Tschandl et al. 2018), as the Harvard Dataverse and Kaggle give it, with or without its test set."""

from __future__ import annotations

from pathlib import Path

from skin.data.class_names import ISIC_2018
from skin.data.folder import Folder
from skin.data.index import Draft
from skin.data.readers.common import Layout, group_of, people_of, present_columns, rows_of, without_unmarked
from skin.data.readers.isic_challenge import together
from skin.data.tables import find_column, from_one_hot, need_column, read_table, spelling

TABLES = ("HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata")


def read(folder: Folder) -> Draft | None:
    path = folder.table(*TABLES)
    if path is None:
        return None
    # The test set is that of ISIC 2018: a table with the columns of HAM10000 in the Dataverse, one-hot elsewhere.
    test = folder.table("ISIC2018_Task3_Test_GroundTruth.csv", "ISIC2018_Task3_Test_GroundTruth.tab")
    return together(folder, [_read(path), *([_read_test(test)] if test else [])])


def _read(path: Path, split: str = "") -> Draft:
    table = read_table(path)
    rows = rows_of(
        table[need_column(table, path, "image_id", "image", "isic_id")],
        table[need_column(table, path, "dx", "diagnosis")],
        group=group_of(table, path, "lesion_id"),
        split=split,
        attributes=present_columns(table, "dx_type", "age", "sex", "localization"),
        people=people_of(table),
    )
    return Draft(rows, path.name)


def _read_test(path: Path) -> Draft:
    table = read_table(path)
    if find_column(list(table.columns), "dx", "diagnosis"):
        return _read(path, "test")
    labels, marked = from_one_hot(table, [need_column(table, path, spelling(name)) for name in ISIC_2018], path)
    image = table[need_column(table, path, "image", "image_id")]
    return without_unmarked(Draft(rows_of(image, labels.str.lower(), split="test"), path.name), marked)


LAYOUT = Layout("HAM10000", "HAM10000_metadata.csv", read)
