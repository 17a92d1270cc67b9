"""Metrics: pure functions of labels and probabilities, or of a confusion matrix, and the one list of all of them.

`METRICS` at the end is what report.json, the pages, the terminal and the intervals read: a new metric is one
more entry there.

Everywhere below, `labels` is int [N] (0 .. C-1, the true class) and `probabilities` float [N, C] (rows
add up to one). The predicted class is the one with the largest probability, the first of equals.

A metric that a set cannot give is nan, never 0 and never a warning: the sensitivity of a class the set
lacks, an AUROC without a negative, any metric of an empty set. Macro metrics average over the classes
that the set has. scikit-learn ranks (AUROC, average precision). The metrics of a confusion matrix take
its margins with any leading axes, [..., C], because the bootstrap computes a thousand at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SMALLEST_PROBABILITY = np.finfo(np.float64).eps  # a certain mistake costs 36.04, as in scikit-learn
CALIBRATION_BINS = 15  # Guo et al. 2017


def ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Floats:
    """Return numerator / denominator in float64; nan if the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    ratios: Floats = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=ratios, where=denominator != 0)
    return ratios


def mean_of_available(values: Floats) -> Floats:
    """Return the mean over the last axis without its nans; nan if nothing is left."""
    available = ~np.isnan(values)
    return ratio(np.where(available, values, 0.0).sum(-1), available.sum(-1))


# ---- the confusion matrix [..., C, C]: rows are the true class, columns the predicted one ----------------


def confusion_matrix(labels: Array, predicted: Array, num_classes: int) -> Ints:
    """Return the counts [C, C] of images by true class (row) and predicted class (column)."""
    cells = np.bincount(labels.astype(np.int64) * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


class Margins(NamedTuple):
    """The part of a confusion matrix that every metric here needs: with a thousand classes, a small one."""

    right: Floats  # [..., C], the images of a class that are predicted as it
    true: Floats  # [..., C], the images of a class
    predicted: Floats  # [..., C], the images that are predicted as it


def margins_of(confusion: Array) -> Margins:
    """Return the diagonal of a confusion matrix, and the sums of its rows and columns."""
    counts = np.asarray(confusion, float)
    return Margins(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1), counts.sum(-2))


def _one_against_rest(margins: Margins) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the true positives, false negatives, false positives and true negatives of each class, [..., C]."""
    right, true, predicted = margins
    return right, true - right, predicted - right, true.sum(-1)[..., None] - true - predicted + right


def sensitivity(margins: Margins) -> Floats:
    """Return the share of a class's images that are predicted as it (recall), [..., C]."""
    tp, fn, _, _ = _one_against_rest(margins)
    return ratio(tp, tp + fn)


def specificity(margins: Margins) -> Floats:
    """Return the share of the other classes' images that are not predicted as this class, [..., C]."""
    _, _, fp, tn = _one_against_rest(margins)
    return ratio(tn, tn + fp)


def positive_predictive_value(margins: Margins) -> Floats:
    """Return the share of a class in the images predicted as it (precision), [..., C]; nan if there are none."""
    tp, _, fp, _ = _one_against_rest(margins)
    return ratio(tp, tp + fp)


def negative_predictive_value(margins: Margins) -> Floats:
    """Return the share of the other classes in the images not predicted as this class, [..., C]."""
    _, fn, _, tn = _one_against_rest(margins)
    return ratio(tn, tn + fn)


def f1(margins: Margins) -> Floats:
    """Return 2 TP / (2 TP + FP + FN), [..., C]; nan for a class that the set lacks."""
    tp, fn, fp, _ = _one_against_rest(margins)
    return np.where(tp + fn > 0, ratio(2 * tp, 2 * tp + fp + fn), np.nan)


def weighted_f1_of(margins: Margins) -> Floats:
    """Return the mean F1 of the classes, each weighted by its number of images, [...]."""
    support = margins.true
    return ratio((np.where(support > 0, f1(margins), 0.0) * support).sum(-1), support.sum(-1))


def accuracy_of(margins: Margins) -> Floats:
    """Return the share of images on the diagonal, [...]."""
    right, true, _ = margins
    return ratio(right.sum(-1), true.sum(-1))


def cohen_kappa_of(margins: Margins) -> Floats:
    """Return the agreement beyond chance (Cohen 1960), [...]; nan if chance alone always agrees."""
    right, true, predicted = margins
    total = true.sum(-1)
    by_chance = ratio((true * predicted).sum(-1), total**2)
    return ratio(ratio(right.sum(-1), total) - by_chance, 1.0 - by_chance)


