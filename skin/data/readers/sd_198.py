"""SD-198 (Sun et al. 2016): class folders under `images`, and lists of the images of each split."""

from __future__ import annotations

import posixpath
import re

from skin.data.folder import Folder, image_suffix
from skin.data.index import Draft, count
from skin.data.readers.common import SPLITS, Layout, listed, rows_of
from skin.data.readers.set_tables import below, read_lines
from skin.utils.errors import UserError

import pandas as pd

_LISTS = ("8_2_split", "5_5_split")  # the first one that is there is used
_FILE = re.compile(r"(?P<word>[a-z]+)_?(?P<fold>\d*)\.txt", re.IGNORECASE)
_LINE = re.compile(r"(?:(?P<before>\d+)[ \t,]+)?(?P<image>.+?)(?:[ \t,]+(?P<after>\d+))?")


def read(folder: Folder) -> Draft | None:
    lists = [path for path in folder.others if posixpath.basename(posixpath.dirname(path)) in _LISTS and _word(path)]
    if not lists:
        return None
    bases = sorted({posixpath.dirname(posixpath.dirname(path)) for path in lists})
    if len(bases) > 1:
        raise UserError(f"{folder.root} holds {listed(bases)}, with lists of SD-198 in each: point --data at one")
    kind = next(name for name in _LISTS if any(posixpath.dirname(path).endswith(name) for path in lists))
    of_kind = [path for path in lists if posixpath.dirname(path).endswith(kind)]
    fold = min(_fold(path) for path in of_kind)
    used = [path for path in of_kind if _fold(path) == fold]
    rows = pd.concat([_rows(folder, path) for path in used], ignore_index=True)
    pairs = rows[["label", "number"]][rows["number"] != ""].drop_duplicates()
    twice = pairs[pairs.duplicated("number", keep=False) | pairs.duplicated("label", keep=False)]
    if len(twice):
        raise UserError(
            f"{folder.root}: the lists of {kind} give the class {twice['label'].iloc[0]} and another one the number "
            f"{twice['number'].iloc[0]}, or one class two numbers: download them again"
        )
    source = " and ".join(posixpath.join(kind, posixpath.basename(path)) for path in used)
    note = f"the split is that of {source}"
    if others := len(lists) - len(used):
        note += f"; {count(others, 'other list')} not used: for another split, a table image,label,split for --labels"
    return Draft(rows.drop(columns="number"), source, notes=(note,))


def _rows(folder: Folder, path: str) -> pd.DataFrame:
    lines = (_LINE.fullmatch(line) for _, line in read_lines(folder, path))
    found = [match for match in lines if match and image_suffix(match["image"])]
    if not found:
        raise UserError(f"{folder.root / path} lists no image (class/image.jpg number): download it again")
    image = pd.Series([match["image"].replace("\\", "/") for match in found], dtype="str")
    label = image.map(lambda name: posixpath.basename(posixpath.dirname(name)))
    if (label == "").any():
        name = image[label == ""].iloc[0]
        raise UserError(f"{folder.root / path} lists '{name}' without the folder of its class: download it again")
    number = [match["before"] or match["after"] or "" for match in found]
    return rows_of(below(folder, image), label, split=SPLITS[_word(path)]).assign(number=number)


def _word(path: str) -> str:
    match = _FILE.fullmatch(posixpath.basename(path))
    return match["word"].lower() if match and match["word"].lower() in SPLITS else ""


def _fold(path: str) -> int:
    match = _FILE.fullmatch(posixpath.basename(path))
    return int(match["fold"] or 0) if match else 0


LAYOUT = Layout("SD-198", "8_2_split/train_*.txt beside images/<class>", read)
