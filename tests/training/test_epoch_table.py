"""The table of epochs fits the terminal, drops whole columns, and keeps the metric that picks the best model."""

from __future__ import annotations

from skin.training.columns import COLUMNS, NAMES, Row
from skin.training.epoch_table import EpochTable
from skin.training.options import MONITORS

import pytest

ROW: Row = {
    **dict.fromkeys(NAMES, 0.25), "epoch": 3, "val_macro_auc": 0.875, "val_loss": 1.5, "seconds": 1061.2,
    "images_per_second": 123.456, "peak_memory_mib": 1095.3,
}  # fmt: skip


def test_a_wide_terminal_has_every_column() -> None:
    table = EpochTable(120, 20, "accuracy")
    assert table.header().splitlines() == [
        "       training  training  validation  validation  balanced  macro             images  seconds of   MiB of",
        "epoch      loss  accuracy        loss    accuracy  accuracy    AUC  seconds  a second     waiting   memory",
    ]
    assert table.row(ROW, best=True) == (
        " 3/20    0.2500     0.250      1.5000       0.250     0.250  0.875    1,061     123.5         0.2    1,095"
        "  best"
    )


@pytest.mark.parametrize("monitor", MONITORS)
@pytest.mark.parametrize("width", [20, 40, 60, 80, 100])
def test_a_narrow_one_has_fewer_and_the_monitored_metric_stays(width: int, monitor: str) -> None:
    table = EpochTable(width, 20, monitor)
    lines = [*table.header().splitlines(), table.row(ROW, best=True)]
    assert all(len(line) <= width for line in lines)
    own = next(column.table for column in COLUMNS if column.name == f"val_{monitor}")
    assert own is not None
    assert own.format.format(ROW[f"val_{monitor}"]) in lines[2].split()
    assert lines[2].split()[0] == "3/20"
    assert lines[1].split()[0] == "epoch"


def test_a_row_without_a_column_leaves_its_place_empty() -> None:
    row = {name: value for name, value in ROW.items() if name != "train_loss"}
    assert len(EpochTable(80, 20, "accuracy").row(row, False)) == len(EpochTable(80, 20, "accuracy").row(ROW, False))
