"""Tables beside class folders: what they tell of lesions and patients, and if they contradict the folders."""

from __future__ import annotations

import contextlib
import posixpath
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from skin.data.class_names import is_disease, match_classes
from skin.data.containers import is_member
from skin.data.folder import Folder
from skin.data.folder_names import is_of_table, is_plain, split_of
from skin.data.groups import join_groups
from skin.data.index import Draft, count
from skin.data.naming import Images, stem
from skin.data.readers.common import joined_people, listed, people_columns
from skin.data.readers.folder_tree import NoClassFolders, Place, Tree, read_tree
from skin.data.readers.labels_table import labels_table
from skin.data.table_paths import relative_names
from skin.data.tables import (
    ATTRIBUTE_COLUMNS,
    GROUP_COLUMNS,
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    find_column,
    from_one_hot,
    is_one_hot,
    read_table,
    spelling,
)
from skin.utils.errors import UserError, printable

import pandas as pd

_LABELS = (
    *LABEL_COLUMNS, "class_name", "diagnosis_1", "diagnosis_2", "diagnosis_3", "benign_malignant", "malignant",
)  # fmt: skip
_DIAGNOSIS = re.compile(r"diagn[oó](se[ns]?|si|stico|stica|stik)")  # in other languages
_WIDE = 200  # columns; a wider table holds pixels or features
_HALF = 0.5
_NEARLY_ALL = 0.99
_NUMBER = re.compile(r"[0-9]+([.,][0-9]+)?")


class Told(NamedTuple):
    """The lesions and patients that tables beside class folders tell.

    Attributes:
        groups: the lesion or patient of images, by path.
        tables: those that tell them, and their columns that name the images.
        warnings: on names that may be any of several images.
    """

    groups: dict[str, str]
    tables: dict[str, tuple[str, ...]]
    warnings: list[str]


def groups_beside(folder: Folder, tree: Tree, paths: list[str]) -> Told:
    """Return the lesions or patients that tables give the images of class folders.

    Args:
        paths: the tables to look into. One that names less than half of the images does not count.

    Raises:
        NoClassFolders: a table names the images, and what it says of them contradicts the folders.
    """
    return _groups_told(folder, {place.path: place.label for place in tree.places}, paths)


def with_groups_beside(folder: Folder, draft: Draft, labels: Path) -> Draft:
    """Return the draft of the table `labels`, with the lesions or patients of other tables if it tells none."""
    rows, own = draft.rows, labels.resolve()
    others = [path for path in folder.tables if (folder.root / path).resolve() != own]
    if folder.group_column or not others or (rows["group"] != "").any():
        return draft
    names, _ = relative_names(rows["image"], folder, draft.source)
    files = names.map({name: _file(folder, name, draft.source) for name in names.unique()})
    told = _groups_told(folder, dict(zip(files, rows["label"], strict=True)), others, by_folders=False)
    if not told.groups:
        return replace(draft, warnings=(*draft.warnings, *told.warnings))
    tables = [f"{path} (images by its column {' and '.join(columns)})" for path, columns in told.tables.items()]
    note = f"{listed(tables)} {'tell' if len(tables) > 1 else 'tells'} lesions and patients"
    return replace(
        draft,
        rows=rows.assign(group=files.map(lambda file: told.groups.get(file, ""))),
        notes=(*draft.notes, note),
        warnings=(*draft.warnings, *told.warnings),
    )


def _file(folder: Folder, name: str, source: str) -> str:
    """Return the file of the image that a table calls `name`; the name itself if it is none or may be several."""
    with contextlib.suppress(UserError):  # of rows that are used, it is raised later
        return folder.find(name, table=source) or name
    return name


def _groups_told(folder: Folder, label_of: dict[str, str], paths: list[str], by_folders: bool = True) -> Told:
    """Return what the tables `paths` tell of images, given with their labels; `by_folders` if those are folders."""
    everywhere = Images(label_of, label_of if by_folders else None)
    own = {spelling(name) for name in (*GROUP_COLUMNS, folder.group_column or "group")}
    parts, warnings = {}, []
    tables: dict[str, tuple[str, ...]] = {}
    for path in paths:
        try:
            table = read_table(folder.root / path) if _is_narrow(folder, path) else None
        except UserError:  # no table, whatever its name says
            continue
        if table is None:
            continue
        among = label_of if by_folders else _in_split(label_of, path)
        images = everywhere if len(among) == len(label_of) else Images(among)
        people = people_columns(table)
        known = [name for name in table.columns if name in people or spelling(name) in own]
        no_names = [] if by_folders else _measures(table)
        about = images.rows_of(table, path, but=[*known, *no_names]) or images.rows_of(table, path, but=no_names)
        if about is None:
            continue
        rows = about.rows
        named = set(rows["_image"]).union(*about.unclear.values())
        if len(named) < _HALF * len(among):
            continue
        known = [name for name in known if name in rows]  # one of them may name the images
        if known and about.unclear:
            warnings.append(_on_unclear(path, about.unclear))
        if rows["_image"].nunique() < _HALF * len(among):
            continue
        if by_folders:
            _refuse_contradiction(folder, path, rows.rename(columns=spelling), label_of, bool(known))
        if known and about.changed:
            warnings.append(f"{path} {about.changed}")
        if known:
            parts[path] = pd.DataFrame({"image": rows["_image"], path: joined_people(rows, known)})
            tables[path] = about.columns
    return Told(_joined(parts), tables, warnings)


