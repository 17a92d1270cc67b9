"""The outputs of predict.py: lines, JSON, a CSV file, a table and a progress bar on a terminal.

An output is a function that takes each answer, and the path of its overlay if there is one. To add an output, write
such a function here and give it its line in `open_outputs`.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from skin.data.image_files import STDIN, image_paths
from skin.model.classifier import Answer
from skin.serving.settings import CSV_COLUMNS, PredictSettings
from skin.utils.errors import FORMULA_STARTS, UserError, printable, safe_cell
from skin.utils.files import columns_apart, joined

Output = Callable[[Answer[str], str | None], None]


@contextlib.contextmanager
def open_outputs(settings: PredictSettings, classes: Sequence[str]) -> Iterator[Output]:
    """Open the outputs that the command line asks for; yield one that passes each answer on to all of them.

    Raises:
        UserError: a file cannot be written, or the answers would go to a standard output that is closed.
    """
    if sys.stdout is None and (settings.json or not settings.csv):
        way = "--csv FILE in place of --json" if settings.json else "--csv FILE"
        raise UserError(f"standard output is closed, so the answers would go nowhere: use {way}")
    on_terminal = is_terminal(sys.stdout)
    outputs: list[Output] = []
    with ExitStack() as stack:
        if settings.csv:
            table = csv_table(settings.csv, classes, with_overlays=settings.explain is not None)
            outputs.append(stack.enter_context(table))
        if settings.json:
            outputs.append(lambda answer, overlay: print(_json_line(answer, overlay, settings.top_k), flush=True))
        if not outputs and not on_terminal:
            outputs.append(lambda answer, overlay: _print_line(answer, settings.top_k))
        if on_terminal or is_terminal(sys.stderr):
            from skin.serving import terminal  # rich takes its time to load, and only a terminal needs it
            from skin.utils.console import progress

            console = terminal.console(sys.stdout if on_terminal else sys.stderr)
            if not outputs:
                outputs.append(terminal.Blocks(console, settings.top_k).show)
            if (total := _count(settings)) != 1:
                advance = stack.enter_context(progress(console, "", total))
                outputs.append(lambda answer, overlay: advance(1))

        def show(answer: Answer[str], overlay: str | None) -> None:
            with written("standard output"):
                for output in outputs:
                    output(answer, overlay)

        yield show


@contextlib.contextmanager
def written(to: object) -> Iterator[None]:
    """Turn an `OSError` into a `UserError` that names the file; a closed pipe passes."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"cannot write {to}: {error.strerror or error}") from error


def is_terminal(stream: TextIO | None) -> bool:
    """Return True if `stream` is a terminal; False also if it was closed and is None."""
    return stream is not None and stream.isatty()


def _count(settings: PredictSettings) -> int | None:
    """Return the number of images to come; None if their names come from stdin."""
    if STDIN in settings.images:
        return None
    return sum(1 for _ in image_paths(settings.images, lambda name, reason: None))


# ---- lines ----------------------------------------------------------------------------------------------


def _print_line(answer: Answer[str], top_k: int) -> None:
    """Print one line per image, columns separated by tabs; an unreadable image has its line on stderr alone."""
    if answer.prediction is None:
        return
    prediction = answer.prediction
    cells = [printable(answer.source, limit=4096)]
    cells += [f"{printable(name)} {probability:.4f}" for name, probability in prediction.top(top_k)]
    cells.append("90 % set: " + ", ".join(printable(name) for name in prediction.prediction_set))
    if prediction.unlike:
        cells.append("unlike the training images")
    print("\t".join(cells), flush=True)


# ---- JSON -----------------------------------------------------------------------------------------------


def _json_line(answer: Answer[str], overlay: str | None, top_k: int) -> str:
    """Return an answer as JSON in ASCII, which survives any pipe: undecodable bytes become `\\udc..` escapes."""
    return json.dumps(json_row(answer, top_k) | ({"overlay": overlay} if overlay else {}))


