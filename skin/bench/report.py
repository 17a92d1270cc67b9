"""The benchmark's report: the JSON and CSV files, the table and the lines below it."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skin.bench import machine, tables
from skin.bench.columns import COLUMNS, Row, three_digits
from skin.bench.options import RECIPES, BenchmarkOptions
from skin.utils import cli, files
from skin.utils.errors import UserError, printable

from rich.table import Table
from rich.text import Text

# 4: --plan ("plan") and --infer ("infer") write reports, too, with cells of their own; those of training are as in 3.
# 5: cells of training have more: the parts of a step, the device's peaks and the shares of them, the cost.
# 6: the cores that the host of a virtual machine kept from it, "stolen_cores": of a cell of training, and of a plan.
SCHEMA = 6
COMPARABLE = (3, 4, 5, SCHEMA)
BUSY_PERCENT = 75  # of the time: a GPU that is busy for less waits for something
WAITED = 0.1  # of the time: a loader that takes more of it is what the GPU waits for
CAPTION = (
    "×plain: times the plain recipe without AMP · ceiling: images/s of the bare step on ready batches · "
    "reached: training's share of it · wait: share of the time spent waiting for data · "
    "epoch s: {} · GiB: peak allocated on the fullest GPU, RSS on the CPU"
)
SECOND_CAPTION = (
    "ms of a step: data: waiting for it · forward, backward, optimizer: in steps of their own, median · "
    "of peak: arithmetic, of matrix products measured here · GB/s: the least traffic of the convolutions, "
    "of copy: of copying measured here · ?: not measured"
)


@dataclass(frozen=True)
class Heading:
    """The time, machine and settings of a benchmark."""

    kind: str  # "training", "input", "plan" or "infer"
    time: str
    command: str
    settings: dict[str, Any]  # the options, as JSON has them
    environment: dict[str, Any]  # see machine.environment

    def to_json(self, complete: bool) -> dict[str, Any]:
        return {"schema": SCHEMA, "complete": complete, **asdict(self)}


def new_heading(kind: str, options: BenchmarkOptions) -> Heading:
    """Return the heading of the benchmark that begins now, by this command line on this machine."""
    command = shlex.join(["python", "benchmark.py", *sys.argv[1:]])
    return Heading(kind, time.strftime("%Y-%m-%dT%H:%M:%S%z"), command, cli.plain(options), machine.environment())


@dataclass(frozen=True)
class Report:
    """All that a benchmark of training has found."""

    heading: Heading
    train_images: int
    rows: list[Row]
    complete: bool

    def to_json(self) -> dict[str, Any]:
        cells = [row.to_json(self.rows) for row in self.rows]
        return {**self.heading.to_json(self.complete), "train_images": self.train_images, "cells": cells}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Report:
        heading = Heading(**{name: content[name] for name in Heading.__dataclass_fields__})
        rows = [Row.from_json(cell) for cell in content["cells"]]
        return cls(heading, content["train_images"], rows, content["complete"])

    def write(self, options: BenchmarkOptions) -> None:
        """Write the files that are asked for."""
        if options.json:
            files.write_json(options.json, self.to_json())
        if options.csv:
            rows = ([column.value(row, self.rows) for column in COLUMNS] for row in self.rows)
            files.write_csv(options.csv, [column.name for column in COLUMNS], rows, six_digits=True)



def read(path: Path) -> Report | str:
    """Return an earlier report, or a line that says why it cannot be compared with one of this program.

    Raises:
        UserError: the file is not a benchmark's report.
    """
    try:
        files.refuse_pipe(path)
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {printable(path)}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{printable(path)} is not JSON ({error}); name a file that --json wrote") from error
    if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
        raise UserError(f"{printable(path)} is no benchmark report; name a file that --json wrote")
    schema, kind = content["schema"], content.get("kind", "training")
    if schema not in COMPARABLE or kind != "training":
        theirs = f"schema {schema} ({kind})"
        return f"not compared: that report has {theirs}, this program writes {SCHEMA} (training)"
    try:
        return Report.from_json(content)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{printable(path)} is damaged ({reason}); name a file that --json wrote") from error


# ---- shown ------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> Table:
    """Return the rows for a terminal, at most 100 columns wide; what was skipped for one reason is one line."""
    whole = any(found.values["whole_epoch"] for row in rows for found in row.rounds)
    caption = CAPTION.format("of an epoch timed whole" if whole else "computed from images/s")
    view = _without_rows(caption, second=False)
    skipped: dict[tuple[str, str | None], list[Row]] = {}
    for row in rows:
        title = row.key.place, RECIPES[row.key.recipe], row.key.amp
        if row.status == "skipped":
            skipped.setdefault((row.key.place, row.reason), []).append(row)
        elif row.status == "ok":
            view.add_row(*title, *_values(row, rows, second=False))
        else:
            view.add_row(*title, Text(row.status, style="yellow"))
    for (place, _), alike in skipped.items():
        recipes = ",".join(dict.fromkeys(RECIPES[row.key.recipe] for row in alike))
        amps = ",".join(dict.fromkeys(row.key.amp for row in alike))
        view.add_row(place, recipes, amps, Text("skipped", style="yellow"))
    return view


def second_table(rows: Sequence[Row]) -> Table:
    """Return where the steps of the measured rows go, and how near they come to the device's limits."""
    view = _without_rows(SECOND_CAPTION, second=True)
    for row in rows:
        if row.status == "ok":
            view.add_row(row.key.place, RECIPES[row.key.recipe], row.key.amp, *_values(row, rows, second=True))
    return view