def matthews_of(margins: Margins) -> Floats:
    """Return the correlation of the true and the predicted class (Gorodkin 2004), [...], -1 .. 1.

    It is nan if one of them never varies.
    """
    hits, true, predicted = margins
    total, right = true.sum(-1), hits.sum(-1)
    spread = (total**2 - (true**2).sum(-1)) * (total**2 - (predicted**2).sum(-1))
    return ratio(right * total - (true * predicted).sum(-1), np.sqrt(spread))


# ---- one number per image -----------------------------------------------------------------------------


def top_k_hits(labels: Array, probabilities: Array, k: int) -> Bools:
    """Return if the true class is among the k most probable, bool [N]. Of equals, the first in class order counts."""
    own = np.take_along_axis(probabilities, labels.astype(np.int64)[:, None], axis=1)
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    hits: Bools = ((probabilities > own) | ((probabilities == own) & earlier)).sum(1) < k
    return hits


def in_top_k(labels: Array, probabilities: Array, k: int) -> Array:
    """Return `top_k_hits`, float [N] of nan if there are k classes or fewer."""
    return top_k_hits(labels, probabilities, k) if k < probabilities.shape[1] else np.full(len(labels), np.nan)


def negative_log_likelihood(labels: Array, probabilities: Array) -> Floats:
    """Return -log of the true class's probability in nats, [N]. The probability is cut at 2.2e-16."""
    own = np.take_along_axis(probabilities, labels.astype(np.int64)[:, None], axis=1)[:, 0]
    lost: Floats = -np.log(np.clip(own.astype(np.float64), SMALLEST_PROBABILITY, 1.0))
    return lost


def squared_error(labels: Array, probabilities: Array) -> Floats:
    """Return the squared distance of the probabilities from the one-hot truth (Brier 1950), [N], 0 .. 2."""
    values = probabilities.astype(np.float64)
    own = np.take_along_axis(values, labels.astype(np.int64)[:, None], axis=1)[:, 0]
    squares: Floats = np.einsum("nc,nc->n", values, values)
    return squares - 2 * own + 1


def confidence_bin(confidence: Array, bins: int = CALIBRATION_BINS) -> Ints:
    """Return the number of the bin that holds a confidence, int [N], of `bins` equal ones (k/bins, (k+1)/bins]."""
    return np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)


def confidence_gap(labels: Array, probabilities: Array, bins: int = CALIBRATION_BINS) -> tuple[Ints, Floats]:
    """Return the bin of each image's confidence, int [N], and its gap, float [N].

    The gap is 1 - confidence if the image is predicted correctly, otherwise -confidence.
    """
    confidence = probabilities.max(1, initial=0).astype(np.float64)
    return confidence_bin(confidence, bins), called_rightly(labels, probabilities) - confidence


def chance_of_gap(labels: Array, probabilities: Array) -> Floats:
    """Return the variance of an image's gap if its confidence is right, [N]: that of an answer right as often."""
    confidence: Floats = probabilities.max(1, initial=0).astype(np.float64)
    return confidence * (1 - confidence)


def called_rightly(labels: Array, probabilities: Array) -> Bools:
    """Return if the most probable class is the true one, bool [N]."""
    right: Bools = probabilities.argmax(1) == labels
    return right


def mean_gap(sums: Array, images: Array) -> Floats:
    """Return the mean over images of |accuracy - confidence| of their bin, [...].

    Args:
        sums: [..., bins], each bin's sum of the gaps of its images.
        images: [...], their number.
    """
    return ratio(np.abs(sums).sum(-1), images)


# ---- one class against the rest: positives bool [N], scores float [N] -----------------------------------


def auc(positives: Array, scores: Array) -> float:
    """Return the area under the ROC curve: the share of pairs in which the positive outranks; ties count half."""
    return float(roc_auc_score(positives, scores)) if positives.any() and not positives.all() else np.nan


def average_precision(positives: Array, scores: Array) -> float:
    """Return the mean precision at the positives' ranks: the step-wise area under precision-recall."""
    there = positives.any() and not positives.all()  # of positives alone, any ranking has 1
    return float(average_precision_score(positives, scores)) if there else np.nan


def sensitivity_at_specificity(positives: Array, scores: Array, specificity: float) -> float:
    """Return the largest sensitivity of any threshold that keeps at least this specificity."""
    if not positives.any() or positives.all():
        return np.nan
    false_positive_rate, true_positive_rate, _ = roc_curve(positives, scores, drop_intermediate=False)
    return float(true_positive_rate[false_positive_rate <= 1 - specificity + 1e-12].max())


