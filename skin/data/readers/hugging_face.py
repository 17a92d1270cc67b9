"""A Hugging Face image folder: `metadata.csv`, `.jsonl` or `.parquet` with `file_name`, one or one for each split."""

from __future__ import annotations

import posixpath
import shlex

from skin.data.containers import parquet_file
from skin.data.folder import Folder
from skin.data.folder_names import split_of_folders
from skin.data.index import Draft, count
from skin.data.readers.common import (
    Layout,
    joined_people,
    listed,
    people_columns,
    people_of,
    rows_of,
    split_marks,
    split_words,
)
from skin.data.readers.parquet import is_metadata, records_of
from skin.data.readers.records import NAMES, texts_of
from skin.data.readers.set_tables import read_lines
from skin.data.tables import GROUP_COLUMNS, LABEL_COLUMNS, find_column, read_table
from skin.utils.errors import UserError

import pandas as pd

_OTHER_SETS = ("isic_id", "img_id")  # the ISIC Archive's metadata.csv, and that of PAD-UFES-20


def read(folder: Folder) -> Draft | None:
    tables = _tables(folder)
    columns = [name for table in tables.values() for name in table.columns]
    label = find_column(columns, *LABEL_COLUMNS)
    if label is None or find_column(columns, *_OTHER_SETS):
        return None
    rows, notes, set_aside = [], [], {}
    for path, table in tables.items():
        part = _rows(folder, path, table, label)
        if label not in table:
            set_aside[f"{path} has no column {label}: {count(len(part), 'image')} left out"] = tuple(part["image"])
        else:
            rows.append(part)
    whole = pd.concat(rows, ignore_index=True).fillna("")
    sources = [path for path, table in tables.items() if label in table]
    source = listed(sources)
    told = whole.loc[whole["label"] != "", "label"]
    if len(told) and told.str.fullmatch(r"-?\d+(\.0+)?").all():
        names = find_column(columns, *NAMES)
        named = f"; --label-column {shlex.quote(names)} takes the names" if names else " without names"
        notes.append(f"the classes of {source} are numbers{named}")
        hidden = whole["label"].str.fullmatch(r"-1(\.0+)?")  # the mark of an image whose label is kept back
        if hidden.any():
            note = f"{source} marks {count(int(hidden.sum()), 'image')} -1 (no label): left out"
            set_aside[note] = tuple(whole.loc[hidden, "image"])
            whole = whole[~hidden]
    if others := [name for name in dict.fromkeys(columns) if name != label and find_column([name], *LABEL_COLUMNS)]:
        notes.append(f"labels are the column {label} of {source}; others: {', '.join(others)}")
    if (whole["split"] == "").all():
        notes += split_marks(list(dict.fromkeys(columns)), source)
    return Draft(whole, source, notes=tuple(notes), set_aside=set_aside)


def _tables(folder: Folder) -> dict[str, pd.DataFrame]:
    """Return the tables with the column `file_name`, by their paths; one in each folder."""
    tables: dict[str, pd.DataFrame] = {}
    for path in (*folder.tables, *folder.others):
        name = posixpath.basename(path).lower()
        if name == "metadata.csv":
            if not find_column(folder.columns(path), "file_name"):
                continue
            table = read_table(folder.root / path)
        elif name == "metadata.jsonl":
            table = _read_lines(folder, path)
            if not find_column(list(table.columns), "file_name"):
                continue
        elif name == "metadata.parquet":
            try:
                parquet = parquet_file(folder.root / path)
            except UserError:  # said by the reader of parquet files
                continue
            if not is_metadata(path, parquet):
                continue
            table = records_of(path, parquet, find_column(parquet.schema_arrow.names, *LABEL_COLUMNS))
        else:
            continue
        if twin := next((other for other in tables if posixpath.dirname(other) == posixpath.dirname(path)), None):
            raise UserError(f"{folder.root} holds {twin} and {path}, two tables of the same images: keep one")
        tables[path] = table
    return tables


def _read_lines(folder: Folder, path: str) -> pd.DataFrame:
    """Read one JSON object per line; values that are lists or objects (boxes) are passed over."""
    records = []
    for number, line in read_lines(folder, path):
        record = texts_of(line)
        if record is None:
            raise UserError(f"{folder.root / path}, line {number}: not one JSON object: correct the line")
        records.append(record)
    return pd.DataFrame(records, dtype=str).fillna("")


def _rows(folder: Folder, path: str, table: pd.DataFrame, label: str) -> pd.DataFrame:
    """Return the rows of one table. The split may be a folder above the table, or one in a file name.

    Raises:
        UserError: neither is, and a column of splits has other words.
    """
    name = find_column(list(table.columns), "file_name") or ""
    beside = posixpath.dirname(path)
    above = split_of_folders(beside)
    files = table[name].str.replace("\\", "/")
    folders = files.map(posixpath.dirname)
    split = folders.map({path: split_of_folders(path) for path in folders.unique()})
    own = find_column(list(table.columns), *GROUP_COLUMNS)
    known = [*people_columns(table), *([own] if own else [])]
    used = [name, label, *known]
    told = find_column(list(table.columns), "split")
    if told and not above and not (split != "").any():
        split = split_words(table[told], folder.root / path)
        used.append(told)
    return rows_of(
        files.map(lambda file: posixpath.join(beside, file) if file else ""),
        table.get(label, ""),
        group=joined_people(table, known) if known else "",
        split=pd.Series(above, index=table.index) if above else split,
        attributes=table[[column for column in table.columns if column not in used]],
        people=people_of(table),
    )


LAYOUT = Layout("Hugging Face image folder", "metadata.csv, .jsonl or .parquet with file_name", read)
