"""Write the files of an evaluation: report, tables and pictures, in a folder that is known to be ours."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

from skin.data.class_names import ISIC_2018, ISIC_2019, MILK10K, match_classes, readable_name
from skin.data.dataset import SkinDiseaseDataset
from skin.data.images import Preprocess, centre_crop
from skin.data.readers import milk10k
from skin.evaluation import label_review, pages, plots
from skin.evaluation.label_review import Review
from skin.evaluation.lesions import by_lesion
from skin.evaluation.metrics import Array
from skin.evaluation.report import Predictions
from skin.evaluation.report_types import Report, to_json
from skin.evaluation.test_set import TestSet
from skin.model import calibration
from skin.model.checkpoint import Checkpoint
from skin.utils.errors import UserError
from skin.utils.files import columns_apart, joined, safe_name, write_atomically, write_csv, write_json
from skin.utils.run_folders import KIND, REPORT

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

PICTURES = (
    "confusion_matrix.png", "per_class.png", "roc.png", "precision_recall.png", "decision_curve.png",
    "risk_coverage.png", "reliability.png", "subgroups.png", "flow.png", "mistakes.png",
)  # fmt: skip
FILES = (REPORT, "report.md", "report.html", "stard_ai.md", "predictions.csv", "isic_submission.csv", *PICTURES)
MISTAKES = 20
_THUMBNAIL = 224  # px
_ENDING = re.compile(r"\.[A-Za-z]{3,4}$")


def claim(folder: Path) -> None:
    """Make the folder, and check that the files to be replaced in it are an earlier evaluation.

    Raises:
        UserError: it cannot be written, or it holds files with our names that are not ours.
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


def images_of(folder: Path) -> str | None:
    """Return the SHA-256 of the images that the report in `folder` is about; None if there is no report."""
    about = _report(folder).get("about")
    return str(about.get("images_sha256")) if isinstance(about, dict) else None


def _report(folder: Path) -> dict[str, Any]:
    """Return the earlier report in a folder, {} if there is none of ours."""
    try:
        report = json.loads((folder / REPORT).read_bytes())
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) and report.get("kind") == KIND else {}


def remove_stale(folder: Path, written: Iterable[str]) -> None:
    """Remove the files of an earlier evaluation that this one did not write."""
    for name in set(FILES) - set(written):
        (folder / name).unlink(missing_ok=True)


def default_folder(views: int, checkpoint: Checkpoint, test: TestSet) -> Path:
    """Return the folder of a report in the run's folder: `evaluation` for its own test split.

    Other folders name the set, the split and the views. A set that only has another's name does not replace its
    report.
    """
    words = ["evaluation"] if test.own else ["evaluation", safe_name(test.name)]
    words += [test.split] if test.split != ("test" if test.own else "all") else []
    words += [f"tta{views}"] if views > 1 else []
    folder = checkpoint.path.parent / "-".join(words)
    if test.own:
        return folder
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    free = (None, test.images_sha256)
    return next(path for path in itertools.chain([folder], numbered) if images_of(path) in free)


def write(
    folder: Path,
    report: Report,
    predictions: Predictions,
    test: TestSet,
    preprocess: Preprocess,
    by: Mapping[str, pd.Series],
) -> None:
    """Write every file of a report. report.json comes first: by it the folder is known to be ours.

    Args:
        by: attribute -> the subgroup of each image, as for `report.build`.
    """
    write_json(folder / REPORT, to_json(report))
    dataset = SkinDiseaseDataset(test.rows["path"].tolist(), test.labels, preprocess)
    images, submitted = test.rows["image"].tolist(), as_scored(predictions.calibrated)
    pictures = draw(report, predictions, dataset, images)
    for name, content in pictures.items():
        write_atomically(content, folder / name)
    write_atomically(pages.markdown(report, pictures).encode(), folder / "report.md")
    write_atomically(pages.html(report, pictures).encode(), folder / "report.html")
    write_atomically(pages.stard_ai(report).encode(), folder / "stard_ai.md")
    written = [REPORT, "report.md", "report.html", "stard_ai.md", "predictions.csv", *pictures]
    labels = _labels(predictions, test)
    write_predictions(folder / "predictions.csv", images, labels, predictions, by)
    submission = folder / "isic_submission.csv"
    if test.layout == milk10k.LAYOUT.name and predictions.lesions is not None:
        made = write_milk10k_submission(submission, predictions.lesions, predictions.classes, submitted)
    else:
        made = write_isic_submission(submission, images, predictions.classes, submitted)
    if made:
        written.append(submission.name)
    remove_stale(folder, written)


