"""DDI, Diverse Dermatology Images (Daneshjou et al. 2022)."""

from __future__ import annotations

import shlex

from skin.data.folder import Folder
from skin.data.index import Draft
from skin.data.readers.common import Layout, present_columns, rows_of
from skin.data.tables import find_column, need_column, read_table

_FEW = 10  # images


def read(folder: Folder) -> Draft | None:
    path = folder.table("ddi_metadata.csv")
    if path is None:
        return None
    table = read_table(path)
    disease = table[need_column(table, path, "disease")]
    rows = rows_of(
        table[need_column(table, path, "ddi_file")],
        disease,
        attributes=present_columns(table, "skin_tone", "malignant"),
    )
    images = disease[disease != ""].value_counts()
    few = int((images < _FEW).sum())
    note = f"{path.name} names {len(images):,} diseases"
    note += f", {few:,} of them in fewer than {_FEW} images" if few else ""
    two = find_column(list(table.columns), "malignant")
    if two is None:
        return Draft(rows, path.name)
    return Draft(rows, path.name, notes=(f"{note}; --label-column {shlex.quote(two)} takes two classes instead",))


LAYOUT = Layout("DDI", "ddi_metadata.csv", read)
