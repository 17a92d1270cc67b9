"""Labels and groups from the columns that the user names, for a layout whose reader takes others."""

from __future__ import annotations

from dataclasses import replace

from skin.data.folder import Folder
from skin.data.index import COLUMNS, Draft
from skin.data.naming import Images
from skin.data.tables import find_column, listed_columns, named_column, read_table, spelling
from skin.utils.errors import UserError, printable

import pandas as pd


def with_named_columns(folder: Folder, draft: Draft, label: str | None, group: str | None) -> Draft:
    """Return the draft with labels from the column `label` and groups from the column `group`; None changes nothing.

    Raises:
        UserError: no table of the folder has the column beside the names of the images, or two tables disagree.
    """
    if label is not None:
        values, note = _values(folder, draft.rows, label, "label")
        draft = replace(draft, rows=draft.rows.assign(label=values), classes=(), label_note=note)
    if group is not None:
        values, note = _values(folder, draft.rows, group, "group")
        draft = replace(draft, rows=draft.rows.assign(group=values), notes=(*draft.notes, note))
    return draft


def _values(folder: Folder, rows: pd.DataFrame, name: str, what: str) -> tuple[pd.Series, str]:
    """Return the value of a column for each image, `""` if it has none, and a note on where it is from."""
    option, images = f"--{what}-column", rows["image"]
    columns = {path: folder.columns(path) for path in folder.tables}
    attributes = [str(column) for column in rows if column not in COLUMNS]
    if not columns and (own := find_column(attributes, name, spelling(name))):
        return rows[own], f"the {what} is the column {own} of the data"  # of a parquet file, or of records in a tar
    if not columns:
        raise UserError(f"{option} {name}: {folder.root} holds no table (.csv, .tsv, .tab); name one with --labels")
    names = Images(images, dict(zip(images, rows["label"], strict=True)) if what == "group" else None)
    found, sources = [], []
    for path in folder.distinct([path for path in columns if find_column(columns[path], name, spelling(name))]):
        table = read_table(folder.root / path)
        column = named_column(list(table.columns), folder.root / path, name, option) or name
        about = names.rows_of(table, path, but=(column,))
        if about is None:
            continue
        if about.unclear:
            value, (one, other, *_) = next(iter(about.unclear.items()))
            raise UserError(
                f"{option} {name}: {path} names '{printable(value)}', which may be {printable(one)} or "
                f"{printable(other)}: write the path of each image into the table"
            )
        found.append(pd.DataFrame({"image": about.rows["_image"], "value": about.rows[column]}))
        sources.append(f"{path} ({about.changed})" if about.changed else path)
    if not found:
        listed = "; ".join(f"{path}: {listed_columns(names)}" for path, names in list(columns.items())[:3])
        raise UserError(f"{option} {name}: no table beside the images has such a column for them; there are {listed}")
    pairs = pd.concat(found, ignore_index=True)
    pairs = pairs[pairs["value"] != ""].drop_duplicates()
    twice = pairs["image"].duplicated()
    if twice.any():
        image = printable(pairs.loc[twice, "image"].iloc[0])
        raise UserError(f"{option} {name}: {' and '.join(sources)} give the image {image} two values: correct one")
    values = images.map(pairs.set_index("image")["value"]).fillna("")
    return values, f"the {what} is the column {name} of {' and '.join(sources)}"

