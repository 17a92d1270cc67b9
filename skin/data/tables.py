"""A table as it was downloaded or as a spreadsheet left it: any encoding, delimiter, spelling or one-hot mark.

Everything is read as text, so that names such as `007` keep their zeros; `""` stands for a missing value.
Words such as `none` are missing in attributes (`without_words`), and names like any other elsewhere: a class
may be called so.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import itertools
import re
import string
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path

from skin.data.encodings import code_page, example, readable_page
from skin.data.missing import SIGNS
from skin.utils.errors import UserError, printable

import numpy as np
import pandas as pd

# If pyarrow is installed, which parquet files need, pandas keeps text in its arrays, and those refuse the name of a
# file that is not UTF-8.
pd.set_option("mode.string_storage", "python")

_WORDS = ("na", "n/a", "null", "none", "<na>")  # "nan" is no word here: pandas writes a missing value so
_NAN = ("nan", "NaN", "NAN", "Nan")
_ERROR = re.compile(r"#(N/A|NAME\?|[A-Z0/]+!)")  # of a formula in a spreadsheet
_TRUE = {"1": 1, "1.0": 1, "1,0": 1, "true": 1, "yes": 1}
_FALSE = {"0": 0, "0.0": 0, "0,0": 0, "false": 0, "no": 0, "": 0}
_HEADER_BYTES = 1 << 16
_PART_BYTES = 1 << 20
_LARGE = 1 << 22  # bytes of a table, from which on it pays to import pyarrow, if it is there
# A first line that tells a spreadsheet the delimiter.
_SEPARATOR = re.compile(r'"?sep=(.)"?[,;\t]*(\r\n|\r|\n)', re.IGNORECASE)
# Spaces, and signs without width that are copied from pages and word processors: joiners, byte order marks.
_UNSEEN = string.whitespace + "\u00a0\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_OF_API = re.compile(r"^metadata\.[a-z_]+\.(?=\w+$)")  # how the ISIC Archive's API nests its columns
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, and .xls
_SHOWN = 40  # columns in a message


def header(path: Path) -> list[str]:
    """Return the column names of the table at `path`, stripped; none if it cannot be a table."""
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    text = start.decode(_unicode(start) or "cp1252", errors="replace")
    if "\0" in text:
        return []
    delimiter, skipped = _delimiter(text)
    lines = csv.reader(io.StringIO(text[skipped:], newline=""), delimiter=delimiter)
    return next(([_name(cell) for cell in cells] for cells in lines if any(cells)), [])


def read_table(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the table at `path`: columns of stripped text, `""` if a value is missing or `nan`.

    UTF-8 with or without a byte order mark, UTF-16 with one, otherwise the code page that it seems to be in
    (`encoding_note` says which); commas, semicolons, tabs or bars; LF, CRLF or CR. Empty rows and empty columns
    without a name are left out. Accents have one form (NFC).

    Args:
        columns: those to read, under the table's own names; all of them if None. A wide table is read much faster so.

    Raises:
        UserError: it cannot be read, has no rows, names a column twice, or has lines longer than its header.
    """
    names = header(path)
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise UserError(f"{path} names the column '{twice[0]}' twice: rename or drop one of them")
    content, delimiter, _ = _in_utf_8(path)
    wanted = [number for number, name in enumerate(names) if columns is None or name in columns]
    table = _parsed(content, delimiter, len(names), wanted, path)
    names = [_name(str(name)) for name in table.columns]
    table.columns = pd.Index([name or f"Unnamed: {number}" for number, name in enumerate(names)])
    composed = content.isascii()
    for name in table.columns:
        if not composed:
            table[name] = table[name].str.normalize("NFC").str.strip(_UNSEEN)
    blank = _blank(table)
    if blank.any():
        table = table[~blank].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{path} has a header and no rows")
    for name in table.columns if any(word.encode() in content for word in _NAN) else ():
        missing = table[name].isin(_NAN)
        if missing.any():
            table[name] = table[name].mask(missing, "")
    for name in table.columns if b"#" in content else ():
        table[name] = table[name].mask(table[name].str.fullmatch(_ERROR), "")
    unused = [name for name in table.columns if is_index(name) and (table[name] == "").all()]
    return table.drop(columns=unused)


