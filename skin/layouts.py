"""A data folder as users have it, to an `Index`: one row an image, with path, label, group, split, attributes.

Each layout is one function that looks for its signs and answers with a `Draft`, or with None where they
are not there. To add a layout, write such a function under `@layout(...)`: what it needs to know about
the folder is in `Folder`, and finding the images, counting what is amiss and refusing what is unsafe
is done for all layouts alike by `read_index`.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

import numpy as np
import pandas as pd

from skin.class_names import readable_name
from skin.errors import UserError, printable
from skin.tables import find_column, from_one_hot, header, is_one_hot, need_column, read_table

__all__ = ["IMAGE_SUFFIXES", "LAYOUTS", "Draft", "Folder", "Index", "read_index", "readable_name"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
_TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
_SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_PART_FOLDER = re.compile(r"(.*_)?(images?|imgs|input)(_part)?_?\d*", re.IGNORECASE)  # holds images, is no class
_OWN_COLUMNS = ("image", "path", "label", "group", "split")
_SHRUG = 0.01  # the share of rows that may be unusable before it is an error


@dataclass(frozen=True)
class Index:
    """A data set, one row an image.

    Attributes:
        root: the data folder, absolute.
        layout: the name of the layout it was found to be.
        rows: sorted by `image`; the columns image (a unique name), path (absolute), label, group (a
            lesion or patient; the image's own name where none is known), split (`train`, `val`, `test`
            or `""`), then the attributes: numbers (NaN where missing) or text (`""` where missing).
        classes: the labels that have images, sorted.
        notes: what was counted and should be said, a line each.
        faults: what would have stopped `read_index`, where it was told to keep going; a line each.
    """

    root: Path
    layout: str
    rows: pd.DataFrame
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    faults: tuple[str, ...] = ()


@dataclass
class Draft:
    """What a layout makes of its tables or folders, before the images are looked for.

    `rows` has the columns of `Index.rows` except `path`; `image` is as the table names it, and a column
    `file` (relative to the data folder) stands beside it where the layout knows the file already.
    """

    rows: pd.DataFrame
    source: str
    notes: list[str] = field(default_factory=list)
    unusable: int = 0  # rows already left out that the user would not shrug at


class Folder:
    """One walk over a data folder: its images, its tables, and where a named image lies.

    Hidden files and `__MACOSX` are passed over. Links inside the folder are files like any other; what
    leads out of it is refused when it is a folder, or when a row needs it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        if not self.root.exists():
            raise UserError(f"the data folder {root} does not exist: check --data")
        if not self.root.is_dir():
            raise UserError(f"{root} is not a folder: --data takes the folder that holds the images")
        self.images: set[str] = set()
        self.tables: list[str] = []
        self.archives: list[str] = []
        self.folders: list[str] = []
        self.copies: dict[str, str] = {}
        self._links_out: set[str] = set()
        self._names: dict[str, str | tuple[str, ...]] = {}
        self._walk("")
        for part in (self.tables, self.archives, self.folders):
            part.sort()
        for path in self.images:
            self._names.setdefault(_stem(posixpath.basename(path)), path)
            if self._names[_stem(posixpath.basename(path))] is not path:
                self._add_namesake(path)

    def _walk(self, top: str) -> None:
        pending = [top]
        while pending:
            folder = pending.pop()
            try:
                entries = list(os.scandir(self.root / folder))
            except OSError as error:
                raise UserError(f"cannot read the folder {self.root / folder}: {error.strerror}") from error
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_symlink() and not self._inside(path):
                    self._links_out.add(path)
                if entry.is_dir():
                    self._refuse_link(path)
                    if not entry.is_symlink():  # a link inside leads to what is walked anyway
                        self.folders.append(path)
                        pending.append(path)
                    continue
                suffix = posixpath.splitext(entry.name)[1].lower()
                if suffix in IMAGE_SUFFIXES and entry.is_file():
                    self.images.add(path)
                elif suffix in _TABLE_SUFFIXES or entry.name == "HAM10000_metadata":
                    self.tables.append(path)
                elif suffix == ".npz":
                    self.archives.append(path)

    def _inside(self, path: str) -> bool:
        return (self.root / path).resolve().is_relative_to(self.root)

    def _refuse_link(self, path: str) -> None:
        if path in self._links_out:
            raise UserError(
                f"{self.root / path} is a link that leads out of the data folder: "
                "put its target into the folder instead, or point --data at a folder that holds both"
            )

    def _add_namesake(self, path: str) -> None:
        name = _stem(posixpath.basename(path))
        known = self._names[name]
        self._names[name] = (*((known,) if isinstance(known, str) else known), path)

    def table(self, *names: str) -> Path | None:
        """The table with one of these file names, wherever it lies in the folder.

        Raises:
            UserError: there are several.
        """
        wanted = {name.lower() for name in names}
        found = [path for path in self.tables if posixpath.basename(path).lower() in wanted]
        if len(found) > 1:
            raise UserError(
                f"{self.root} holds both {found[0]} and {found[1]}: keep one, or name the right one with --labels"
            )
        return self.root / found[0] if found else None

    def find(self, name: str) -> str | None:
        """The image that a table calls `name` (with or without extension or folders), relative to the root.

        None where the folder has no such image.

        Raises:
            UserError: the name leaves the folder, or several different files could be meant.
        """
        path = self._checked(name)
        if path in self.images:
            self._refuse_link(path)
            return path
        named = self._names.get(_stem(posixpath.basename(path)), ())
        found = sorted((named,) if isinstance(named, str) else named)
        if "/" in path:
            found = [f for f in found if _stem(_composed(f)) == _stem(path)]
        exact = [f for f in found if posixpath.basename(f) == posixpath.basename(path)]
        found = exact or found
        if not found:
            return None
        for other in found[1:]:
            # Downloads hold whole folders twice under two spellings; the same size is taken for a copy.
            if (self.root / other).stat().st_size != (self.root / found[0]).stat().st_size:
                raise UserError(
                    f"{self.root}: '{name}' could be {found[0]} or {other}, which differ: "
                    "remove one, or give the path of each image in a table with --labels"
                )
            self.copies[other] = found[0]
        self._refuse_link(found[0])
        return found[0]

    def _checked(self, name: str) -> str:
        slashed = _composed(name).replace("\\", "/")
        path = posixpath.normpath(slashed)
        if posixpath.isabs(path) or PureWindowsPath(name).drive or path == ".." or path.startswith("../"):
            raise UserError(
                f"the table names the image '{name}', which is outside the data folder {self.root}: "
                "give paths relative to the data folder, without '..'"
            )
        return path


