"""SCIN, Skin Condition Image Network (Ward et al. 2024): up to three pictures of a case, and weighted conditions."""

from __future__ import annotations

import ast
import posixpath
from pathlib import Path

from skin.data.folder import Folder
from skin.data.index import Draft, count
from skin.data.readers.common import Layout, present_columns, rows_of
from skin.data.readers.set_tables import whole_numbers
from skin.data.tables import find_column, need_column, read_table
from skin.utils.errors import UserError, printable

import pandas as pd

_LONGEST = 10_000  # characters of a case's weights
_ATTRIBUTES = ("age_group", "sex_at_birth", "fitzpatrick_skin_type")
_UNKNOWN = ("AGE_UNKNOWN", "NONE_IDENTIFIED")


def read(folder: Folder) -> Draft | None:
    path = folder.table("scin_cases.csv")
    if path is None:
        return None
    labels_path = folder.table("scin_labels.csv")
    if labels_path is None:
        raise UserError(f"{path} is of SCIN, and its labels are missing: download scin_labels.csv into {path.parent}")
    cases = read_table(path)
    case = whole_numbers(cases[need_column(cases, path, "case_id")])
    labels, ties = _conditions(labels_path)
    if not case.isin(labels.index).any():
        raise UserError(
            f"{labels_path} tells the condition of no case of {path.name}, the first of which is "
            f"'{printable(case.iloc[0])}': download both again"
        )
    label = case.map(labels).fillna("")
    attributes = present_columns(cases, *_ATTRIBUTES).replace(dict.fromkeys(_UNKNOWN, ""))
    pictures = []
    for number in (1, 2, 3):
        column = find_column(list(cases.columns), f"image_{number}_path")
        if column is None and number > 1:
            continue
        image = cases[column or need_column(cases, path, "image_1_path")]
        # The paths are those of the bucket; the file names are unique.
        rows = rows_of(image.map(posixpath.basename), label, group=case, attributes=attributes)
        pictures.append(rows[image != ""])
    rows = pd.concat(pictures, ignore_index=True)
    without = rows["label"] == ""
    notes = [f"the classes are the conditions of the largest weight in {labels_path.name}"]
    set_aside = {}
    if without.any():
        left = f"{count(int((label == '').sum()), 'case')} ({count(int(without.sum()), 'image')})"
        note = f"{left} without a condition in {labels_path.name}: left out"
        set_aside[note] = tuple(rows.loc[without, "image"])
    if ties:
        notes.append(f"two largest weights, of which the first is taken: {count(ties, 'case')} of {labels_path.name}")
    source = f"{path.name} and {labels_path.name}"
    return Draft(rows[~without], source, notes=tuple(notes), set_aside=set_aside)


def _conditions(path: Path) -> tuple[pd.Series, int]:
    """Return the condition of each case that has one, by `case_id`, and the number of ties.

    Raises:
        UserError: weights cannot be read, or two rows of a case disagree.
    """
    table = read_table(path)
    key = need_column(table, path, "case_id")
    weights = need_column(table, path, "weighted_skin_condition_label")
    table = table[[key, weights]].assign(**{key: whole_numbers(table[key])}).drop_duplicates()
    twice = table[key].duplicated()
    if twice.any():
        case = table.loc[twice, key].iloc[0]
        raise UserError(f"{path} has two rows for the case '{case}', which disagree: keep one")
    found: dict[str, str] = {}
    ties = 0
    for case, text in zip(table[key], table[weights], strict=True):
        weight = _weights(text, path, case)
        if weight:
            largest = max(weight.values())
            best = [name for name, value in weight.items() if value == largest]
            found[case] = best[0].strip()
            ties += len(best) > 1
    return pd.Series(found, dtype=object), ties


def _weights(text: str, path: Path, case: str) -> dict[str, float]:
    """Read a Python dict of names and numbers, `{'Eczema': 0.69, 'Acne': 0.31}`; nothing in it is run."""
    if not text:
        return {}
    try:
        weights = ast.literal_eval(text) if len(text) <= _LONGEST else None
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        weights = None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, (int, float)) for name, value in weights.items()
    ):
        raise UserError(f"{path}, case {case}: '{text[:60]}' are no conditions with weights: download it again")
    return weights


LAYOUT = Layout("SCIN", "scin_cases.csv, scin_labels.csv", read)
