"""Goodput of a run: the share of the time since it began that is in its result.

    goodput = (sum of `seconds` over the rows of metrics.csv) / (seconds from the first start to the end)

Useful are the steps and the validations of the epochs in metrics.csv, each once. What a kill has undone is not: an
epoch that goes on from a save has the seconds up to that save, and those since. So the rest is: starting, once per
start; saves, as long as they hold up the steps; steps that were taken again; the time in which no process ran; and
the end of a run, its calibration and its last files. The end is the line in train.log, the beginning the moment at
which the first start had read its options; both are by the clock on the wall. `environment.json` keeps the beginning
and the number of starts, and in the end all of it. Nothing is measured for it, so it costs nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from skin.training.columns import Row
from skin.training.pace import duration
from skin.utils import files

NAME, KEY = "environment.json", "goodput"


@dataclass(frozen=True)
class Goodput:
    """Goodput, 0 to 1, and what it follows from."""

    goodput: float
    useful_seconds: float
    seconds: float
    starts: int

    def __str__(self) -> str:
        starts = f" in {self.starts} starts" if self.starts > 1 else ""
        return (
            f"goodput {self.goodput:.0%}: {duration(self.useful_seconds)} of {duration(self.seconds)}{starts} went "
            "into steps and validations that count"
        )


class Start(TypedDict):
    """`goodput` in environment.json until the run ends."""

    began: float  # when the first start had read its options, by `time.time`
    starts: int


def first_start(began: float) -> dict[str, Start]:
    """Return what environment.json keeps from a run's first start on."""
    return {KEY: {"began": began, "starts": 1}}


def note_start(folder: Path) -> None:
    """Count one more start of the run in `folder`. A run of an earlier version has no beginning, and no goodput."""
    known = _read(folder)
    start = _start(known)
    if start is not None:
        files.write_json(folder / NAME, {**known, KEY: {**known[KEY], "starts": start["starts"] + 1}})


def note_end(folder: Path, rows: Sequence[Row]) -> Goodput | None:
    """Keep the goodput of a run that ends now in environment.json, and return it.

    Args:
        rows: of metrics.csv.

    Returns:
        None if its beginning is not known, or if the clock has been set back since.
    """
    known = _read(folder)
    start, useful = _start(known), float(sum(row["seconds"] for row in rows))
    names = [field.name for field in fields(Goodput)]
    if start is not None and known[KEY].keys() >= set(names) and known[KEY]["useful_seconds"] == useful:
        return Goodput(**{name: known[KEY][name] for name in names})  # it had ended, and nothing came since
    if start is None or not 0 < useful <= (seconds := time.time() - start["began"]):
        return None
    found = Goodput(useful / seconds, useful, seconds, start["starts"])
    files.write_json(folder / NAME, {**known, KEY: {**start, **asdict(found)}})
    return found


def _read(folder: Path) -> dict[str, Any]:
    """Return environment.json; an empty dict if it is gone or damaged."""
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _start(known: dict[str, Any]) -> Start | None:
    found = known.get(KEY)
    if not isinstance(found, dict) or type(found.get("began")) is not float or type(found.get("starts")) is not int:
        return None
    return {"began": found["began"], "starts": found["starts"]}
