"""The `Index`: the table of the images of a data folder, one row per image, whatever layout it was in.

A layout makes a `Draft` of its tables or folders. `build_index` finds its images, leaves out and counts the rows
that cannot be used, and stops if they are more than the user would shrug at.
"""

from __future__ import annotations

import contextlib
import itertools
import posixpath
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from skin.data import unknowns
from skin.data.altered import join_altered
from skin.data.folder import Folder, are_plain, image_suffix
from skin.data.image_files import IMAGE_SUFFIXES, unread_formats
from skin.data.missing import no_values
from skin.data.naming import changed_names, example_of, may_name, stem
from skin.data.packed import how_to_unpack, packed
from skin.data.path_groups import group_by_path
from skin.data.table_paths import relative_names
from skin.data.tables import is_word
from skin.utils.errors import UserError, printable

import numpy as np
import pandas as pd

COLUMNS = ("image", "path", "label", "group", "split")
PATHS = pd.StringDtype("python", na_value=np.nan)  # the name of a file need not be valid text, as Arrow's strings are
_WHOLE = re.compile(r"(0|[1-9]\d*)[.,]0+")
PEOPLE = ("patient_id", "lesion_id")  # the attributes that tell whose an image is, as the data name them
_DECIMAL_COMMA = re.compile(r"([+-]?[0-9]+),([0-9]+)")
_FEW_WORDS = 0.25  # of the different values of a column that is meant to hold numbers
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
        warnings: lines that the user must see: what is not known and may spoil a run in silence.
        faults: lines on errors that would have stopped `read_index`, if it was told to keep going.
        missing: images that a table names and the folder lacks.
        unnamed: images in the folder, relative to it, that no row names.
        source: the origin of the rows, for messages: tables or folders.
        columns: the table's own names of the columns that image, label, group and split were read from, if known.
        left_out: images and rows that are none of `rows`: the reason, and how many.
    """

    root: Path
    layout: str
    rows: pd.DataFrame
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()
    source: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Draft:
    """The rows that a layout's tables or folders give, before the images are looked for.

    Attributes:
        rows: the columns of `Index.rows` without `path`; `image` is as the table names it. If the layout knows the
            files already, a column `file` (relative to the data folder) is beside it.
        source: the origin of the rows, for messages.
        classes: the classes that the source declares, if it does.
        notes: lines that the user should see.
        label_note: the line on the column of the labels, if the table has several.
        unusable: the notes on rows without image or class, with their numbers: too many are an error.
        unusable_images: the names that those rows have.
        set_aside: the notes on images of no class that is to be learnt, with their names: however many, they are no
            error.
        missing, unnamed: as in `Index`; found with the images, if not by the layout.
        warnings: as in `Index`.
    """

    rows: pd.DataFrame
    source: str
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    label_note: str = ""
    unusable: dict[str, int] = field(default_factory=dict)
    unusable_images: tuple[str, ...] = ()
    set_aside: dict[str, tuple[str, ...]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def build_index(
    folder: Folder,
    layout: str,
    draft: Draft,
    *,
    allow_missing: bool,
    keep_going: bool,
    ignore_class: Sequence[str] = (),
    group_by: str | None = None,
) -> Index:
    """Return the index of a draft; the last four arguments as in `read_index`.

    Raises:
        UserError: rows contradict each other, too many are unusable, none is left, or there is no class to ignore.
    """
    draft = _with_broken_links(_with_classes(_with_plain_numbers(draft)), folder)
    of_ignored: list[str] = []
    if ignore_class:
        draft, of_ignored = _without_ignored(draft, ignore_class)
    draft = replace(draft, notes=(*draft.notes, *draft.set_aside))
    named = len(draft.rows) + sum(draft.unusable.values())
    columns = dict(draft.rows.attrs.get("columns", {}))
    known_rows, warnings = unknowns.without_unknown_groups(draft.rows, draft.source)
    looked_for = "file" not in draft.rows
    draft = _with_files(replace(draft, rows=known_rows), folder)
    draft, faults = _one_row_per_image(draft)
    faults = of_ignored + faults
    rows, unread = draft.rows.copy(), _unread(folder.others)
    faults += _too_few_rows(draft, folder, named, unread, allow_missing)
    faults += _same_but_for_case(rows["label"].unique(), draft.source)
    if faults and not keep_going:
        raise UserError(faults[0])
    files, root = rows.pop("file").tolist(), str(folder.root)
    rows["path"] = pd.Series([f"{root}/{file}" for file in files], index=rows.index, dtype=PATHS)
    rows, of_groups, on_groups = _grouped(rows, files, group_by, said=bool(warnings))
    warnings += on_groups
    rows, mixed = _in_order(rows)
    classes = tuple(sorted(rows["label"].unique()))
    empty = ", ".join(cls for cls in draft.classes if cls not in classes)
    of_none = [f"{draft.source} has no image of {empty}"] if empty else []
    if unread:
        warnings.append(f"{unread} cannot be read in their format: save them as JPEG or PNG")
    label = [draft.label_note] if draft.label_note else []
    notes = (
        *draft.unusable, *label, *draft.notes, *of_groups, *of_none, *mixed, *_passed_over(folder), *_links(folder),
        *_still_packed(folder),
    )  # fmt: skip
    return Index(
        folder.root, layout, rows, classes, notes, (*draft.warnings, *warnings), tuple(faults), draft.missing,
        draft.unnamed, draft.source, columns, _left_out(draft, folder, looked_for),
    )  # fmt: skip


def _too_few_rows(draft: Draft, folder: Folder, named: int, unread: str, allow_missing: bool) -> list[str]:
    """Return a line if more rows cannot be used than may be passed over in silence; otherwise none.

    Args:
        named: rows that the data set has, usable or not.
        unread: what lies in the folder in formats that are not read, in words; empty if nothing does.

    Raises:
        UserError: no row can be used.
    """
    unusable = sum(draft.unusable.values())
    what = "; ".join([*draft.unusable, *([f"{unread} cannot be read in their format"] if unread else [])])
    unpack = how_to_unpack(folder, packed(folder)) if draft.missing else ""
    if draft.rows.empty:
        if draft.missing and folder.images and not unpack:
            what += f"; its files have names such as {printable(min(folder.images))}: use these names in the table"
        what += f"{what and '; '}{unpack}" if unpack else ""
        raise UserError(f"{folder.root}: no row of {draft.source} has both an image and a class{what and ': '}{what}")
    if unusable <= _SHRUG * named or allow_missing:
        return []
    remedy = unpack or "--allow-missing goes on without them"
    return [f"{folder.root}: {what}: over 1 % of {named:,} rows; {remedy}"]


def _grouped(
    rows: pd.DataFrame, files: list[str], group_by: str | None, said: bool
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Return the rows with a group each, notes and warnings: an image of no known lesion or patient is one by itself.

    Args:
        files: relative to the data folder.
        group_by: finds groups in them.
        said: a warning tells already that images are on their own.
    """
    notes = []
    if group_by is not None:
        rows, note = group_by_path(rows, files, group_by)
        notes.append(note)
    warnings = unknowns.of_groups(rows["group"])
    alone = rows["group"] == ""
    if alone.any():
        rows = rows.assign(group=rows["group"].mask(alone, rows["image"]))
    if not (said or notes) and alone.any() and not alone.all():
        notes.append(f"no lesion or patient is known of {count(alone.sum(), 'image')}: each is on its own")
    rows, altered = join_altered(rows, files)
    return rows, [*notes, *altered], warnings