def partial_auc(positives: Array, scores: Array, sensitivity: float) -> float:
    """Return the area between the ROC curve and the line of this sensitivity, 0 .. 1 - sensitivity.

    With 0.8 it is the score of the ISIC 2024 challenge (Kurtansky et al. 2024): only thresholds that miss at most
    a fifth of the positives count.
    """
    if not positives.any() or positives.all():
        return np.nan
    # Seen from the negatives, the sensitivities that count are the least false positive rates. scikit-learn scales
    # (McClish 1989) the area over these from its smallest, `least`, and its largest, `width`, to 1/2 and 1.
    width = 1 - sensitivity
    least = width**2 / 2
    scaled = roc_auc_score(~positives, -scores, max_fpr=width)
    return float(least + (width - least) * (2 * scaled - 1))


class Ranks(NamedTuple):
    """One class's images by falling score, in B weighted draws, on the K levels of score that hold positives.

    Attributes:
        own: [B, K], the positives on a level.
        hits: int [B, K], the positives on it or above.
        above, passed: int [B, K], the negatives above a level; those above or on it.
        positives, negatives: int [B], all of them.
    """

    own: Floats
    hits: Array
    above: Array
    passed: Array
    positives: Array
    negatives: Array


def auc_of(ranks: Ranks) -> Floats:
    """Return `auc` of each draw, [B]."""
    pairs = ranks.positives * ranks.negatives
    above = np.einsum("bk,bk->b", ranks.own, ranks.above)
    passed = above if ranks.passed is ranks.above else np.einsum("bk,bk->b", ranks.own, ranks.passed)
    return ratio(pairs - (above + passed) / 2, pairs)


def average_precision_of(ranks: Ranks) -> Floats:
    """Return `average_precision` of each draw, [B]."""
    called = ranks.hits + ranks.passed
    precision = ranks.hits / np.maximum(called, 1, out=called)
    found = ratio(np.einsum("bk,bk->b", ranks.own, precision), ranks.positives)
    return np.where(ranks.negatives > 0, found, np.nan)


def first_above(counts: Array, limit: float) -> int:
    """Return the place of the first of growing whole numbers, int [K], that is larger than `limit`; K if none is."""
    # A limit of another type would have all K converted first.
    return int(np.searchsorted(counts, counts.dtype.type(math.floor(limit)), "right"))


def sensitivity_at_specificity_of(ranks: Ranks, specificity: float) -> Floats:
    """Return `sensitivity_at_specificity` of each draw, [B]."""
    # False positives only grow along the order, so the thresholds that are allowed come first.
    most = (1 - specificity + 1e-12) * ranks.negatives
    allowed = [first_above(row, limit) for row, limit in zip(ranks.passed, most, strict=True)]
    found = [row[last - 1] if last else 0 for row, last in zip(ranks.hits, allowed, strict=True)]
    return np.where(ranks.negatives > 0, ratio(found, ranks.positives), np.nan)


def partial_auc_of(ranks: Ranks, sensitivity: float) -> Floats:
    """Return `partial_auc` of each draw, [B]."""
    pairs = np.zeros(len(ranks.positives))  # of a positive that counts, and a negative it outranks
    for b, reach in enumerate(sensitivity * ranks.positives):
        first = first_above(ranks.hits[b], reach)  # the level on which the sensitivity is passed
        own, above, passed = (each[b, first:].astype(float) for each in (ranks.own, ranks.above, ranks.passed))
        if not len(own):  # no positive is drawn
            continue
        before = reach - (ranks.hits[b, first] - own[0])  # the part of that level that does not count
        above[0] += (passed[0] - above[0]) * before / own[0]
        own[0] -= before
        pairs[b] = (own * (ranks.negatives[b] - (above + passed) / 2)).sum()
    return ratio(pairs, ranks.positives * ranks.negatives)


# ---- the types of an entry of the list ------------------------------------------------------------------
#
# First, the computation of a metric: one of these four.


@dataclass(frozen=True)
class OfConfusion:
    """A metric that follows from the margins of a confusion matrix: [...], or [..., C] for a metric of each class."""

    compute: Callable[[Margins], Floats]


