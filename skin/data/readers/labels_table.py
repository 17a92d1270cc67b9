"""A table that the user names with `--labels`, for any folder."""

from __future__ import annotations

import shlex
from pathlib import Path

from skin.data.folder import Folder, image_suffix
from skin.data.folder_names import has_word_of_masks
from skin.data.index import Draft
from skin.data.naming import Images, are_files, likeliest, stem
from skin.data.people import is_patient
from skin.data.readers.common import (
    group_columns,
    joined_people,
    people_columns,
    people_of,
    rows_of,
    split_marks,
    split_words,
    without_unmarked,
)
from skin.data.tables import (
    ATTRIBUTE_COLUMNS,
    GROUP_COLUMNS,
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    encoding_note,
    find_column,
    from_one_hot,
    is_index,
    is_one_hot,
    listed_columns,
    named_column,
    need_column,
    read_table,
    spelling,
)
from skin.utils.errors import UserError

import numpy as np
import pandas as pd

_LABELS = (*LABEL_COLUMNS, "malignant", "benign_malignant")
_NEARLY_ALL = 0.9
_OF_ANYTHING = ("id", "name")  # names of columns that name the images, or the rows, or the patients
_OF_ROWS = (*_OF_ANYTHING, "image_id", "img_id")  # and those that may be the numbers of the rows
_SPLITS = ("split", "set", "subset", "partition")
_OF_OTHER_THINGS = ATTRIBUTE_COLUMNS.union(_LABELS, GROUP_COLUMNS)


def labels_table(
    folder: Folder, path: Path, label_column: str | None = None, group_column: str | None = None
) -> Draft:
    """Read the table that the user names, `image,label[,group][,split][,...]`; it works for any folder.

    Args:
        label_column, group_column: the columns to take; None takes those with a usual name.

    Raises:
        UserError: it does not exist, or lacks a column.
    """
    if path.is_dir():
        raise UserError(f"--labels {path}: is a folder; name a table in it")
    if not path.is_file():
        raise UserError(f"the table {path} does not exist: check --labels")
    table = read_table(path)
    columns = list(table.columns)
    image, of_image = _image_column(folder, table, path)
    label = named_column(columns, path, label_column, "--label-column") or find_column(columns, *_LABELS)
    groups = _groups(table, path, group_column)
    split = find_column(columns, *_SPLITS)
    rest = [name for name in columns if name not in (image, label, split, *groups) and not is_index(name)]
    marks = [name for name in rest if spelling(name) not in ATTRIBUTE_COLUMNS]
    classes: tuple[str, ...] = ()
    of_label = ""
    if label and label_column is None and (one_hot := _marks_with(label, table, marks, path)):
        alone = f"--label-column {shlex.quote(label)} takes that one alone"
        of_label = f"the labels are the one-hot columns {listed_columns(one_hot)}; {alone}"
        label, marks = None, one_hot
    if label is None and is_one_hot(table, marks):
        labels, marked = from_one_hot(table, marks, path)
        classes, rest = tuple(marks), [name for name in rest if name not in marks]
    elif label is None:
        raise UserError(
            f"{path} has no column 'label'; its columns are: {listed_columns(columns)}; name one: --label-column NAME"
        )
    else:
        labels, marked = table[label], np.ones(len(table), dtype=np.int64)
    rows = rows_of(
        table[image],
        labels,
        group=joined_people(table, groups) if groups else "",
        split=split_words(table[split], path) if split else "",
        attributes=table[rest],
        people=people_of(table[groups]),
    )
    taken = _taken(table, label, groups, split)
    taken = ", ".join(filter(None, (of_image, taken, of_label)))
    notes = [*([f"{path.name}: {taken}"] if taken else []), *encoding_note(path)]
    notes += [] if split else split_marks(columns, path.name)
    return without_unmarked(Draft(rows, path.name, classes, tuple(notes)), marked)


def _image_column(folder: Folder, table: pd.DataFrame, path: Path) -> tuple[str, str]:
    """Return the column that names the images, and words on it if another one names other images.

    It is the first by its name, unless its values name few of the images, or may be the numbers of the rows: then it
    is a column of names of files, whatever that is called.

    Raises:
        UserError: none is called like one, or its name may be that of anything, and another column names images, too.
    """
    if not find_column(list(table.columns), *IMAGE_COLUMNS):
        _refuse_no_header(folder, list(table.columns), path)
    first = need_column(table, path, *IMAGE_COLUMNS)
    named, files, keys = _may_name_images(table, first)
    stems = {name: table[name].map(stem) for name in (*named, *files, *keys)}
    if all(values.equals(stems[first]) for values in stems.values()):
        return first, ""
    hits = Images(folder.images).hits(table, list(stems))
    sure = _name_each(table[first], hits.get(first, 0))
    hits = {name: hits[name] for name in hits if name not in keys or (hits[name] == len(table) and not sure)}
    least = dict.fromkeys(files, _NEARLY_ALL * hits.get(first, 0))
    image = likeliest(table, {name: hits[name] for name in hits if hits[name] >= least.get(name, 0)}) or first
    is_name = hits.get(first, 0) >= hits.get(image, 0) and not table[first].str.isdecimal().all()
    if (sure and spelling(first) not in _OF_ANYTHING) or is_name or stems[image].equals(stems[first]):
        image = first
    others = [name for name in {first: 0, **hits} if not stems[name].equals(stems[image])]
    if image not in named or spelling(image) in _OF_ANYTHING:
        as_good = [name for name in others if 2 * hits.get(name, 0) >= hits.get(image, 0) > 0]
        if rivals := [name for name in as_good if are_files(table[name]) or not are_files(table[image])]:
            raise UserError(
                f"{path}: its columns {image} and {rivals[0]} name different images: rename the one that is meant to "
                "'image'"
            )
    return image, f"the images are the column {image} (not {', '.join(others)})" if others else ""