def _parsed(content: bytes, delimiter: str, columns: int, wanted: list[int], path: Path) -> pd.DataFrame:
    """Return the cells of the `wanted` columns as stripped text; `columns` is the length of the header."""
    large = len(content) > _LARGE and importlib.util.find_spec("pyarrow") is not None
    # Arrow takes a quote that never ends for one long cell. To look for one is much quicker than to count none.
    if large and not (b'"' in content and content.count(b'"') % 2):
        # ArrowInvalid is a ValueError: lines shorter than the header, which are sound, or longer ones
        with contextlib.suppress(ValueError):
            return _with_arrow(content, delimiter, columns, wanted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # it would warn and drop the rest of a line
            table = pd.read_csv(
                io.BytesIO(content), sep=delimiter, dtype=str, keep_default_na=False, index_col=False,
                usecols=None if len(wanted) == columns else wanted,
            )  # fmt: skip
            stripped: pd.DataFrame = table.fillna("").apply(lambda values: values.str.strip())
            return stripped
    except (ValueError, pd.errors.ParserWarning) as error:  # pandas' parser errors are ValueErrors
        cut = _without_empty_ends(content, delimiter, columns, path)
        if cut is not None:
            return _parsed(cut, delimiter, columns, wanted, path)
        reason = str(error).removeprefix("Error tokenizing data. C error: ")
        raise UserError(f"{path} cannot be read as a table: {reason}; save it again as CSV in UTF-8") from error


def _without_empty_ends(content: bytes, delimiter: str, columns: int, path: Path) -> bytes | None:
    """Return a table without the empty cells that its rows have beyond its header; None if there are none.

    Raises:
        UserError: such a cell is not empty.
    """
    try:
        rows = list(csv.reader(io.StringIO(content.decode(), newline=""), delimiter=delimiter))
    except csv.Error:  # a cell that is too long, such as all that follows a quote
        return None
    for number, row in enumerate(rows, start=1 + _in_utf_8(path)[2]):
        if any(cell.strip() for cell in row[columns:]):
            raise UserError(
                f"{path} cannot be read as a table: row {number} has {len(row)} cells, and the header {columns}; put "
                f"cells that hold a '{delimiter}' in quotes, or give every column a name"
            )
    if all(len(row) <= columns for row in rows):
        return None
    cut = io.StringIO(newline="")
    csv.writer(cut, delimiter=delimiter).writerows(row[:columns] for row in rows)
    return cut.getvalue().encode()


def _with_arrow(content: bytes, delimiter: str, columns: int, wanted: list[int]) -> pd.DataFrame:
    """Read as pandas does, in a tenth of the time. Raises `ArrowInvalid` if lines differ in length."""
    import pyarrow.compute
    import pyarrow.csv

    table = pyarrow.csv.read_csv(
        pyarrow.BufferReader(content),
        read_options=pyarrow.csv.ReadOptions(autogenerate_column_names=True, use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=b'"' in content),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={f"f{number}": pyarrow.string() for number in range(columns)}, strings_can_be_null=False,
            include_columns=[] if len(wanted) == columns else [f"f{number}" for number in wanted],
        ),
    )
    stripped = [pyarrow.compute.utf8_trim_whitespace(values) for values in table.itercolumns()]
    table = pyarrow.table(stripped, table.column_names)
    cells: pd.DataFrame = table.to_pandas(types_mapper={pyarrow.string(): pd.StringDtype(na_value=np.nan)}.get)
    return cells.iloc[1:].set_axis(cells.iloc[0].tolist(), axis="columns").reset_index(drop=True)


def _blank(table: pd.DataFrame) -> pd.Series:
    """Return True per row of empty cells alone, which spreadsheets leave at the end."""
    blank = pd.Series(True, index=table.index)
    for _, values in table.items():
        blank &= values == ""
        if not blank.any():
            break
    return blank


