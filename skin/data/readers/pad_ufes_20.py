"""PAD-UFES-20 (Pacheco et al. 2020)."""

from __future__ import annotations

from skin.data.folder import Folder
from skin.data.index import Draft
from skin.data.readers.common import Layout, group_of, listed, metadata, people_of, present_columns, rows_of
from skin.data.tables import need_column, read_table
from skin.utils.errors import UserError


def read(folder: Folder) -> Draft | None:
    paths = metadata(folder, "img_id")
    if not paths:
        return None
    if len(paths) > 1:
        raise UserError(f"{folder.root} holds {listed(paths)}, which disagree: name the right one with --labels")
    path = folder.root / paths[0]
    table = read_table(path)
    rows = rows_of(
        table[need_column(table, path, "img_id")],
        table[need_column(table, path, "diagnostic", "diagnosis")],
        group=group_of(table, path, "patient_id", "lesion_id"),
        attributes=present_columns(table, "age", "gender", "region", "fitspatrick", "fitzpatrick", "biopsed"),
        people=people_of(table),
    )
    return Draft(rows, path.name)


LAYOUT = Layout("PAD-UFES-20", "metadata.csv with img_id and diagnostic", read)