def write_page(folder: Path, report: Report, pictures: Mapping[str, bytes]) -> None:
    """Write report.json and report.html alone, with the pictures (PNG, by file name) in the page."""
    write_json(folder / REPORT, to_json(report))
    write_atomically(pages.html(report, pictures).encode(), folder / "report.html")


def _labels(predictions: Predictions, test: TestSet) -> list[str]:
    """Return the true class of each image: the model's name for it, or the data's name if the model lacks it."""
    names = np.array([*predictions.classes, ""], dtype=object)[test.labels]  # -1 is the last
    labels: list[str] = pd.Series(names).where(test.labels >= 0, test.rows["label"]).tolist()
    return labels


# ---- tables -------------------------------------------------------------------------------------------------


def write_predictions(
    path: Path,
    images: Sequence[str],
    labels: Sequence[str],
    predictions: Predictions,
    by: Mapping[str, pd.Series] | None = None,
) -> None:
    """Write one row per image, with all that the report's metrics follow from.

    The columns are image, label, predicted, group, the subgroup by each attribute of `by`, unlike (true or false),
    prediction_set (of 90 %, the classes joined by `|`), the calibrated probability of each class under its name, and
    its logit under `logit_` and its name. A name that another column has already is prefixed: `probability_`,
    `subgroup_`.
    """
    by = by or {}
    calibrated, classes = predictions.calibrated, predictions.classes
    fixed = ["image", "label", "predicted", "group", "unlike", "prediction_set"]
    of_classes, of_groups, of_logits = columns_apart(
        fixed, ("probability_", classes), ("subgroup_", list(by)), ("logit_", [f"logit_{name}" for name in classes])
    )
    subgroups = [binned.astype(str).tolist() for binned in by.values()]
    called, flags = calibrated.called.tolist(), calibrated.unlike.tolist()
    sets, probabilities, logits = (
        values.tolist() for values in (calibrated.sets, calibrated.probabilities, predictions.logits)
    )
    rows = (
        [
            image,
            labels[i],
            classes[called[i]],
            str(predictions.groups[i]),
            *(of_image[i] for of_image in subgroups),
            "true" if flags[i] else "false",
            joined(compress(classes, sets[i])),
            *probabilities[i],
            *logits[i],
        ]
        for i, image in enumerate(images)
    )
    write_csv(path, [*fixed[:4], *of_groups, *fixed[4:], *of_classes, *of_logits], rows, for_people=True)


def as_scored(calibrated: calibration.Calibrated) -> Array:
    """Return probabilities, float64 [N, C], for a challenge's scorer, which takes the largest as the label.

    By the rule "balanced" they are those of a population in which all classes are equally common.
    """
    if calibrated.rule == calibration.MOST_PROBABLE:
        return calibrated.probabilities
    shares: Array = calibrated.scores / calibrated.scores.sum(1, keepdims=True)
    return shares


def write_isic_submission(path: Path, images: Sequence[str], classes: Sequence[str], probabilities: Array) -> bool:
    """Write the table that the ISIC challenges of 2018 (task 3) and 2019 take, and return True.

    If the classes are not theirs, write nothing and return False. Their scorer knows an image by its bare name
    (`ISIC_0024306`). If two bare names are alike, the full names stay.
    """
    columns = _isic_columns(classes)
    if columns is None:
        return False
    ordered = probabilities[:, [list(classes).index(cls) for cls in columns.values()]]
    more = ["UNK"] if tuple(columns) == ISIC_2019 else []  # the challenge's ninth class, without training images
    names = images if _alike(images) else list(map(_bare, images))
    rows = ([name, *row, *([0.0] * len(more))] for name, row in zip(names, ordered.tolist(), strict=True))
    write_csv(path, ["image", *columns, *more], rows, for_people=True)
    return True


def write_milk10k_submission(path: Path, lesions: Array, classes: Sequence[str], probabilities: Array) -> bool:
    """Write the table that the MILK10k challenge takes, one row per lesion, and return True.

    A class of the challenge that the model lacks has the probability 0. If a class of the model is not one of the
    challenge's, write nothing and return False.

    Args:
        lesions: [N], the lesion of each image; the probabilities of its images are averaged.
    """
    match = match_classes(classes, MILK10K)
    if match.unmatched_model:
        return False
    found = by_lesion(lesions, probabilities)
    columns = np.zeros((len(found.names), len(MILK10K)))
    for name, cls in match.to_model.items():
        columns[:, MILK10K.index(name)] = found.probabilities[:, list(classes).index(cls)]
    rows = ([name, *row] for name, row in zip(found.names, columns.tolist(), strict=True))
    write_csv(path, ["lesion_id", *MILK10K], rows, for_people=True)
    return True


