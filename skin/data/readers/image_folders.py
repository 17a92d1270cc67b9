"""Class folders, with or without a folder per split above them."""

from __future__ import annotations

import posixpath

from skin.data.folder import Folder
from skin.data.index import Draft, count
from skin.data.readers.common import SPLITS, Layout, listed, rows_of
from skin.data.readers.isic_archive import groups_of_tables, tables_of_classes
from skin.data.readers.tree import base_of, class_paths, split_paths

import pandas as pd


def _split_folders(folder: Folder) -> Draft | None:
    base = base_of(folder)
    paths = split_paths(folder, base)
    if not paths:
        return None
    return _from_folders(folder, base, paths, label=2, split=[SPLITS[path[1].lower()] for path in paths])


def _class_folders(folder: Folder) -> Draft | None:
    base = base_of(folder)
    paths = class_paths(folder, base)
    if not paths:
        return None
    return _from_folders(folder, base, paths, label=1, split=[""] * len(paths))


def _from_folders(
    folder: Folder, base: str, paths: list[tuple[str, ...]], label: int, split: list[str]
) -> Draft:
    file = pd.Series([path[0] for path in paths], dtype=object)
    # A file name that is no valid text stays so in `file`; its name in tables is made so.
    names = file.map(lambda path: path.encode("utf-8", "backslashreplace").decode())
    labels = pd.Series([path[label].encode("utf-8", "backslashreplace").decode().strip() for path in paths])
    tables = tables_of_classes(folder)
    group = groups_of_tables(folder, tables, names) if tables else ""
    rows = rows_of(names, labels, group=group, split=pd.Series(split)).assign(file=file)
    draft = Draft(rows, f"the folders of {posixpath.join(folder.root, base)}")
    draft.unnamed = tuple(sorted(folder.images - {path[0] for path in paths}))
    if draft.unnamed:
        loose = count(len(draft.unnamed), "image")
        draft.notes.append(f"the folder holds {loose} outside the class folders: left out")
    if tables:
        draft.notes.append(f"{listed(tables)} tell lesions and patients; the classes are the folders'")
    unused = [path for path in folder.tables if path not in tables]
    draft.notes += [f"the table {path} is not used (--labels names one)" for path in unused[:3]]
    used = {posixpath.join(base, *path[1 : label + 1]) for path in paths}
    for path in folder.folders:
        inside = path.startswith(base) and path != base
        if inside and path.removeprefix(base).strip("/").count("/") == label - 1 and path not in used:
            draft.notes.append(f"the folder {path} holds no images of a class: left out")
    return draft


SPLIT_FOLDERS = Layout(
    "split folders", "train/<class>/*.jpg, val/<class>/*.jpg, test/<class>/*.jpg", _split_folders, by_folders=True
)
CLASS_FOLDERS = Layout("class folders", "<class>/*.jpg, two classes or more", _class_folders, by_folders=True)
