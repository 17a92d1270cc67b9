"""The ISIC Archive: a download of its gallery, whole, in parts or class by class."""

from __future__ import annotations

import functools
import posixpath

from skin.data.folder import Folder
from skin.data.groups import join_groups
from skin.data.index import PEOPLE, Draft, count
from skin.data.readers.common import (
    Layout,
    joined_columns,
    listed_names,
    metadata,
    one_row_each,
    people_of,
    present_columns,
    rows_of,
    stacked,
)  # fmt: skip
from skin.data.readers.folder_tree import NoClassFolders, folders_above, read_tree
from skin.data.tables import find_column, need_column, read_table, spelling
from skin.utils.errors import UserError, printable

import pandas as pd

# From the deepest on: diagnosis_1 is benign or malignant, _2 the family, _3 the disease, _4 and _5 its forms;
# `diagnosis` is the disease in older downloads.
_DIAGNOSES = ("diagnosis", *(f"diagnosis_{level}" for level in (5, 4, 3, 2, 1)))
_ATTRIBUTES = (
    "age_approx", "sex", "anatom_site_general", "anatom_site_1", "fitzpatrick_skin_type", "image_type",
    "dermoscopic_type", "diagnosis_confirm_type", "attribution",
)  # fmt: skip
_LEVELS, _DISEASE = _DIAGNOSES[1:], "diagnosis_3"
_COLUMNS = ("isic_id", *_DIAGNOSES, *PEOPLE, *_ATTRIBUTES)
_NEARLY_ALL, _HALF = 0.99, 0.5  # of the rows with a diagnosis


def read(folder: Folder) -> Draft | None:
    paths = metadata(folder, "isic_id")
    if len({posixpath.basename(path) for path in paths}) > 1:
        paths = [path for path in paths if find_column(folder.columns(path), *_DIAGNOSES)]
    if not any(find_column(folder.columns(path), *_DIAGNOSES) for path in paths) or tables_of_classes(folder):
        return None
    if len({posixpath.basename(path) for path in paths}) > 1:
        raise UserError(f"{folder.root} holds {' and '.join(paths)}: name the right one with --labels")
    path = folder.root / paths[0]
    source = listed_names(paths)
    if len(paths) == 1:
        names = folder.columns(paths[0])
        table = read_table(path, [name for column in _COLUMNS if (name := find_column(names, column))])
    else:
        table = one_row_each(stacked(folder, paths, _COLUMNS), "isic_id", source)
    filled = _filled(table)
    if not filled:
        return None  # it tells nothing to learn: another table does, or the folders
    label = _level_of_classes(table, filled)
    image = table[need_column(table, path, "isic_id")]
    attributes, group = present_columns(table, *_ATTRIBUTES), joined_columns(table, *PEOPLE)
    labels, label_note, notes = _labels(table, label, filled, source)
    rows = rows_of(image, labels, group=group, attributes=attributes, people=people_of(table))
    diagnosed = (table[list(filled)] != "").any(axis=1)
    set_aside = {}
    if not diagnosed.all():
        number = count((~diagnosed).sum(), "image")
        first = printable(image[~diagnosed].iloc[0])
        set_aside[f"{source} gives {number} no diagnosis (first: {first}): left out"] = tuple(image[~diagnosed])
    return Draft(rows[diagnosed], source, notes=tuple(notes), label_note=label_note, set_aside=set_aside)


def _filled(table: pd.DataFrame) -> dict[str, int]:
    """Return the number of rows that fill each column of a diagnosis, by its name in the table, the deepest first."""
    found = (find_column(list(table.columns), name) for name in _DIAGNOSES)
    filled = {name: int((table[name] != "").sum()) for name in found if name}
    return {name: number for name, number in filled.items() if number}