def _in_split(images: dict[str, str], table: str) -> dict[str, str]:
    """Return the images that a table named after a split may be about: those in no folder of another split."""
    split = split_of(posixpath.basename(table))
    if not split:
        return images
    folders = {posixpath.dirname(image) for image in images}
    of_folder = {path: {split_of(part) for part in path.split("/") if is_plain(part)} - {""} for path in folders}
    own = {path for path, splits in of_folder.items() if not splits or split in splits}
    return {image: label for image, label in images.items() if posixpath.dirname(image) in own}


def _measures(table: pd.DataFrame) -> list[str]:
    """Return the columns of numbers that are not named like those of images: ages are stems of some files, too."""
    others = [name for name in table.columns if spelling(name) not in IMAGE_COLUMNS]
    return [name for name in others if table.loc[table[name] != "", name].str.fullmatch(_NUMBER).mean() > _HALF]


def _joined(parts: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Return the group of each image, of tables with the columns image and, by the table's path, group."""
    if not parts:
        return {}
    told = pd.concat([part[part[path] != ""] for path, part in parts.items()], ignore_index=True).fillna("")
    groups = told[next(iter(parts))]
    if len(parts) > 1 or not told["image"].is_unique:  # what is told of one image by several rows belongs together
        groups = join_groups(*(told[path] for path in parts), told["image"])
    return dict(zip(told["image"], groups, strict=True))


def _on_unclear(path: str, unclear: dict[str, list[str]]) -> str:
    value, (one, other, *_) = next(iter(unclear.items()))
    return (
        f"{path} names '{printable(value)}', which may be {printable(one)} or {printable(other)}: it tells no "
        f"lesion or patient of {count(len(unclear), 'such name')}; write the path of each image into the table"
    )


def with_folders(folder: Folder, draft: Draft) -> Draft:
    """Return the draft of a table, with what the class folders that hold its images add: splits, and notes.

    Folders may merely hold the images. If they are named like classes, they must not contradict the table.

    Raises:
        UserError: the table names few of the images in class folders, or contradicts the folders.
    """
    if len(folder.folders) < 2:  # before a look at each of many paths
        return draft
    if len({path.rpartition("/")[0] for path in folder.images if not is_member(path)} - {""}) < 2:
        return draft
    try:
        tree = read_tree(folder)
    except NoClassFolders:  # they merely hold the images
        return draft
    if tree is None or len(tree.labels) < 2:
        return draft
    place_of = {place.path: place for place in tree.places}
    rows = draft.rows
    files = rows["file"] if "file" in rows else rows["image"].map(lambda name: folder.find(name, converted=True))
    of_copy = {kept: place_of[copy] for copy, kept in folder.copies.items() if copy in place_of}
    places = files.map({**of_copy, **place_of}.get)
    pairs = pd.DataFrame({"label": rows["label"], "place": places})[places.notna() & (rows["label"] != "")]
    pairs = pairs.assign(folder=[place.label for place in pairs["place"]])
    alike = len(match_classes(list(tree.labels), rows["label"].unique()).to_model) > 1
    move = f"to take the folders, move {draft.source} out of the data folder"
    what = f"{folder.root} can be read by {draft.source} and by the folders {', '.join(list(tree.labels)[:4])}"
    if alike and len(pairs) < _HALF * len(place_of):
        number = f"{len(pairs):,} of the {count(len(place_of), 'image')}"
        raise UserError(
            f"{what}, but the table names only {number} in them: {move}; to take the table, move the other images out"
        )
    one_folder = pairs.groupby("label")["folder"].nunique().max() == 1
    one_label = pairs.groupby("folder")["label"].nunique().max() == 1
    if one_folder and one_label:  # the same classes twice
        if (rows["split"] == "").all() and len({place.split for place in tree.places} - {""}) > 1:
            split = [place.split if isinstance(place, Place) else "" for place in places]
            note = f"splits are the folders', labels those of {draft.source}"
            return replace(draft, rows=rows.assign(split=split), notes=(*draft.notes, note))
        return draft
    if alike and not one_folder:
        usual = pairs.groupby("label")["folder"].agg(lambda values: values.mode()[0])
        other = pairs[pairs["folder"] != pairs["label"].map(usual)].iloc[0]
        raise UserError(
            f"{what}, which disagree ({printable(other['place'].path)} is {printable(other['label'])} in the table): "
            f"correct one; {move}; {usable_with_labels(folder) or 'a table named with --labels'} tells the classes"
        )
    if one_folder and len(tree.labels) > 1:
        note = f"the folders {', '.join(list(tree.labels)[:4])} tell fewer classes than {draft.source}; {move}"
        return replace(draft, notes=(*draft.notes, note))
    return draft


def usable_with_labels(folder: Folder) -> str:
    """Return the option that names the one table which `--labels` can read for nearly all images, otherwise `""`.

    Of a table with the name of a folder, `train.csv`, it is nearly all in that folder, `train/`.
    """
    found = []
    for path in (*folder.tables, *(path for path in folder.others if path.lower().endswith(".txt"))):
        try:
            if not _is_narrow(folder, path):
                continue
            draft = labels_table(folder, folder.root / path)
        except UserError:
            continue
        table = posixpath.basename(path)
        own = tuple(f"{it}/" for it in folder.folders if is_of_table(posixpath.basename(it), table))
        stems = {stem(image) for image in folder.images if image.startswith(own)} or set(map(stem, folder.images))
        named = draft.rows.loc[draft.rows["label"] != "", "image"].map(stem).isin(stems)
        if draft.rows["label"].nunique() > 1 and named.sum() >= _NEARLY_ALL * len(stems):
            found.append(path)
    return f"--labels {shlex.quote(str(folder.root / found[0]))}" if len(found) == 1 else ""


def _is_narrow(folder: Folder, path: str) -> bool:
    """Return True if a table may be one of images and what is known of them, by its number of columns.

    Raises:
        UserError: it is a link that leads out of the folder.
    """
    return len(folder.columns(path)) <= _WIDE


def _refuse_contradiction(
    folder: Folder, path: str, rows: pd.DataFrame, label_of: dict[str, str], known: bool
) -> None:
    """Raise `NoClassFolders` if a table has classes, and none of its columns goes with the folders.

    None goes with a single class folder: it merely holds the images.

    Args:
        known: the table tells lesions or patients, so that it has a use without classes.
    """
    folders, classes = rows["_image"].map(label_of), sorted(set(label_of.values()))
    one_class = len(classes) == 1
    first: tuple[str, pd.Series] | None = None
    for name, values in _columns_of_classes(rows, path, folder, known, classes):
        if not one_class and _go_together(values, folders):
            return
        first = first or (name, values)
    if first is None:
        return
    name, values = first
    told = values[values != ""]
    usual = told.groupby(folders).agg(lambda one: one.mode()[0])
    others = told[told != folders[told.index].map(usual)]
    row = (told if others.empty else others).index[0]
    table = usable_with_labels(folder) or "a table image,label,group named with --labels"
    contradicts = "gives several classes, but there is one class folder" if one_class else "contradicts the folders"
    raise NoClassFolders(
        f"{folder.root}: the table {path} names the images, and its column {name} {contradicts} "
        f"({printable(rows['_image'][row])} is {printable(values[row])} and lies in {printable(folders[row])})",
        f"{table} tells the classes; to take the folders, move {path} out of the data folder",
    )


def _columns_of_classes(
    rows: pd.DataFrame, path: str, folder: Folder, known: bool, classes: list[str]
) -> Iterator[tuple[str, pd.Series]]:
    """Yield the columns that tell the classes of images: by their names, otherwise by their values.

    Args:
        classes: the folders'. If it is a single one, any column of few values may tell others.
    """
    rest = [name for name in rows.columns if name != "_image"]
    if is_one_hot(rows, rest):
        yield "of marks", from_one_hot(rows, rest, folder.root / path)[0]
        return
    named = [name for name in _LABELS if find_column(rest, name)] + list(filter(_DIAGNOSIS.fullmatch, rest))
    others = [] if known or named else [name for name in rest if name not in ATTRIBUTE_COLUMNS]
    for name in (*named, *others):
        values = [value for value in rows[name].unique() if value]
        if not 2 <= len(values) <= max(2, _HALF * len(rows)):
            continue
        alike = match_classes(classes, values).to_model or sum(map(is_disease, values)) > 1
        if name in named or alike or len(classes) == 1:
            yield name, rows[name]


def _go_together(values: pd.Series, folders: pd.Series) -> bool:
    """Return True if each value lies in one folder, or each folder holds one value."""
    pairs = pd.DataFrame({"value": values, "folder": folders})[values != ""].drop_duplicates()
    return not pairs["value"].duplicated().any() or not pairs["folder"].duplicated().any()
