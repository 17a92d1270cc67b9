"""Read a data folder as users have it into an `Index`: one row per image, with path, label, group, split, attributes.

Each layout is one entry of `LAYOUTS`, read by a module of its own in `skin/data/readers`. To add one, write such a
module and name it in the list. `build_index` finds the images, counts faults and refuses unsafe names for all layouts
alike.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from skin.data.folder import Folder
from skin.data.index import Draft, Index, build_index, count
from skin.data.named_columns import with_named_columns
from skin.data.packed import how_to_unpack, packed
from skin.data.readers import (
    bcn20000,
    ddi,
    derm7pt,
    derm12345,
    fitzpatrick17k,
    ham10000,
    hugging_face,
    image_folders,
    isic_2016,
    isic_2017,
    isic_2018,
    isic_2019,
    isic_2020,
    isic_2024,
    isic_archive,
    medmnist,
    midas,
    milk10k,
    monkeypox,
    pad_ufes_20,
    parquet,
    ph2,
    scin,
    sd_198,
    webdataset,
)
from skin.data.readers.folder_tables import usable_with_labels, with_folders, with_groups_beside
from skin.data.readers.labels_table import labels_table
from skin.data.tables import encoding_note
from skin.utils.errors import UserError, printable

LAYOUTS = [
    ham10000.LAYOUT,
    isic_2016.LAYOUT,
    isic_2017.LAYOUT,
    isic_2018.LAYOUT,
    isic_2019.LAYOUT,
    isic_2020.LAYOUT,
    isic_2024.LAYOUT,
    milk10k.LAYOUT,
    isic_archive.LAYOUT,
    pad_ufes_20.LAYOUT,
    fitzpatrick17k.LAYOUT,
    bcn20000.LAYOUT,
    ddi.LAYOUT,
    derm12345.LAYOUT,
    derm7pt.LAYOUT,
    scin.LAYOUT,
    ph2.LAYOUT,
    midas.LAYOUT,
    sd_198.LAYOUT,
    monkeypox.LAYOUT,
    hugging_face.LAYOUT,
    medmnist.LAYOUT,
    parquet.LAYOUT,
    webdataset.LAYOUT,
    image_folders.SPLIT_FOLDERS,
    image_folders.CLASS_FOLDERS,
]

_SPREADSHEETS = (".xlsx", ".xls", ".ods")
_LISTS = (*_SPREADSHEETS, ".txt", ".json", ".jsonl", ".arrow")  # of labels, perhaps


def read_index(
    root: Path,
    *,
    labels: Path | None = None,
    allow_missing: bool = False,
    keep_going: bool = False,
    label_column: str | None = None,
    group_column: str | None = None,
    ignore_class: Sequence[str] = (),
    group_by: str | None = None,
) -> Index:
    """Read the data folder `root` in the layout that it has, or with the table `labels`.

    Args:
        root: the folder that `--data` names.
        labels: a table `image,label[,group][,split][,...]`; paths in it are relative to `root`.
        allow_missing: go on if more than 1 % of the rows have no image or no class.
        keep_going: (for the audit) do not stop at an error: put it into `Index.faults` and leave its rows out.
        label_column, group_column: the columns of a table that hold the labels, and what stays together.
        ignore_class: classes to leave out: names, each of which may be several with commas between.
        group_by: a regular expression that finds the lesion or patient of an image in its path.

    Raises:
        UserError: the folder has no layout or two, a table is unusable or contradicts itself, a path
            leaves the folder, too many rows are unusable, or `group_by` tells no groups.
    """
    folder = Folder(Path(root), group_column)
    if labels:
        name, draft = "labels table", labels_table(folder, Path(labels), label_column, group_column)
        draft = with_groups_beside(folder, draft, Path(labels))
    else:
        name, draft = _only_layout(folder)
        notes = [note for path in _sources(folder, draft) for note in encoding_note(path)]
        draft = with_named_columns(folder, replace(draft, notes=(*draft.notes, *notes)), label_column, group_column)
    return build_index(
        folder, name, draft, allow_missing=allow_missing, keep_going=keep_going, ignore_class=ignore_class,
        group_by=group_by,
    )  # fmt: skip


def _sources(folder: Folder, draft: Draft) -> list[Path]:
    """List the tables that the source of a draft names."""
    return [folder.root / path for path in folder.tables if posixpath.basename(path) in draft.source]


def _only_layout(folder: Folder) -> tuple[str, Draft]:
    tables = [layout for layout in LAYOUTS if not layout.by_folders]
    found = {layout.name: draft for layout in tables if (draft := layout.read(folder)) is not None}
    if len(found) > 1:
        matches = " and ".join(f"{name} ({draft.source})" for name, draft in found.items())
        raise UserError(
            f"{folder.root} can be read as {matches}: point --data at one of them, "
            "or name a table image,label,group with --labels"
        )
    for name, draft in found.items():
        # A set that is read from its folders (`file`) needs no other reading of them.
        return name, draft if "file" in draft.rows else with_folders(folder, draft)
    for layout in LAYOUTS:
        if layout.by_folders and (draft := layout.read(folder)) is not None:
            return layout.name, draft
    table = usable_with_labels(folder)
    there = _what_is_there(folder) + (f"; {table} reads its table" if table else "")
    unpack = how_to_unpack(folder, packed(folder))
    remedy = unpack or _to_convert(folder) + _remedy(folder)
    raise UserError(f"{folder.root} is of no known layout: {there}; {remedy}")


def _to_convert(folder: Folder) -> str:
    """Return what to do with files that have to be saved in another form before they can be read; `""` for none."""
    arrow = list(dict.fromkeys(posixpath.dirname(path) for path in folder.others if path.lower().endswith(".arrow")))
    if arrow:
        saved = [(folder.root / path, folder.root / f"{path or 'data'}.parquet") for path in arrow[:3]]
        lines = [f"datasets.load_from_disk({str(one)!r}).to_parquet({str(other)!r})" for one, other in saved]
        return f".arrow files are not read: in Python, {'; '.join(lines)} saves them as parquet; otherwise "
    if sheets := [path for path in folder.others if path.lower().endswith(_SPREADSHEETS)]:
        return f"save {printable(sheets[0])} as CSV (UTF-8) and name it with --labels; otherwise "
    return ""


def _remedy(folder: Folder) -> str:
    """Return what to do with a folder that no reader takes: the signs of sets that have a table of the same name."""
    tables = {posixpath.basename(path).lower() for path in folder.tables}
    near = [f"{it.name} has {it.signs}" for it in LAYOUTS if tables & set(re.split(r"[ ,]+", it.signs.lower()))]
    known = f" ({'; '.join(near)})" if near else ""
    above = ""
    if folder.images and not folder.folders and not folder.tables:  # one level too low, perhaps
        root = folder.root.absolute()
        above = (
            f"if '{root.name}' is itself a class, name the folder above it, which holds the others, too: "
            f"--data {shlex.quote(str(root.parent))}; otherwise "
        )
    return (
        f"{above}give each class a folder of its own, or name a table image,label[,group] with --labels{known}; the "
        "README lists the sets that are read as downloaded"
    )


def _what_is_there(folder: Folder) -> str:
    if not (folder.images or folder.tables or folder.archives or folder.folders or folder.others):
        return f"it holds {count(len(folder.ours), 'folder')} of runs or reports" if folder.ours else "it is empty"
    found = [count(len(folder.images), "image")]
    if folder.folders:
        tops = [f for f in folder.folders if "/" not in f]
        found.append(f"the folders {', '.join(tops[:5])}{', …' if len(tops) > 5 else ''}")
    for table in folder.tables[:3]:
        folder.refuse_link(table)
        found.append(f"the table {table} with the columns {', '.join(folder.columns(table)[:8])}")
    if lists := [printable(path) for path in folder.others if path.lower().endswith(_LISTS)]:
        found.append(f"the files {', '.join(lists[:3])}{', …' if len(lists) > 3 else ''}")
    return "it holds " + ", ".join([*found, *folder.unread[:3]])