def _composed(name: str) -> str:
    # macOS stores é as e and an accent; a table has it as one character.
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _stem(path: str) -> str:
    stem, suffix = posixpath.splitext(path)
    return _composed(stem if suffix.lower() in IMAGE_SUFFIXES else path)


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
    names = {name: f"table_{name}" for name in attributes.columns if name in (*_OWN_COLUMNS, "file")}
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
        table[need_column(table, path, "image_id", "image")],
        table[need_column(table, path, "dx")],
        group=table[need_column(table, path, "lesion_id")],
        attributes=_attributes(table, "dx_type", "age", "sex", "localization"),
    )
    return Draft(rows, path.name)


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
    if not paths or any(top.lower() in _SPLITS or _PART_FOLDER.fullmatch(top) for top in tops):
        return None
    return _from_folders(folder, base, paths, label=1, split=[""] * len(paths))


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
    used = {posixpath.join(base, *path[1 : label + 1]) for path in paths}
    for path in folder.folders:
        inside = path.startswith(base) and path != base
        if inside and path.removeprefix(base).strip("/").count("/") == label - 1 and path not in used:
            draft.notes.append(f"the folder {path} holds no images of a class: it is left out")
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
    if label is None and is_one_hot(table, rest):
        labels, marked = from_one_hot(table, rest, path)
        rest = []
    else:
        label = label or need_column(table, path, "label", "class", "dx", "diagnosis")
        labels, marked = table[label], np.ones(len(table), dtype=np.int64)
    rows = _rows(
        table[image],
        labels,
        group=join_groups(table[image], *(table[name] for name in groups)),
        split=_split_words(table[split], path) if split else "",
        attributes=table[rest],
    )
    draft = Draft(rows, path.name)
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
    draft.notes.append(
        f"{draft.source}: {none:,} rows mark no class and {several:,} several (first: {printable(first)}): left out"
    )
    draft.unusable += int(wrong.sum())
    draft.rows = draft.rows[~wrong]


def join_groups(names: pd.Series, *columns: pd.Series) -> pd.Series:
    """One group name a row, such that rows which share a value (not `""`) of any column share the group.

    A row without any value is a group of its own, under its own name; a group is called after the first
    column's value where it has one.
    """
    if not columns:
        return names
    named = columns[0]
    for other in columns[1:]:
        named = named.mask(named == "", other)
    named = named.mask(named == "", names)
    if len(columns) == 1:
        return named
    return connect(named, *columns)


