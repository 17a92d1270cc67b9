"""PH² (Mendonça et al. 2013): an Excel workbook that marks the class of each image in columns."""

from __future__ import annotations

from skin.data.folder import Folder
from skin.data.index import Draft
from skin.data.readers.common import Layout, present_columns, rows_of, without_unmarked
from skin.data.tables import find_column, from_one_hot, need_column
from skin.data.workbook import read_workbook

_CLASSES = ("common_nevus", "atypical_nevus", "melanoma")


def read(folder: Folder) -> Draft | None:
    path = folder.table("PH2_dataset.xlsx")
    if path is None:
        return None
    table = read_workbook(path, "image_name", *_CLASSES)
    image = need_column(table, path, "image_name")
    table = table[table[image] != ""]  # a legend stands above the table or below it
    columns = [need_column(table, path, name) for name in _CLASSES]
    marks = table[columns].apply(lambda values: values.replace({"X": "1", "x": "1"}))
    labels, marked = from_one_hot(marks, columns, path, numbers=marks.index)
    asymmetry = find_column(list(table.columns), "asymmetry", "asymmetry_(0/1/2)")
    attributes = present_columns(table, "histological_diagnosis")
    if asymmetry:
        attributes = attributes.assign(asymmetry=table[asymmetry])
    # The name without extension is the picture's own; masks and regions have longer ones.
    rows = rows_of(table[image], labels, attributes=attributes)
    return without_unmarked(Draft(rows, path.name, tuple(columns)), marked)


LAYOUT = Layout("PH2", "PH2_dataset.xlsx", read)
