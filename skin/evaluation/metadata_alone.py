"""A shortcut: the class as far as it follows from metadata alone, with no look at the picture.

Where it follows well, a model with metadata may answer by the habits of the clinics that the images come from (who
is photographed, and where) instead of what is to be seen, and fail elsewhere. So the end of a training fits a
logistic regression to the metadata of the training split and asks it about the validation split.

Its balanced accuracy is a warning if the lower end of its 95 % interval is above half of the way from chance to the
model's. Chance is one over the number of classes there.
"""

from __future__ import annotations

import math
import warnings

from skin.data.metadata import Rows
from skin.evaluation.intervals import Resampler, of_called
from skin.evaluation.metrics import Array, Floats, Ints
from skin.model.calibration import MetadataAlone

import numpy as np


def measure(
    training: tuple[Rows, Ints], validation: tuple[Rows, Ints], groups: Array, scores: Floats
) -> MetadataAlone | None:
    """Return the balanced accuracy of metadata alone and of the model, on the validation split.

    Args:
        training, validation: encoded metadata, float32 [N, M], and labels, int [N], of a split.
        groups: the lesion or patient of each validation image, for the interval.
        scores: the model's for the validation images, float [N, C], whose largest is the label.

    Returns:
        None if the validation split is too small for an interval.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    (rows, labels), (val_rows, val_labels) = training, validation
    if len(np.unique(labels)) < 2 or len(val_labels) == 0:
        return None
    regression = LogisticRegression(class_weight="balanced", max_iter=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        answers = regression.fit(rows, labels).predict(val_rows)
    resampler = Resampler(groups)
    of_metadata, of_model = (
        of_called(val_labels, found, scores.shape[1], resampler)
        for found in (answers, scores.argmax(1))
    )
    found, model = (it.estimate("balanced_accuracy") for it in (of_metadata, of_model))
    if not all(map(math.isfinite, (found.low, found.high, model.value))):
        return None
    return {
        "balanced_accuracy": found.value, "low": found.low, "high": found.high,
        "model": model.value, "chance": 1 / len(np.unique(val_labels)),
    }  # fmt: skip


def is_shortcut(found: MetadataAlone) -> bool:
    """Return True if metadata alone predict well enough for a warning."""
    return found["low"] > (found["chance"] + found["model"]) / 2


def said(found: MetadataAlone) -> str:
    """Return a sentence on how well metadata alone predict."""
    known = f"{found['balanced_accuracy']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
    beside = f"chance {found['chance']:.3f}, the model {found['model']:.3f}"
    text = f"metadata alone, without the picture: balanced accuracy {known} in validation; {beside}"
    if not is_shortcut(found):
        return text
    return (
        f"{text}. They predict so well that the model may answer by who is photographed and where, instead of what "
        "is to be seen: test it on images of another source"
    )
