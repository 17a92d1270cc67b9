"""Collect what people are told of a model before they rely on it: data, age, what it finds, if it is calibrated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from skin.data.class_names import is_malignant, same_disease
from skin.model.calibration import Calibration, probabilities_of, scores
from skin.model.checkpoint import Checkpoint

import numpy as np

LEAST_LESIONS = 10  # fewer say nothing of how many are found


@dataclass(frozen=True)
class Found:
    """The share of the malignant validation images that the model's label calls so.

    Attributes:
        melanoma: only melanomas are counted; otherwise, in a model without melanoma, all malignant classes as one.
        images: number of images that are so.
        share: of these, 0 to 1; None if they show fewer than `LEAST_LESIONS` lesions or patients.
        over_folds: each image was answered by the one model of an ensemble that was trained without it.
    """

    melanoma: bool
    images: int
    share: float | None
    over_folds: bool = False


@dataclass(frozen=True)
class Facts:
    """The facts that people are told of a model.

    Attributes:
        data: the name of the folder that it was trained on; None if the checkpoint does not say.
        demo: it was trained on drawn pictures, and knows nothing of skin.
        saved: the day on which its file was last written.
        calibration_images: number of images that its probabilities and sets are fitted on; 0 if they are not.
        malignant: it has a class that is known to be malignant.
        found: None if it has none, or the checkpoint keeps no validation answers.
    """

    data: str | None
    demo: bool
    saved: date
    calibration_images: int
    malignant: bool
    found: Found | None


def facts_of(checkpoint: Checkpoint) -> Facts:
    """Return the facts that a checkpoint holds."""
    config, calibration = checkpoint.config, checkpoint.calibration
    return Facts(
        data=Path(config["data"]).name if config.get("data") else None,
        demo=bool(config.get("demo") or config.get("resolved", {}).get("drawn")),
        saved=date.fromtimestamp(checkpoint.path.stat().st_mtime),
        calibration_images=calibration.get("images", 0),
        malignant=any(map(is_malignant, checkpoint.classes)),
        found=_found(calibration, checkpoint.classes, bool(config.get("folds")) and config.get("fold") is None),
    )


def _found(calibration: Calibration, classes: tuple[str, ...], over_folds: bool) -> Found | None:
    melanoma = np.array([same_disease(name) == "melanoma" for name in classes])
    members = melanoma if melanoma.any() else np.array([is_malignant(name) for name in classes])
    if "answers" not in calibration or not members.any():
        return None
    answers = calibration["answers"]
    probabilities = probabilities_of(calibration, answers["logits"].numpy())
    chosen = scores(calibration, probabilities).argmax(1)
    ill = members[answers["labels"].numpy()]
    enough = len(np.unique(answers["groups"].numpy()[ill])) >= LEAST_LESIONS
    share = float(members[chosen][ill].mean()) if enough else None
    return Found(bool(melanoma.any()), int(ill.sum()), share, over_folds)
