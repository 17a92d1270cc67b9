"""The `Index`: the table of the images of a data folder, one row per image, whatever layout it was in.

A layout makes a `Draft` of its tables or folders. `build_index` finds its images, leaves out and counts the rows
that cannot be used, and stops if they are more than the user would shrug at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from skin.data.folder import Folder, image_suffix
from skin.data.packed import how_to_unpack, packed
from skin.data.tables import is_word
from skin.utils.errors import UserError, printable

import numpy as np
import pandas as pd

COLUMNS = ("image", "path", "label", "group", "split")
PEOPLE = ("patient_id", "lesion_id")  # the attributes that tell whose an image is, as the data name them
_SHRUG = 0.01  # the share of rows that may be unusable before it is an error


@dataclass(frozen=True)
class Index:
    """A data set, one row per image.

    Attributes:
        root: the data folder, absolute.
        layout: the name of its layout.
        rows: sorted by `image`; the columns image (a unique name), path (absolute), label, group (a
            lesion or patient; the image's own name if none is known), split (`train`, `val`, `test`
            or `""`), then the attributes: numbers (NaN if missing) or text (`""` if missing). Those of
            `PEOPLE` are text, and there if the data tell them.
        classes: the labels that have images, sorted.
        notes: lines that the user should see.
        faults: lines on errors that would have stopped `read_index`, if it was told to keep going.
        missing: images that a table names and the folder lacks.
        unnamed: images in the folder, relative to it, that no row names.
        source: the origin of the rows, for messages: tables or folders.
        columns: the table's own names of the columns that image, label, group and split were read from, if known.
    """

    root: Path
    layout: str
    rows: pd.DataFrame
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    faults: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()
    source: str = ""
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Draft:
    """The rows that a layout's tables or folders give, before the images are looked for.

    Attributes:
        rows: the columns of `Index.rows` without `path`; `image` is as the table names it. If the layout knows the
            files already, a column `file` (relative to the data folder) is beside it.
        source: the origin of the rows, for messages.
        classes: the classes that the source declares, if it does.
        notes: lines that the user should see.
        unusable: the notes on rows without image or class, with their numbers: too many are an error.
        missing, unnamed: as in `Index`; found with the images, if not by the layout.
        left_out: images that the source names, and that a note says are left out; they are not unnamed.
    """

    rows: pd.DataFrame
    source: str
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unusable: dict[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def build_index(folder: Folder, layout: str, draft: Draft, allow_missing: bool, keep_going: bool) -> Index:
    """Return the index of a draft; `allow_missing` and `keep_going` as in `read_index`.

    Raises:
        UserError: rows contradict each other, too many are unusable, or none is left.
    """
    named = len(draft.rows) + sum(draft.unusable.values())
    columns = dict(draft.rows.attrs.get("columns", {}))
    draft = _with_files(_with_classes(draft), folder)
    draft, faults = _one_row_per_image(draft)
    rows = draft.rows.copy()
    unusable = sum(draft.unusable.values())
    what = "; ".join(draft.unusable)
    unpack = how_to_unpack(folder, packed(folder)) if draft.missing else ""
    if rows.empty:
        what += f"{what and '; '}{unpack}" if unpack else ""
        raise UserError(f"{folder.root}: no row of {draft.source} has both an image and a class{what and ': '}{what}")
    if unusable > _SHRUG * named and not allow_missing:
        remedy = unpack or "--allow-missing goes on without them"
        faults.append(f"{folder.root}: {what}: over 1 % of {named:,} rows; {remedy}")
    faults += _same_but_for_case(rows["label"].unique(), draft.source)
    if faults and not keep_going:
        raise UserError(faults[0])
    rows["path"] = [f"{folder.root}/{file}" for file in rows.pop("file")]
    rows["group"] = rows["group"].mask(rows["group"] == "", rows["image"])
    attributes = [column for column in rows.columns if column not in COLUMNS]
    rows = rows[[*COLUMNS, *attributes]].sort_values("image", ignore_index=True)
    rows = rows.astype(dict.fromkeys(COLUMNS, "str"))
    for column in (name for name in attributes if name not in PEOPLE):
        rows[column] = _as_numbers(rows[column])
    classes = tuple(sorted(rows["label"].unique()))
    empty = ", ".join(cls for cls in draft.classes if cls not in classes)
    of_none = [f"{draft.source} has no image of {empty}"] if empty else []
    notes = (*draft.unusable, *draft.notes, *of_none, *_passed_over(folder), *_still_packed(folder))
    return Index(
        folder.root, layout, rows, classes, notes, tuple(faults), draft.missing, draft.unnamed, draft.source, columns
    )


def _passed_over(folder: Folder) -> list[str]:
    if not folder.ours:
        return []
    made = count(len(folder.ours), "folder")
    return [f"passed over {made} that runs, reports or checks were written to (first: {printable(folder.ours[0])})"]


def _still_packed(folder: Folder) -> list[str]:
    archives = packed(folder, certain=True)
    return [f"images are missing that an archive holds: {how_to_unpack(folder, archives)}"] if archives else []


def _without(draft: Draft, rows: pd.Series, note: str) -> Draft:
    """Leave out `rows` (bool [N]), and count them as unusable under `note` and the first one's name."""
    number = int(rows.sum())
    if not number:
        return draft
    note += f" (first: {printable(draft.rows.loc[rows, 'image'].iloc[0])})"
    return replace(draft, rows=draft.rows[~rows], unusable={**draft.unusable, note: number})