def submission_notes(images: Sequence[str], classes: Sequence[str], layout: str = "") -> list[str]:
    """Return notes on the names and classes in isic_submission.csv, if they need any."""
    if layout == milk10k.LAYOUT.name:
        match = match_classes(classes, MILK10K)
        if match.unmatched_model or not match.unmatched_data:
            return []
        return [f"isic_submission.csv has 0 for {', '.join(match.unmatched_data)}: the model does not know them"]
    if _isic_columns(classes) is None or not _alike(images):
        return []
    return [
        "images in different folders have the same name, so isic_submission.csv names them with their folders, "
        "by which the challenge's scorer does not know them"
    ]


def _isic_columns(classes: Sequence[str]) -> dict[str, str] | None:
    """Return the challenge's columns in its order, each with the model's class; None for other classes."""
    for names in (ISIC_2018, ISIC_2019):
        match = match_classes(classes, names)
        if not match.unmatched_data and not match.unmatched_model:
            return {name: match.to_model[name] for name in names}
    return None


def _alike(images: Sequence[str]) -> bool:
    """Return True if two images have the same bare name."""
    return len(set(map(_bare, images))) < len(images)


def _bare(image: str) -> str:
    return _ENDING.sub("", image.rpartition("/")[2])


# ---- pictures -----------------------------------------------------------------------------------------------


def draw(
    report: Report, predictions: Predictions, dataset: SkinDiseaseDataset, images: Sequence[str]
) -> dict[str, bytes]:
    """Return every picture that the report gives, as PNG, by file name; `images` are the N names."""
    known = predictions.known
    labels, probabilities = predictions.labels[known], predictions.calibrated.probabilities[known]
    called = predictions.calibrated.called[known]
    before = calibration.softmax(predictions.logits[known])
    figures: dict[str, Figure | None] = {
        "confusion_matrix.png": plots.confusion_matrix(report),
        "per_class.png": plots.per_class(report),
        "roc.png": plots.roc(report, labels, probabilities),
        "precision_recall.png": plots.precision_recall(report, labels, probabilities),
        "decision_curve.png": plots.decision_curve(report),
        "risk_coverage.png": plots.risk_coverage(report, labels, probabilities, called),
        "reliability.png": plots.reliability(report, labels, before, probabilities),
        "subgroups.png": plots.subgroups(report) if report.subgroups else None,
        "flow.png": plots.flow(report),
    }
    rows = np.flatnonzero(known)[_surest_mistakes(labels, probabilities, called)]
    if len(rows):
        figures["mistakes.png"] = _contact_sheet(rows, predictions, dataset, images)
    return {name: _png(figure) for name, figure in figures.items() if figure is not None}


def _surest_mistakes(labels: Array, probabilities: Array, called: Array) -> Array:
    wrong = np.flatnonzero(called != labels)
    return wrong[np.argsort(-probabilities[wrong, called[wrong]], kind="stable")][:MISTAKES]


def _contact_sheet(
    rows: Array, predictions: Predictions, dataset: SkinDiseaseDataset, images: Sequence[str]
) -> Figure:
    captions = []
    calibrated = predictions.calibrated
    for row, called in zip(rows.tolist(), calibrated.called[rows].tolist(), strict=True):
        said, probability = predictions.classes[called], calibrated.probabilities[row, called]
        truth = readable_name(predictions.classes[int(predictions.labels[row])])
        captions.append((images[row], f"is {truth}", f"said {said}, {probability:.1%}"))
    return plots.contact_sheet("The most confident mistakes", _thumbnails(rows, dataset), captions)


def label_review_sheet(
    found: Review, predictions: Predictions, dataset: SkinDiseaseDataset, images: Sequence[str]
) -> bytes | None:
    """Return the contact sheet of the labels to look at first, a PNG; None if there are none."""
    first = found.first(label_review.SHOWN)
    if not len(first):
        return None
    names = [readable_name(name) for name in predictions.classes]
    captions = []
    for place, row in zip(first.tolist(), found.rows[first].tolist(), strict=True):
        label, suggested = names[int(predictions.labels[row])], names[int(found.suggested[place])]
        captions.append((images[row], f"label {label}, {found.score[place]:.1%}", f"→ {suggested}?"))
    title = "Labels that deserve a second look, with the probability that the models give them"
    return _png(plots.contact_sheet(title, _thumbnails(found.rows[first], dataset), captions, most_columns=6))


def _thumbnails(rows: Array, dataset: SkinDiseaseDataset) -> list[Array]:
    views = (centre_crop(dataset.stored(row), dataset.preprocess.image_size) for row in rows.tolist())
    return [cv2.resize(view, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA) for view in views]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.12)
    return buffer.getvalue()