@dataclass(frozen=True)
class OfSums:
    """A metric of sums over images.

    Attributes:
        terms: from labels and probabilities to a place (0 .. size-1, int [N] or one for all) and a value [N]
            of each image; the values are added up by place.
        of_sums: from the sums [..., size] and the number of images [...] to the metric [...].
    """

    terms: Callable[[Array, Array], tuple[Array | int, Array]]
    of_sums: Callable[[Array, Array], Floats]
    size: int = 1


@dataclass(frozen=True)
class OfRanking:
    """A metric of each class against the rest.

    Attributes:
        compute: from positives bool [N] and scores [N].
        of_ranks: the same of weighted draws, [B].
    """

    compute: Callable[[Array, Array], float]
    of_ranks: Callable[[Ranks], Floats]


@dataclass(frozen=True)
class MeanOverClasses:
    """The mean of a metric of each class over the classes that have it."""

    of: str


Source = OfConfusion | OfSums | OfRanking | MeanOverClasses


def mean_over_images(of_image: Callable[[Array, Array], Array]) -> OfSums:
    """Return the metric that is the mean of `of_image`, [N] from labels and probabilities."""
    return OfSums(lambda labels, p: (0, of_image(labels, p)), lambda sums, images: ratio(sums[..., 0], images))


# Second, the kind of its interval (skin/evaluation/intervals.py). A mean over classes uses the classes' intervals.


@dataclass(frozen=True)
class Percentiles:
    """An interval of the bootstrap's bias-corrected percentiles: for a metric that is none of the following.

    There is none if all rounds agree: that a set has no mistake does not say how many there may be.
    """


@dataclass(frozen=True)
class BiasedUpwards:
    """An interval for a mean of absolute gaps of an `OfSums`: too large on a sample, and larger again on a resample.

    Its low end is 0 unless the sums are larger than chance makes them if nothing is behind them.

    Attributes:
        chance: from labels and probabilities to a value [N], the variance of each image's term by chance alone.
        hits: from labels and probabilities to bool [N], the right answers.
    """

    chance: Callable[[Array, Array], Array]
    hits: Callable[[Array, Array], Bools]


@dataclass(frozen=True)
class Share:
    """Wilson's interval of a share of images.

    Percentiles of the rounds are too short near 0 or 1, or for a handful of images (for 3 of 3 they are one point).
    """


@dataclass(frozen=True)
class ShareOfClass:
    """Wilson's interval of a share of some of the images, for a metric of one class.

    Attributes:
        basis: from bool [N] and bool [N], the images of the class and those predicted as it, to the images of which
            it is a share.
        hit: from the same to the images that count, if they are in `basis`.
    """

    basis: Callable[[Bools, Bools], Bools]
    hit: Callable[[Bools, Bools], Bools]


Groups = Callable[[int, int], float]
"""From the number of groups with positives, and of those with negatives, to the number that matters."""


def _positives(positives: int, negatives: int) -> float:
    return positives


def _negatives(positives: int, negatives: int) -> float:
    return negatives


def _a_fifth_of_positives(positives: int, negatives: int) -> float:
    return max(positives / 5, 1.0)


def _both(positives: int, negatives: int) -> float:
    return 1 / (1 / positives + 1 / negatives)


@dataclass(frozen=True)
class LikeShare:
    """Wilson's interval for a mean over a class's groups of numbers between 0 and 1.

    The few values of a scarce class say little of their variance. Such numbers vary at most as a share does, with one
    image per group.

    Attributes:
        worth: the images that a group is worth at least.
        fewest: the groups whose scarcity matters.
        counted: the groups that are worth something.
        needed: the groups of which there must be two.
        unsure: the degrees of freedom of a t interval, if few groups decide the place of a threshold, or the
            precision at the top of a class.
        of_positives: it is a share of the class's images.
        biased: it is too large for a few positives, and larger again on a resample.
        largest: the value that a perfect score has; the numbers are between 0 and this.
    """

    worth: float = 1.0
    fewest: Groups = min
    counted: Groups = min
    needed: Groups = min
    unsure: Groups | None = None
    of_positives: bool = False
    biased: bool = False
    largest: float = 1.0


Interval = Percentiles | BiasedUpwards | Share | ShareOfClass | LikeShare


