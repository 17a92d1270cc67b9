"""Read a data folder as users have it into an `Index`: one row per image, with path, label, group, split, attributes.

Each layout is one entry of `LAYOUTS`, read by a module of its own in `skin/data/readers`. To add one, write such a
module and name it in the list. `build_index` finds the images, counts faults and refuses unsafe names for all layouts
alike.
"""

from __future__ import annotations

from pathlib import Path

from skin.data.folder import Folder
from skin.data.index import Draft, Index, build_index, count
from skin.data.readers import (
    fitzpatrick17k,
    ham10000,
    image_folders,
    isic_2018,
    isic_2019,
    isic_archive,
    medmnist,
    pad_ufes_20,
    parquet,
    webdataset,
)
from skin.data.readers.labels_table import labels_table
from skin.data.tables import header
from skin.utils.errors import UserError

LAYOUTS = [
    ham10000.LAYOUT,
    isic_2018.LAYOUT,
    isic_2019.LAYOUT,
    isic_archive.LAYOUT,
    pad_ufes_20.LAYOUT,
    fitzpatrick17k.LAYOUT,
    medmnist.LAYOUT,
    parquet.LAYOUT,
    webdataset.LAYOUT,
    image_folders.SPLIT_FOLDERS,
    image_folders.CLASS_FOLDERS,
]


def read_index(
    root: Path, *, labels: Path | None = None, allow_missing: bool = False, keep_going: bool = False
) -> Index:
    """Read the data folder `root` in the layout that it has, or with the table `labels`.

    Args:
        root: the folder that `--data` names.
        labels: a table `image,label[,group][,split][,...]`; paths in it are relative to `root`.
        allow_missing: go on if more than 1 % of the rows have no image or no class.
        keep_going: (for the audit) do not stop at an error: put it into `Index.faults` and leave its rows out.

    Raises:
        UserError: the folder has no layout or two, a table is unusable or contradicts itself, a path
            leaves the folder, or too many rows are unusable.
    """
    folder = Folder(Path(root))
    name, draft = ("labels table", labels_table(folder, Path(labels))) if labels else _only_layout(folder)
    return build_index(folder, name, draft, allow_missing, keep_going)


def _only_layout(folder: Folder) -> tuple[str, Draft]:
    found = {layout.name: draft for layout in LAYOUTS if (draft := layout.read(folder)) is not None}
    of_folders = [layout.name for layout in LAYOUTS if layout.by_folders]
    tables = {name: draft for name, draft in found.items() if name not in of_folders}
    if len(tables) == 1:
        # Folders beside a table count only if they are named like its classes or like splits;
        # otherwise they merely hold the images.
        known = {label.lower() for draft in tables.values() for label in draft.rows["label"].unique()}
        for name in of_folders:
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
    return "; ".join(f"{layout.name}: {layout.signs}" for layout in LAYOUTS) + "; or a table named with --labels"


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
    return "it holds " + ", ".join([*found, *folder.unread[:3]])