def row_number(path: Path, position: int) -> int:
    """Return the number of a row of `read_table(path)` as a spreadsheet counts: with the header and empty rows."""
    content, delimiter, skipped = _in_utf_8(path)
    cells = csv.reader(io.StringIO(content.decode(), newline=""), delimiter=delimiter)
    filled = (number for number, row in enumerate(cells, start=1 + skipped) if any(cell.strip() for cell in row))
    return next(itertools.islice(filled, 1 + position, None))


def encoding_note(path: Path) -> list[str]:
    """Return a note on the code page that `read_table` takes the table at `path` for; none if it is Unicode."""
    with path.open("rb") as file:  # most tables are ASCII: a look in parts costs a third of reading them whole
        if all(part.isascii() for part in iter(lambda: file.read(_PART_BYTES), b"")):
            return []
    content = path.read_bytes()
    if _unicode(content):
        return []
    page = _code_page(content, path)
    word = printable(example(content, page), 40)
    return [f"{path.name} is not UTF-8: read as {readable_page(page)} ('{word}'); if that is wrong, save it as UTF-8"]


# Names of the column that names the images, the likeliest first.
IMAGE_COLUMNS = (
    "image", "image_id", "image_name", "filename", "file_name", "file", "path", "image_path", "filepath",
    "file_path", "isic_id", "img_id", "id", "name", "md5hash",
)  # fmt: skip
# Names of the column that tells which lesion an image shows, the likeliest first; patients: `skin.data.people`.
LESION_COLUMNS = ("lesion_id", "lesion", "lesionid")
GROUP_COLUMNS = ("group", "group_id")
# Names of the column that tells the class, the likeliest first.
LABEL_COLUMNS = (
    "label", "labels", "class", "dx", "diagnosis", "diagnostic", "target", "category", "disease", "condition",
)  # fmt: skip
# Names of columns that say something else of an image, and are no classes.
ATTRIBUTE_COLUMNS = frozenset((
    "age", "age_approx", "age_approximate", "sex", "gender", "site", "location", "localization", "region",
    "anatom_site", "anatom_site_general", "anatom_site_special", "anatom_site_1", "split", "set", "subset",
    "partition", "fold", "image_type", "dermoscopic_type", "diagnosis_confirm_type", "dx_type", "fitzpatrick",
    "fitspatrick", "fitzpatrick_scale", "fitzpatrick_skin_type", "skin_tone", "skin_type", "attribution",
    "copyright_license", "license", "source", "dataset", "camera", "device", "width", "height", "format",
    "year", "date",
))  # fmt: skip


def is_index(name: str) -> bool:
    """Return True if a column is by its name the row numbers that pandas writes beside a table."""
    return name.startswith("Unnamed: ") or spelling(name) in ("index", "level_0")


def without_nan(text: str) -> str:
    """Return a value as it is written, `""` for one that pandas or JSON writes as missing: `nan`."""
    return "" if text in _NAN else text


def is_word(values: pd.Series) -> pd.Series:
    """Return, per value, True if it is a word that often stands for a missing one: `NA`, `n.a.`, `none`, `null`."""
    return values.str.lower().str.replace(SIGNS, "", regex=True).isin(_WORDS)


def without_words(values: pd.Series) -> pd.Series:
    """Return `values` with `""` for the words that stand for a missing one."""
    if not is_word(pd.Series(values.unique(), dtype=values.dtype)).any():  # many rows have few values
        return values
    return values.mask(is_word(values), "")


def _name(cell: str) -> str:
    """Return a column's name, stripped, in the one form of its accents, and without the names it is nested in."""
    return _OF_API.sub("", unicodedata.normalize("NFC", cell.strip(_UNSEEN)))


