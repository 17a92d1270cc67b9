"""One answer per lesion or patient, and the metrics of these beside those of the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skin.evaluation import metrics
from skin.evaluation.intervals import Column, Estimates, Resampler, means_of
from skin.evaluation.malignant import two_classes
from skin.evaluation.metrics import Array, Bools, Floats, Ints, Percentiles
from skin.evaluation.report_types import ByMetric, LesionReport, PatientReport

import numpy as np

Draw = Callable[[Array], Resampler]
"""Gives the resampler of groups, one of each row, with the rounds and the seed of a report."""


@dataclass(frozen=True)
class Owners:
    """The group, lesion and patient of each of N images.

    Attributes:
        groups: [N], what a round of the bootstrap draws.
        lesions, patients: [N]; None if the set does not tell them.
    """

    groups: Array
    lesions: Array | None = None
    patients: Array | None = None


@dataclass(frozen=True)
class Lesions:
    """L lesions, sorted by name.

    Attributes:
        names: [L].
        first: int [L], the row of an image of each.
        of_image: int [N], the lesion of each image.
        probabilities: float [L, C], the mean over the images of a lesion.
    """

    names: Array
    first: Ints
    of_image: Ints
    probabilities: Floats


def by_lesion(names: Array, probabilities: Floats) -> Lesions:
    """Average the answers over the images of each lesion.

    Args:
        names: [N], the lesion of each image.
        probabilities: float [N, C].
    """
    lesions, first, of_image, images = np.unique(names, return_index=True, return_inverse=True, return_counts=True)
    sums = np.zeros((len(lesions), probabilities.shape[1]))
    np.add.at(sums, of_image, probabilities)
    return Lesions(lesions, first, of_image, sums / images[:, None])


def per_lesion(
    labels: Ints, probabilities: Floats, owners: Owners, malignant: Bools | None, draw: Draw,
    scores: Floats | None = None,
) -> LesionReport | None:  # fmt: skip
    """Report on one answer per lesion; one whose images have two classes counts in no metric.

    Args:
        labels: int [N]. probabilities: float [N, C].
        malignant: bool [C]; None if there is no such division.
        scores: float [N, C], whose largest is the label (`skin.model.calibration`); None are the probabilities.

    Returns:
        None if the set does not tell lesions, or if each has one image: then the metrics are those of the images.
    """
    lesions = owners.lesions
    if lesions is None or len(np.unique(lesions)) == len(lesions):
        return None
    found = by_lesion(lesions, probabilities)
    of_lesion = labels[found.first]
    one_class = np.ones(len(of_lesion), bool)
    one_class[found.of_image[labels != of_lesion[found.of_image]]] = False
    resampler = draw(owners.groups[found.first][one_class])
    of_lesion, answers = of_lesion[one_class], found.probabilities[one_class]
    called = answers.argmax(1)
    if scores is not None:
        called = by_lesion(lesions, scores).probabilities[one_class].argmax(1)
    estimates = Estimates(of_lesion, answers, resampler, called=called)
    two = None
    if malignant is not None:
        two = Estimates(*two_classes(malignant, of_lesion, answers), resampler, ranked=(1,), summed=())
    overall = {metric.name: estimates.estimate(metric.name) for metric in metrics.OVERALL}
    return LesionReport(int(one_class.sum()), overall, None if two is None else _of_malignant(two))


def per_patient(
    labels: Ints, probabilities: Floats, owners: Owners, malignant: Bools | None, draw: Draw,
    called: Ints | None = None,
) -> PatientReport | None:  # fmt: skip
    """Report on patients, each of whom counts once, however many images there are.

    A patient has several lesions, of several classes, so there is no one answer. The accuracy is the mean over
    patients of the share of right answers. A patient is malignant if one of the lesions is, and as likely so as the
    likeliest of them.

    Args:
        as of `per_lesion`.
        called: int [N], the classes that are called; None are the most probable ones.

    Returns:
        None if the set does not tell patients, or if each has one image.
    """
    patients, lesions = owners.patients, owners.lesions
    if patients is None or len(np.unique(patients)) == len(patients):
        return None
    _, first, of_image, images = np.unique(patients, return_index=True, return_inverse=True, return_counts=True)
    resampler = draw(owners.groups[first])
    called = probabilities.argmax(1) if called is None else called
    right = np.bincount(of_image, called == labels) / images
    accuracy = means_of({"accuracy": Column(right, Percentiles())}, resampler)
    two, ill = None, np.zeros(len(first), bool)
    if malignant is not None:
        answers = probabilities
        if lesions is not None:
            of_lesions = by_lesion(lesions, probabilities)
            answers = of_lesions.probabilities[of_lesions.of_image]
        risk = np.zeros(len(first))
        np.maximum.at(risk, of_image, answers[:, malignant].sum(1))
        np.logical_or.at(ill, of_image, malignant[labels])
        two = Estimates(ill.astype(np.int64), np.stack([1 - risk, risk], 1), resampler, ranked=(1,), summed=())
    return PatientReport(
        patients=len(first),
        accuracy=accuracy()["accuracy"],
        with_malignant=None if two is None else int(ill.sum()),
        malignant=None if two is None else _of_malignant(two),
    )


def _of_malignant(two: Estimates) -> ByMetric:
    return {metric.name: two.estimate(metric.name, 1) for metric in metrics.OF_TWO_CLASSES}
