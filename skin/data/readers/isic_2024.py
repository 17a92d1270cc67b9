"""The ISIC challenge of 2024 (SLICE-3D, Kurtansky et al. 2024), as the challenge and Kaggle give it."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from skin.data.folder import Folder
from skin.data.index import PEOPLE, Draft
from skin.data.readers.common import (
    Layout,
    joined_columns,
    listed_names,
    one_row_each,
    people_of,
    present_columns,
    rows_of,
    stacked,
    tables_with,
)  # fmt: skip
from skin.data.readers.isic_challenge import benign_or_malignant, look_up, without_classes
from skin.data.tables import find_column, need_column
from skin.utils.errors import UserError, printable

import pandas as pd

_IMAGE = "isic_id"
_TELL = ("malignant", "target")
_ATTRIBUTES = ("age_approx", "sex", "anatom_site_general", "clin_size_long_diam_mm", "tbp_tile_type", "image_type")
_COLUMNS = (*PEOPLE, *_ATTRIBUTES)


def read(folder: Folder) -> Draft | None:
    named = tables_with(folder, _IMAGE)
    truths = [path for path in named if _is_truth(folder, path)]
    if not truths:
        return None
    source = listed_names(truths)
    table = one_row_each(stacked(folder, truths, (_IMAGE, *_TELL, *_COLUMNS)), _IMAGE, source)
    need_column(table, folder.root / truths[0], *_TELL)
    tell = list(present_columns(table, *_TELL).columns)
    labels = benign_or_malignant(table, _IMAGE, tell, source)
    unused: list[str] = []
    warnings: list[str] = []
    for path in named:  # the challenge's own download has the patients and the lesions in two more tables
        if path not in truths:
            known, few = look_up(folder.root / path, table[_IMAGE])
            known = known[[name for name in known if (known[name] != "").any()]]
            table = _filled(table, known, folder.root / path)
            unused += [path] if known.empty else []
            warnings += few if find_column(folder.columns(path), *PEOPLE) else ()
    group, attributes = joined_columns(table, *PEOPLE), present_columns(table, *_ATTRIBUTES)
    rows = rows_of(table[_IMAGE], labels, group=group, attributes=attributes, people=people_of(table))
    of_nobody = () if (rows["group"] != "").any() else tuple(warnings)
    draft = Draft(rows, source, ("benign", "malignant"), warnings=of_nobody)
    return without_classes(folder, draft, unused, _IMAGE)


def _is_truth(folder: Folder, path: str) -> bool:
    names = folder.columns(path)
    # A sample submission has isic_id and target, too, and no patient.
    of_kaggle = find_column(names, "target") and find_column(names, "patient_id")
    official = re.match(r"ISIC_2024_.*GroundTruth", posixpath.basename(path), re.IGNORECASE)
    return bool(official or of_kaggle or find_column(names, "malignant"))


def _filled(table: pd.DataFrame, known: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return `table` with the patients, lesions and attributes that another table, at `path`, has for its rows.

    Raises:
        UserError: they are of other patients or lesions.
    """
    for name in _COLUMNS:
        if (found := find_column(list(known.columns), name)) is None:
            continue
        if name not in table:
            table = table.assign(**{name: known[found]})
            continue
        differs = (table[name] != "") & (known[found] != "") & (table[name] != known[found])
        if name in PEOPLE and differs.any():
            image = printable(table.loc[differs, _IMAGE].iloc[0])
            raise UserError(f"{path} gives the image '{image}' of ISIC 2024 another {name}: keep one of the tables")
        table = table.assign(**{name: table[name].mask(table[name] == "", known[found])})
    return table


LAYOUT = Layout("ISIC 2024", "train-metadata.csv or ISIC_2024_Training_GroundTruth.csv, with isic_id", read)
