"""HAM10000 (Tschandl et al. 2018), as the Harvard Dataverse and Kaggle give it."""

from __future__ import annotations

from skin.data.folder import Folder
from skin.data.index import Draft
from skin.data.readers.common import Layout, present_columns, rows_of
from skin.data.tables import need_column, read_table


def read(folder: Folder) -> Draft | None:
    path = folder.table("HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata")
    if path is None:
        return None
    table = read_table(path)
    rows = rows_of(
        table[need_column(table, path, "image_id", "image", "isic_id")],
        table[need_column(table, path, "dx", "diagnosis")],
        group=table[need_column(table, path, "lesion_id")],
        attributes=present_columns(table, "dx_type", "age", "sex", "localization"),
    )
    return Draft(rows, path.name)


LAYOUT = Layout("HAM10000", "HAM10000_metadata.csv", read)