def _in_utf_8(path: Path) -> tuple[bytes, str, int]:
    """Return a table as UTF-8 without a byte order mark, from its header on, its delimiter, and the lines left out.

    Raises:
        UserError: it cannot be read, or it is not known in which encoding it is.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if content.startswith(_WORKBOOKS):
        raise UserError(f"{path} is an Excel workbook or an archive: save the sheet as CSV in UTF-8, and name that")
    encoding = _unicode(content) or _code_page(content, path)
    if encoding != "utf-8":
        try:
            content = content.decode(encoding).encode()
        except UnicodeDecodeError as error:  # of UTF-16: the others have been tried
            raise UserError(f"{path} is cut short or damaged: save it again as CSV in UTF-8") from error
    delimiter, skipped = _delimiter(content[:_HEADER_BYTES].decode(errors="replace"))
    return content[skipped:], delimiter, int(skipped > 0)  # a line that is left out is ASCII


def _unicode(content: bytes) -> str | None:
    """Return the form of Unicode that a table, or its first bytes, are in; None if they are in a code page."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if content.isascii():  # many times quicker than to decode it
        return "utf-8"
    try:
        # The last bytes may stop inside a character if `content` is only the start of a file.
        content[:-4].decode("utf-8") if len(content) == _HEADER_BYTES else content.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(content) != _HEADER_BYTES or error.start < len(content) - 8:
            return None
    return "utf-8-sig" if content.startswith(b"\xef\xbb\xbf") else "utf-8"


def _code_page(content: bytes, path: Path) -> str:
    page = None if b"\0" in content else code_page(content)
    if page is not None:
        with contextlib.suppress(UnicodeDecodeError):
            content.decode(page)
            return page
    raise UserError(f"{path} is not UTF-8, and its code page cannot be told for sure: save it again as CSV in UTF-8")


def _delimiter(text: str) -> tuple[str, int]:
    """Return the delimiter of a table, and the number of characters before its header: a line such as `sep=;`."""
    said = _SEPARATOR.match(text)
    if said:
        return said[1], said.end()
    first = next((line for line in text.splitlines() if line.strip()), "")
    unquoted = re.sub(r'"[^"]*"', "", first)  # a name in quotes may have commas of its own
    return max(",;\t|", key=unquoted.count), 0


def spelling(name: str) -> str:
    """Return a column name without the differences between downloads: `patient_id` for `Patient ID`, `PatientID`."""
    return _small(_HUMP.sub("_", name))


def _small(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def find_column(columns: Sequence[str], *wanted: str) -> str | None:
    """Return the first of `wanted` that is among `columns`, under the table's own spelling of it."""
    # `_small` beside `spelling`, since some sets are known by names such as imageid, for ImageID.
    known = {write(name): name for write in (spelling, _small) for name in reversed(list(columns))}
    return next((known[name] for name in wanted if name in known), None)


def need_column(table: pd.DataFrame, path: Path, *wanted: str) -> str:
    """Return the column that `find_column` finds; it must be there.

    Raises:
        UserError: none of `wanted` is a column; it names the table and the columns it has.
    """
    name = find_column(list(table.columns), *wanted)
    if name is None:
        listed = listed_columns(list(table.columns))
        raise UserError(f"{path} has no column '{wanted[0]}'; its columns are: {listed}; rename one of them")
    return name


def named_column(columns: Sequence[str], path: Path, name: str | None, option: str) -> str | None:
    """Return the column that the user names with `option`, under the table's own spelling of it; None for None.

    Raises:
        UserError: the table at `path` has no such column.
    """
    if name is None:
        return None
    found = name if name in columns else find_column(columns, spelling(name))
    if found is None:
        raise UserError(f"{option} {name}: {path} has no such column; its columns are: {listed_columns(columns)}")
    return found


def listed_columns(columns: Sequence[str]) -> str:
    """Return the names of columns as words, without those of row numbers."""
    names = [name for name in columns if not is_index(name)]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def from_one_hot(
    table: pd.DataFrame, columns: Sequence[str], path: Path, numbers: pd.Index | None = None
) -> tuple[pd.Series, np.ndarray]:
    """Read labels from one-hot columns (`1`, `1.0` or `True` in the column of the class).

    Args:
        path: of the table.
        numbers: of its rows as a spreadsheet counts; None if `table` is the whole of `read_table(path)`.

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
            number = row_number(path, row) if numbers is None else numbers[row]
            raise UserError(
                f"{path}, row {number}, column {name}: '{table[name].iloc[row]}' is neither 1 nor 0 (one-hot labels)"
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
