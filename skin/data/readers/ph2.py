"""PH² (Mendonça et al. 2013): an Excel workbook that marks the class of each image in columns, and the same as text.

The text is read if the workbook is not there: cells between bars, classes as numbers, and a legend below.
"""

from __future__ import annotations

import re

from skin.data.folder import Folder
from skin.data.index import Draft
from skin.data.readers.common import Layout, present_columns, rows_of, without_unmarked
from skin.data.readers.set_tables import read_lines
from skin.data.tables import find_column, from_one_hot, need_column
from skin.data.workbook import read_workbook
from skin.utils.errors import UserError

import pandas as pd

_CLASSES = ("common_nevus", "atypical_nevus", "melanoma")
_NUMBERS = {"0": "Common Nevus", "1": "Atypical Nevus", "2": "Melanoma"}


def read(folder: Folder) -> Draft | None:
    path = folder.table("PH2_dataset.xlsx")
    if path is None:
        return _of_text(folder)
    table = read_workbook(path, "image_name", *_CLASSES)
    image = need_column(table, path, "image_name")
    table = table[table[image] != ""]  # a legend stands above the table or below it
    columns = [need_column(table, path, name) for name in _CLASSES]
    marks = table[columns].apply(lambda values: values.replace({"X": "1", "x": "1"}))
    labels, marked = from_one_hot(marks, columns, path, numbers=marks.index)
    # The name without extension is the picture's own; masks and regions have longer ones.
    rows = rows_of(table[image], labels, attributes=_attributes(table))
    return without_unmarked(Draft(rows, path.name, tuple(columns)), marked)


def _of_text(folder: Folder) -> Draft | None:
    path = folder.table("PH2_dataset.txt")
    if path is None:
        return None
    lines = read_lines(folder, path.relative_to(folder.root).as_posix())
    cells = {number: _cells(line) for number, line in lines if line.startswith("|")}
    header, *rows = cells.values() or [[]]
    records = [dict(zip(header, row, strict=False)) for row in rows]
    table = pd.DataFrame(records, columns=list(dict.fromkeys(header)), dtype=str).fillna("")
    image, number = need_column(table, path, "name"), need_column(table, path, "clinical_diagnosis")
    labels = table[number].map(_NUMBERS)
    if labels.isna().any():
        row = int(labels.isna().argmax())
        raise UserError(
            f"{path}, line {list(cells)[row + 1]}: the {number} '{table[number][row]}' is none of 0, 1, 2: correct it"
        )
    return Draft(rows_of(table[image], labels, attributes=_attributes(table)), path.name, tuple(_NUMBERS.values()))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"\|\|?", line.removeprefix("||").removesuffix("||"))]


def _attributes(table: pd.DataFrame) -> pd.DataFrame:
    asymmetry = find_column(list(table.columns), "asymmetry", "asymmetry_(0/1/2)")
    attributes = present_columns(table, "histological_diagnosis")
    return attributes.assign(asymmetry=table[asymmetry]) if asymmetry else attributes


LAYOUT = Layout("PH2", "PH2_dataset.xlsx or PH2_dataset.txt", read)