def connect(groups: pd.Series, *columns: pd.Series) -> pd.Series:
    """`groups` with those joined that share a value (not `""`) of any of `columns`; the least name stands."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    codes, names = pd.factorize(groups, sort=True)
    total, rows, joined = len(names), [], []
    for column in columns:
        values, found = pd.factorize(column.mask(column == ""))
        known = values >= 0
        rows.append(codes[known])
        joined.append(total + values[known])
        total += len(found)
    one, other = np.concatenate(rows), np.concatenate(joined)
    graph = coo_matrix((np.ones(len(one), dtype=np.int8), (one, other)), shape=(total, total))
    _, component = connected_components(graph, directed=False)
    first = np.full(total, len(names), dtype=np.int64)
    np.minimum.at(first, component[: len(names)], np.arange(len(names)))
    return pd.Series(np.asarray(names, dtype=object)[first[component[codes]]], index=groups.index)


# ------------------------------------------------------------------------------------- from draft to index


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
    faults: list[str] = []
    named = len(draft.rows) + draft.unusable
    rows = _with_files(draft, folder)
    rows, conflicts = _one_row_an_image(draft, rows)
    faults += conflicts
    unusable = draft.unusable
    if unusable > _SHRUG * named and not allow_missing:
        faults.append(f"{folder.root}: {draft.notes[-1]}; --allow-missing goes on with the other rows")
    if faults and not keep_going:
        raise UserError(faults[0])
    if rows.empty:
        raise UserError(f"{folder.root}: no row of {draft.source} has both an image and a label")
    faults += _same_but_for_case(rows["label"].unique(), draft.source, keep_going)
    rows["path"] = [f"{folder.root}/{file}" for file in rows.pop("file")]
    rows["group"] = rows["group"].mask(rows["group"] == "", rows["image"])
    attributes = [column for column in rows.columns if column not in _OWN_COLUMNS]
    rows = rows[[*_OWN_COLUMNS, *attributes]].sort_values("image", ignore_index=True)
    rows = rows.astype(dict.fromkeys(_OWN_COLUMNS, "str"))
    for column in attributes:
        rows[column] = _as_numbers(rows[column])
    classes = tuple(sorted(rows["label"].unique()))
    return Index(folder.root, name, rows, classes, tuple(draft.notes), tuple(faults))


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
        found.append(f"the table {table} with the columns {', '.join(header(folder.root / table)[:8])}")
    return "it holds " + ", ".join(found)


def _with_files(draft: Draft, folder: Folder) -> pd.DataFrame:
    """The rows that have a label and an image, with the column `file`; counts the others."""
    rows = draft.rows
    unlabelled = rows["label"] == ""
    if unlabelled.any():
        draft.notes.append(f"{_count(unlabelled.sum(), 'row')} of {draft.source} without a label: left out")
        rows = rows[~unlabelled]
    if "file" in rows:
        for file in rows["file"]:
            folder._refuse_link(file)
        return rows
    names = rows["image"]
    if (names == "").any():
        raise UserError(f"{draft.source} has a row without an image name: correct the table")
    files = pd.Series([folder.find(name) for name in names], index=rows.index, dtype=object)
    missing = files.isna()
    unnamed = len(folder.images - set(files) - set(folder.copies))
    if folder.copies:
        draft.notes.append(f"{_count(len(folder.copies), 'image')} in the folder twice: one copy of each is used")
    if unnamed:
        draft.notes.append(f"{_count(unnamed, 'image')} in the folder that {draft.source} does not name: left out")
    if missing.any():
        draft.unusable += int(missing.sum())
        draft.notes.append(
            f"{_count(missing.sum(), 'image')} of {draft.source} not in the folder "
            f"(first: {printable(names[missing].iloc[0])})"
        )
    return rows.assign(file=files)[~missing]


def _one_row_an_image(draft: Draft, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Drop repeated rows; rows that repeat an image with another label, group or split are faults."""
    again = rows.duplicated("file")
    if not again.any():
        return rows.copy(), []
    faults = []
    repeated = rows[rows["file"].isin(rows.loc[again, "file"])]
    for column in ("label", "group", "split"):
        values = repeated.groupby("file")[column].unique()
        for file, found in values[values.map(len) > 1].items():
            faults.append(
                f"{draft.source} gives the image {file} two values of {column}, "
                f"'{found[0]}' and '{found[1]}': correct the table"
            )
    draft.notes.append(f"{_count(again.sum(), 'row')} of {draft.source} repeated: counted once")
    return rows[~again].copy(), faults


def _same_but_for_case(labels: Iterable[str], source: str, keep_going: bool) -> list[str]:
    seen: dict[str, str] = {}
    faults = []
    for label in sorted(labels):
        other = seen.setdefault(label.lower(), label)
        if other != label:
            faults.append(f"{source} has the classes '{other}' and '{label}', alike but for case: make them one")
    if faults and not keep_going:
        raise UserError(faults[0])
    return faults


def _as_numbers(values: pd.Series) -> pd.Series:
    """Numbers, NaN where missing, if every value that is there is one; else the text as it is."""
    known = values[values != ""]
    numbers = pd.to_numeric(known, errors="coerce")
    if known.empty or numbers.isna().any():
        return values
    return numbers.astype(np.float64).reindex(values.index)


def _count(number: float, noun: str) -> str:
    return f"{int(number):,} {noun} is" if number == 1 else f"{int(number):,} {noun}s are"
