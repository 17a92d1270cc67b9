"""A data folder as users have it, to an `Index`: one row an image, with path, label, group, split, attributes.

Each layout is one function that looks for its signs and answers with a `Draft`, or with None where they
are not there. To add a layout, write such a function under `@layout(...)`: what it needs to know about
the folder is in `Folder`, and finding the images, counting what is amiss and refusing what is unsafe
is done for all layouts alike by `build_index`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from skin.data.class_names import DERMAMNIST, ISIC_2018, ISIC_2019, ClassMatch, match_classes, readable_name
from skin.data.folder import IMAGE_SUFFIXES, Folder
from skin.data.groups import join_groups
from skin.data.index import COLUMNS, Draft, Index, build_index, count
from skin.data.npz import NpzFile
from skin.data.tables import (
    find_column,
    from_one_hot,
    header,
    is_one_hot,
    need_column,
    read_table,
    spelling,
    without_words,
)
from skin.utils.errors import UserError, printable

import numpy as np
import pandas as pd

__all__ = ["IMAGE_SUFFIXES", "LAYOUTS", "ClassMatch", "Index", "match_classes", "read_index", "readable_name"]

_SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_PART_FOLDER = re.compile(r"(?P<of>.*[_ -])?(images?|imgs|(?P<input>input))(?P<part>(_part)?_?\d*)", re.IGNORECASE)


def read_index(
    root: Path, *, labels: Path | None = None, allow_missing: bool = False, keep_going: bool = False
) -> Index:
    """Read the data folder `root`, in whichever layout it is, or with the table `labels`.

    Args:
        root: the folder that `--data` names.
        labels: a table `image,label[,group][,split][,...]`; paths in it are relative to `root`.
        allow_missing: go on where more than 1 % of the rows have no image or no class.
        keep_going: for the audit: keep what else would stop here as `Index.faults`, and leave its rows out.

    Raises:
        UserError: the folder has no layout or two, a table is unusable or contradicts itself, a path
            leaves the folder, or too many rows are unusable.
    """
    folder = Folder(Path(root))
    name, draft = ("labels table", labels_table(folder, Path(labels))) if labels else _only_layout(folder)
    return build_index(folder, name, draft, allow_missing, keep_going)


def _only_layout(folder: Folder) -> tuple[str, Draft]:
    found = {name: draft for name, reader in LAYOUTS.items() if (draft := reader(folder)) is not None}
    tables = {name: draft for name, draft in found.items() if name not in _FOLDER_LAYOUTS}
    if len(tables) == 1:
        # Folders beside a table count only where they are named like classes of it or like splits;
        # otherwise they merely hold the images.
        known = {label.lower() for draft in tables.values() for label in draft.rows["label"].unique()}
        for name in _FOLDER_LAYOUTS:
            if name in found and len(known & {str(c).lower() for c in found[name].rows["label"].unique()}) < 2:
                del found[name]
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        matches = " and ".join(f"{name} ({draft.source})" for name, draft in found.items())
        raise UserError(
            f"{folder.root} can be read as {matches}: point --data at one of them, "
            "or name a table image,label,group with --labels"
        )
    raise UserError(f"{folder.root} is of no known layout: {_what_is_there(folder)}. Looked for {_looked_for()}")


def _looked_for() -> str:
    return "; ".join(f"{name}: {signs}" for name, signs in _SIGNS.items()) + "; or a table named with --labels"


def _what_is_there(folder: Folder) -> str:
    if not (folder.images or folder.tables or folder.archives or folder.folders):
        return f"it holds {count(len(folder.ours), 'folder')} of runs or reports" if folder.ours else "it is empty"
    found = [f"{len(folder.images):,} images"]
    if folder.folders:
        tops = [f for f in folder.folders if "/" not in f]
        found.append(f"the folders {', '.join(tops[:5])}{', …' if len(tops) > 5 else ''}")
    for table in folder.tables[:3]:
        folder.refuse_link(table)
        found.append(f"the table {table} with the columns {', '.join(header(folder.root / table)[:8])}")
    return "it holds " + ", ".join(found)


# ------------------------------------------------------------------------------------------ the registry

Reader = Callable[[Folder], Draft | None]
LAYOUTS: dict[str, Reader] = {}
_SIGNS: dict[str, str] = {}


def layout(name: str, signs: str) -> Callable[[Reader], Reader]:
    """Register a layout under its name; `signs` says in a few words what it is known by."""

    def register(reader: Reader) -> Reader:
        LAYOUTS[name] = reader
        _SIGNS[name] = signs
        return reader

    return register


def _rows(
    image: pd.Series,
    label: pd.Series | str,
    *,
    group: pd.Series | str = "",
    split: pd.Series | str = "",
    attributes: pd.DataFrame | None = None,
) -> pd.DataFrame:
    rows = pd.DataFrame({"image": image, "label": label, "group": group, "split": split})
    if attributes is None:
        return rows
    names = {name: f"table_{name}" for name in attributes.columns if name in (*COLUMNS, "file")}
    return rows.join(attributes.apply(without_words).rename(columns=names))


def _attributes(table: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Those of the columns `names` that `table` has, under their own names."""
    found = (find_column(list(table.columns), name) for name in names)
    return table[[name for name in found if name is not None]]


