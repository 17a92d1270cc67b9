"""The ISIC challenge of 2016, part 3 (Gutman et al. 2016): benign or malignant. Its tables have no header."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from skin.data.folder import Folder, name_of_first
from skin.data.index import Draft
from skin.data.readers.common import SPLITS, Layout, listed, rows_of
from skin.data.readers.isic_challenge import benign_or_malignant, together
from skin.data.tables import find_column, read_table
from skin.utils.errors import UserError

import pandas as pd

_TRUTH = re.compile(r"ISBI2016_ISIC_Part3B?_(?P<split>Training|Test)_GroundTruth( ?\(\d+\))?\.csv", re.IGNORECASE)
_CLASSES = ("benign", "malignant")


def read(folder: Folder) -> Draft | None:
    truths: dict[str, list[str]] = {}
    for path in folder.tables:
        if found := _TRUTH.fullmatch(posixpath.basename(path)):
            truths.setdefault(SPLITS[found["split"].lower()], []).append(path)
    drafts = []
    for split, paths in truths.items():
        # Part 3 and part 3B have the same images and classes; rows that contradict each other are found later.
        names = {posixpath.basename(path).lower() for path in paths}
        again = [path for path in paths if posixpath.basename(path).lower() != name_of_first(path) in names]
        paths = folder.distinct([path for path in paths if path not in again])
        table = pd.concat([_read_pairs(folder.root / path) for path in paths], ignore_index=True)
        source = listed([posixpath.basename(path) for path in paths])
        rows = rows_of(table["image"], benign_or_malignant(table, "image", ["class"], source), split=split)
        drafts.append(Draft(rows.drop_duplicates(ignore_index=True), source, _CLASSES))
    return together(folder, drafts)


def _read_pairs(path: Path) -> pd.DataFrame:
    """Return the columns image and class of a table without header, or with one that somebody gave it."""
    table = read_table(path)
    first = list(table.columns)
    if len(first) < 2:
        raise UserError(f"{path} is not a table of ISIC 2016, image and class in two columns: download it again")
    pairs = table.iloc[:, :2].set_axis(["image", "class"], axis=1)
    if find_column(first[:1], "image", "image_id", "image_name", "isic_id"):
        return pairs
    return pd.concat([pd.DataFrame([first[:2]], columns=pairs.columns), pairs], ignore_index=True)


LAYOUT = Layout("ISIC 2016", "ISBI2016_ISIC_Part3_Training_GroundTruth.csv", read)
