"""Parquet files with pictures in a column, as data sets of Hugging Face are exported."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from skin.data.containers import PARQUET, parquet_file, picture_column
from skin.data.folder import Folder
from skin.data.index import Draft, count
from skin.data.readers.common import Layout
from skin.data.readers.records import (
    label_column,
    label_note,
    of_suffix,
    rows_of_records,
    split_of,
    unless_others_read,
)
from skin.data.tables import find_column, without_nan
from skin.utils.errors import UserError

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import pyarrow.parquet

_SHARD = re.compile(r"(.*-)(\d{5})-of-(\d{5})(.*)")


def read(folder: Folder) -> Draft | None:
    return unless_others_read(folder, _read)


def _read(folder: Folder) -> Draft | None:
    found = of_suffix(folder, PARQUET)
    if not found:
        return None
    _refuse_gaps(folder, found)
    drafts = []
    for path in found:
        parquet = parquet_file(folder.root / path)
        if is_metadata(path, parquet):
            continue
        columns, picture = parquet.schema_arrow.names, picture_column(parquet)
        label = label_column([name for name in columns if name != picture])
        if picture is not None and label is not None:
            drafts.append(_rows(path, parquet, picture, label))
            continue
        lacks = "no column of labels, such as 'label'" if picture else "no column of pictures (bytes)"
        csv = f"pandas.read_parquet({path!r}).to_csv({path.removesuffix(PARQUET) + '.csv'!r}, index=False)"
        table = "" if picture else f"; if it is a table of pictures that are files, {csv} makes one for --labels"
        raise UserError(
            f"{folder.root / path} has {lacks}; its columns are {', '.join(columns[:12])}: rename the right one, "
            f"or save the pictures as files and name a table with --labels{table}"
        )
    if not drafts:
        return None
    rows = pd.concat([rows for rows, _ in drafts], ignore_index=True)
    attributes = [name for name in rows.columns if name not in ("image", "label", "group", "split", "file")]
    rows[attributes] = rows[attributes].fillna("")
    without = sum(missing for _, missing in drafts)
    unusable = {f"{found[0]} has {count(without, 'row')} without a picture": without} if without else {}
    source = found[0] if len(found) == 1 else f"{len(found):,} .parquet files"
    return Draft(rows, source, label_note=label_note(drafts[0][0], source), unusable=unusable)


def _refuse_gaps(folder: Folder, found: list[str]) -> None:
    """Raise `UserError` if a shard is missing, such as 00001-of-00003."""
    for path in found:
        piece = _SHARD.fullmatch(path)
        for number in range(int(piece[3]) if piece else 0):
            assert piece is not None
            other = f"{piece[1]}{number:05}-of-{piece[3]}{piece[4]}"
            if other not in found:
                raise UserError(f"{folder.root / other} is missing, beside {path}: download it, too")


def is_metadata(path: str, parquet: pyarrow.parquet.ParquetFile) -> bool:
    """Return True if this is Hugging Face's table of the pictures beside it, and holds none itself."""
    named = find_column(parquet.schema_arrow.names, "file_name") and picture_column(parquet) is None
    return bool(named) and posixpath.basename(path).lower() == f"metadata{PARQUET}"


def _rows(
    path: str, parquet: pyarrow.parquet.ParquetFile, picture: str, label: str
) -> tuple[pd.DataFrame, int]:
    """Return the rows of a file, and the number of those without a picture, which are left out."""
    records = records_of(path, parquet, label, but=picture)
    number = pd.Series(np.arange(len(records)).astype(str))
    image = path.removesuffix(PARQUET) + "/" + number
    rows = rows_of_records(image, records, label, split_of(path)).assign(file=f"{path}::" + number)
    present = _has_picture(parquet, picture)
    return rows[present], int((~present).sum())