@layout("HAM10000", signs="HAM10000_metadata.csv")
def _ham10000(folder: Folder) -> Draft | None:
    path = folder.table("HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata")
    if path is None:
        return None
    table = read_table(path)
    rows = _rows(
        table[need_column(table, path, "image_id", "image", "isic_id")],
        table[need_column(table, path, "dx", "diagnosis")],
        group=table[need_column(table, path, "lesion_id")],
        attributes=_attributes(table, "dx_type", "age", "sex", "localization"),
    )
    return Draft(rows, path.name)


@layout("ISIC 2018", signs="ISIC2018_Task3_Training_GroundTruth.csv")
def _isic_2018(folder: Folder) -> Draft | None:
    truths = {}
    for word in ("Training", "Validation", "Test"):
        path = folder.table(f"ISIC2018_Task3_{word}_GroundTruth.csv")
        # HAM10000's own download has a test table of this name, with HAM10000's columns.
        if path and not find_column(header(path), "dx"):
            truths[word] = path
    lesions = folder.table("ISIC2018_Task3_Training_LesionGroupings.csv")
    return _challenge(truths, ISIC_2018, {"Training": lesions} if lesions else {})


@layout("ISIC 2019", signs="ISIC_2019_Training_GroundTruth.csv")
def _isic_2019(folder: Folder) -> Draft | None:
    words = ("Training", "Test")
    truths = {word: path for word in words if (path := folder.table(f"ISIC_2019_{word}_GroundTruth.csv"))}
    metadata = {word: path for word in words if (path := folder.table(f"ISIC_2019_{word}_Metadata.csv"))}
    return _challenge(truths, ISIC_2019, metadata)


def _challenge(truths: dict[str, Path], classes: tuple[str, ...], metadata: dict[str, Path]) -> Draft | None:
    """The tables of an ISIC challenge: one-hot labels of one or several parts, and what is known of the images."""
    draft = None
    for word, path in truths.items():
        table = read_table(path)
        image = table[need_column(table, path, "image", "image_id", "image_name")]
        columns = [need_column(table, path, spelling(name)) for name in classes]
        unknown = find_column(list(table.columns), "unk")
        labels, marked = from_one_hot(table, [*columns, unknown] if unknown else columns, path)
        group: pd.Series | str = ""
        attributes = None
        if word in metadata:
            known = _look_up(metadata[word], image)
            group = known[lesion] if (lesion := find_column(list(known.columns), "lesion_id")) else ""
            attributes = _attributes(known, "age_approx", "anatom_site_general", "sex")
        rows = _rows(image, labels, group=group, split=_SPLITS[word.lower()], attributes=attributes)
        part = Draft(rows, path.name, classes)
        _leave_unmarked(part, marked)
        if unknown and (part.rows["label"] == unknown).any():
            none = (part.rows["label"] == unknown).sum()
            part.notes.append(f"{path.name} marks {count(none, 'image')} {unknown} (none of the classes): left out")
            part.rows = part.rows[part.rows["label"] != unknown]
        draft = part if draft is None else _together(draft, part)
    return draft


