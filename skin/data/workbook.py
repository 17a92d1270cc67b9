"""A sheet of an Excel workbook (.xlsx) as a table of text. openpyxl is loaded only when one is met."""

from __future__ import annotations

import datetime
import itertools
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from skin.data.tables import find_column
from skin.utils.errors import UserError

import pandas as pd

_MOST_BYTES = 256 << 20  # unpacked: a workbook is a zip of XML, and a few bytes of it may stand for a terabyte
_HEADER_ROWS = 100  # the row of the column names is among the first so many


def read_workbook(path: Path, *columns: str) -> pd.DataFrame:
    """Read the first sheet that has a row with the names `columns`: text from there on, `""` if a cell is empty.

    The index of the table holds the numbers of its rows in the sheet.

    Raises:
        UserError: openpyxl is not installed, the file is no workbook, or no sheet has these columns.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise UserError(
            f"{path} is an Excel workbook, and openpyxl, which reads it, is not installed: pip install openpyxl"
        ) from error
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MOST_BYTES:
            raise UserError(f"{path} holds {size >> 20:,} MiB of tables, over {_MOST_BYTES >> 20}: download it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl tells of styles that it does not know
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            try:
                tables = [_table(sheet.iter_rows(values_only=True), columns) for sheet in book.worksheets]
            finally:
                book.close()
    except UserError:
        raise
    except Exception as error:  # whatever a broken archive or its XML gives
        raise UserError(f"{path} cannot be read as an Excel workbook: {error}; download it again") from error
    found = next((table for table in tables if table is not None), None)
    if found is None:
        raise UserError(f"{path} has no sheet with the columns {', '.join(columns)}: download it again")
    return found


def _table(rows: Iterable[tuple[object, ...]], columns: tuple[str, ...]) -> pd.DataFrame | None:
    lines: Iterator[tuple[int, list[str]]] = enumerate(([_text(cell) for cell in row] for row in rows), start=1)
    for _, header in itertools.islice(lines, _HEADER_ROWS):
        if all(find_column(header, name) for name in columns):
            break
    else:
        return None
    used = {name: place for place, name in reversed(list(enumerate(header))) if name}  # the first of two alike
    body = {
        number: [line[place] if place < len(line) else "" for place in used.values()]
        for number, line in lines if any(line)
    }  # fmt: skip
    return pd.DataFrame(list(body.values()), index=list(body), columns=list(used), dtype=str)


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime.datetime):
        return cell.isoformat(sep=" ")
    text = " ".join(str(cell).split())  # a column name may be on two lines
    return "" if text.lower() == "nan" else text