def _with_classes(draft: Draft) -> Draft:
    """Leave out the rows without a class."""
    without = draft.rows["label"] == ""
    return _without(draft, without, f"{draft.source} has {count(without.sum(), 'row')} without a class")


def _with_files(draft: Draft, folder: Folder) -> Draft:
    """Add the column `file`, leave out the rows without an image, and note the images that no row names."""
    rows = draft.rows
    if "file" in rows:
        for file in rows["file"]:
            folder.refuse_link(file)
        return draft
    names = rows["image"]
    if (names == "").any():
        raise UserError(f"{draft.source} has a row without an image name: correct the table")
    notes = _words(rows, draft.source)
    files, extensions = _find(names, folder, draft.source)
    notes += extensions
    missing = files.isna()
    left_out = {folder.find(name) for name in draft.left_out}
    unnamed = tuple(sorted(folder.images - set(files) - left_out - set(folder.copies)))
    if folder.copies:
        notes.append(f"the folder holds {count(len(folder.copies), 'image')} twice: one copy of each is used")
    if unnamed:
        notes.append(f"the folder holds {count(len(unnamed), 'image')} that {draft.source} does not name: left out")
    found = replace(
        draft,
        rows=rows.assign(file=files),
        notes=(*draft.notes, *notes),
        missing=tuple(names[missing]),
        unnamed=unnamed,
    )
    return _without(found, missing, f"{draft.source} names {count(missing.sum(), 'image')} that the folder lacks")


def _find(names: pd.Series, folder: Folder, source: str) -> tuple[pd.Series, list[str]]:
    """Return the file of each name, None if there is none, and notes if files have other extensions than the names.

    If one file is found under a name's own extension, the extensions of all names are binding: otherwise a missing
    picture would be replaced by its mask or thumbnail of the same name. If none is, the whole set was converted.
    """
    notes = []
    files = pd.Series([folder.find(name) for name in names], index=names.index, dtype=object)
    named = names.map(image_suffix).astype(bool)
    converted = bool(named.any()) and bool(files[named].isna().all())
    if converted:
        files[named] = [folder.find(name, converted=True) for name in names[named]]
        if files[named].notna().any():
            taken = _kinds(files[named])
            notes.append(f"no image has the extension that {source} gives it; taken instead: {taken}")
    if files[~named].dropna().map(image_suffix).nunique() > 1:
        notes.append(f"{source} names images without extension; found: {_kinds(files[~named])}")
    return files, notes


def _kinds(files: pd.Series) -> str:
    """Return the number of files per extension, and the first of each, in words."""
    found = files.dropna()
    kinds = found.map(image_suffix)
    first = found.groupby(kinds).first()
    return ", ".join(
        f"{number:,} {kind} (first: {printable(first[kind])})" for kind, number in Counter(kinds).most_common()
    )


def _words(rows: pd.DataFrame, source: str) -> list[str]:
    """Return notes on classes and groups that are named like a missing value: they count, which may not be meant."""
    notes = []
    for column, what in (("label", "class"), ("group", "group")):
        values = rows[column]
        names = pd.Series(values.unique(), dtype="str")
        for name in names[is_word(names)]:
            rows_of = count((values == name).sum(), "row")
            notes.append(f"{source}: '{name}' is the {what} of {rows_of}; where none is known, leave the cell empty")
    return notes


def _one_row_per_image(draft: Draft) -> tuple[Draft, list[str]]:
    """Drop repeated rows; rows that repeat an image with another label, group or split are faults."""
    rows = draft.rows
    again = rows.duplicated("file")
    if not again.any():
        return draft, []
    faults = []
    repeated = rows[rows["file"].isin(rows.loc[again, "file"])]
    for column in ("label", "group", "split"):
        values = repeated.groupby("file")[column].unique()
        for file, found in values[values.map(len) > 1].items():
            faults.append(
                f"{draft.source} gives the image {file} two values of {column}, "
                f"'{found[0]}' and '{found[1]}': correct the table"
            )
    note = f"{draft.source} repeats {count(again.sum(), 'row')}: counted once"
    return replace(draft, rows=rows[~again], notes=(*draft.notes, note)), faults


def _same_but_for_case(labels: Iterable[str], source: str) -> list[str]:
    seen: dict[str, str] = {}
    faults = []
    for label in sorted(labels):
        other = seen.setdefault(label.lower(), label)
        if other != label:
            faults.append(f"{source} has the classes '{other}' and '{label}', alike but for case: make them one")
    return faults


def _as_numbers(values: pd.Series) -> pd.Series:
    """Return numbers, NaN if missing, if every other value is a number; otherwise the text as it is."""
    known = values[values != ""]
    numbers = pd.to_numeric(known, errors="coerce")
    if known.empty or numbers.isna().any():
        return values
    return numbers.astype(np.float64).reindex(values.index)


def count(number: float, noun: str) -> str:
    """Return a number of things: `1 image`, `1,234 images`."""
    return f"{int(number):,} {noun}" if number == 1 else f"{int(number):,} {noun}s"
