"""Malignant against benign: which classes are which, and the two-class answers that follow from many."""

from __future__ import annotations

from skin.data.class_names import BENIGN, MALIGNANT, match_classes
from skin.evaluation.metrics import Bools, Floats, Ints

import numpy as np


def malignant_classes(classes: tuple[str, ...]) -> Bools | None:
    """Return bool [C], the malignant classes; None unless every class is known to be malignant or benign."""
    match = match_classes((*MALIGNANT, *BENIGN), classes)
    if match.unmatched_data:
        return None
    malignant = np.array([match.to_model[name] in MALIGNANT for name in classes])
    return malignant if malignant.any() and not malignant.all() else None


def two_classes(malignant: Bools, labels: Ints, probabilities: Floats) -> tuple[Ints, Floats]:
    """Return labels int [N] and probabilities [N, 2] of benign (0) and malignant (1): the classes' own, added up."""
    risk = probabilities[:, malignant].sum(1)
    return malignant[labels].astype(np.int64), np.stack([1 - risk, risk], 1)
