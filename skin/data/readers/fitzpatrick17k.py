"""Fitzpatrick17k (Groh et al. 2021)."""

from __future__ import annotations

from skin.data.folder import Folder
from skin.data.index import Draft
from skin.data.readers.common import Layout, present_columns, rows_of
from skin.data.tables import find_column, need_column, read_table


def read(folder: Folder) -> Draft | None:
    path = folder.table("fitzpatrick17k.csv")
    if path is None:
        return None
    table = read_table(path)
    scale = find_column(list(table.columns), "fitzpatrick_scale", "fitzpatrick")
    if scale:
        table[scale] = table[scale].replace({"-1": "", "-1.0": ""})  # the set's own mark for unknown
    attributes = present_columns(table, scale or "fitzpatrick_scale", "nine_partition_label", "three_partition_label")
    rows = rows_of(
        table[need_column(table, path, "md5hash")], table[need_column(table, path, "label")], attributes=attributes
    )
    return Draft(rows, path.name)


LAYOUT = Layout("Fitzpatrick17k", "fitzpatrick17k.csv", read)
