"""Show and write the rows of a benchmark: a table for a terminal, the JSON and the CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from skin.bench.options import BenchmarkOptions
from skin.utils import files

from rich.table import Table

RowT = TypeVar("RowT")


class Column(NamedTuple, Generic[RowT]):
    """A key of the JSON's cells and column of the CSV; with a heading, of the table, too."""

    name: str
    of: Callable[[RowT], Any]
    heading: str = ""
    show: Callable[[Any], str] = str


def cell(columns: Sequence[Column[RowT]], row: RowT) -> dict[str, Any]:
    """Return a row as an entry of the JSON's `cells`."""
    return {column.name: column.of(row) for column in columns}


def blank(gap: int, caption: str | None = None) -> Table:
    """Return a table without a frame and without columns, which will be `gap` apart."""
    return Table(
        box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold", caption=caption, caption_justify="left"
    )


def table(columns: Sequence[Column[RowT]], rows: Sequence[RowT], gap: int = 1) -> Table:
    """Return the rows for a terminal, without the columns that no row has a value for.

    The first column is aligned to the left, the others to the right.
    """
    view = blank(gap)
    shown = [c for c in columns if c.heading and any(c.of(row) is not None for row in rows)]
    for column in shown:
        view.add_column(column.heading, justify="left" if column is shown[0] else "right", no_wrap=True)
    for row in rows:
        values = [column.of(row) for column in shown]
        view.add_row(*("" if v is None else c.show(v) for c, v in zip(shown, values, strict=True)))
    return view


def write(
    options: BenchmarkOptions, content: dict[str, Any], names: Sequence[str], six_digits: bool = False
) -> None:
    """Write the files that are asked for: the content as JSON, and of its `cells` those of `names` as CSV.

    Args:
        six_digits: of a float in the CSV.
    """
    if options.json:
        files.write_json(options.json, content)
    if options.csv:
        rows = [[each[name] for name in names] for each in content["cells"]]
        files.write_csv(options.csv, names, rows, six_digits=six_digits)
