"""Class folders, with or without a folder per split above them."""

from __future__ import annotations

import posixpath

from skin.data.folder import Folder
from skin.data.index import Draft, count
from skin.data.readers.common import SPLITS, Layout, listed, rows_of
from skin.data.readers.folder_tree import Place, base_of, in_class_folders, in_split_folders
from skin.data.readers.isic_archive import groups_of_tables, tables_of_classes

import pandas as pd


def _split_folders(folder: Folder) -> Draft | None:
    base = base_of(folder)
    places = in_split_folders(folder, base)
    return _draft(folder, base, places, 1, [SPLITS[it.folders[0].lower()] for it in places]) if places else None


def _class_folders(folder: Folder) -> Draft | None:
    base = base_of(folder)
    places = in_class_folders(folder, base)
    return _draft(folder, base, places, 0, [""] * len(places)) if places else None


def _draft(folder: Folder, base: str, places: list[Place], depth: int, split: list[str]) -> Draft:
    """Return the rows of images in class folders.

    Args:
        depth: of the class among the folders of a place.
        split: of each of `places`.
    """
    file = pd.Series([it.path for it in places], dtype=object)
    # A file name that is no valid text stays as it is in `file`; its name in tables becomes valid text.
    names = file.map(_as_text)
    labels = pd.Series([_as_text(it.folders[depth]).strip() for it in places])
    tables = tables_of_classes(folder)
    group = groups_of_tables(folder, tables, names) if tables else ""
    rows = rows_of(names, labels, group=group, split=pd.Series(split)).assign(file=file)
    notes = []
    unnamed = tuple(sorted(folder.images - {it.path for it in places}))
    if unnamed:
        notes.append(f"the folder holds {count(len(unnamed), 'image')} outside the class folders: left out")
    if tables:
        notes.append(f"{listed(tables)} tell lesions and patients; the classes are the folders'")
    unused = [path for path in folder.tables if path not in tables]
    notes += [f"the table {path} is not used (--labels names one)" for path in unused[:3]]
    used = {posixpath.join(base, *it.folders[: depth + 1]) for it in places}
    for path in folder.folders:
        inside = path.startswith(base) and path != base
        if inside and path.removeprefix(base).strip("/").count("/") == depth and path not in used:
            notes.append(f"the folder {path} holds no images of a class: left out")
    return Draft(rows, f"the folders of {posixpath.join(folder.root, base)}", notes=tuple(notes), unnamed=unnamed)


def _as_text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


SPLIT_FOLDERS = Layout(
    "split folders", "train/<class>/*.jpg, val/<class>/*.jpg, test/<class>/*.jpg", _split_folders, by_folders=True
)
CLASS_FOLDERS = Layout("class folders", "<class>/*.jpg, two classes or more", _class_folders, by_folders=True)