def _without_rows(caption: str, second: bool) -> Table:
    """Return one of the two tables with its columns alone."""
    view = tables.blank(gap=1, caption=caption)
    for name in ("device", "recipe", "amp"):
        view.add_column(name, no_wrap=True)
    for column in COLUMNS:
        if column.heading and column.second == second:
            view.add_column(column.heading, justify="right", no_wrap=True)
    return view


def _values(row: Row, rows: Sequence[Row], second: bool) -> list[str]:
    """Return a row's values in the columns of a table."""
    texts = []
    for column in COLUMNS:
        if not column.heading or column.second != second:
            continue
        value = column.value(row, rows)
        text = ("?" if second else "") if value is None else column.show(value)
        if column.show_spread and len(row.rounds) > 1:
            samples = [sample for sample in row.samples(column.name) if sample is not None]
            text += f" ±{three_digits((max(samples) - min(samples)) / 2)}"
        texts.append(text)
    return texts


def notes(rows: Sequence[Row]) -> list[str]:
    """Return lines for which the table has no room: reasons, settings of the rows, scaling, the gain of AMP."""
    grouped: dict[str, list[str]] = {}
    for row in rows:
        if row.status != "ok":
            name = row.key.place if row.status == "skipped" else row.key.title
            grouped.setdefault(f"{row.status}: {row.reason}", []).append(name)
            continue
        if row.reason:
            grouped.setdefault(row.reason, []).append(row.key.title)
        if row.largest_batch_size:
            grouped.setdefault(f"largest batch that fits: {row.largest_batch_size}", []).append(row.key.title)
    lines = [f"{', '.join(dict.fromkeys(names))} {reason}" for reason, names in grouped.items()]
    for row in rows:
        if row.status == "ok":
            values = [(column, column.value(row, rows)) for column in COLUMNS if column.note]
            said = [column.note.format(value) for column, value in values if value is not None]
            said += filter(None, [_too_small(row), machine.stolen(row.mean("stolen_cores"))])
            lines.append(f"{row.key.title}: {', '.join([*_how(row), *said])}")
    return lines


def _too_small(row: Row) -> str:
    """Say that the steps leave a GPU idle; `""` if they do not, or if it waited for data."""
    busy, waited = row.highest("utilisation_percent"), row.mean("data_wait_share")
    if busy is None or waited is None or busy >= BUSY_PERCENT or waited >= WAITED:
        return ""
    return f"the GPU was idle {1 - busy / 100:.0%} of the time, and not for lack of data: try a larger --batch-size"


def _how(row: Row) -> list[str]:
    """Return lines on the computation of a row, and on the way of its images to the steps."""
    how = row.rounds[0].values
    processes = f"{how['workers']} loader process" + ("es" if how["workers"] != 1 else "")
    decoding = "images decoded before" if how["cached"] else "decoding"
    silent = ["energy not measured"] if row.mean("joules_per_image") is None else []
    return [str(how["precision"]), processes, decoding, *silent]