def _level_of_classes(table: pd.DataFrame, filled: dict[str, int]) -> str:
    """Return the column of the classes: the deepest level that tells nearly all rows with a diagnosis.

    A disease (the third level) that half of the rows have is told of the other rows, too, if the level
    above is all there is to their class: in no row of that class does it go on. Vascular lesions are such.
    If no level tells nearly all rows, it is the one that most rows fill.
    """
    enough = _NEARLY_ALL * (table[list(filled)] != "").any(axis=1).sum()
    for name, number in filled.items():
        if number >= enough:
            return name
        if spelling(name) == _DISEASE and number >= _HALF * enough:
            above = _level_above(table, name, filled)
            whole = (table[name] == "") & (above != "") & ~above.isin(above[table[name] != ""])
            if number + whole.sum() >= enough:
                return name
    return max(filled, key=lambda name: filled[name])


def _level_above(table: pd.DataFrame, level: str, filled: dict[str, int]) -> pd.Series:
    """Return, per row, the deepest diagnosis above the column `level`; `""` if there is none."""
    higher = _LEVELS[_LEVELS.index(spelling(level)) + 1 :] if spelling(level) in _LEVELS else ()
    columns = [table[name] for name in filled if spelling(name) in higher]
    return (
        functools.reduce(lambda deeper, above: deeper.mask(deeper == "", above), columns) if columns else table[level]
    )


def _labels(table: pd.DataFrame, label: str, filled: dict[str, int], source: str) -> tuple[pd.Series, str, list[str]]:
    """Return the class of each row, an empty level filled by the one above; the label's note, and other notes."""
    note = f"labels are the column {label} of {source}"
    if others := ", ".join(f"{name} ({number:,})" for name, number in filled.items() if name != label):
        note += f", filled in {count(filled[label], 'row')}; others: {others}; --label-column NAME takes another"
    labels = table[label].mask(table[label] == "", _level_above(table, label, filled))
    taken = labels[(table[label] == "") & (labels != "")]
    if taken.empty:
        return labels, note, []
    classes = ", ".join(f"{printable(name)} ({number:,})" for name, number in taken.value_counts().items())
    mixed = (
        f"{label} is empty in {count(len(taken), 'row')} with a diagnosis: they have the level above as their class: "
    )
    return labels, note, [mixed + classes]


def tables_of_classes(folder: Folder) -> list[str]:
    """List the Archive's tables if each lies in a class folder, since the set was downloaded class by class.

    The classes are then the folders, even if the tables have other names. This holds if no diagnosis is in the
    tables of two classes: folders that are mere pieces of a download share theirs.
    """
    paths = metadata(folder, "isic_id")
    if len(paths) < 2:
        return []
    try:
        tree = read_tree(folder)
    except NoClassFolders:
        tree = None
    labels_in: dict[str, set[str]] = {}
    for path, label, _ in tree.places if tree else ():
        for above in folders_above(path):
            labels_in.setdefault(above, set()).add(label)
    classes = []
    for path in paths:
        labels = next((labels_in[above] for above in folders_above(path) if above in labels_in), set())
        classes.append(next(iter(labels)) if len(labels) == 1 else None)
    if None in classes or len(set(classes)) < 2:
        return []
    tables = [stacked(folder, [path], _COLUMNS) for path in paths]
    table = pd.concat([table.assign(folder=cls) for table, cls in zip(tables, classes, strict=True)]).fillna("")
    if filled := _filled(table):
        diagnosis = _level_of_classes(table, filled)
        if table[table[diagnosis] != ""].groupby(diagnosis)["folder"].nunique().gt(1).any():
            return []
    return paths


def groups_of_tables(folder: Folder, paths: list[str], names: pd.Series) -> pd.Series | str:
    """Return the lesion or patient that the Archive's tables `paths` give each file of `names`; otherwise `""`."""
    table = stacked(folder, paths, _COLUMNS)
    known = [table[name] for name in PEOPLE if name in table]
    if not known:
        return ""
    # An image in two tables links the lesions and patients of both; its own name is no lesion.
    group = join_groups(*known, table["isic_id"])
    of_image = group.mask(group.isin(table["isic_id"]), "").groupby(table["isic_id"]).first()
    stems = names.map(lambda name: posixpath.splitext(posixpath.basename(name))[0])
    return stems.map(of_image).fillna("")


LAYOUT = Layout("ISIC Archive", "metadata.csv with isic_id and diagnosis", read)
