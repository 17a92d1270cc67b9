"""The Monkeypox Skin Lesion Dataset, versions 1 and 2 (Ali et al. 2022, 2024).

It holds its images three times: `Original Images`, altered copies (`Augmented Images`), and folds for
cross-validation. The originals are read, each once; version 2 has them in folds, of which the first is read.
A file name begins with the patient: `M01_02.jpg` is the second picture of M01.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from typing import NamedTuple

from skin.data.folder import Folder
from skin.data.index import Draft, count
from skin.data.readers.common import SPLITS, Layout, rows_of
from skin.data.readers.set_tables import set_column
from skin.data.tables import read_table
from skin.utils.errors import UserError

import pandas as pd

_ORIGINALS = re.compile(r"original[ _-]?images", re.IGNORECASE)
_COPIES = re.compile(r"augmented[ _-]?images", re.IGNORECASE)
_FOLDS = re.compile(r"folds", re.IGNORECASE)
_FOLD = re.compile(r"fold[ _-]?(\d+)", re.IGNORECASE)
_OTHERS = re.compile(f"{_COPIES.pattern}|{_FOLD.pattern}", re.IGNORECASE)
_NAME = re.compile(r"(?P<patient>[A-Z]+_?\d+)(?:_\d+)+\.\w+", re.IGNORECASE)


class _Picture(NamedTuple):
    path: str
    fold: str  # the path of the folder of its fold, otherwise ""
    split: str
    label: str


def read(folder: Folder) -> Draft | None:
    parts = {name for path in folder.folders for name in path.split("/")}
    if not any(map(_ORIGINALS.fullmatch, parts)) or not any(map(_OTHERS.fullmatch, parts)):
        return None
    pictures = [picture for path in sorted(folder.images) if (picture := _original(path))]
    if len({picture.label for picture in pictures}) < 2:
        return None
    folds = sorted({it.fold for it in pictures}, key=lambda path: (len(path), path))
    used = [it for it in pictures if it.fold == folds[0]]
    notes = [_note(folder, used, folds)]
    again = {(it.label, posixpath.basename(it.path)) for it in used}
    if lost := {(it.label, posixpath.basename(it.path)) for it in pictures} - again:
        notes.append(f"{count(len(lost), 'image')} of the other folds are not in {folds[0]}: left out")
    name = pd.Series([posixpath.basename(it.path) for it in used])
    label = pd.Series([it.label for it in used])
    _compare(folder, name, label)
    patient = name.map(lambda it: match["patient"].upper() if (match := _NAME.fullmatch(it)) else "")
    if nameless := int((patient == "").sum()):
        notes.append(f"{count(nameless, 'file name')} hold no patient (M01_02.jpg does): each is a group of its own")
    file = pd.Series([it.path for it in used])
    rows = rows_of(file, label, group=patient, split=pd.Series([it.split for it in used])).assign(file=file)
    unnamed = tuple(sorted(folder.images - set(file)))
    return Draft(rows, f"the folders of {_part(used[0])}", notes=tuple(notes), unnamed=unnamed)


def _original(path: str) -> _Picture | None:
    """Return the place of an original in its tree, `[FOLDS/fold1/][Train/]<class>/`; None if it is none."""
    above = path.split("/")[:-1]
    tops = [depth for depth, name in enumerate(above) if _ORIGINALS.fullmatch(name)]
    if not tops or any(_COPIES.fullmatch(name) for name in above):
        return None
    depth, fold, split = tops[-1] + 1, "", ""
    while depth < len(above) and (_FOLDS.fullmatch(above[depth]) or _FOLD.fullmatch(above[depth])):
        depth += 1
        fold = "/".join(above[:depth])
    if depth < len(above) and above[depth].lower() in SPLITS:
        split = SPLITS[above[depth].lower()]
        depth += 1
    return _Picture(path, fold, split, above[depth].strip()) if depth < len(above) else None


def _part(picture: _Picture) -> str:
    above = picture.path.split("/")[:-1]
    return picture.fold or "/".join(above[: max(d for d, name in enumerate(above) if _ORIGINALS.fullmatch(name)) + 1])


def _note(folder: Folder, used: list[_Picture], folds: list[str]) -> str:
    """Return in words which part is read, what is left out, and how to read another part."""
    left = len(folder.images) - len(used)
    note = f"{_part(used[0])} is read, and {count(left, 'image')} of other parts (copies of the same images) left out"
    train = [posixpath.dirname(path) for path in folder.folders if posixpath.basename(path).lower() == "train"]
    others = sorted(path for path in train if path != folds[0] and not any(map(_COPIES.fullmatch, path.split("/"))))
    if others:
        note += f"; for another fold, with its own split: --data {shlex.quote(str(folder.root / others[0]))}"
    return note


def _compare(folder: Folder, names: pd.Series, label: pd.Series) -> None:
    """Check the folders against version 1's table of labels, whose words are others: one word for each folder.

    Raises:
        UserError: they contradict each other.
    """
    path = folder.table("monkeypox_dataset_metadata.csv")
    if path is None:
        return
    table = read_table(path)
    image = set_column(table, path, "the Monkeypox Skin Lesion Dataset", "imageid")
    word = set_column(table, path, "the Monkeypox Skin Lesion Dataset", "label")
    words = names.map(table.drop_duplicates(image).set_index(image)[word])
    pairs = pd.DataFrame({"label": label, "word": words, "name": names}).dropna()
    usual = pairs.groupby("label")["word"].agg(lambda values: values.value_counts().index[0])
    wrong = pairs[pairs["word"] != pairs["label"].map(usual)]
    if len(wrong):
        row = wrong.iloc[0]
        raise UserError(
            f"{path} calls {row['name']} '{row['word']}', and it lies in the folder '{row['label']}' of "
            f"'{usual[row['label']]}': move the image or correct the table"
        )


LAYOUT = Layout("Monkeypox (MSLD)", "Original Images/<class> beside Augmented Images or Fold1", read)
