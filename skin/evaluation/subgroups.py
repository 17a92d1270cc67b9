"""Subgroups of images, by sex, age, skin type or any other column of the table, and the metrics that they get.

They show if the model serves everyone alike. `METRICS` is the one list of a subgroup's metrics.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from skin.data.missing import no_values
from skin.evaluation.metrics import BY_NAME, Metric
from skin.utils.errors import UserError

import numpy as np
import pandas as pd

SMALL = 30  # images; a smaller group is shown, marked, and left out of the gap
MOST_GROUPS = 15
NOT_RECORDED = "not recorded"
_FEW_NUMBERS = 10  # as many are a group each
_AGE = re.compile(r"(^|_)age(_|$)", re.IGNORECASE)
_AGE_STEP, _OLDEST = 20, 130  # years; a column of larger numbers holds days, or years of birth


@dataclass(frozen=True)
class SubgroupMetric:
    """A metric of each subgroup.

    Attributes:
        metric: of the whole set; or, for malignant against benign, of a class.
        of_malignant: the metric of malignant against benign; only sets with both have it.
        drawn: the subgroups' picture shows it, too.
    """

    metric: Metric
    of_malignant: bool = False
    drawn: bool = True

    @property
    def name(self) -> str:
        """Its key in report.json."""
        return f"malignant_{self.metric.name}" if self.of_malignant else self.metric.name

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.metric.title} for malignant" if self.of_malignant else self.metric.title

    @property
    def label(self) -> str:
        """The title, with a word for those who would take more for better."""
        return self.metric.label.replace(self.metric.title, self.title)


METRICS = (
    SubgroupMetric(BY_NAME["accuracy"]),
    SubgroupMetric(BY_NAME["balanced_accuracy"]),
    SubgroupMetric(BY_NAME["macro_auc"]),
    SubgroupMetric(BY_NAME["sensitivity"], of_malignant=True, drawn=False),
    SubgroupMetric(BY_NAME["specificity"], of_malignant=True, drawn=False),
)


def chosen(names: str, rows: pd.DataFrame, attributes: list[str]) -> dict[str, pd.Series]:
    """Return the subgroup of each row by the attributes that `--by` names, with commas between them.

    Raises:
        UserError: there is no such attribute.
    """
    found = [column(name.strip(), attributes) for name in names.split(",") if name.strip()]
    return {attribute: bins(rows[attribute]) for attribute in found}


def column(name: str, attributes: list[str]) -> str:
    """Return the attribute that `--by` means by `name`, case and `_` aside.

    Raises:
        UserError: there is none; the message lists the ones there are.
    """
    plain = {attribute.lower().replace("_", ""): attribute for attribute in attributes}
    found = plain.get(name.lower().replace("_", ""))
    if found is None:
        there = ", ".join(attributes) or "none at all"
        raise UserError(f"--by {name}: the data have no such column; there are: {there}")
    return found


def bins(values: pd.Series) -> pd.Series:
    """Return the subgroup of each value, as text: ordered categories, the unrecorded last.

    Ages in years go by twenty, other numbers of more than ten values by quartiles. Texts stay as they are; the
    rarest of many become "other" together.
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
    if len(distinct) <= _FEW_NUMBERS:
        names = _apart(distinct, digits=6)
        text = values.map(dict(zip(distinct.tolist(), names, strict=True)))
        return pd.Series(pd.Categorical(text, names, ordered=True), values.index)
    if _AGE.search(str(values.name)) and known.max() <= _OLDEST:
        edges = np.arange(0, known.max() + _AGE_STEP + 1, _AGE_STEP).tolist()
        names = [f"{a:.0f}–{b - 1:.0f}" for a, b in itertools.pairwise(edges)]
        return pd.Series(pd.cut(values, edges, right=False, labels=names), values.index)
    edges = np.unique(np.quantile(known, [0, 0.25, 0.5, 0.75, 1])).tolist()
    names = [f"{a} to {b}" for a, b in itertools.pairwise(_apart(edges, digits=4))]
    return pd.Series(pd.cut(values, edges, include_lowest=True, labels=names), values.index)


def _apart(numbers: Iterable[float], digits: int) -> list[str]:
    """Return different numbers as different texts, of `digits` significant digits or more, without 1e+06."""
    texts: list[str] = []
    for enough in range(digits, 18):  # 17 tell any two float64 apart
        texts = [f"{number:.{enough}g}" for number in numbers]
        if len(set(texts)) == len(texts) and "e+" not in "".join(texts):
            break
    return texts


def _text_bins(values: pd.Series) -> pd.Series:
    present = values.dropna().unique()
    values = values.where(~values.isin([*no_values(present), *(text for text in present if not text.strip())]))
    counts = values.value_counts()
    if len(counts) > MOST_GROUPS:
        rare = set(counts.index[MOST_GROUPS - 1 :])
        other = f"other ({len(rare)} values)"
        values = values.where(~values.isin(rare), other)
        order = [*sorted(set(counts.index) - rare - {other}), other]
    else:
        order = sorted(counts.index)
    return pd.Series(pd.Categorical(values, order, ordered=True), values.index)
