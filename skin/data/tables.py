"""A table as it was downloaded: any encoding, line ends, delimiter, column spelling or kind of one-hot mark.

Everything is read as text, so that names such as `007` keep their zeros; `""` stands for a missing value.
Words such as `none` are missing in attributes (`without_words`), and names like any other elsewhere: a class
may be called so.
"""

from __future__ import annotations

import csv
import io
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path

from skin.utils.errors import UserError

import numpy as np
import pandas as pd

# If pyarrow is installed, which parquet files need, pandas keeps text in its arrays, and those refuse the name of a
# file that is not UTF-8.
pd.set_option("mode.string_storage", "python")

_WORDS = ("na", "n/a", "null", "none", "<na>")  # "nan" is no word here: pandas writes a missing value so
_TRUE = {"1": 1, "1.0": 1, "true": 1, "yes": 1}
_FALSE = {"0": 0, "0.0": 0, "false": 0, "no": 0, "": 0}
_HEADER_BYTES = 1 << 16


def header(path: Path) -> list[str]:
    """Return the column names of the table at `path`, stripped; none if it cannot be a table."""
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    text = start.decode(_encoding(start), errors="replace")
    if "\0" in text:
        return []
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    return [name.strip() for name in next(lines, [])]


def read_table(path: Path) -> pd.DataFrame:
    """Read the table at `path`: columns of stripped text, `""` if a value is missing or `nan`.

    UTF-8 with or without a byte order mark, UTF-16 with one, otherwise Windows-1252; commas, semicolons or
    tabs; LF, CRLF or CR.

    Raises:
        UserError: it cannot be read, has no rows, names a column twice, or has lines longer than its header.
    """
    names = header(path)
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise UserError(f"{path} names the column '{twice[0]}' twice: rename or drop one of them")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    encoding = _encoding(content)
    delimiter = _delimiter(content[:_HEADER_BYTES].decode(encoding, errors="replace"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # it would warn and drop the rest of a line
            table = pd.read_csv(
                io.BytesIO(content), sep=delimiter, encoding=encoding, dtype=str, keep_default_na=False,
                index_col=False,
            )  # fmt: skip
    except (ValueError, pd.errors.ParserWarning) as error:  # pandas' parser errors are ValueErrors
        reason = str(error).removeprefix("Error tokenizing data. C error: ")
        raise UserError(f"{path} cannot be read as a table: {reason}; save it again as CSV in UTF-8") from error
    table.columns = pd.Index([str(name).strip() for name in table.columns])
    if table.empty:
        raise UserError(f"{path} has a header and no rows")
    for name in table.columns:
        values = table[name].fillna("").str.strip()
        table[name] = values.mask(values.str.lower() == "nan", "")
    return table


def is_word(values: pd.Series) -> pd.Series:
    """Return, per value, True if it is a word that often stands for a missing one: `NA`, `none`, `null`."""
    return values.str.lower().isin(_WORDS)


def without_words(values: pd.Series) -> pd.Series:
    """Return `values` with `""` for the words that stand for a missing one."""
    return values.mask(is_word(values), "")


def _encoding(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    try:
        # The last bytes may stop inside a character if `content` is only the start of a file.
        content[:-4].decode("utf-8") if len(content) == _HEADER_BYTES else content.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(content) != _HEADER_BYTES or error.start < len(content) - 8:
            return "cp1252" if not set(content) & {0x81, 0x8D, 0x8F, 0x90, 0x9D} else "latin-1"
    return "utf-8-sig"


def _delimiter(text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "")
    return max(",;\t", key=first.count)


def spelling(name: str) -> str:
    """Return a column name without the differences between downloads: case, spaces, hyphens."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def find_column(columns: Sequence[str], *wanted: str) -> str | None:
    """Return the first of `wanted` that is among `columns`, under the table's own spelling of it."""
    known = {spelling(name): name for name in reversed(list(columns))}
    return next((known[name] for name in wanted if name in known), None)


def need_column(table: pd.DataFrame, path: Path, *wanted: str) -> str:
    """Return the column that `find_column` finds; it must be there.

    Raises:
        UserError: none of `wanted` is a column; it names the table and the columns it has.
    """
    name = find_column(list(table.columns), *wanted)
    if name is None:
        has = ", ".join(itertools.islice(table.columns, 12))
        raise UserError(f"{path} has no column '{wanted[0]}'; its columns are: {has}")
    return name


def from_one_hot(table: pd.DataFrame, columns: Sequence[str], path: Path) -> tuple[pd.Series, np.ndarray]:
    """Read labels from one-hot columns (`1`, `1.0` or `True` in the column of the class).

    Returns:
        labels: the marked column's name per row, `""` if none or several are marked.
        marked: int64 [N], the number of columns that each row marks.

    Raises:
        UserError: a value is neither a one nor a zero.
    """
    marks = np.zeros((len(table), len(columns)), dtype=np.int64)
    for position, name in enumerate(columns):
        values = without_words(table[name]).str.lower().map({**_TRUE, **_FALSE})
        if values.isna().any():
            row = int(np.flatnonzero(values.isna())[0])
            raise UserError(
                f"{path}, row {row + 2}, column {name}: '{table[name].iloc[row]}' is neither 1 nor 0 (one-hot labels)"
            )
        marks[:, position] = values
    marked = marks.sum(axis=1)
    labels = np.where(marked == 1, np.asarray(columns, dtype=object)[marks.argmax(axis=1)], "")
    return pd.Series(labels, index=table.index, dtype=object), marked


def is_one_hot(table: pd.DataFrame, columns: Sequence[str]) -> bool:
    """Return True if every value of all `columns` (at least two) is a one-hot mark."""
    marks = list(_TRUE | _FALSE)
    return len(columns) >= 2 and all(
        without_words(table[name]).str.lower().isin(marks).all() for name in columns
    )