def json_row(answer: Answer[str], top_k: int) -> dict[str, Any]:
    """Return an answer as plain values: the prediction with its `top_k` classes, or the error."""
    row: dict[str, Any] = {"image": answer.source}
    if answer.prediction is None:
        return row | {"error": answer.error.reason if answer.error else ""}
    prediction = answer.prediction
    return row | {
        "class": prediction.label,
        "decision": prediction.decision,
        "probability": round(prediction.probability, 6),
        "top": {name: round(probability, 6) for name, probability in prediction.top(top_k)},
        "prediction_set": list(prediction.prediction_set),
        "unlike": prediction.unlike,
    }


# ---- CSV ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def csv_table(path: Path, classes: Sequence[str], with_overlays: bool) -> Iterator[Output]:
    """Write a CSV file with one row per image; the last columns are the probabilities of all classes.

    The classes of a set are joined by `|`. A class that is called like another column is `probability_` and its name.
    The first answer opens the file: if there is none, a file that was there is kept, also beside rows of errors. If
    something ends the work, a line on stderr says that the rows are not all.

    Raises:
        UserError: the file cannot be written.
    """
    unread: list[list[str]] = []  # rows of errors before the first answer

    def add(answer: Answer[str], overlay: str | None) -> None:
        row = csv_row(answer, classes, overlay or "" if with_overlays else None)
        if answer.prediction is None and not writer.cache_info().currsize:
            unread.append(row)
            return
        with written(path):
            writer().writerow(row)

    @functools.cache
    def writer() -> Any:
        file = open(path, "w", encoding="utf-8", errors="backslashreplace", newline="")  # noqa: SIM115
        made = csv.writer(stack.enter_context(file), lineterminator="\n")
        made.writerow(csv_header(classes, with_overlays))
        made.writerows(unread)
        return made

    stack = ExitStack()
    try:
        yield add
    except BaseException:
        if writer.cache_info().currsize:
            print(f"{path} holds some of the answers, not all", file=sys.stderr)
            with contextlib.suppress(OSError):
                stack.close()
        raise
    with written(path), stack:
        if unread and not writer.cache_info().currsize:
            if path.is_file() and path.stat().st_size:
                print(f"{path} is kept as it was, since no image could be read", file=sys.stderr)
            else:
                writer()


def csv_header(classes: Sequence[str], with_overlays: bool = False) -> list[str]:
    """Return the names of the columns of `csv_row`."""
    columns = [*CSV_COLUMNS, *(["overlay"] if with_overlays else [])]
    return [*columns, *map(safe_cell, columns_apart(columns, ("probability_", classes))[0])]


def csv_row(answer: Answer[str], classes: Sequence[str], overlay: str | None = None) -> list[str]:
    """Return the cells of an answer, none of which a spreadsheet takes for a formula.

    Args:
        overlay: the path of the overlay; None without that column.
    """
    row = {"image": _safe_path(answer.source)}
    probabilities = [""] * len(classes)
    if answer.prediction is None:
        row["error"] = safe_cell(answer.error.reason if answer.error else "")
    else:
        prediction = answer.prediction
        row["predicted"] = safe_cell(prediction.label)
        row["probability"] = f"{prediction.probability:.6f}"
        row["prediction_set"] = joined(prediction.prediction_set)
        row["unlike"] = str(prediction.unlike).lower()
        probabilities = [f"{p:.6f}" for p in prediction.probabilities]
    cells = [row.get(column, "") for column in CSV_COLUMNS]
    return [*cells, *([] if overlay is None else [_safe_path(overlay)]), *probabilities]


def _safe_path(path: str) -> str:
    """Return a path that no spreadsheet takes for a formula and that still names the file: `./=1+1.jpg`."""
    if "\r" in path:  # the csv module would not quote it, and the row would become two
        path = printable(path)
    return f"./{path}" if path.startswith(FORMULA_STARTS) else path
