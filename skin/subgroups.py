"""Does the model serve everyone alike? Images by sex, age, skin type or any other column of the table."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from skin.errors import UserError

SMALL = 30  # images; a smaller group is shown, marked, and left out of the gap
MOST_GROUPS = 15
NOT_RECORDED = "not recorded"
_AGE_STEP = 20  # years


def column(rows: pd.DataFrame, name: str, attributes: list[str]) -> str:
    """The attribute that `--by` means by `name`, case and `_` aside.

    Raises:
        UserError: there is none; it says which there are.
    """
    plain = {attribute.lower().replace("_", ""): attribute for attribute in attributes}
    found = plain.get(name.lower().replace("_", ""))
    if found is None:
        there = ", ".join(attributes) or "none at all"
        raise UserError(f"--by {name}: the data have no such column; there are: {there}")
    return found


def bins(values: pd.Series) -> pd.Series:
    """The subgroup that each value falls into, as text: ordered categories, the unrecorded last.

    Ages go by twenty years, other numbers of more than ten values by quartiles; texts stay, the rarest of
    many together as "other".
    """
    if pd.api.types.is_numeric_dtype(values):
        groups = _number_bins(values.astype(float))
    else:
        groups = _text_bins(values.astype(str))
    if groups.isna().any():
        groups = groups.cat.add_categories([NOT_RECORDED]).fillna(NOT_RECORDED)
    return groups.cat.remove_unused_categories()


def _number_bins(values: pd.Series) -> pd.Series:
    known = values[np.isfinite(values)]
    values = values.where(np.isfinite(values))
    distinct = np.sort(known.unique())
    if len(distinct) <= 10:
        text = values.map(lambda v: f"{v:g}", na_action="ignore")
        return pd.Series(pd.Categorical(text, [f"{v:g}" for v in distinct], ordered=True), values.index)
    if "age" in str(values.name).lower():
        edges = np.arange(0, known.max() + _AGE_STEP + 1, _AGE_STEP).tolist()
        names = [f"{a:.0f}–{b - 1:.0f}" for a, b in itertools.pairwise(edges)]
        return pd.Series(pd.cut(values, edges, right=False, labels=names), values.index)
    edges = np.unique(np.quantile(known, [0, 0.25, 0.5, 0.75, 1])).tolist()
    names = [f"{a:.4g} to {b:.4g}" for a, b in itertools.pairwise(edges)]
    return pd.Series(pd.cut(values, edges, include_lowest=True, labels=names), values.index)


def _text_bins(values: pd.Series) -> pd.Series:
    values = values.where(~values.str.strip().str.lower().isin(["", "nan", "unknown", "none"]))
    counts = values.value_counts()
    if len(counts) > MOST_GROUPS:
        rare = set(counts.index[MOST_GROUPS - 1 :])
        other = f"other ({len(rare)} values)"
        values = values.where(~values.isin(rare), other)
        order = [*sorted(set(counts.index) - rare), other]
    else:
        order = sorted(counts.index)
    return pd.Series(pd.Categorical(values, order, ordered=True), values.index)
