"""MIDAS, the multimodal set of Stanford (Chiou et al. 2024): a workbook, or the same table as CSV."""

from __future__ import annotations

from skin.data.folder import Folder, image_suffix
from skin.data.index import Draft, count
from skin.data.readers.common import Layout, present_columns, rows_of
from skin.data.tables import find_column, need_column, read_table
from skin.data.workbook import read_workbook

_ATTRIBUTES = (
    "midas_melanoma", "midas_distance", "midas_location", "midas_age", "midas_gender", "midas_fitzpatrick",
    "midas_race", "midas_ethnicity",
)  # fmt: skip


def read(folder: Folder) -> Draft | None:
    path = folder.table("release_midas.csv")
    if path is not None:
        table = read_table(path)
    elif (path := folder.table("release_midas.xlsx")) is not None:
        table = read_workbook(path, "midas_file_name")
    else:
        return None
    # The table gives many files the extension .jpeg that are .jpg: the name itself is the key.
    name = table[need_column(table, path, "midas_file_name")]
    image = name.map(lambda file: file[: -len(image_suffix(file))] if image_suffix(file) else file)
    rows = rows_of(
        image,
        table[need_column(table, path, "midas_path")],
        group=table[need_column(table, path, "midas_record_id")],
        attributes=present_columns(table, *_ATTRIBUTES),
    )
    # Controls and lesions that were not cut out have no finding of pathology.
    without = rows["label"] == ""
    notes, set_aside = [], {}
    if without.any():
        note = f"{path.name} gives no midas_path of {count(int(without.sum()), 'image')} (controls): left out"
        set_aside[note] = tuple(rows.loc[without, "image"])
    if find_column(list(table.columns), "midas_melanoma"):
        notes.append("the classes are midas_path, the pathology; --label-column midas_melanoma takes two instead")
    return Draft(rows[~without], path.name, notes=tuple(notes), set_aside=set_aside)


LAYOUT = Layout("MIDAS", "release_midas.xlsx", read)
