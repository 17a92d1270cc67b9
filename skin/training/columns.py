"""The columns of metrics.csv: one list that everything which writes, shows or checks a row uses.

To add a column, add a `Column` with `optional=True` at the end of `COLUMNS`. Runs that began without it go on, and it
stays empty for the epochs that they had done by then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skin.evaluation import metrics
from skin.training.records import Totals
from skin.utils.errors import UserError
from skin.utils.files import write_csv

import numpy as np

Row = dict[str, int | float]  # by the names of the columns


@dataclass(frozen=True)
class EpochResult:
    """All that was measured in an epoch, over all processes."""

    epoch: int  # counted from 1
    lr: float  # of the last step
    train: Totals
    val_loss: float
    labels: np.ndarray  # int64 [N], of the validation split
    probabilities: np.ndarray  # float64 [N, C]
    train_seconds: float  # of the steps
    seconds: float  # of the steps and the validation
    data_wait_seconds: float
    peak_memory_mib: float


@dataclass(frozen=True)
class InTable:
    """A column as the table of a terminal or a page shows it: its title in two lines, and the format of its cells."""

    title: tuple[str, str]
    format: str
    width: int  # of a usual cell
    rank: int  # if the terminal is narrow, the column of the highest rank goes first


@dataclass(frozen=True)
class Column:
    """One column: its name, how its value comes from an epoch, and how the line of the epoch shows it."""

    name: str
    compute: Callable[[EpochResult], int | float]
    shown: str = ""  # a format string; the line does not show the column if it is empty
    table: InTable | None = None  # None if tables do not show it
    optional: bool = False  # rows of runs that began before the column existed lack it


COLUMNS = (
    Column("epoch", lambda e: e.epoch, "epoch {:2}", InTable(("", "epoch"), "{}", 5, 0)),
    Column("lr", lambda e: e.lr),
    Column("train_loss", lambda e: e.train.loss, "  loss {:.4f}", InTable(("training", "loss"), "{:.4f}", 8, 2)),
    Column("train_accuracy", lambda e: e.train.accuracy, " accuracy {:.4f}",
           InTable(("training", "accuracy"), "{:.3f}", 8, 8)),
    Column("val_loss", lambda e: e.val_loss, "  val loss {:.4f}", InTable(("validation", "loss"), "{:.4f}", 10, 3)),
    Column("val_accuracy", lambda e: metrics.accuracy(e.labels, e.probabilities), " accuracy {:.4f}",
           InTable(("validation", "accuracy"), "{:.3f}", 10, 1)),
    Column("val_balanced_accuracy", lambda e: metrics.balanced_accuracy(e.labels, e.probabilities),
           " balanced {:.4f}", InTable(("balanced", "accuracy"), "{:.3f}", 8, 6)),
    Column("val_macro_auc", lambda e: metrics.macro_auc(e.labels, e.probabilities), " AUC {:.4f}",
           InTable(("macro", "AUC"), "{:.3f}", 5, 7)),
    Column("seconds", lambda e: e.seconds, "  {:.0f} s", InTable(("", "seconds"), "{:,.0f}", 7, 4)),
    Column("images_per_second", lambda e: e.train.images / e.train_seconds, "  {:.1f} images/s",
           InTable(("images", "a second"), "{:,.1f}", 8, 9)),
    Column("data_wait_seconds", lambda e: e.data_wait_seconds, "  wait {:.1f} s",
           InTable(("seconds of", "waiting"), "{:,.1f}", 10, 10)),
    # The line shows all readings of memory instead.
    Column("peak_memory_mib", lambda e: e.peak_memory_mib, table=InTable(("MiB of", "memory"), "{:,.0f}", 7, 11)),
    Column("grad_norm", lambda e: e.train.grad_norm, optional=True),
)  # fmt: skip
NAMES = tuple(column.name for column in COLUMNS)
TABLE = {column.name: column.table for column in COLUMNS if column.table}
"""The columns of tables for people, by their names."""


def row_of(result: EpochResult) -> Row:
    """Return the row of an epoch."""
    return {column.name: column.compute(result) for column in COLUMNS}


def epoch_line(row: Row, epochs: int) -> str:
    """Return a row as the line that a person reads."""
    shown = {column.name: column.shown.format(row[column.name]) for column in COLUMNS if column.name in row}
    return "".join({**shown, "epoch": f"{shown['epoch']}/{epochs}"}.values())


def cell(row: Row, name: str) -> str:
    """Return a value of a row as `TABLE` shows it; `""` if the row lacks it."""
    return TABLE[name].format.format(row[name]) if name in row else ""


def write_metrics(path: Path, rows: Sequence[Row]) -> None:
    """Write metrics.csv: one row per epoch, an empty field if a row lacks a column. Raises `WriteError`."""
    write_csv(path, NAMES, ([row.get(name) for name in NAMES] for row in rows), six_digits=True)


def checked_rows(history: Any, epochs: int) -> list[Row]:
    """Return the rows that a file's `history` holds.

    Raises:
        UserError: it is not a list of `epochs` rows of numbers with the columns of metrics.csv.
    """
    required = {column.name for column in COLUMNS if not column.optional}
    sound = isinstance(history, list) and len(history) == epochs
    if not sound or not all(isinstance(row, dict) and required <= row.keys() <= set(NAMES) for row in history):
        raise UserError(f"the checkpoint's history is not that of {epochs} epochs: damaged")
    if not all(type(value) in (int, float) for row in history for value in row.values()):
        raise UserError("the checkpoint's history holds what is no number: damaged")
    return list(history)
