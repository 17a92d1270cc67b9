"""Class folders, with or without a folder per split above them."""

from __future__ import annotations

import posixpath

from skin.data.folder import Folder
from skin.data.folder_names import as_name
from skin.data.index import Draft, count
from skin.data.readers.common import Layout, listed, rows_of
from skin.data.readers.folder_tables import groups_beside, usable_with_labels
from skin.data.readers.folder_tree import NoClassFolders, Tree, read_tree
from skin.data.readers.isic_archive import groups_of_tables, tables_of_classes
from skin.utils.errors import UserError

import pandas as pd


def _split_folders(folder: Folder) -> Draft | None:
    return _read(folder, in_splits=True)


def _class_folders(folder: Folder) -> Draft | None:
    return _read(folder, in_splits=False)


def _read(folder: Folder, in_splits: bool) -> Draft | None:
    """Return the images in class folders; None if they lie the other way than `in_splits` says.

    Raises:
        UserError: the folders cannot be classes; it says what to do.
    """
    try:
        tree = read_tree(folder)
        if tree is None or any(place.split for place in tree.places) != in_splits:
            return None
        return _draft(folder, tree)
    except NoClassFolders as error:
        remedy = error.remedy or usable_with_labels(folder) or "name a table image,label,group with --labels"
        raise UserError(f"{error.what}: {remedy}") from error


def _draft(folder: Folder, tree: Tree) -> Draft:
    # A file name that is no valid text stays as it is in `file`; its name in tables becomes valid text.
    file = pd.Series([place.path for place in tree.places], dtype=object)
    image = file.map(lambda path: path.encode("utf-8", "backslashreplace").decode())
    tables = tables_of_classes(folder)
    told = groups_beside(folder, tree, [path for path in folder.tables if path not in tables])
    own = pd.Series([told.groups.get(path, "") for path in file])
    groups = groups_of_tables(folder, tables, image) if tables else own
    labels = pd.Series([place.label for place in tree.places])
    splits = pd.Series([place.split for place in tree.places])
    rows = rows_of(image, labels, group=groups, split=splits).assign(file=file)
    notes = list(tree.notes)
    unnamed = tuple(sorted(folder.images.difference(tree.masks, file)))
    if unnamed:
        notes.append(f"the folder holds {count(len(unnamed), 'image')} outside the class folders: left out")
    if used := tables or list(told.tables):
        sources = listed(used) if len(used) > 1 else used[0]
        tell = "tell" if len(used) > 1 else "tells"
        notes.append(f"{sources} {tell} lesions and patients; the classes are the folders'")
    unused = [path for path in folder.tables if path not in used]
    notes += [f"the table {path} is not used (--labels names one)" for path in unused[:3]]
    notes += [f"the folder {as_name(path)} holds no images of a class: left out" for path in tree.empty]
    source = f"the folders of {posixpath.join(folder.root, tree.base)}"
    return Draft(rows, source, notes=tuple(notes), unnamed=unnamed, warnings=tuple(told.warnings))


SPLIT_FOLDERS = Layout(
    "split folders", "train/<class>/*.jpg, val/<class>/*.jpg, test/<class>/*.jpg", _split_folders, by_folders=True
)
CLASS_FOLDERS = Layout("class folders", "<class>/*.jpg, two classes or more", _class_folders, by_folders=True)
