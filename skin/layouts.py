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
from pathlib import Path

import numpy as np
import pandas as pd

from skin.class_names import DERMAMNIST, ISIC_2018, ISIC_2019, ClassMatch, match_classes, readable_name
from skin.errors import UserError, printable
from skin.folder import IMAGE_SUFFIXES, Folder
from skin.groups import join_groups
from skin.index import COLUMNS, Draft, Index, build_index, count
from skin.npz import NpzFile
from skin.tables import find_column, from_one_hot, header, is_one_hot, need_column, read_table, spelling

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
        return "it is empty"
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
    return rows.join(attributes.rename(columns=names))


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
        UserError: the table has two different rows for one image.
    """
    table = read_table(path).drop_duplicates()
    key = need_column(table, path, "image", "image_id", "image_name")
    twice = table[key].duplicated() & table[key].isin(images)
    if twice.any():
        raise UserError(f"{path} has two rows for '{table.loc[twice, key].iloc[0]}', which disagree: keep one")
    return table.set_index(key).reindex(images).fillna("").set_axis(images.index)


@layout("ISIC Archive", signs="metadata.csv with isic_id and diagnosis")
def _isic_archive(folder: Folder) -> Draft | None:
    path = _metadata(folder, "isic_id")
    if path is None:
        return None
    table = read_table(path)
    columns = list(table.columns)
    # diagnosis_1 is benign or malignant, _2 the family, _3 the disease; deeper levels are its forms.
    levels = [find_column(columns, name) for name in ("diagnosis", *(f"diagnosis_{n}" for n in (3, 2, 1, 4, 5)))]
    label = next((name for name in levels if name and (table[name] != "").any()), None)
    if label is None:
        need_column(table, path, "diagnosis")
        raise UserError(f"{path}: the column diagnosis is empty in every row: there is nothing to learn from")
    image = table[need_column(table, path, "isic_id")]
    people = [table[name] for name in (find_column(columns, "patient_id"), find_column(columns, "lesion_id")) if name]
    attributes = _attributes(
        table, "age_approx", "sex", "anatom_site_general", "anatom_site_1", "fitzpatrick_skin_type", "image_type",
        "dermoscopic_type", "diagnosis_confirm_type", "attribution",
    )  # fmt: skip
    rows = _rows(image, table[label], group=join_groups(*people) if people else "", attributes=attributes)
    return Draft(rows, path.name, notes=[f"labels are the column {label} of {path.name}"])


@layout("PAD-UFES-20", signs="metadata.csv with img_id and diagnostic")
def _pad_ufes_20(folder: Folder) -> Draft | None:
    path = _metadata(folder, "img_id")
    if path is None:
        return None
    table = read_table(path)
    rows = _rows(
        table[need_column(table, path, "img_id")],
        table[need_column(table, path, "diagnostic", "diagnosis")],
        group=table[need_column(table, path, "patient_id", "lesion_id")],
        attributes=_attributes(table, "age", "gender", "region", "fitspatrick", "fitzpatrick", "biopsed"),
    )
    return Draft(rows, path.name)


def _metadata(folder: Folder, key: str) -> Path | None:
    """The table called metadata, or nearly so, that has the column `key`."""
    names = {posixpath.basename(path) for path in folder.tables if "metadata" in posixpath.basename(path).lower()}
    found = [path for name in sorted(names) if (path := folder.table(name)) and find_column(header(path), key)]
    if len(found) > 1:
        raise UserError(f"{folder.root} holds {found[0].name} and {found[1].name}: name the right one with --labels")
    return found[0] if found else None


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
    paths = [path for path in _below(folder, base) if path[1].lower() in _SPLITS and len(path) > 3]
    if not paths:
        return None
    return _from_folders(folder, base, paths, label=2, split=[_SPLITS[path[1].lower()] for path in paths])


@layout("class folders", signs="<class>/*.jpg, two classes or more")
def _class_folders(folder: Folder) -> Draft | None:
    base = _base(folder)
    paths = [path for path in _below(folder, base) if len(path) > 2]
    tops = {path[1] for path in paths}
    if not paths or any(map(_is_part, tops)):
        return None
    return _from_folders(folder, base, paths, label=1, split=[""] * len(paths))


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
    start = len(base) + 1 if base else 0
    return [(path, *path[start:].split("/")) for path in sorted(folder.images) if path.startswith(base)]


def _from_folders(
    folder: Folder, base: str, paths: list[tuple[str, ...]], label: int, split: list[str]
) -> Draft:
    file = pd.Series([path[0] for path in paths], dtype=object)
    # A file name that is no valid text stays so in `file`; its name in tables is made so.
    names = file.map(lambda path: path.encode("utf-8", "backslashreplace").decode())
    labels = pd.Series([path[label].encode("utf-8", "backslashreplace").decode().strip() for path in paths])
    rows = _rows(names, labels, split=pd.Series(split)).assign(file=file)
    draft = Draft(rows, f"the folders of {posixpath.join(folder.root, base)}")
    draft.unnamed = tuple(sorted(folder.images - {path[0] for path in paths}))
    if draft.unnamed:
        loose = count(len(draft.unnamed), "image")
        draft.notes.append(f"the folder holds {loose} outside the class folders: left out")
    draft.notes += [f"the table {path} is not used (--labels names one)" for path in folder.tables[:3]]
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
    words = values.str.lower()
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
