"""Tell which images an evaluation rests on: the flow from the data folder to the answers, and Table 1.

STARD asks for the flow of participants (item 24) and their characteristics (item 25). `CHARACTERISTICS` is the one
list of what Table 1 describes, beside the classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from skin.data.index import Index, count
from skin.data.split import SPLITS
from skin.evaluation.report_types import Amount, Characteristic, Flow, LeftOut, Numbers, Population
from skin.evaluation.subgroups import NOT_RECORDED, bins

import numpy as np
import pandas as pd

EVALUATED = "evaluated"  # the column of a set that is not the run's own
FOLDS = "folds"  # the split of all images that take turns in validation
_SPLITS = (FOLDS, *SPLITS)


@dataclass(frozen=True)
class Describes:
    """A row of Table 1, and the names of the columns that it is read from, as a pattern."""

    title: str
    columns: re.Pattern[str]


CHARACTERISTICS = (
    Describes("Age", re.compile(r"(^|_)age(_|$)", re.IGNORECASE)),
    Describes("Sex", re.compile(r"(^|_)(sex|gender)(_|$)", re.IGNORECASE)),
    Describes("Site", re.compile(r"(^|_)(site|locali[sz]ation|location|region)(_|$)", re.IGNORECASE)),
    Describes("Skin type", re.compile(r"fit[sz]patrick|skin_?(type|tone)", re.IGNORECASE)),
)


def describe(
    index: Index, rows: pd.DataFrame, part: pd.DataFrame, unknown: int, of_run: pd.DataFrame | None = None
) -> Population:
    """Return the flow of the images of `index` and their characteristics.

    Args:
        rows: those of `index` that are used, each with its split (or "").
        part: those of `rows` that are evaluated.
        unknown: the images of `part` whose class the model lacks.
        of_run: the rows of the run with their splits, if `index` is another set and they can be read.
    """
    in_split = {split: rows[rows["split"] == split] for split in _SPLITS if (rows["split"] == split).any()}
    columns = dict(in_split) if of_run is None and in_split else {EVALUATED: part}
    if of_run is not None:
        columns |= {split: of_run[of_run["split"] == split] for split in SPLITS if (of_run["split"] == split).any()}
    left_out = [LeftOut(reason, images) for reason, images in index.left_out.items()]
    if more := len(index.rows) - len(rows):
        left_out.append(LeftOut(f"{count(more, 'image')} in the folder that the run did not use", more))
    return Population(
        flow=Flow(
            found=len(index.rows) + sum(index.left_out.values()),
            left_out=left_out,
            used=_amount(rows),
            groups_are=_groups_are(index, rows),
            splits={name: _amount(of_split) for name, of_split in in_split.items()},
            evaluated=_amount(part),
            unknown_class=unknown,
        ),
        columns={name: _amount(of_column) for name, of_column in columns.items()},
        characteristics=[
            _counts("Class", "label", {name: of_column["label"] for name, of_column in columns.items()}),
            *(found for it in CHARACTERISTICS if (found := _characteristic(it, columns)) is not None),
        ],
    )


def _amount(rows: pd.DataFrame) -> Amount:
    lesions = None
    if "lesion_id" in rows:  # an image without one is its own
        lesions = int(rows["lesion_id"].where(rows["lesion_id"] != "", rows["image"]).nunique())
    return Amount(len(rows), int(rows["group"].nunique()), lesions)


def _groups_are(index: Index, rows: pd.DataFrame) -> str:
    """Return what a group is, as far as the data's own column tells it."""
    if not (rows["group"] != rows["image"]).any():
        return "images"
    name = index.columns.get("group", "").lower()
    if "patient" in name:
        return "patients"
    return "lesions" if "lesion" in name else "lesions or patients"


def _characteristic(it: Describes, columns: Mapping[str, pd.DataFrame]) -> Characteristic | None:
    """Return a row of Table 1; None if no column of the data tells it. Each set has names of its own."""
    found = {}
    for name, rows in columns.items():
        named = [column for column in rows.columns if it.columns.search(str(column))]
        found[name] = rows[named[0]] if named else pd.Series("", rows.index)
    names = list(dict.fromkeys(str(values.name) for values in found.values() if values.name is not None))
    if not names:
        return None
    known = [values for values in found.values() if values.name is not None]
    if it.title == "Age" and all(map(pd.api.types.is_numeric_dtype, known)):
        return Characteristic(it.title, ", ".join(names), numbers={k: _numbers(v) for k, v in found.items()})
    return _counts(it.title, ", ".join(names), found)


def _numbers(values: pd.Series) -> Numbers:
    """Return what describes ages; nan for a column without any."""
    known = pd.to_numeric(values, errors="coerce").to_numpy(float)
    known = known[np.isfinite(known)]
    low, median, high = np.quantile(known, [0.25, 0.5, 0.75]) if len(known) else (np.nan, np.nan, np.nan)
    return Numbers(
        mean=float(known.mean()) if len(known) else np.nan,
        sd=float(known.std(ddof=1)) if len(known) > 1 else np.nan,
        median=float(median),
        quartile_1=float(low),
        quartile_3=float(high),
        not_recorded=len(values) - len(known),
    )


def _counts(title: str, column: str, found: Mapping[str, pd.Series]) -> Characteristic:
    """Return the number of images of each value, in each column of Table 1; the values are those of all columns."""
    if column == "label":
        whole = pd.concat(found.values(), ignore_index=True)
        binned = pd.Series(pd.Categorical(whole, sorted(whole.unique())))
    else:
        binned = bins(pd.concat([_as_one_kind(values) for values in found.values()], ignore_index=True))
    ends = np.cumsum([len(values) for values in found.values()])
    parts = np.split(binned.to_numpy(dtype=object), ends[:-1])
    tallies = {name: pd.Series(part).value_counts() for name, part in zip(found, parts, strict=True)}
    values = {
        str(value): {name: int(tally.get(value, 0)) for name, tally in tallies.items()}
        for value in binned.cat.categories
    }
    if NOT_RECORDED in values:  # last, wherever the categories had it
        values[NOT_RECORDED] = values.pop(NOT_RECORDED)
    return Characteristic(title, column, values=values)


def _as_one_kind(values: pd.Series) -> pd.Series:
    """Return values as text, whole numbers without `.0`, so that two sets have the same word for the same."""
    if pd.api.types.is_numeric_dtype(values):
        return values.map(lambda value: f"{value:g}" if np.isfinite(value) else "").astype(object)
    return values.astype(str).str.strip().str.lower().astype(object)