def _together(one: Draft, other: Draft) -> Draft:
    rows = pd.concat([one.rows, other.rows], ignore_index=True).fillna("")
    source = f"{one.source} and {other.source}"
    return Draft(rows, source, one.classes, one.notes + other.notes, one.unusable | other.unusable)


def _look_up(path: Path, images: pd.Series) -> pd.DataFrame:
    """The rows of the table at `path` for each of `images`, `""` where it has none.

    Raises:
        UserError: the table has two different rows for one of `images`.
    """
    table = read_table(path)
    key = need_column(table, path, "image", "image_id", "image_name")
    table = table[table[key].isin(images)].drop_duplicates()  # what it says of other images is nobody's matter
    twice = table[key].duplicated()
    if twice.any():
        raise UserError(f"{path} has two rows for '{table.loc[twice, key].iloc[0]}', which disagree: keep one")
    return table.set_index(key).reindex(images).fillna("").set_axis(images.index)


# From the deepest on: diagnosis_1 is benign or malignant, _2 the family, _3 the disease, _4 and _5 its forms;
# `diagnosis` is the disease in older downloads.
_DIAGNOSES = ("diagnosis", *(f"diagnosis_{level}" for level in (5, 4, 3, 2, 1)))
_PEOPLE = ("patient_id", "lesion_id")
_ARCHIVE_ATTRIBUTES = (
    "age_approx", "sex", "anatom_site_general", "anatom_site_1", "fitzpatrick_skin_type", "image_type",
    "dermoscopic_type", "diagnosis_confirm_type", "attribution",
)  # fmt: skip
_NEARLY_ALL = 0.99  # of the rows with a diagnosis: a level that fewer fill would cost whole classes


@layout("ISIC Archive", signs="metadata.csv with isic_id and diagnosis")
def _isic_archive(folder: Folder) -> Draft | None:
    paths = _metadata(folder, "isic_id")
    if not paths or _tables_of_classes(folder):
        return None
    if len({posixpath.basename(path) for path in paths}) > 1:
        raise UserError(f"{folder.root} holds {' and '.join(paths)}: name the right one with --labels")
    path = folder.root / paths[0]
    source = path.name if len(paths) == 1 else _listed(paths)
    table = read_table(path) if len(paths) == 1 else _complete(_stacked(folder, paths), source)
    columns = list(table.columns)
    label, filled = _diagnosis(table)
    if label is None:
        need_column(table, path, "diagnosis")
        raise UserError(f"{path}: the column diagnosis is empty in every row: there is nothing to learn from")
    image = table[need_column(table, path, "isic_id")]
    people = [table[name] for known in _PEOPLE if (name := find_column(columns, known))]
    attributes = _attributes(table, *_ARCHIVE_ATTRIBUTES)
    rows = _rows(image, table[label], group=join_groups(*people) if people else "", attributes=attributes)
    note = f"labels are the column {label} of {source}"
    if others := ", ".join(f"{name} ({number:,})" for name, number in filled.items() if name != label):
        note += f", filled in {count(filled[label], 'row')}; others: {others}; to take another, call it label in a "
        note += "table for --labels"
    return Draft(rows, source, notes=[note])


def _diagnosis(table: pd.DataFrame) -> tuple[str | None, dict[str, int]]:
    """The column of the classes, and how many rows fill each column that has a diagnosis.

    It is the deepest level that nearly all rows with a diagnosis fill, else the one that most do.
    """
    names = (find_column(list(table.columns), name) for name in _DIAGNOSES)
    filled = {name: table[name] != "" for name in names if name and (table[name] != "").any()}
    rows = {name: int(there.sum()) for name, there in filled.items()}
    if not filled:
        return None, rows
    enough = _NEARLY_ALL * np.logical_or.reduce(list(filled.values())).sum()
    return next((name for name in rows if rows[name] >= enough), max(rows, key=lambda name: rows[name])), rows


def _stacked(folder: Folder, paths: list[str]) -> pd.DataFrame:
    """Several tables of the Archive, one below the other: the columns we use, under one spelling."""
    parts = []
    for path in paths:
        table = read_table(folder.root / path)
        names = ("isic_id", *_DIAGNOSES, *_PEOPLE, *_ARCHIVE_ATTRIBUTES)
        used = {found: name for name in names if (found := find_column(list(table.columns), name))}
        parts.append(table[list(used)].rename(columns=used))
    return pd.concat(parts, ignore_index=True).fillna("")


