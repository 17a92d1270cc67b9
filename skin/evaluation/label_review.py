"""A review list of labels: the images whose label a model that has not seen them doubts most. No label is changed.

Confident learning (Northcutt, Jiang and Chuang 2021): an image counts confidently as a class if its probability of
that class reaches the mean which the images with this label have. It is listed if the most probable of these classes
is not its label. The list is ranked by the probability of the label, its "self-confidence", the lowest first. The
probabilities are calibrated, so no allowance is made for rare classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skin.evaluation.metrics import Array, Floats, Ints

import numpy as np

CSV, PICTURE = "label_review.csv", "label_review.png"
COLUMNS = ("rank", "image", "label", "suggested", "score", "fold", "group")
SHOWN = 24  # on the contact sheet


@dataclass(frozen=True)
class Review:
    """The images to look at again, the most doubtful first.

    Attributes:
        rows: int [M], their places among the N images.
        suggested: int [M], the class that the models would confidently give.
        score: float [M], the probability of the label.
        lesion: int [M], the number of each image's lesion, or of the image alone.
    """

    rows: Ints
    suggested: Ints
    score: Floats
    lesion: Ints

    def first(self, most: int) -> Ints:
        """Return the places in the list, ascending, of the first `most` lesions."""
        _, places = np.unique(self.lesion, return_index=True)
        found: Ints = np.sort(places)[:most]
        return found


def review(labels: Ints, probabilities: Floats, lesions: Array | None = None) -> Review:
    """Return the images whose label deserves a second look.

    Args:
        labels: int [N], the labels as they are.
        probabilities: float [N, C], calibrated, of models that have not seen the images.
        lesions: [N], the lesion of each image, if it is known. The images of one show the same thing, so they are
            judged by their mean, and those with the same label stand together in the list.
    """
    lesion = np.arange(len(labels)) if lesions is None else np.unique(lesions, return_inverse=True)[1]
    means = _means(lesion, probabilities)
    suggested = confident_class(means, thresholds(labels, means))
    score = means[np.arange(len(labels)), labels]
    doubted = np.flatnonzero((suggested >= 0) & (suggested != labels))
    order = doubted[np.lexsort((doubted, lesion[doubted], score[doubted]))]
    return Review(order, suggested[order], score[order], lesion[order])


def _means(lesion: Ints, probabilities: Floats) -> Floats:
    """Return for each image the mean probabilities of its lesion's images, [N, C]."""
    sums = np.zeros((int(lesion.max(initial=-1)) + 1, probabilities.shape[1]))
    np.add.at(sums, lesion, probabilities)
    means: Floats = (sums / np.bincount(lesion)[:, None])[lesion]
    return means


def thresholds(labels: Ints, probabilities: Floats) -> Floats:
    """Return the mean probability of each class, [C], of the images that have its label; inf for one without any."""
    found = np.full(probabilities.shape[1], np.inf)
    for label in np.unique(labels):
        found[label] = probabilities[labels == label, label].mean()
    return found


def confident_class(probabilities: Floats, thresholds: Floats) -> Ints:
    """Return the most probable class of those that reach their thresholds, int [N]; -1 if none does."""
    reached = probabilities >= thresholds - 1e-6  # as many alike may have their mean, and not quite by rounding
    most: Ints = np.where(reached, probabilities, -1.0).argmax(1)
    return np.where(reached.any(1), most, -1)


def table(
    found: Review, images: Sequence[str], labels: Ints, classes: Sequence[str], folds: Ints, groups: Array
) -> Iterator[list[object]]:
    """Yield the rows of label_review.csv, whose columns are `COLUMNS`; the other arguments are of all N images."""
    for place, row in enumerate(found.rows.tolist()):
        yield [
            place + 1, images[row], classes[labels[row]], classes[found.suggested[place]], float(found.score[place]),
            int(folds[row]), str(groups[row]),
        ]  # fmt: skip
