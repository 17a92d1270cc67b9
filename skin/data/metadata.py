"""Turn what is known beside the picture, age or sex, into numbers for a network: `train.py --metadata age,sex`.

An `Encoder` is fitted on the training split and kept in the checkpoint. A column becomes the standardised number and
a flag that is 1 if there is none, or one place per category, of which none is 1 if the value is missing or was not
seen in training. So each value may be missing, of any image, in training and later.

Encoding needs numpy alone.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from skin.data.missing import is_no_value, no_values
from skin.data.people import is_patient
from skin.utils.errors import UserError, printable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

Rows = npt.NDArray[np.float32]

MOST_CATEGORIES = 50  # of a column; one with more is an id, or a text
LARGEST = 1e12  # number in a column of numbers
FEW = 10  # different numbers that may name categories, and groups that may have a word each by chance
FURTHEST = 10.0  # standard deviations from the mean that a number counts for at most
HIDDEN = 0.2  # of the values in training: any of them may be missing later
_OF_THE_CLASS = re.compile(r"(table_)?(label$|class$|(id)?dx|diagnos|target|malignan|benign)", re.IGNORECASE)
_WITH_COMMA = re.compile(r"[+-]?\d+,(\d{1,2}|\d{4,})")  # three digits after it may be thousands
_OF_A_PERSON = re.compile(
    r"(.*_)?id|(table_)?group|name|(lesion|case)([_ ]?(name|no|nr|number|code|key))?|(file|image)[_ ]?name",
    re.IGNORECASE,
)


class ColumnDict(TypedDict):
    """A column in a checkpoint: a number if it has no categories."""

    name: str
    categories: list[str]
    mean: float
    deviation: float
    least: NotRequired[float]  # of a number in training, and the largest; older checkpoints lack both
    most: NotRequired[float]


@dataclass(frozen=True)
class Column:
    """A column and the numbers that its values become: a category has a place each, a number has two places."""

    name: str
    categories: tuple[str, ...] = ()  # none: it is a number
    mean: float = 0.0
    deviation: float = 1.0
    least: float = -math.inf  # of the training images, and the largest
    most: float = math.inf

    @property
    def width(self) -> int:
        """The numbers that a value becomes."""
        return len(self.categories) or 2

    def encode(self, values: Iterable[Any]) -> Rows:
        """Return the numbers of N values, float32 [N, width]. None, NaN and words for no value are missing."""
        codes: dict[str, int] = {}
        at = [codes.setdefault(text, len(codes)) for text in map(_text, values)]
        table: Rows = np.array([self._numbers(text) for text in codes], np.float32).reshape(-1, self.width)
        return table[at]

    def problem(self, value: object) -> str:
        """Return what is wrong with a value, in words: it counts as missing, or is unlike those in training.

        Returns:
            "" if nothing is, or if the value says itself that it is missing.
        """
        text = _text(value)
        if _is_missing(text) or (self.categories and text.casefold() in self._places):
            return ""
        if self.categories:
            return f"counts as missing: the model knows {', '.join(self.categories)}"
        number = _number(text)
        if math.isnan(number):
            return "counts as missing: it is not a number"
        if self.least <= number <= self.most:
            return ""
        return f"is used, but the model has learned from {self.least:g} to {self.most:g} alone"

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name.casefold(): place for place, name in enumerate(self.categories)}

    def _numbers(self, text: str) -> list[float]:
        if self.categories:
            place = self._places.get(text.casefold())
            return [float(n == place) for n in range(self.width)]
        number = _number(text)
        if math.isnan(number):
            return [0.0, 1.0]
        return [min(FURTHEST, max(-FURTHEST, (number - self.mean) / self.deviation)), 0.0]


@dataclass(frozen=True)
class Encoder:
    """The columns that a model takes beside the pixels. Those of an ensemble may name a column once per member."""

    columns: tuple[Column, ...]

    @property
    def width(self) -> int:
        """The numbers that an image has, M."""
        return sum(column.width for column in self.columns)

    @property
    def names(self) -> list[str]:
        """The names of the columns, each once."""
        return list(dict.fromkeys(column.name for column in self.columns))

    @property
    def fields(self) -> dict[str, list[str]]:
        """The categories that a person may choose from, by column; a number has none."""
        return {
            name: list(dict.fromkeys(
                word for column in self.columns if column.name == name for word in column.categories
            ))
            for name in self.names
        }  # fmt: skip

    @cached_property
    def missing(self) -> Rows:
        """The numbers of an image of which nothing is known, float32 [M]."""
        return self.encode({}, 1).reshape(-1)

    def encode(self, table: Mapping[str, Iterable[Any]] | pd.DataFrame, rows: int) -> Rows:
        """Return the numbers of images, float32 [rows, M]; a column that `table` lacks is missing for all."""
        parts = []
        for column in self.columns:
            name = column_of(table.keys(), column.name)
            parts.append(column.encode(itertools.repeat(None, rows) if name is None else table[name]))
        return np.concatenate([np.zeros((rows, 0), np.float32), *parts], 1)

    def partly(self, rows: Rows, draws: npt.NDArray[np.float64]) -> Rows:
        """Return what training tells of images, float32 [N, 2, M]: less some values that are hidden, and nothing.

        A network that has always been told everything could not answer by the pixels alone.

        Args:
            rows: float32 [N, M], of all that is known.
            draws: float64 [N, columns], uniform in [0, 1), for each value.
        """
        told = np.tile(self.missing, (len(rows), 2, 1))
        start = 0
        for number, column in enumerate(self.columns):
            span, shown = slice(start, start := start + column.width), draws[:, number] >= HIDDEN
            told[shown, 0, span] = rows[shown, span]
        return told

    def known(self, rows: Rows) -> dict[str, float]:
        """Return, by column, the share of images, [N, M], that have a value which the encoder knows."""
        start, found = 0, dict[str, float]()
        for column in self.columns:
            span = slice(start, start := start + column.width)
            share = float((rows[:, span] != self.missing[span]).any(1).mean()) if len(rows) else 0.0
            found[column.name] = max(share, found.get(column.name, 0.0))
        return found

    def problem(self, name: str, value: object) -> str:
        """Return what is wrong with the value of a column, in words; "" if some column of that name can take it."""
        columns = [column for column in self.columns if column.name.casefold() == name.casefold()]
        reasons = [column.problem(value) for column in columns]
        return "" if "" in reasons else [*reasons, f"counts as missing: the model uses {', '.join(self.names)}"][0]

    def problems(self, values: Mapping[str, object]) -> list[str]:
        """Return a line for each value that cannot be taken as it is, by column."""
        found = ((name, value, self.problem(name, value)) for name, value in values.items())
        return [printable(f"{name}={value} {reason}", limit=1000) for name, value, reason in found if reason]

    def describe(self) -> str:
        """Return the columns and their categories in words, for people."""
        columns = [f"{name} ({', '.join(words)})" if words else name for name, words in self.fields.items()]
        return printable("; ".join(columns), limit=2000)

    def to_list(self) -> list[ColumnDict]:
        """Return plain data for a checkpoint; `from_list` reads them."""
        found = list[ColumnDict]()
        for it in self.columns:
            found.append(
                {"name": it.name, "categories": list(it.categories), "mean": it.mean, "deviation": it.deviation}
            )
            if math.isfinite(it.least):
                found[-1] |= {"least": it.least, "most": it.most}
        return found

    @classmethod
    def from_list(cls, found: Any) -> Encoder:
        """Return the encoder of `to_list`, from a file that may hold anything.

        Raises:
            KeyError, TypeError, ValueError: it is damaged.
        """
        columns = []
        for it in found:
            name, words, mean, deviation = it["name"], it["categories"], it["mean"], it["deviation"]
            span = [it["least"], it["most"]] if "least" in it else []
            if not all(type(text) is str and text for text in [name, *words]):
                raise TypeError("text")
            if not all(type(number) is float and math.isfinite(number) for number in (mean, deviation, *span)):
                raise TypeError("number")
            if deviation <= 0 or len({word.casefold() for word in words}) < len(words) or span != sorted(span):
                raise ValueError("column")
            columns.append(Column(name, tuple(words), mean, deviation, *span))
        if not columns:
            raise ValueError("no columns")
        return cls(tuple(columns))


def column_of(columns: Iterable[str], name: str) -> str | None:
    """Return the one of `columns` that is called `name`, or that in another case; None if there is none."""
    alike = [column for column in columns if column.casefold() == name.casefold()]
    return name if name in alike else next(iter(alike), None)


def join(encoders: Iterable[Encoder | None]) -> Encoder | None:
    """Return one encoder that gives the numbers of several, one after another; None if there is none."""
    columns = tuple(column for encoder in encoders if encoder is not None for column in encoder.columns)
    return Encoder(columns) if columns else None


# ---- fitting --------------------------------------------------------------------------------------------


def fit(names: Sequence[str], rows: pd.DataFrame) -> Encoder:
    """Return the encoder of some columns, fitted on the images of a training split.

    Args:
        names: of the columns, which `check_names` has let pass.
        rows: of an index, of a training split.

    Raises:
        UserError: a column tells the class or the patient, has no value or too many, or a word among numbers.
    """
    found = dict.fromkeys(column_of(usable(rows.columns), name) or name for name in names)
    return Encoder(tuple(_fit_column(name, rows) for name in found))


def check_names(names: Sequence[str], columns: Iterable[str], label_column: str = "") -> None:
    """Refuse names of no column, and of one that tells the class or the patient.

    Args:
        columns: of an index: its own, and the attributes.
        label_column: the table's own name of the column that the classes were read from.

    Raises:
        UserError: naming the first.
    """
    known = usable(columns)
    for name in names:
        if reason := _refusal(name, label_column):
            raise UserError(f"--metadata {printable(name)}: {reason}; leave it out")
        if column_of(known, name) is None:
            there = f"they have {printable(', '.join(known))}" if known else "they have none that can be used"
            raise UserError(f"--metadata {printable(name)}: the data have no such column; {there}")


def usable(columns: Iterable[str]) -> list[str]:
    """Return the names of columns that tell neither the class nor the patient."""
    own = {"image", "path", "split"}
    return [name for name in columns if name not in own and not _refusal(name, "")]


def _fit_column(name: str, rows: pd.DataFrame) -> Column:
    texts = [_text(value) for value in rows[name]]
    missing = set(filter(_is_missing, no_values(set(texts))))
    texts = ["" if text in missing else text for text in texts]
    filled = [text for text in texts if text]
    if not filled:
        raise UserError(f"--metadata {printable(name)}: no image of the training split has a value: leave it out")
    if _gives_away(_pairs(texts, rows["label"])):
        raise UserError(f"--metadata {printable(name)}: each value goes with one class, or each class with one "
                        "value, so that it gives the class away; leave it out")  # fmt: skip
    numbers = np.array([_number(text) for text in filled])
    wrong = np.flatnonzero(~(np.abs(numbers) < LARGEST))
    if 0 < len(wrong) < 0.1 * len(numbers) and len(np.unique(np.delete(numbers, wrong))) > FEW:
        raise UserError(f"--metadata {printable(name)}: {len(wrong):,} of {len(numbers):,} values are no numbers, "
                        f"such as '{printable(filled[wrong[0]])}': correct them, or leave them empty")  # fmt: skip
    if not len(wrong):
        deviation = (float(numbers.std()) if np.ptp(numbers) else 0.0) or 1.0  # tiny ones have squares of 0
        return Column(name, (), float(numbers.mean()), deviation, float(numbers.min()), float(numbers.max()))
    words = {text.casefold(): text for text in sorted(set(filled), reverse=True)}
    if len(words) > MOST_CATEGORIES:
        raise UserError(f"--metadata {printable(name)}: it has {len(words):,} different values, and at most "
                        f"{MOST_CATEGORIES} can be used; name a column of numbers or of few words")  # fmt: skip
    if _names_groups(_pairs(texts, rows["group"])):
        raise UserError(f"--metadata {printable(name)}: each patient, lesion or image has a word of its own, which "
                        "means nothing for new ones; leave it out")  # fmt: skip
    return Column(name, tuple(sorted(words.values())))


def _refusal(name: str, label_column: str) -> str:
    """Return why a column is never used, by its name; "" if it may be."""
    if name == label_column or _OF_THE_CLASS.match(name):
        return "it tells the class that is to be predicted"
    if _OF_A_PERSON.fullmatch(name) or is_patient(name):
        return "it tells whose an image is, which means nothing for new ones"
    return ""


def _gives_away(pairs: Sequence[tuple[str, str]]) -> bool:
    """Return True if values, most of them of several images, and classes follow from one another."""
    different, values, classes = _different(pairs)
    return min(values, classes) > 1 and len(pairs) >= 2 * values and different in (values, classes)


def _names_groups(pairs: Sequence[tuple[str, str]]) -> bool:
    """Return True if words and groups follow from one another, and there are many."""
    different, words, groups = _different(pairs)
    return different == words == groups > FEW


def _pairs(texts: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Return each value, whatever its case, with the class or group of its image, where there is one."""
    return [(text.casefold(), other) for text, other in zip(texts, others, strict=True) if text]


def _different(pairs: Sequence[tuple[str, str]]) -> tuple[int, int, int]:
    """Return how many different pairs there are, how many first ones of them, and how many second ones."""
    return len(set(pairs)), len({first for first, _ in pairs}), len({second for _, second in pairs})


def _text(value: Any) -> str:
    """Return a value as text with single spaces; "" for None and NaN."""
    return "" if value is None or value != value else " ".join(str(value).split())


def _is_missing(text: str) -> bool:
    """Return True if a text is empty or says that there is no value; `-1` may be one of a column of numbers.

    A model may know such a word as a category, if an earlier version has trained it.
    """
    return not text or (is_no_value(text) and math.isnan(_number(text)))


def _number(text: str) -> float:
    """Return the number in a text; NaN if there is none. A comma may stand for the point, but for 1,234."""
    try:
        number = float(text.replace(",", ".") if _WITH_COMMA.fullmatch(text) else text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