def _name_each(values: pd.Series, hits: int) -> bool:
    """Return True if each value of a column names an image, as `hits` of them do, and none may number its row."""
    if spelling(str(values.name)) in _OF_ROWS:
        numbers = [str(number) for number in range(len(values) + 1)]
        if values.tolist() in (numbers[1:], numbers[:-1]):
            return False
    return hits == values[values != ""].nunique()


def _may_name_images(table: pd.DataFrame, first: str) -> tuple[list[str], list[str], list[str]]:
    """Return the columns that are called like `first`, one of images; others of names of files; and of other keys.

    A key, a value of its own in each row, can only be meant if the name of `first` may be that of anything.
    """
    named = [name for name in table.columns if name == first or spelling(name) in IMAGE_COLUMNS]
    others = [name for name in table.columns if name not in named and not (is_index(name) or has_word_of_masks(name))]
    files = [name for name in others if are_files(table[name])]
    if spelling(first) not in _OF_ANYTHING:
        return named, files, []
    known = {*people_columns(table), *files}
    keys = [name for name in others if name not in known and spelling(name) not in _OF_OTHER_THINGS]
    return named, files, [name for name in keys if table[name].is_unique]


def _refuse_no_header(folder: Folder, columns: list[str], path: Path) -> None:
    images = Images(folder.images)
    if any(image_suffix(name) or images.nearest(name).images for name in columns):
        raise UserError(f"{path} has no header, but the row {','.join(columns)}: put the row image,label above it")


def _marks_with(label: str, table: pd.DataFrame, marks: list[str], path: Path) -> list[str]:
    """Return the columns that are one-hot together with the column `label`, which is then one of the classes.

    A column that the user could only have meant as the labels by its name, `label`, is none.

    Raises:
        UserError: another column of a label's name is one-hot with them as well.
    """
    filled = [name for name in table.columns if name in (label, *marks) and (table[name] != "").any()]
    binary = [name for name in filled if is_one_hot(table, [name, name])]
    if label not in binary or spelling(label) in ("label", "labels"):
        return []
    marked = pd.DataFrame({name: from_one_hot(table, [name], path)[1] for name in binary}) == 1
    readings = []
    for one in (name for name in binary if spelling(name) in _LABELS):
        others = [name for name in binary if name == one or not (marked[name] & marked[one]).any()]
        enough = 1 if len(others) < 3 else _NEARLY_ALL  # of the rows; those that mark no class are counted later
        if len(others) > 1 and (marked[others].sum(axis=1) == 1).mean() >= enough:
            readings.append(others)
    if any(one != readings[0] for one in readings):
        listed = " or ".join(", ".join(one) for one in readings[:2])
        raise UserError(f"{path} has one mark per row in {listed}: name the column of labels: --label-column NAME")
    return readings[0] if readings and label in readings[0] else []


def _groups(table: pd.DataFrame, path: Path, group_column: str | None) -> list[str]:
    """Return the columns of what stays together: the one that is named, a group, or patients and lesions."""
    group = named_column(list(table.columns), path, group_column, "--group-column")
    return [group] if group else group_columns(table)


def _taken(table: pd.DataFrame, label: str | None, groups: list[str], split: str | None) -> str:
    """Return the columns that were taken, if others could be meant or their names are not the plain ones."""
    people = [spelling(name) for name in (*people_columns(table), *filter(is_patient, table.columns))]
    taken = []
    for what, names, candidates in (
        ("label", [label] if label else [], _LABELS),
        ("group", groups, (*GROUP_COLUMNS, *people)),
        ("split", [split] if split else [], _SPLITS),
    ):
        others = [name for name in table.columns if spelling(name) in candidates and name not in names]
        if not names or ([spelling(name) for name in names] == [what] and not others):
            continue
        options = f" (not {', '.join(others)})" if others else ""
        if others and what != "split":
            options = f"{options[:-1]}; --{what}-column NAME takes another)"
        taken.append(f"the {what} is the column {' with '.join(names)}{options}")
    return ", ".join(taken)
