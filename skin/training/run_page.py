"""report.html of a run: where it stands, its curves, epochs, data and settings, on one page that needs nothing else.

It names files by their names, never where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skin.data import thumbnails
from skin.data.class_names import readable_name
from skin.data.images import ImageError
from skin.data.split import SPLITS
from skin.evaluation.pages import Context, as_base64, in_html, inside, render
from skin.training.columns import TABLE, Row, cell
from skin.training.options import Options
from skin.training.splits import Splits
from skin.training.standing import Course, Remark
from skin.utils import cli

import numpy as np

NAME = "report.html"
_EPOCHS = 12  # rows of the table, the newest; metrics.csv has all
_CLASSES = 60  # rows of the table, the largest; split.csv has all
MISTAKES = 12
_PICTURE = (240, 180)
_PATHS = {"data", "labels", "weights", "cache"}  # options that may hold one
_OF_THE_FOLDER = {"out", "resume"}  # options that say where the page lies


@dataclass(frozen=True)
class Mistake:
    """A validation image that the best model is sure about, and wrong."""

    image: str
    path: str
    label: str
    predicted: str
    probability: float  # of the predicted class
    of_label: float  # of its own


@dataclass(frozen=True)
class State:
    """The facts of a run that its page tells beside the course."""

    name: str
    device: str
    when: str  # the page was written
    going: str  # "going on", "stopped" or "ended"
    left: str  # how long it goes on; "" if nobody knows
    curves: bytes  # a PNG; empty as long as there are no curves
    warnings: Sequence[str]
    mistakes: Sequence[Mistake] | None  # None before the end
    goodput: str = ""  # in words; "" before the end, or if it is not known


def worst(splits: Splits, probabilities: np.ndarray, called: np.ndarray) -> list[Mistake]:
    """Return the validation images whose own class has the lowest probability among those that are called wrong.

    Args:
        probabilities: float64 [N, C], of the validation split. called: int [N], the labels that the model gives.
    """
    labels, rows = splits.labels("val"), splits.of("val")
    own = probabilities[np.arange(len(labels)), labels]
    wrong = [i for i in np.argsort(own, kind="stable") if called[i] != labels[i]][:MISTAKES]
    return [
        Mistake(
            str(rows["image"].iloc[i]), str(rows["path"].iloc[i]), splits.classes[labels[i]],
            splits.classes[called[i]], float(probabilities[i, called[i]]), float(own[i]),
        )
        for i in wrong
    ]  # fmt: skip


def html(course: Course, remarks: Sequence[Remark], splits: Splits, weights: np.ndarray, state: State) -> str:
    """Return the page.

    Args:
        weights: float32 [C], of the classes in the loss.
    """
    first, *others = remarks
    return render("run.html", {
        "name": state.name,
        "verdict": {"level": first.level, "text": first.text, "reasons": [other.text for other in others]},
        "going": state.going, "left": state.left, "goodput": state.goodput,
        "when": state.when, "device": state.device,
        "epochs": {"done": len(course.rows), "all": course.options.epochs},
        "best": _best(course),
        "baseline": str(course.baseline),
        "pictures": {"curves": inside(state.curves)} if state.curves else {},
        "table": _table(course.rows),
        "mistakes": None if state.mistakes is None else [_shown(mistake) for mistake in state.mistakes],
        "images": len(splits.rows),
        "groups": int(splits.rows["group"].nunique()),
        "data": splits.index.root.name,
        "layout": splits.index.layout,
        "notes": list(splits.index.notes),
        "warnings": list(state.warnings),
        "classes": _classes(splits, weights),
        "settings": _settings(course.options),
    }, in_html)  # fmt: skip


def _best(course: Course) -> Context:
    name = course.options.monitor
    row = course.rows[course.best_epoch - 1]
    return {
        "name": f"validation {name.replace('_', ' ')}", "epoch": course.best_epoch,
        "value": f"{row['val_' + name]:.4f}",
    }  # fmt: skip


def _table(rows: Sequence[Row]) -> Context:
    """Return the newest rows, the last one first."""
    return {
        "titles": [_capital(" ".join(filter(None, it.title))) for it in TABLE.values()],
        "rows": [[cell(row, name) for name in TABLE] for row in reversed(rows[-_EPOCHS:])],
        "others": max(0, len(rows) - _EPOCHS),
    }


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _classes(splits: Splits, weights: np.ndarray) -> Context:
    counts = splits.counts()
    order = np.argsort(-counts.sum(axis=1).to_numpy(), kind="stable")[:_CLASSES]
    rows = [
        [readable_name(splits.classes[i]), *(f"{counts[split].iloc[i]:,}" for split in SPLITS), f"{weights[i]:.2f}"]
        for i in order
    ]
    return {"rows": rows, "others": len(splits.classes) - len(rows)}


def _settings(options: Options) -> Context:
    """Return the options: those that are not the defaults, and the others."""
    own: list[Context] = []
    usual: list[Context] = []
    for field in cli.options(Options):
        value = getattr(options, field.name)
        text = Path(value).name if field.name in _PATHS and value else str(value)
        if isinstance(value, (tuple, list)):
            text = ", ".join(value)
        flag = cli.flag_of(field.name)
        if field.name in _OF_THE_FOLDER or value is None or value is False or text == "":
            continue
        (usual if value == field.default else own).append({"flag": flag, "value": "" if value is True else text})
    return {"own": own, "usual": usual}


def _shown(mistake: Mistake) -> Context:
    try:
        pixels = thumbnails.fitted(mistake.path, *_PICTURE)
        picture = as_base64(thumbnails.jpeg(pixels, quality=80))
    except ImageError:  # gone since it was last read
        picture = None
    return {
        "name": mistake.image, "label": readable_name(mistake.label), "predicted": readable_name(mistake.predicted),
        "probability": f"{100 * mistake.probability:.0f} %", "of_label": f"{100 * mistake.of_label:.0f} %",
        "picture": picture,
    }  # fmt: skip
