"""Derm7pt, the seven-point checklist (Kawahara et al. 2018): a clinical and a dermoscopic picture of each case."""

from __future__ import annotations

from pathlib import Path

from skin.data.folder import Folder
from skin.data.groups import join_groups
from skin.data.index import Draft, count
from skin.data.readers.common import SPLITS, Layout, listed, present_columns, rows_of, tables_with
from skin.data.readers.set_tables import below, whole_numbers
from skin.data.tables import find_column, need_column, read_table
from skin.utils.errors import UserError

import numpy as np
import pandas as pd

# Dermoscopy first: where a case has one picture, the table names it in both columns.
_PICTURES = {"derm": "dermoscopic", "clinic": "clinical"}
_ATTRIBUTES = (
    "sex", "location", "elevation", "level_of_diagnostic_difficulty", "management", "seven_point_score",
    "pigment_network", "streaks", "pigmentation", "regression_structures", "dots_and_globules", "blue_whitish_veil",
    "vascular_structures",
)  # fmt: skip


def read(folder: Folder) -> Draft | None:
    found = tables_with(folder, *_PICTURES, names=("meta.csv",))
    if not found:
        return None
    if len(found) > 1:
        raise UserError(f"{folder.root} holds {listed(found)}, which disagree: keep one")
    path = folder.root / found[0]
    table = read_table(path)
    label = need_column(table, path, "diagnosis")
    number = find_column(list(table.columns), "case_num")
    case = table[number] if number else pd.Series(range(1, len(table) + 1), index=table.index).astype(str)
    split, notes = _splits(folder, path, len(table))
    kinds = []
    for column, kind in _PICTURES.items():
        image = table[need_column(table, path, column)]
        attributes = present_columns(table, *_ATTRIBUTES).assign(image_type=kind)
        lesion = pd.DataFrame({"lesion_id": case})
        rows = rows_of(image, table[label], group=case, split=split, attributes=attributes, people=lesion)
        kinds.append(rows[rows["image"] != ""])
    rows = pd.concat(kinds, ignore_index=True)
    rows["group"] = join_groups(rows["group"], rows["image"])  # two cases may share a picture
    rows["image"] = below(folder, rows["image"])
    return Draft(rows, path.name, notes=notes)


def _splits(folder: Folder, meta: Path, cases: int) -> tuple[pd.Series, tuple[str, ...]]:
    """Return the split of each row of meta.csv, from the tables of row numbers (0 is the first) beside it."""
    split = np.full(cases, "", dtype=object)
    beside = meta.relative_to(folder.root).parent.as_posix()
    used = []
    for word in SPLITS:
        name = f"{beside}/{word}_indexes.csv".removeprefix("./")
        if name not in folder.tables:
            continue
        folder.refuse_link(name)
        path = folder.root / name
        table = read_table(path)
        numbers = whole_numbers(table[need_column(table, path, "indexes")])
        wrong = ~numbers.str.fullmatch(r"\d{1,9}") | (pd.to_numeric(numbers, errors="coerce") >= cases)
        if wrong.any():
            raise UserError(
                f"{path}, row {int(np.flatnonzero(wrong)[0]) + 2}: '{numbers[wrong].iloc[0]}' is no row of "
                f"{meta.name} (0 to {cases - 1}): download both again"
            )
        rows = numbers.astype(int).to_numpy()
        twice = rows[split[rows] != ""]
        if len(twice):
            raise UserError(f"{path} names row {twice[0]} of {meta.name}, as another split does: download both again")
        split[rows] = SPLITS[word]
        used.append(path.name)
    without = int((split == "").sum())
    notes = (f"{count(without, 'case')} of {meta.name} stand in none of {listed(used)}",) if used and without else ()
    return pd.Series(split), notes


LAYOUT = Layout("Derm7pt", "meta.csv with clinic and derm", read)