def records_of(
    path: str, parquet: pyarrow.parquet.ParquetFile, label: str | None, but: str | None = None
) -> pd.DataFrame:
    """Return the columns of a file as text, `""` if a value is missing, but for those of bytes, lists and records.

    Args:
        path: its name in messages.
        label: the column of the classes, whose numbers get the names that Hugging Face keeps for them.
        but: a column to leave out.

    Raises:
        UserError: the file is damaged, or `label` holds no class each.
    """
    import pyarrow as pa

    fields = [field for field in parquet.schema_arrow if field.name != but]
    wanted = [field.name for field in fields if field.name == label or not pa.types.is_nested(field.type)]
    try:
        table = parquet.read(columns=wanted, use_threads=False)
        told = {name: _one_each(table[name], path, name) if name == label else table[name] for name in wanted}
        records = pd.DataFrame({name: _as_text(told[name]) for name in wanted if _is_text(told[name].type)})
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read as a parquet file: {reason}; download it again") from error
    if label and (names := class_names(parquet, label)):
        records[label] = _named(records[label], names, path)
    return records


def _one_each(column: pyarrow.ChunkedArray, path: str, label: str) -> pyarrow.ChunkedArray:
    """Return the classes of a column that may hold each in a list of its own, or as bytes.

    Raises:
        UserError: it holds several for one picture, or no text.
    """
    import pyarrow as pa

    kind, what = column.type, ""
    if isinstance(kind, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)):
        cells = column.to_pylist()
        if any(cell is not None and len(cell) > 1 for cell in cells):
            what = "lists of several classes"
        else:
            column = pa.chunked_array([pa.array([cell[0] if cell else None for cell in cells], kind.value_type)])
    if not what and not _is_text(column.type):
        try:
            column = column.cast(pa.binary()).cast(pa.string())
        except pa.ArrowException:
            what = "bytes that are no text in UTF-8"
    if what or pa.types.is_nested(column.type):
        raise UserError(
            f"{path}: the column '{label}' holds {what or 'records'}, and one class per picture is needed: write it "
            "again with one, or without this column if another one tells the class"
        )
    return column


def _is_text(kind: pyarrow.DataType) -> bool:
    import pyarrow.types as kinds

    return not (kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_fixed_size_binary(kind))


def _as_text(column: pyarrow.ChunkedArray) -> list[str]:
    """Return the values of a column as they are written, `""` for a missing one or `nan`."""
    import pyarrow as pa

    return [without_nan((value or "").strip()) for value in column.cast(pa.string()).to_pylist()]


def _has_picture(parquet: pyarrow.parquet.ParquetFile, picture: str) -> np.ndarray:
    """Return for each row if it has a picture, bool [N]; the pictures are read only if some may be missing."""
    import pyarrow as pa
    import pyarrow.compute as compute

    inside = pa.types.is_struct(parquet.schema_arrow.field(picture).type)
    column = f"{picture}.bytes" if inside else picture
    if _none_missing(parquet, column):
        return np.ones(parquet.metadata.num_rows, bool)
    found = [np.empty(0, bool)]
    for batch in parquet.iter_batches(16, columns=[column], use_threads=False):
        values = batch.column(0).field("bytes") if inside else batch.column(0)
        found.append(compute.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False) > 0)
    return np.concatenate(found)


def _none_missing(parquet: pyarrow.parquet.ParquetFile, column: str) -> bool:
    """Return True if the file itself says that each row has a value in `column`."""
    for group in range(parquet.metadata.num_row_groups):
        described = parquet.metadata.row_group(group)
        chunks = [described.column(number) for number in range(described.num_columns)]
        statistics = next((chunk.statistics for chunk in chunks if chunk.path_in_schema == column), None)
        if statistics is None or not statistics.has_null_count or statistics.null_count:
            return False
    return True


def class_names(parquet: pyarrow.parquet.ParquetFile, label: str) -> Sequence[str]:
    """Return the names that Hugging Face keeps for the numbers of a column (ClassLabel); none if it has none."""
    try:
        features = json.loads((parquet.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
        feature = features[label]
        names = feature.get("feature", feature)["names"]  # of a list, those of what is in it
    except (AttributeError, KeyError, TypeError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _named(labels: pd.Series, names: Sequence[str], path: str) -> pd.Series:
    """Return the names of class numbers; -1 is how Hugging Face marks a picture whose class is not told."""
    known = {str(number): name for number, name in enumerate(names)} | {"": "", "-1": ""}
    unknown = ~labels.isin(list(known))
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        raise UserError(f"{path}, row {row}: the label {labels.iloc[row]} is not between 0 and {len(names) - 1}")
    return labels.map(known)


LAYOUT = Layout("parquet", "*.parquet with a column of pictures and one of labels", read)
