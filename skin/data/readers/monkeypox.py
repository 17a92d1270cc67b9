"""The Monkeypox Skin Lesion Dataset, versions 1 and 2 (Ali et al. 2022, 2024).

It holds its images several times: `Original Images`, altered copies of them (`Augmented Images`), and folds for
cross-validation. The originals are read, each once, and the copies only where these are not there. Version 2 has both
in folds, and the first fold is read.
A file name begins with the patient: `M01_02.jpg` is the second picture of M01.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from typing import NamedTuple

from skin.data.folder import Folder
from skin.data.folder_names import as_name, copies_above
from skin.data.index import Draft, count
from skin.data.readers.common import SPLITS, Layout, rows_of
from skin.data.tables import need_column, read_table
from skin.utils.errors import UserError

import pandas as pd

_ORIGINALS = re.compile(r"original[ _-]?images", re.IGNORECASE)
_COPIES = re.compile(r"augmented[ _-]?images", re.IGNORECASE)
_FOLD = re.compile(r"fold[ _-]?\d+(?:[ _-]aug)?", re.IGNORECASE)
_PART = re.compile(f"{_ORIGINALS.pattern}|{_COPIES.pattern}|{_FOLD.pattern}|folds(?:[ _-]aug)?", re.IGNORECASE)
_NAME = re.compile(r"(?P<patient>N?M\d+|(?:MKP|CHP|CWP|HFMD|HEALTHY|MSL)_?\d+)(?:_\d+)+\.\w+", re.IGNORECASE)
_CLASS = re.compile(r"(?:monkey[ _-]?pox|mpox)(?:[ _-]augmented)?", re.IGNORECASE)


class _Picture(NamedTuple):
    path: str
    fold: str  # the path of the folder of its fold, otherwise ""
    split: str
    label: str


def read(folder: Folder) -> Draft | None:
    if not _is_there(folder):
        return None
    images = sorted(folder.images)
    originals = [path for path in images if not _holds(_COPIES, path)] or images
    originals = [path for path in originals if _holds(_ORIGINALS, path)] or originals
    pictures = [picture for path in originals if (picture := _picture(path))]
    if not pictures:
        return None
    folds = sorted({it.fold for it in pictures}, key=lambda path: (len(path), path))
    used = [it for it in pictures if it.fold == folds[0]]
    if len({it.label for it in used}) < 2:
        return None
    file = pd.Series([it.path for it in used], dtype=object)
    # A file name that is no valid text stays as it is in `file`; its name in tables becomes valid text.
    image = file.map(as_name)
    name = image.map(posixpath.basename)
    label = pd.Series([as_name(it.label) for it in used])
    _compare(folder, name, label)
    notes = _notes(folder, used, folds)
    other = {(it.label, posixpath.basename(it.path)) for it in pictures}
    other -= {(it.label, posixpath.basename(it.path)) for it in used}
    if other:
        notes.append(f"{count(len(other), 'image')} of other folds not in {folds[0]}: left out")
    notes += _on_copies(folder, used)
    patient = name.map(lambda it: match["patient"].upper() if (match := _NAME.fullmatch(it)) else "")
    if nameless := int((patient == "").sum()):
        notes.append(f"names without a patient (M01_02.jpg is of M01), each a group of its own: {nameless:,}")
    split, people = pd.Series([it.split for it in used]), pd.DataFrame({"patient_id": patient})
    rows = rows_of(image, label, group=patient, split=split, people=people).assign(file=file)
    unnamed = tuple(sorted(folder.images - set(file)))
    return Draft(rows, f"the folders of {_part(used[0])}", notes=tuple(notes), unnamed=unnamed)


def _is_there(folder: Folder) -> bool:
    """Return True if the originals lie beside copies or folds of them, or if all files are named as the set's are."""
    patterns = (_ORIGINALS, _COPIES, _FOLD, _CLASS)
    originals, copies, folds, classes = (
        any(_holds(pattern, f"{path}/") for path in folder.folders) for pattern in patterns
    )
    if originals and (copies or folds):
        return True
    return classes and all(_NAME.fullmatch(posixpath.basename(path)) for path in folder.images)


def _holds(pattern: re.Pattern[str], path: str) -> bool:
    return any(map(pattern.fullmatch, path.split("/")[:-1]))


def _picture(path: str) -> _Picture | None:
    """Return the place of an image in its tree, `[FOLDS/fold1/][Train/]<class>/`; None if it is in no class."""
    above = path.split("/")[:-1]
    if not above or _PART.fullmatch(above[-1]) or above[-1].lower() in SPLITS:
        return None
    folds = [depth for depth, name in enumerate(above) if _FOLD.fullmatch(name)]
    split = SPLITS.get(above[-2].lower(), "") if len(above) > 1 else ""
    return _Picture(path, "/".join(above[: folds[-1] + 1]) if folds else "", split, above[-1].strip())


def _part(picture: _Picture) -> str:
    above = picture.path.split("/")[: -3 if picture.split else -2]
    return picture.fold or "/".join(above) or "the data folder"


def _notes(folder: Folder, used: list[_Picture], folds: list[str]) -> list[str]:
    """Return in words which part is read, what is left out, and how to read another part."""
    left = len(folder.images) - len(used)
    if not left:
        return []
    note = f"{_part(used[0])} is read, and {count(left, 'image')} of other parts (copies of the same images) left out"
    train = [posixpath.dirname(path) for path in folder.folders if posixpath.basename(path).lower() == "train"]
    others = sorted(path for path in train if path != folds[0] and not _holds(_COPIES, f"{path}/"))
    if others:
        note += f"; for another fold, with its own split: --data {shlex.quote(str(folder.root / others[0]))}"
    return [note]


def _on_copies(folder: Folder, used: list[_Picture]) -> list[str]:
    above = posixpath.commonpath([posixpath.dirname(it.path) for it in used]).split("/")
    name = copies_above([folder.root.name, *above])
    return [f"the folder {name} is named like altered copies, and holds all images that are read"] if name else []


def _compare(folder: Folder, names: pd.Series, label: pd.Series) -> None:
    """Check the folders against version 1's table of labels, whose words are others: one word for each folder.

    Raises:
        UserError: they contradict each other.
    """
    path = folder.table("monkeypox_dataset_metadata.csv")
    if path is None:
        return
    table = read_table(path)
    image = need_column(table, path, "imageid")
    word = need_column(table, path, "label")
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