def _in_order(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows sorted by image, the attributes behind the index's own columns, and as numbers if they are.

    Returns:
        The rows, and notes on columns that would be numbers but for a few values.
    """
    attributes = [column for column in rows.columns if column not in COLUMNS]
    rows = rows[[*COLUMNS, *attributes]].reset_index(drop=True)
    if not rows["image"].is_monotonic_increasing:
        rows = rows.sort_values("image", ignore_index=True)
    rows = rows.astype({column: "str" for column in COLUMNS if column != "path"})
    notes = []
    for column in (name for name in attributes if name not in PEOPLE):
        rows[column], others = _as_numbers(rows[column])
        if others:
            no_number = printable(others[0])
            notes.append(f"the column {printable(column)} is read as text, because '{no_number}' is not a number")
    return rows, notes


def _left_out(draft: Draft, folder: Folder, looked_for: bool) -> dict[str, int]:
    """Return `Index.left_out`. If the files were `looked_for`, what is set aside counts where it is in the folder."""
    used = set(draft.rows["file"])  # a table may name an image twice
    left_out = dict(draft.unusable)
    for note, names in draft.set_aside.items():
        files = _files_of(names, folder) - used if looked_for else set(names)
        part = f" ({len(files):,} of them in the folder)" if len(files) < len(set(names)) else ""
        left_out |= {note + part: len(files)} if files else {}
    copies, unnamed = len(folder.copies) if looked_for else 0, len(draft.unnamed)
    if unnamed:
        left_out[f"{count(unnamed, 'image')} in the folder that {draft.source} does not name"] = unnamed
    if copies:
        left_out[f"{count(copies, 'image')} that the folder holds twice"] = copies
    return left_out


def _with_plain_numbers(draft: Draft) -> Draft:
    """Write `0`, `0.0` and `0,0` in one way if labels or groups have several, as columns of spreadsheets do."""
    rows = draft.rows
    for column in ("label", "group"):
        names = rows[column].unique()
        whole = {name: found[1] for name in names if (found := _WHOLE.fullmatch(str(name)))}
        if whole and (len(set(whole.values())) < len(whole) or not set(whole.values()).isdisjoint(names)):
            rows = rows.assign(**{column: rows[column].replace(whole)})
    return replace(draft, rows=rows)


def _without_ignored(draft: Draft, ignore_class: Sequence[str]) -> tuple[Draft, list[str]]:
    """Leave out the classes of `--ignore-class`: each a name, or several with commas between.

    Returns:
        The draft, and a fault if an image has another class, too.
    """
    classes = [*dict.fromkeys([*draft.rows["label"].unique(), *draft.classes])]
    words = [
        word.strip() for name in ignore_class for word in ([name] if name.strip() in classes else name.split(","))
    ]
    unknown = [word for word in words if word not in classes]
    if unknown:
        known = ", ".join(sorted(classes))
        raise UserError(f"--ignore-class {unknown[0]}: there is no such class in {draft.source}; there are: {known}")
    ignored = draft.rows["label"].isin(words)
    both = draft.rows.loc[ignored, "image"].isin(draft.rows.loc[~ignored, "image"])
    images = draft.rows.loc[ignored, "image"]
    faults = [
        f"{draft.source} gives the image {printable(image)} a class of --ignore-class and another one: correct it"
        for image in images[both].head(1)
    ]
    note = f"--ignore-class leaves out {count(ignored.sum(), 'image')} of {', '.join(words)}"
    kept = replace(
        draft,
        rows=draft.rows[~ignored],
        classes=tuple(cls for cls in draft.classes if cls not in words),
        set_aside={**draft.set_aside, note: tuple(images)},
    )
    return kept, faults


def _passed_over(folder: Folder) -> list[str]:
    if not folder.ours:
        return []
    made = count(len(folder.ours), "folder")
    return [f"passed over {made} that runs, reports or checks were written to (first: {printable(folder.ours[0])})"]


def _links(folder: Folder) -> list[str]:
    """Return notes on links to folders: of those with another name than their folder, and of those to nowhere."""
    named = [
        (link, to) for link, to in folder.links.items()
        if posixpath.basename(link) != posixpath.basename(to) and to not in folder.ours
    ]  # fmt: skip
    notes = [
        f"the link {printable(link)} leads to {printable(to)}, which is read by another name"
        for link, to in named[:3]
    ]
    gone = [path for path in folder.broken if not posixpath.splitext(path)[1]]
    return notes + [f"the link {printable(path)} leads nowhere" for path in gone[:3]]


def _still_packed(folder: Folder) -> list[str]:
    archives = packed(folder, certain=True)
    return [f"images are missing that an archive holds: {how_to_unpack(folder, archives)}"] if archives else []


def _without(draft: Draft, rows: pd.Series, note: str) -> Draft:
    """Leave out `rows` (bool [N]), and count them as unusable under `note` and the first one's name."""
    number = int(rows.sum())
    if not number:
        return draft
    note += f" (first: {printable(draft.rows.loc[rows, 'image'].iloc[0])})"
    return replace(
        draft,
        rows=draft.rows[~rows],
        unusable={**draft.unusable, note: number},
        unusable_images=(*draft.unusable_images, *draft.rows.loc[rows, "image"]),
    )


def _with_classes(draft: Draft) -> Draft:
    """Leave out the rows without a class; their images are named, so they are not among those that no row names."""
    without = draft.rows["label"] == ""
    return _without(draft, without, f"{draft.source} has {count(without.sum(), 'row')} without a class")


def _with_broken_links(draft: Draft, folder: Folder) -> Draft:
    """Count the links to images that lead nowhere, unless the source names its images and so misses them itself."""
    broken = [path for path in folder.broken if image_suffix(path)]
    if not broken or "file" not in draft.rows:
        return draft
    lead = f"the folder holds {count(len(broken), 'link')} to images"
    note = f"{lead} that are not there (first: {printable(broken[0])})"
    return replace(draft, unusable={**draft.unusable, note: len(broken)})


def _with_files(draft: Draft, folder: Folder) -> Draft:
    """Add the column `file`, leave out the rows without an image, and note the images that no row names."""
    rows = draft.rows
    notes = _words(rows, draft.source)
    if "file" in rows:
        for file in rows["file"]:
            folder.refuse_link(file)
        return replace(draft, notes=(*draft.notes, *notes))
    names = rows["image"]
    if (names == "").any():
        raise UserError(f"{draft.source} has a row without an image name: correct the table")
    names, of_paths = relative_names(names, folder, draft.source)
    files, extensions = _find(names, folder, draft.source)
    notes += [*of_paths, *extensions]
    missing = files.isna()
    aside = [*draft.unusable_images, *itertools.chain(*draft.set_aside.values())]
    known = set(files.tolist()) | _files_of(aside, folder) | set(folder.copies)
    unnamed = tuple(sorted(folder.images - known))
    if folder.copies:
        notes.append(f"the folder holds {count(len(folder.copies), 'image')} twice: one copy of each is used")
    if unnamed:
        notes.append(f"the folder holds {count(len(unnamed), 'image')} not named in {draft.source}: left out")
    found = replace(
        draft,
        rows=rows.assign(image=names, file=files),
        notes=(*draft.notes, *notes),
        missing=tuple(names[missing]),
        unnamed=unnamed,
    )
    lacks = f"{draft.source} names {count(missing.sum(), 'image')} that the folder lacks"
    of_masks = {stem(path): path for path in folder.masks}
    if there := [path for name in names[missing] if (path := of_masks.get(stem(name))) and may_name(name, path)]:
        lacks += (
            f", {len(there)} of them but for files in folders named like masks, such as "
            f"{printable(folder.masks[there[0]])}: rename it if it holds the images"
        )
    lacks = "; ".join((lacks, *folder.unread))
    return _without(found, missing, lacks)


def _find(names: pd.Series, folder: Folder, source: str, masks: bool = False) -> tuple[pd.Series, list[str]]:
    """Return the file of each name, None if there is none, and notes if files have other extensions than the names.

    If one file is found under a name's own extension, the extensions of all names are binding: otherwise a missing
    picture would be replaced by its mask or thumbnail of the same name. If none is, the whole set was converted.
    Likewise, images in folders named like those of masks are taken only if there are no others (`masks`).
    """
    notes = []
    words = names.tolist()
    found = folder.find_all(words, masks=masks, table=source)
    files = pd.Series(found, index=names.index, dtype=object)
    named = np.zeros(len(words), bool)
    if not are_plain(words):
        named[:] = ["." in name and name.lower().endswith(IMAGE_SUFFIXES) for name in words]
    converted = bool(named.any()) and bool(files[named].isna().all())
    if converted:
        files[named] = [
            folder.find(name, converted=True, masks=masks, table=source) for name in names[named]
        ]
        if files[named].notna().any():
            taken = _kinds(files[named])
            notes.append(f"no image has the extension that {source} gives it; taken instead: {taken}")
    if folder.masks and not masks and files.isna().all():
        return _find(names, folder, source, masks=True)
    if files.isna().all() and (changed := changed_names(names.unique(), folder.images)):
        return names.map(changed).astype(object), [f"{source} {example_of(changed)}"]
    without = itertools.compress(found, ~named) if named.any() else found
    endings = {file[file.rfind(".") :] for file in without if file}
    if len({ending.lower() for ending in endings}) > 1:
        notes.append(f"{source} names images without extension; found: {_kinds(files[~named])}")
    return files, notes


def _files_of(names: Sequence[str], folder: Folder) -> set[str]:
    """Return the files of rows that are left out anyway: what is wrong with their names does not matter."""
    files = set()
    for name in names:
        with contextlib.suppress(UserError):
            files.add(folder.find(name) or folder.find(name, converted=True) or "")
    return files - {""}


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
        unknown = names.isin(no_values(names)) & (column == "label")  # of groups there is a warning
        for name in names[is_word(names) | unknown]:
            rows_of = count((values == name).sum(), "row")
            remedy = "leave the cell empty"
            if "file" in rows and column == "label":  # a folder, or a record inside a large file
                remedy = f"--ignore-class {shlex.quote(name)} leaves them out"
            notes.append(f"{source}: '{name}' is the {what} of {rows_of}; where none is known, {remedy}")
    return notes


def _one_row_per_image(draft: Draft) -> tuple[Draft, list[str]]:
    """Drop repeated rows; rows that repeat an image with another label, group or split are faults."""
    rows = draft.rows
    if rows["file"].is_unique:
        return draft, []
    again = rows.duplicated("file")
    faults = []
    repeated = rows[rows["file"].isin(rows.loc[again, "file"])]
    for column in ("label", "group", "split"):
        values = repeated.groupby("file")[column].unique()
        for file, found in values[values.map(len) > 1].items():
            faults.append(
                f"{draft.source} gives the image {file} two values of {column}, "
                f"'{found[0]}' and '{found[1]}': correct the table"
            )
    notes = [f"{draft.source} repeats {count(again.sum(), 'row')}: counted once"]
    others = [column for column in rows.columns if column not in ("file", "image", "label", "group", "split")]
    different = repeated.groupby("file")[others].nunique(dropna=False)
    for column in others:
        unlike = different[column] > 1
        if unlike.any():
            notes.append(f"{draft.source} gives {count(unlike.sum(), 'image')} two values of {column}, such as "
                         f"{unlike.idxmax()}: the first counts")  # fmt: skip
    return replace(draft, rows=rows[~again], notes=(*draft.notes, *notes)), faults


def _same_but_for_case(labels: Iterable[str], source: str) -> list[str]:
    seen: dict[str, str] = {}
    faults = []
    for label in sorted(labels):
        other = seen.setdefault(unknowns.alike(label), label)
        if other != label:
            alike = f"'{printable(other)}' and '{printable(label)}', alike but for case, spaces or signs"
            faults.append(f"{source} has the classes {alike}: make them one")
    return faults


def _as_numbers(values: pd.Series) -> tuple[pd.Series, list[str]]:
    """Return numbers, NaN if missing, if every other value is a number; otherwise the text as it is.

    A decimal comma is read as a point.

    Returns:
        The values, and those that are no numbers if most of the different ones are.
    """
    # Each of the different values once: there are few ages, sizes and scores among many rows.
    codes, words = pd.factorize(values)
    filled = np.asarray(words != "", bool)
    if not filled.any():
        return values, []
    numbers = pd.to_numeric(pd.Series(words), errors="coerce").to_numpy(np.float64, copy=True)
    if (others := np.isnan(numbers) & filled).any():
        plain = _with_points([str(word) for word in words[others]])
        numbers[others] = pd.to_numeric(pd.Series(plain), errors="coerce").to_numpy(np.float64)
        others = np.isnan(numbers) & filled
    if others.any():
        return values, [str(word) for word in words[others]] if others.sum() < _FEW_WORDS * filled.sum() else []
    return pd.Series(np.append(numbers, np.nan)[codes], index=values.index), []


def _with_points(words: list[str]) -> list[str]:
    """Return the words of a column with points for decimal commas, unless the commas have another meaning.

    In `1,2` and `2,3` they part the codes of a list, and in `1,200` and `15,000` thousands.
    """
    found = [match for word in words if (match := _DECIMAL_COMMA.fullmatch(word))]
    codes = all(len(match[1]) == len(match[2]) == 1 and match[1] < match[2] for match in found)
    thousands = all(len(match[2]) == 3 for match in found)
    if codes or thousands:
        return words
    return [_DECIMAL_COMMA.sub(r"\1.\2", word) for word in words]


def _unread(others: Sequence[str]) -> str:
    return unread_formats(Counter(posixpath.splitext(path)[1].lower() for path in others))


def count(number: float, noun: str) -> str:
    """Return a number of things: `1 image`, `1,234 images`."""
    return f"{int(number):,} {noun}" if number == 1 else f"{int(number):,} {noun}s"