# ---- the list -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: its key in report.json.
        title: its name for people.
        source: its computation.
        interval: the kind of its interval.
        larger_is_better: False for a loss or an error.
        digits: decimals for people; a wide table has one fewer.
        of_class: each class has one; otherwise the whole set has.
    """

    name: str
    title: str
    source: Source
    interval: Interval = Percentiles()
    larger_is_better: bool = True
    digits: int = 3
    of_class: bool = False

    @property
    def label(self) -> str:
        """The title, with a word for those who would take more for better."""
        return self.title if self.larger_is_better else f"{self.title} (less is better)"


def _sensitivity_at(specificity: float, name: str, title: str) -> Metric:
    return Metric(
        name, title,
        OfRanking(
            partial(sensitivity_at_specificity, specificity=specificity),
            partial(sensitivity_at_specificity_of, specificity=specificity),
        ),
        LikeShare(needed=_negatives, unsure=_negatives, of_positives=True), of_class=True,
    )  # fmt: skip


METRICS = (
    Metric("accuracy", "Accuracy", OfConfusion(accuracy_of), Share()),
    Metric("balanced_accuracy", "Balanced accuracy", MeanOverClasses("sensitivity")),
    Metric("macro_f1", "Macro F1", MeanOverClasses("f1")),
    Metric("weighted_f1", "Weighted F1", OfConfusion(weighted_f1_of)),
    Metric("macro_auc", "Macro AUROC", MeanOverClasses("auc")),
    Metric("macro_average_precision", "Macro average precision", MeanOverClasses("average_precision")),
    Metric("cohen_kappa", "Cohen's kappa", OfConfusion(cohen_kappa_of)),
    Metric("matthews", "Matthews correlation", OfConfusion(matthews_of)),
    Metric("log_loss", "Log loss", mean_over_images(negative_log_likelihood), larger_is_better=False),
    Metric("brier_score", "Brier score, 0 to 2", mean_over_images(squared_error), larger_is_better=False),
    Metric(
        "expected_calibration_error", "Expected calibration error",  # Naeini 2015, Guo 2017
        OfSums(confidence_gap, mean_gap, CALIBRATION_BINS), BiasedUpwards(chance_of_gap, called_rightly),
        larger_is_better=False,
    ),
    Metric("top_2_accuracy", "Top-2 accuracy", mean_over_images(partial(in_top_k, k=2)), Share()),
    Metric("top_3_accuracy", "Top-3 accuracy", mean_over_images(partial(in_top_k, k=3)), Share()),
    Metric(
        "sensitivity", "Sensitivity", OfConfusion(sensitivity),
        ShareOfClass(lambda true, called: true, lambda true, called: called), of_class=True,
    ),
    Metric(
        "specificity", "Specificity", OfConfusion(specificity),
        ShareOfClass(lambda true, called: ~true, lambda true, called: ~called), of_class=True,
    ),
    Metric(
        "ppv", "PPV", OfConfusion(positive_predictive_value),
        ShareOfClass(lambda true, called: called, lambda true, called: true), of_class=True,
    ),
    Metric(
        "npv", "NPV", OfConfusion(negative_predictive_value),
        ShareOfClass(lambda true, called: ~called, lambda true, called: ~true), of_class=True,
    ),
    Metric(
        "f1", "F1", OfConfusion(f1), LikeShare(fewest=_positives, counted=_positives, needed=_positives),
        of_class=True,
    ),
    # An AUROC varies half as much as a share: its variance over the positives is A (1 - A) times A / (1 + A)
    # (Hanley and McNeil 1982).
    Metric("auc", "AUROC", OfRanking(auc, auc_of), LikeShare(worth=2.0, counted=_both), of_class=True),
    Metric(
        "partial_auc", "Partial AUROC above 80 % sensitivity, 0 to 0.2",  # as in ISIC 2024
        OfRanking(partial(partial_auc, sensitivity=0.8), partial(partial_auc_of, sensitivity=0.8)),
        LikeShare(worth=0.2, unsure=_a_fifth_of_positives, largest=0.2), of_class=True,
    ),
    Metric(
        "average_precision", "Average precision", OfRanking(average_precision, average_precision_of),
        LikeShare(unsure=min, biased=True), of_class=True,
    ),
    _sensitivity_at(0.90, "sensitivity_at_90_specificity", "Sensitivity at 90 % specificity"),
    _sensitivity_at(0.95, "sensitivity_at_95_specificity", "Sensitivity at 95 % specificity"),
)  # fmt: skip
BY_NAME = {metric.name: metric for metric in METRICS}
_OF_VALIDATION = ("accuracy", "balanced_accuracy", "macro_auc")
OVERALL = tuple(metric for metric in METRICS if not metric.of_class)
PER_CLASS = tuple(metric for metric in METRICS if metric.of_class)
OF_CALLED = tuple(metric for metric in PER_CLASS if isinstance(metric.interval, ShareOfClass))
"""The metrics of a class that depend only on the images that are predicted as it."""

OF_SUMS = tuple(metric for metric in METRICS if isinstance(metric.source, OfSums))
NOT_RANKED = tuple(metric for metric in METRICS if not isinstance(metric.source, OfRanking | MeanOverClasses))

# The metrics of some tables, in their order.
OF_PROBABILITIES = tuple(BY_NAME[name] for name in ("log_loss", "brier_score", "expected_calibration_error"))
OF_LABELS = tuple(BY_NAME[name] for name in (
    "accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "cohen_kappa", "matthews",
))  # fmt: skip
OF_A_COMPARISON = tuple(BY_NAME[name] for name in (
    "accuracy", "balanced_accuracy", "macro_auc", "log_loss", "brier_score", "expected_calibration_error",
))  # fmt: skip
OF_TWO_CLASSES = tuple(BY_NAME[name] for name in (
    "auc", "partial_auc", "average_precision", "sensitivity", "specificity", "ppv", "npv",
    "sensitivity_at_90_specificity", "sensitivity_at_95_specificity",
))  # fmt: skip


def values(
    labels: Array, probabilities: Array, chosen: Sequence[Metric] = METRICS, called: Array | None = None
) -> dict[str, Floats]:
    """Return the metrics of a set by name, [] for the set, [C] for its classes: those chosen, and means of these.

    Args:
        called: int [N], the classes that are called; None are the most probable ones.
    """
    called = probabilities.argmax(1) if called is None else called
    margins = margins_of(confusion_matrix(labels, called, probabilities.shape[1]))
    found = {
        m.name: _value(m.source, labels, probabilities, margins)
        for m in chosen
        if isinstance(m.source, OfConfusion | OfSums)
    }
    of_ranking = [(m.name, m.source) for m in chosen if isinstance(m.source, OfRanking)]
    for c in range(probabilities.shape[1]) if of_ranking else ():
        order = np.argsort(probabilities[:, c], kind="stable")  # what is sorted is soon sorted again
        positives, scores = labels[order] == c, probabilities[order, c]
        for name, source in of_ranking:
            of_classes = found.setdefault(name, np.full(probabilities.shape[1], np.nan))
            of_classes[c] = source.compute(positives, scores)
    return with_means(found)


def with_means(found: dict[str, Floats]) -> dict[str, Floats]:
    """Return `found`, metrics by name, with the means [...] of the metrics of each class [..., C] added."""
    means = {
        metric.name: mean_of_available(found[metric.source.of])
        for metric in METRICS
        if isinstance(metric.source, MeanOverClasses) and metric.source.of in found
    }
    return {**found, **means}


def of_validation(labels: Array, scores: Array) -> dict[str, float | None]:
    """Return the metrics that best.pt keeps of answers to images that were not trained on; None if not defined.

    Args:
        scores: float [N, C], which rank the images of each class as the probabilities do; the largest is the label.
    """
    found = {name: float(value(name, labels, scores)) for name in _OF_VALIDATION}
    return {f"val_{name}": one if math.isfinite(one) else None for name, one in found.items()}


def value(name: str, labels: Array, probabilities: Array) -> Floats:
    """Return one metric of a set: [], or [C] for a metric of each class."""
    metric = BY_NAME[name]
    needed = BY_NAME[metric.source.of] if isinstance(metric.source, MeanOverClasses) else metric
    return values(labels, probabilities, [needed])[name]


def _value(source: OfConfusion | OfSums, labels: Array, probabilities: Array, margins: Margins) -> Floats:
    if isinstance(source, OfConfusion):
        return source.compute(margins)
    places, numbers = source.terms(labels, probabilities)
    if source.size == 1:
        sums = np.asarray(numbers, float).sum(keepdims=True)
    else:
        sums = np.bincount(np.broadcast_to(places, labels.shape), weights=numbers, minlength=source.size)
    return source.of_sums(sums, np.asarray(len(labels)))


def accuracy(labels: Array, probabilities: Array) -> float:
    """Return the share of images whose predicted class is the true one."""
    return float(value("accuracy", labels, probabilities))


def balanced_accuracy(labels: Array, probabilities: Array) -> float:
    """Return the mean sensitivity of the classes that the set has."""
    return float(value("balanced_accuracy", labels, probabilities))


def macro_auc(labels: Array, probabilities: Array) -> float:
    """Return the mean AUROC of the classes, each against the rest."""
    return float(value("macro_auc", labels, probabilities))
