"""The runs in `runs`, as `evaluate.py --list` shows them: data, model, score, duration, state. Needs no torch."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from skin.utils import run_folders
from skin.utils.errors import UserError, printable

if TYPE_CHECKING:
    from rich.table import Table

_WIDE = 1000
_DONE = "done"
SCORE = "balanced_accuracy"  # of the test split


@dataclass(frozen=True)
class Run:
    """The facts that a run folder tells of itself.

    Attributes:
        began: the local time at which its split was drawn.
        data: the name of the data folder. recipe: how it was trained, model: the network, image_size: its input.
        state: `done`; `unfinished`, to go on with --resume; `no model`, if no epoch has ended; with folds, such as
            `2 of 5 folds`, until they are done; `damaged model`, if best.pt is no checkpoint.
        folds: the models of the run, by --folds; None for a run of one.
        epochs: those done, of all folds together. of_epochs: those asked for; 0 of an ensemble of other runs' models,
            its recipe `ensemble`.
        seconds: of its epochs.
        monitor: the metric that picked the best epoch, and validation: its value there; the mean over folds.
        score: of the last report on the run's own test split, with its 95 % interval; None if there is no report.
    """

    name: str
    began: str
    data: str
    model: str
    image_size: int | None
    recipe: str
    state: str
    folds: int | None
    epochs: int
    of_epochs: int
    seconds: float
    monitor: str
    validation: float | None
    score: dict[str, float | None] | None


ORDERS: dict[str, Callable[[Run], Any]] = {
    "began": lambda run: run.began,
    "name": lambda run: run.name,
    "data": lambda run: run.data,
    "model": lambda run: (run.model, run.image_size or 0),
    "duration": lambda run: run.seconds,
    "validation": lambda run: _low_if_none(run.validation),
    "score": lambda run: _low_if_none((run.score or {}).get("value")),
    "state": lambda run: run.state,
}


def _low_if_none(value: float | None) -> float:
    return -math.inf if value is None else value


def show(order: str, as_json: bool) -> int:
    """Print the runs in `runs`, the last by `order` at the end.

    Raises:
        UserError: there is none.
    """
    runs = sorted(found(run_folders.LATEST.parent), key=ORDERS[order])
    if not runs:
        raise UserError(f"no run in {run_folders.LATEST.parent.resolve()}: train one with train.py --data DIR")
    if as_json:
        print(json.dumps([dataclasses.asdict(run) for run in runs], indent=2, allow_nan=False))
        return 0
    from rich.console import Console  # not needed for `--help`

    # A pipe has no width of its own, and lines that are broken there are of no use.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _WIDE)
    table = _table(runs)
    for folded, number in ((False, 0), *((True, number) for number in range(len(_SPARE) + 1))):
        table = _table(runs, folded, without=_SPARE[:number])
        if console.measure(table, options=console.options.update(width=_WIDE)).maximum <= console.width:
            break
    console.print(table)
    return 0


def found(folder: Path) -> Iterator[Run]:
    """Yield the runs in a folder, without links to them."""
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if path.is_symlink() or not (path / run_folders.CONFIG).is_file():
            continue
        try:
            yield _run(path)
        except UserError as error:  # somebody else's config.json, unless a run's files are beside it
            if (path / run_folders.SPLIT).is_file():
                print(f"WARNING: {printable(error, limit=1000)}", file=sys.stderr)


def _run(path: Path) -> Run:
    """Return what a run folder tells. Raises `UserError` if it is none of ours."""
    config = run_folders.read_config(path)
    alone, folds = _run_of_one(path, config), config.get("folds")
    if type(folds) is not int or config.get("fold") is not None or run_folders.is_joined(config):
        return alone
    return _with_folds(alone, path, folds)


def _run_of_one(path: Path, config: dict[str, Any]) -> Run:
    rows = _rows(path / "metrics.csv")
    monitor = str(config.get("monitor", "accuracy"))
    # The best epoch is the first of the best values; a loss is best when it is lowest.
    values = [value for row in rows if (value := _number(row.get(f"val_{monitor}"))) is not None]
    best = (min if monitor == "loss" else max)(values, default=None)
    joined = run_folders.is_joined(config)
    ended = joined or (path / "model_card.md").is_file()  # if there is a model
    split = path / "split.csv"
    began = (split if split.exists() else path / run_folders.CONFIG).stat().st_mtime
    return Run(
        name=path.name,
        began=time.strftime("%Y-%m-%d %H:%M", time.localtime(began)),
        data="demo" if config.get("demo") else Path(str(config.get("data") or "?")).name,
        model=str(config.get("model", "?")).replace("efficientnet_", ""),
        image_size=_whole(config["resolved"].get("image_size")) or _whole(config.get("image_size")),
        recipe="ensemble" if joined else str(config.get("recipe", "standard")),
        state=_state(path / run_folders.BEST, ended),
        folds=None,
        epochs=len(rows),
        of_epochs=0 if joined else _whole(config.get("epochs")) or 0,
        seconds=sum(_number(row.get("seconds")) or 0.0 for row in rows),
        monitor=monitor,
        validation=best,
        score=_score(path / "evaluation" / run_folders.REPORT),
    )


def _state(best: Path, ended: bool) -> str:
    if not best.is_file():
        return "no model"
    if not zipfile.is_zipfile(best):  # as torch.save writes it; its end is read
        return "damaged model"
    return _DONE if ended else "unfinished"


def _with_folds(whole: Run, path: Path, folds: int) -> Run:
    """Return a run of folds, with the sums and means of its folds; the score is that of its ensemble."""
    parts = [run for run in found(path) if re.fullmatch(r"fold-\d+", run.name)]
    values = [part.validation for part in parts if part.validation is not None]
    ended = (path / run_folders.BEST).is_file() and (path / "report.html").is_file()
    done = sum(part.state == _DONE for part in parts)
    return dataclasses.replace(
        whole,
        state=_DONE if ended else f"{done} of {folds} folds",
        folds=folds,
        epochs=sum(part.epochs for part in parts),
        of_epochs=folds * whole.of_epochs,
        seconds=sum(part.seconds for part in parts),
        validation=sum(values) / len(values) if values else None,
    )


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _score(path: Path) -> dict[str, float | None] | None:
    try:
        report = json.loads(path.read_bytes())
        return {end: report[SCORE][end] for end in ("value", "low", "high")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _table(runs: list[Run], folded: bool = False, without: Sequence[str] = ()) -> Table:
    """Return the table; `folded` breaks long names over several lines, `without` leaves columns out."""
    from rich.table import Table

    shown = [column for column in _COLUMNS if column.title not in without]
    lines = [f"{column.title}: {_MEANS[column.title]}" for column in shown if column.title in _MEANS]
    lines += [f"too narrow for {', '.join(without)}: --json has all"] if without else []
    table = Table(
        box=None, pad_edge=False, header_style="bold", caption_justify="left", caption="\n".join(lines)
    )
    for column in shown:
        numbers = column.title in ("epochs", "time", "val", "test")
        table.add_column(
            column.title, justify="right" if numbers else "left", overflow="fold",
            max_width=_FOLDED.get(column.title) if folded else None,
        )  # fmt: skip
    for run in runs:
        table.add_row(*(printable(column.text(run)) for column in shown))
    return table


def _with_interval(score: dict[str, float | None] | None) -> str:
    if score is None or score["value"] is None:
        return ""
    interval = "" if score["low"] is None or score["high"] is None else f" ({score['low']:.3f}-{score['high']:.3f})"
    return f"{score['value']:.3f}{interval}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


class _Column(NamedTuple):
    title: str
    text: Callable[[Run], str]


_COLUMNS = (
    _Column("run", lambda run: run.name),
    _Column("data", lambda run: run.data),
    _Column("model", lambda run: f"{f'{run.folds} x ' * bool(run.folds)}{run.model} {run.image_size or ''}".strip()),
    _Column("recipe", lambda run: run.recipe),
    _Column("epochs", lambda run: f"{run.epochs}/{run.of_epochs}" if run.of_epochs else ""),
    _Column("time", lambda run: _duration(run.seconds)),
    _Column("val", lambda run: "" if run.validation is None else f"{run.validation:.3f}"),
    _Column("test", lambda run: _with_interval(run.score)),
    _Column("state", lambda run: run.state),
)
_MEANS = {
    "val": "the metric that picked the epoch, accuracy unless --monitor was given; the mean over folds",
    "test": "balanced accuracy on the run's own test split, with its 95 % interval, no --tta or --out",
}
_FOLDED = {"run": 16, "data": 10}  # the widths of names that others choose, on a narrow terminal
_SPARE = ("recipe", "time", "epochs", "val", "model")  # the first to go on a narrow terminal
