"""The files of an evaluation: which they are, whose they are, and how the tables are written."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from skin.data.class_names import ISIC_2018, ISIC_2019, match_classes, readable_name
from skin.data.dataset import SkinDiseaseDataset
from skin.data.images import centre_crop
from skin.evaluation import plots
from skin.evaluation.metrics import Array
from skin.evaluation.pages import PICTURES
from skin.evaluation.report import Answers
from skin.model import calibration
from skin.utils.errors import UserError, safe_cell
from skin.utils.files import write_atomically
from skin.utils.run_folders import KIND, REPORT

import cv2
import numpy as np
from matplotlib.figure import Figure

FILES = (REPORT, "report.md", "report.html", "predictions.csv", "isic_submission.csv", *PICTURES)
MISTAKES = 20
_THUMBNAIL = 224  # px
_ENDING = re.compile(r"\.[A-Za-z]{3,4}$")


def claim(folder: Path) -> None:
    """Make the folder, and see that what would be replaced in it is an earlier evaluation.

    Raises:
        UserError: it cannot be written, or files there have our names and are not ours.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = [name for name in FILES if (folder / name).exists()]
        if there and not _report(folder):
            raise UserError(f"{folder} holds a {there[0]} that is not of an evaluation; choose another --out")
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; choose another --out") from error


def data_of(folder: Path) -> str | None:
    """The data folder that the evaluation in `folder` was of; None where there is none."""
    about = _report(folder).get("about")
    return str(about.get("data")) if isinstance(about, dict) else None


def _report(folder: Path) -> dict[str, Any]:
    """The earlier report in a folder, {} where there is none of ours."""
    try:
        report = json.loads((folder / REPORT).read_bytes())
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) and report.get("kind") == KIND else {}


def remove_stale(folder: Path, written: Iterable[str]) -> None:
    """Remove what an earlier evaluation left in the folder and this one did not write."""
    for name in set(FILES) - set(written):
        (folder / name).unlink(missing_ok=True)


# ---- tables -------------------------------------------------------------------------------------------------


def write_predictions(
    path: Path, images: Sequence[str], labels: Sequence[str], classes: Sequence[str], probabilities: Array
) -> None:
    """`image,label,predicted`, then the calibrated probability of each class."""
    predicted = probabilities.argmax(1)
    rows = (
        [safe_cell(image), safe_cell(label), safe_cell(classes[p]), *map(repr, row)]
        for image, label, p, row in zip(images, labels, predicted, probabilities.tolist(), strict=True)
    )
    _write_csv(path, ["image", "label", "predicted", *map(safe_cell, classes)], rows)


def write_isic_submission(path: Path, images: Sequence[str], classes: Sequence[str], probabilities: Array) -> bool:
    """The table that the ISIC challenges of 2018 (task 3) and 2019 take; False where the classes are others.

    Their scorer knows an image by its bare name (`ISIC_0024306`); full names stay where bare ones are alike.
    """
    columns = _isic_columns(classes)
    if columns is None:
        return False
    ordered = probabilities[:, [list(classes).index(cls) for cls in columns.values()]]
    more = ["UNK"] if tuple(columns) == ISIC_2019 else []  # that challenge's ninth class, which none is trained on
    names = images if _alike(images) else list(map(_bare, images))
    rows = (
        [safe_cell(name), *map(repr, row), *(["0.0"] * len(more))]
        for name, row in zip(names, ordered.tolist(), strict=True)
    )
    _write_csv(path, ["image", *columns, *more], rows)
    return True


def submission_notes(images: Sequence[str], classes: Sequence[str]) -> list[str]:
    """What is to be said of the names in isic_submission.csv."""
    if _isic_columns(classes) is None or not _alike(images):
        return []
    return [
        "images in different folders have the same name, so isic_submission.csv names them with their folders, "
        "by which the challenge's scorer does not know them"
    ]


def _isic_columns(classes: Sequence[str]) -> dict[str, str] | None:
    """The challenge's columns in its order, each with the model's class; None where the classes are others."""
    for names in (ISIC_2018, ISIC_2019):
        match = match_classes(classes, names)
        if not match.unmatched_data and not match.unmatched_model:
            return {name: match.to_model[name] for name in names}
    return None


def _alike(images: Sequence[str]) -> bool:
    """Whether two images have the same bare name."""
    return len(set(map(_bare, images))) < len(images)


def _bare(image: str) -> str:
    return _ENDING.sub("", image.rpartition("/")[2])


def _write_csv(path: Path, header: list[str], rows: Iterable[list[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(text.getvalue().encode("utf-8", "backslashreplace"), path)


# ---- pictures -----------------------------------------------------------------------------------------------


def draw(
    report: dict[str, Any], answers: Answers, dataset: SkinDiseaseDataset, images: Sequence[str]
) -> dict[str, bytes]:
    """Every picture that the report's figures give, as PNG, by file name; `images` are the N names."""
    known = answers.known
    labels, probabilities = answers.labels[known], answers.calibrated.probabilities[known]
    figures: dict[str, Figure | None] = {
        "confusion_matrix.png": plots.confusion_matrix(report),
        "per_class.png": plots.per_class(report),
        "roc.png": plots.roc(report, labels, probabilities),
        "precision_recall.png": plots.precision_recall(report, labels, probabilities),
        "reliability.png": plots.reliability(
            report, labels, calibration.softmax(answers.logits[known]), probabilities
        ),
    }
    if report["subgroups"]:
        figures["subgroups.png"] = plots.subgroups(report)
    rows = np.flatnonzero(known)[_surest_mistakes(labels, probabilities)]
    if len(rows):
        figures["mistakes.png"] = _contact_sheet(rows, answers, dataset, images)
    return {name: _png(figure) for name, figure in figures.items() if figure is not None}


def _surest_mistakes(labels: Array, probabilities: Array) -> Array:
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:MISTAKES]


def _contact_sheet(rows: Array, answers: Answers, dataset: SkinDiseaseDataset, images: Sequence[str]) -> Figure:
    pictures, captions = [], []
    probabilities = answers.calibrated.probabilities[rows]
    for row, of_classes in zip(rows.tolist(), probabilities, strict=True):
        view = centre_crop(dataset.stored(row), dataset.preprocess.image_size)
        pictures.append(cv2.resize(view, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA))
        said = answers.classes[int(of_classes.argmax())]
        truth = answers.classes[int(answers.labels[row])]
        captions.append((images[row], readable_name(truth), f"{said}, {of_classes.max():.1%}"))
    return plots.mistakes(pictures, captions)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.12)
    return buffer.getvalue()
