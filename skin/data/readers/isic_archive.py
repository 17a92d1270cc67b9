"""The ISIC Archive: a download of its gallery, whole, in parts or class by class."""

from __future__ import annotations

import posixpath

from skin.data.folder import Folder
from skin.data.groups import join_groups
from skin.data.index import Draft, count
from skin.data.readers.common import (
    Layout,
    listed,
    metadata,
    one_row_each,
    people_of,
    present_columns,
    rows_of,
    stacked,
)  # fmt: skip
from skin.data.readers.folder_tree import base_of, in_class_folders, in_split_folders, place
from skin.data.tables import find_column, header, need_column, read_table
from skin.utils.errors import UserError

import numpy as np
import pandas as pd

# From the deepest on: diagnosis_1 is benign or malignant, _2 the family, _3 the disease, _4 and _5 its forms;
# `diagnosis` is the disease in older downloads.
_DIAGNOSES = ("diagnosis", *(f"diagnosis_{level}" for level in (5, 4, 3, 2, 1)))
_PEOPLE = ("patient_id", "lesion_id")
_ATTRIBUTES = (
    "age_approx", "sex", "anatom_site_general", "anatom_site_1", "fitzpatrick_skin_type", "image_type",
    "dermoscopic_type", "diagnosis_confirm_type", "attribution",
)  # fmt: skip
_COLUMNS = ("isic_id", *_DIAGNOSES, *_PEOPLE, *_ATTRIBUTES)
_NEARLY_ALL = 0.99  # of the rows with a diagnosis: a level that fewer rows fill would lose whole classes


def read(folder: Folder) -> Draft | None:
    paths = metadata(folder, "isic_id")
    if not any(find_column(header(folder.root / path), *_DIAGNOSES) for path in paths) or tables_of_classes(folder):
        return None  # the tables of other sets have isic_id, too
    if len({posixpath.basename(path) for path in paths}) > 1:
        raise UserError(f"{folder.root} holds {' and '.join(paths)}: name the right one with --labels")
    path = folder.root / paths[0]
    source = path.name if len(paths) == 1 else listed(paths)
    table = read_table(path) if len(paths) == 1 else one_row_each(stacked(folder, paths, _COLUMNS), "isic_id", source)
    columns = list(table.columns)
    label, filled = _diagnosis(table)
    if label is None:
        raise UserError(f"{path}: the column diagnosis is empty in every row: there is nothing to learn from")
    image = table[need_column(table, path, "isic_id")]
    known = [table[name] for person in _PEOPLE if (name := find_column(columns, person))]
    attributes, group = present_columns(table, *_ATTRIBUTES), join_groups(*known) if known else ""
    rows = rows_of(image, table[label], group=group, attributes=attributes, people=people_of(table))
    note = f"labels are the column {label} of {source}"
    if others := ", ".join(f"{name} ({number:,})" for name, number in filled.items() if name != label):
        note += f", filled in {count(filled[label], 'row')}; others: {others}; to take another, call it label in a "
        note += "table for --labels"
    return Draft(rows, source, notes=(note,))


def _diagnosis(table: pd.DataFrame) -> tuple[str | None, dict[str, int]]:
    """Return the column of the classes, and the number of rows that fill each column of a diagnosis.

    It is the deepest level that nearly all rows with a diagnosis fill; otherwise the level that most rows fill.
    """
    names = (find_column(list(table.columns), name) for name in _DIAGNOSES)
    filled = {name: table[name] != "" for name in names if name and (table[name] != "").any()}
    rows = {name: int(there.sum()) for name, there in filled.items()}
    if not filled:
        return None, rows
    enough = _NEARLY_ALL * np.logical_or.reduce(list(filled.values())).sum()
    return next((name for name in rows if rows[name] >= enough), max(rows, key=lambda name: rows[name])), rows


def tables_of_classes(folder: Folder) -> list[str]:
    """List the Archive's tables if each lies in a class folder, since the set was downloaded class by class.

    The classes are then the folders, even if the tables have other names. This holds if no diagnosis is in the
    tables of two classes: folders that are mere pieces of a download share theirs.
    """
    paths = metadata(folder, "isic_id")
    if len(paths) < 2:
        return []
    base = base_of(folder)
    in_splits = in_split_folders(folder, base)
    depth = 1 if in_splits else 0  # of the class among the folders of an image
    images = in_splits or in_class_folders(folder, base)
    class_of = {image.folders[: depth + 1]: image.folders[depth] for image in images}
    classes = [class_of.get(place(path, base).folders[: depth + 1]) for path in paths]
    if None in classes or len(set(classes)) < 2:
        return []
    tables = [stacked(folder, [path], _COLUMNS) for path in paths]
    table = pd.concat([table.assign(folder=cls) for table, cls in zip(tables, classes, strict=True)])
    diagnosis, _ = _diagnosis(table.fillna(""))
    shared = diagnosis and table[table[diagnosis].fillna("") != ""].groupby(diagnosis)["folder"].nunique().gt(1).any()
    return [] if shared else paths


def groups_of_tables(folder: Folder, paths: list[str], names: pd.Series) -> pd.Series | str:
    """Return the lesion or patient that the Archive's tables `paths` give each file of `names`; otherwise `""`."""
    table = stacked(folder, paths, _COLUMNS)
    known = [table[name] for name in _PEOPLE if name in table]
    if not known:
        return ""
    # An image in two tables links the lesions and patients of both; its own name is no lesion.
    group = join_groups(*known, table["isic_id"])
    of_image = group.mask(group.isin(table["isic_id"]), "").groupby(table["isic_id"]).first()
    stems = names.map(lambda name: posixpath.splitext(posixpath.basename(name))[0])
    return stems.map(of_image).fillna("")


LAYOUT = Layout("ISIC Archive", "metadata.csv with isic_id and diagnosis", read)