def _complete(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """One row an image: two tables may each know a part of what is known of it.

    Raises:
        UserError: they contradict each other.
    """
    again = table["isic_id"].duplicated(keep=False) & (table["isic_id"] != "")
    if not again.any():
        return table
    rows = table[again].mask(table[again] == "").groupby("isic_id", sort=False)
    values = rows.nunique()
    for column in values.columns[(values > 1).any()]:
        image = values.index[values[column] > 1][0]
        raise UserError(
            f"{source} disagree on {column} of the image '{image}': correct one, "
            "or name a table image,label,group with --labels"
        )
    return pd.concat([table[~again], rows.first().reset_index()], ignore_index=True).fillna("")


def _tables_of_classes(folder: Folder) -> list[str]:
    """The Archive's tables that lie each in a class folder, where the set was downloaded class by class.

    Then the folders say the classes, whatever the tables call them. It is so where no diagnosis stands in the
    tables of two classes: folders that are mere parts of a download share theirs.
    """
    paths = _metadata(folder, "isic_id")
    if len(paths) < 2:
        return []
    base = _base(folder)
    images, label = (found, 2) if (found := _split_paths(folder, base)) else (_class_paths(folder, base), 1)
    class_of = {image[1 : label + 1]: image[label] for image in images}
    classes = [class_of.get(parts[1 : label + 1]) for parts in map(partial(_parts, base=base), paths)]
    if None in classes or len(set(classes)) < 2:
        return []
    table = pd.concat([_stacked(folder, [path]).assign(folder=cls) for path, cls in zip(paths, classes, strict=True)])
    diagnosis, _ = _diagnosis(table.fillna(""))
    shared = diagnosis and table[table[diagnosis].fillna("") != ""].groupby(diagnosis)["folder"].nunique().gt(1).any()
    return [] if shared else paths


def _groups_of_tables(folder: Folder, paths: list[str], names: pd.Series) -> pd.Series | str:
    """The lesion or patient that the Archive's tables `paths` give each file of `names`, `""` where they do not."""
    table = _stacked(folder, paths)
    people = [table[name] for name in _PEOPLE if name in table]
    if not people:
        return ""
    # An image in two tables links what either says of it; its own name is no lesion.
    group = join_groups(*people, table["isic_id"])
    known = group.mask(group.isin(table["isic_id"]), "").groupby(table["isic_id"]).first()
    stems = names.map(lambda name: posixpath.splitext(posixpath.basename(name))[0])
    return stems.map(known).fillna("")


@layout("PAD-UFES-20", signs="metadata.csv with img_id and diagnostic")
def _pad_ufes_20(folder: Folder) -> Draft | None:
    paths = _metadata(folder, "img_id")
    if not paths:
        return None
    if len(paths) > 1:
        raise UserError(f"{folder.root} holds {_listed(paths)}, which disagree: name the right one with --labels")
    path = folder.root / paths[0]
    table = read_table(path)
    rows = _rows(
        table[need_column(table, path, "img_id")],
        table[need_column(table, path, "diagnostic", "diagnosis")],
        group=table[need_column(table, path, "patient_id", "lesion_id")],
        attributes=_attributes(table, "age", "gender", "region", "fitspatrick", "fitzpatrick", "biopsed"),
    )
    return Draft(rows, path.name)


def _metadata(folder: Folder, key: str) -> list[str]:
    """The tables called metadata, or nearly so, that have the column `key`, without copies of one another."""
    named = folder.distinct([path for path in folder.tables if "metadata" in posixpath.basename(path).lower()])
    return [path for path in named if find_column(header(folder.root / path), key)]


def _listed(paths: list[str]) -> str:
    shown = paths if len(paths) < 4 else [*paths[:2], f"{len(paths) - 2:,} more tables"]
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


@layout("Fitzpatrick17k", signs="fitzpatrick17k.csv")
def _fitzpatrick17k(folder: Folder) -> Draft | None:
    path = folder.table("fitzpatrick17k.csv")
    if path is None:
        return None
    table = read_table(path)
    scale = find_column(list(table.columns), "fitzpatrick_scale", "fitzpatrick")
    if scale:
        table[scale] = table[scale].replace({"-1": "", "-1.0": ""})  # the set's own mark for unknown
    attributes = _attributes(table, scale or "fitzpatrick_scale", "nine_partition_label", "three_partition_label")
    rows = _rows(
        table[need_column(table, path, "md5hash")], table[need_column(table, path, "label")], attributes=attributes
    )
    return Draft(rows, path.name)


@layout("MedMNIST", signs="dermamnist*.npz")
def _medmnist(folder: Folder) -> Draft | None:
    found = [path for path in folder.archives if posixpath.basename(path).startswith("dermamnist")]
    if not found:
        return None
    if len(found) > 1:
        raise UserError(f"{folder.root} holds {' and '.join(found)}: name one, --data {folder.root / found[0]}")
    folder.refuse_link(found[0])
    archive = NpzFile(folder.root / found[0])
    parts = []
    for split in ("train", "val", "test"):
        if f"{split}_images" not in archive.arrays and split != "train":
            continue
        images = archive.image_count(f"{split}_images")
        labels = archive.labels(f"{split}_labels", images, len(DERMAMNIST))
        names = pd.Series([f"{split}_images/{row}" for row in range(images)])
        label = pd.Series(np.array(DERMAMNIST, dtype=object)[labels])
        parts.append(_rows(names, label, split=split).assign(file=f"{found[0]}::" + names))
    return Draft(pd.concat(parts, ignore_index=True), posixpath.basename(found[0]), DERMAMNIST)


@layout("split folders", signs="train/<class>/*.jpg, val/<class>/*.jpg, test/<class>/*.jpg")
def _split_folders(folder: Folder) -> Draft | None:
    base = _base(folder)
    paths = _split_paths(folder, base)
    if not paths:
        return None
    return _from_folders(folder, base, paths, label=2, split=[_SPLITS[path[1].lower()] for path in paths])


@layout("class folders", signs="<class>/*.jpg, two classes or more")
def _class_folders(folder: Folder) -> Draft | None:
    base = _base(folder)
    paths = _class_paths(folder, base)
    if not paths:
        return None
    return _from_folders(folder, base, paths, label=1, split=[""] * len(paths))


def _split_paths(folder: Folder, base: str) -> list[tuple[str, ...]]:
    return [path for path in _below(folder, base) if path[1].lower() in _SPLITS and len(path) > 3]


def _class_paths(folder: Folder, base: str) -> list[tuple[str, ...]]:
    paths = [path for path in _below(folder, base) if len(path) > 2]
    return [] if any(map(_is_part, {path[1] for path in paths})) else paths


def _is_part(name: str) -> bool:
    """Whether a folder is part of a set by its name, and no class: `train`, `images_2`, `HAM10000_images_part_1`,
    `test_images`, `ISIC2018_Task3_Training_Input`. `benign_images` may be a class."""
    found = _PART_FOLDER.fullmatch(name)
    if found is None:
        return name.lower() in _SPLITS
    words = re.split(r"[\W_]+", (found["of"] or "").lower())
    return not found["of"] or bool(found["input"] or found["part"]) or any(word in _SPLITS for word in words)


_FOLDER_LAYOUTS = ("split folders", "class folders")


def _base(folder: Folder) -> str:
    """The folder under which the classes lie: the root, or the one folder in it that an archive made."""
    base = ""
    while True:
        inside = [f for f in folder.folders if posixpath.dirname(f) == base]
        deeper = len(inside) == 1 and any(posixpath.dirname(f) == inside[0] for f in folder.folders)
        if not deeper or any(posixpath.dirname(p) in (base, inside[0]) for p in folder.images):
            return base
        if posixpath.basename(inside[0]).lower() in _SPLITS:
            return base
        base = inside[0]


def _below(folder: Folder, base: str) -> list[tuple[str, ...]]:
    """Each image under `base`: its path from the root, then the parts of its path from `base`."""
    return [_parts(path, base) for path in sorted(folder.images) if path.startswith(base)]


def _parts(path: str, base: str) -> tuple[str, ...]:
    return (path, *path[len(base) + 1 if base else 0 :].split("/"))


def _from_folders(
    folder: Folder, base: str, paths: list[tuple[str, ...]], label: int, split: list[str]
) -> Draft:
    file = pd.Series([path[0] for path in paths], dtype=object)
    # A file name that is no valid text stays so in `file`; its name in tables is made so.
    names = file.map(lambda path: path.encode("utf-8", "backslashreplace").decode())
    labels = pd.Series([path[label].encode("utf-8", "backslashreplace").decode().strip() for path in paths])
    tables = _tables_of_classes(folder)
    group = _groups_of_tables(folder, tables, names) if tables else ""
    rows = _rows(names, labels, group=group, split=pd.Series(split)).assign(file=file)
    draft = Draft(rows, f"the folders of {posixpath.join(folder.root, base)}")
    draft.unnamed = tuple(sorted(folder.images - {path[0] for path in paths}))
    if draft.unnamed:
        loose = count(len(draft.unnamed), "image")
        draft.notes.append(f"the folder holds {loose} outside the class folders: left out")
    if tables:
        draft.notes.append(f"{_listed(tables)} tell lesions and patients; the classes are the folders'")
    unused = [path for path in folder.tables if path not in tables]
    draft.notes += [f"the table {path} is not used (--labels names one)" for path in unused[:3]]
    used = {posixpath.join(base, *path[1 : label + 1]) for path in paths}
    for path in folder.folders:
        inside = path.startswith(base) and path != base
        if inside and path.removeprefix(base).strip("/").count("/") == label - 1 and path not in used:
            draft.notes.append(f"the folder {path} holds no images of a class: left out")
    return draft


def labels_table(folder: Folder, path: Path) -> Draft:
    """The layout that the user names: a table `image,label[,group][,split][,...]` for any folder."""
    if not path.is_file():
        raise UserError(f"the table {path} does not exist: check --labels")
    table = read_table(path)
    columns = list(table.columns)
    image = need_column(
        table, path, "image", "image_id", "image_name", "filename", "file_name", "file", "path", "image_path",
        "filepath", "isic_id", "img_id", "id", "name", "md5hash",
    )  # fmt: skip
    label = find_column(columns, "label", "labels", "class", "dx", "diagnosis", "diagnostic", "target", "category")
    group = find_column(columns, "group", "group_id")
    groups = [group] if group else [
        name for name in (find_column(columns, "patient_id", "patient"), find_column(columns, "lesion_id", "lesion"))
        if name
    ]  # fmt: skip
    split = find_column(columns, "split", "set", "subset", "partition")
    rest = [name for name in columns if name not in (image, label, split, *groups)]
    classes: tuple[str, ...] = ()
    if label is None and is_one_hot(table, rest):
        labels, marked = from_one_hot(table, rest, path)
        classes, rest = tuple(rest), []
    else:
        label = label or need_column(table, path, "label", "class", "dx", "diagnosis")
        labels, marked = table[label], np.ones(len(table), dtype=np.int64)
    rows = _rows(
        table[image],
        labels,
        group=join_groups(*(table[name] for name in groups)) if groups else "",
        split=_split_words(table[split], path) if split else "",
        attributes=table[rest],
    )
    draft = Draft(rows, path.name, classes)
    _leave_unmarked(draft, marked)
    return draft


def _split_words(values: pd.Series, path: Path) -> pd.Series:
    words = without_words(values).str.lower()
    unknown = ~words.isin([*_SPLITS, ""])
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        raise UserError(
            f"{path}, row {row + 2}: the split '{values.iloc[row]}' is none of train, val, test: correct the table"
        )
    return words.replace(_SPLITS)


def _leave_unmarked(draft: Draft, marked: np.ndarray) -> None:
    """Leave out the rows whose one-hot marks do not add up to one, and say so."""
    wrong = marked != 1
    if not wrong.any():
        return
    first = draft.rows["image"].iloc[int(np.flatnonzero(wrong)[0])]
    none, several = int((marked == 0).sum()), int((marked > 1).sum())
    note = f"{draft.source}: rows that mark no class: {none:,}, several: {several:,} (first: {printable(first)})"
    draft.unusable[note] = int(wrong.sum())
    draft.rows = draft.rows[~wrong]
