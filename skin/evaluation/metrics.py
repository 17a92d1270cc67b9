"""The figures: pure functions of labels and probabilities, or of a confusion matrix.

Everywhere below, `labels` is int [N] (0 .. C-1, the true class) and `probabilities` float [N, C] (rows
add up to one). The predicted class is the one with the largest probability, the first of equals.

A figure that a set cannot give is nan, never 0 and never a warning: the sensitivity of a class the set
lacks, an AUROC without a negative, anything of an empty set. Macro figures average over the classes
that the set has. scikit-learn ranks (AUROC, average precision); what follows from the confusion matrix
is written for any leading axes, [..., C, C], because the bootstrap asks for a thousand at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SMALLEST_PROBABILITY = np.finfo(np.float64).eps  # a certain mistake costs 36.04, as in scikit-learn
CALIBRATION_BINS = 15  # Guo et al. 2017


def ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Floats:
    """numerator / denominator in float64, nan where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator != 0)


def mean_of_available(values: Floats) -> Floats:
    """The mean over the last axis without its nans; nan where nothing is left."""
    available = ~np.isnan(values)
    return ratio(np.where(available, values, 0.0).sum(-1), available.sum(-1))


# ---- the confusion matrix [..., C, C]: rows are the true class, columns the predicted one ----------------


def confusion_matrix(labels: Array, predicted: Array, num_classes: int) -> Ints:
    """Counts [C, C] of images by true class (row) and predicted class (column)."""
    cells = np.bincount(labels.astype(np.int64) * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def _one_against_rest(confusion: Array) -> tuple[Floats, Floats, Floats, Floats]:
    """True positives, false negatives, false positives, true negatives of each class, [..., C]."""
    counts = np.asarray(confusion, float)
    true_positives = np.diagonal(counts, axis1=-2, axis2=-1)
    false_negatives = counts.sum(-1) - true_positives
    false_positives = counts.sum(-2) - true_positives
    true_negatives = counts.sum((-2, -1))[..., None] - true_positives - false_negatives - false_positives
    return true_positives, false_negatives, false_positives, true_negatives


def sensitivity(confusion: Array) -> Floats:
    """[..., C]: the share of a class's images that are called by its name (recall)."""
    tp, fn, _, _ = _one_against_rest(confusion)
    return ratio(tp, tp + fn)


def specificity(confusion: Array) -> Floats:
    """[..., C]: the share of the other images that are not called by this class's name."""
    _, _, fp, tn = _one_against_rest(confusion)
    return ratio(tn, tn + fp)


def positive_predictive_value(confusion: Array) -> Floats:
    """[..., C]: the share of the images called so that are so (precision); nan if none is called so."""
    tp, _, fp, _ = _one_against_rest(confusion)
    return ratio(tp, tp + fp)


def negative_predictive_value(confusion: Array) -> Floats:
    """[..., C]: the share of the images called otherwise that are otherwise."""
    _, fn, _, tn = _one_against_rest(confusion)
    return ratio(tn, tn + fn)


def f1(confusion: Array) -> Floats:
    """[..., C]: 2 TP / (2 TP + FP + FN); nan for a class the set lacks."""
    tp, fn, fp, _ = _one_against_rest(confusion)
    return np.where(tp + fn > 0, ratio(2 * tp, 2 * tp + fp + fn), np.nan)


def weighted_f1_of(confusion: Array) -> Floats:
    """[...]: the mean F1 of the classes, each weighted by its images."""
    support = np.asarray(confusion, float).sum(-1)
    return ratio((np.where(support > 0, f1(confusion), 0.0) * support).sum(-1), support.sum(-1))


def accuracy_of(confusion: Array) -> Floats:
    """[...]: the share of images on the diagonal."""
    counts = np.asarray(confusion, float)
    return ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum((-2, -1)))


def cohen_kappa_of(confusion: Array) -> Floats:
    """[...]: agreement beyond chance (Cohen 1960); nan where chance alone agrees always."""
    counts = np.asarray(confusion, float)
    total = counts.sum((-2, -1))
    by_chance = ratio((counts.sum(-1) * counts.sum(-2)).sum(-1), total**2)
    return ratio(accuracy_of(counts) - by_chance, 1.0 - by_chance)


# ---- figures of labels and probabilities --------------------------------------------------------------


def _confusion(labels: Array, probabilities: Array) -> Ints:
    return confusion_matrix(labels, probabilities.argmax(1), probabilities.shape[1])


def accuracy(labels: Array, probabilities: Array) -> float:
    """The share of images whose class is predicted."""
    return float(accuracy_of(_confusion(labels, probabilities)))


def balanced_accuracy(labels: Array, probabilities: Array) -> float:
    """The mean sensitivity of the classes that the set has."""
    return float(mean_of_available(sensitivity(_confusion(labels, probabilities))))


def macro_f1(labels: Array, probabilities: Array) -> float:
    """The mean F1 of the classes that the set has."""
    return float(mean_of_available(f1(_confusion(labels, probabilities))))


def weighted_f1(labels: Array, probabilities: Array) -> float:
    """The mean F1 of the classes, weighted by their images."""
    return float(weighted_f1_of(_confusion(labels, probabilities)))


def cohen_kappa(labels: Array, probabilities: Array) -> float:
    """Agreement of predicted and true class beyond chance, at most 1."""
    return float(cohen_kappa_of(_confusion(labels, probabilities)))


def top_k_hits(labels: Array, probabilities: Array, k: int) -> npt.NDArray[np.bool_]:
    """bool [N]: is the true class among the k most probable (of equals, the first in class order)?"""
    own = np.take_along_axis(probabilities, labels.astype(np.int64)[:, None], axis=1)
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    return ((probabilities > own) | ((probabilities == own) & earlier)).sum(1) < k


def top_k_accuracy(labels: Array, probabilities: Array, k: int) -> float:
    """The share of images whose class is among the k most probable."""
    return float(ratio(top_k_hits(labels, probabilities, k).sum(), len(labels)))


def negative_log_likelihood(labels: Array, probabilities: Array) -> Floats:
    """[N], in nats: -log of the true class's probability, cut at 2.2e-16."""
    own = np.take_along_axis(probabilities, labels.astype(np.int64)[:, None], axis=1)[:, 0]
    return -np.log(np.clip(own.astype(np.float64), SMALLEST_PROBABILITY, 1.0))


def log_loss(labels: Array, probabilities: Array) -> float:
    """The mean negative log-likelihood, in nats: what the network was trained to make small."""
    return float(ratio(negative_log_likelihood(labels, probabilities).sum(), len(labels)))


def squared_error(labels: Array, probabilities: Array) -> Floats:
    """[N], 0 .. 2: the squared distance of the probabilities from the one-hot truth."""
    values = probabilities.astype(np.float64)
    own = np.take_along_axis(values, labels.astype(np.int64)[:, None], axis=1)[:, 0]
    return np.einsum("nc,nc->n", values, values) - 2 * own + 1


def brier_score(labels: Array, probabilities: Array) -> float:
    """The mean squared error over all classes, 0 .. 2 (Brier 1950)."""
    return float(ratio(squared_error(labels, probabilities).sum(), len(labels)))


def confidence_bin(confidence: Array, bins: int = CALIBRATION_BINS) -> Ints:
    """int [N]: which of `bins` equally wide bins (k/bins, (k+1)/bins] holds a confidence."""
    return np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)


def expected_calibration_error(labels: Array, probabilities: Array, bins: int = CALIBRATION_BINS) -> float:
    """The mean over images of |accuracy - confidence| of their confidence bin (Naeini 2015, Guo 2017)."""
    confidence = probabilities.max(1).astype(np.float64) if len(labels) else np.zeros(0)
    hit = probabilities.argmax(1) == labels
    bin_of = confidence_bin(confidence, bins)
    gap = np.bincount(bin_of, weights=hit - confidence, minlength=bins)
    return float(ratio(np.abs(gap).sum(), len(labels)))


# ---- one class against the rest: positives bool [N], scores float [N] -----------------------------------


def auc(positives: Array, scores: Array) -> float:
    """Area under the ROC curve: how often a positive outranks a negative, ties counting half."""
    return float(roc_auc_score(positives, scores)) if positives.any() and not positives.all() else np.nan


def average_precision(positives: Array, scores: Array) -> float:
    """The precision at each positive's rank, averaged: the step-wise area under precision-recall."""
    return float(average_precision_score(positives, scores)) if positives.any() else np.nan


def sensitivity_at_specificity(positives: Array, scores: Array, specificity: float) -> float:
    """The largest sensitivity of any threshold that keeps at least this specificity."""
    if not positives.any() or positives.all():
        return np.nan
    false_positive_rate, true_positive_rate, _ = roc_curve(positives, scores, drop_intermediate=False)
    return float(true_positive_rate[false_positive_rate <= 1 - specificity + 1e-12].max())


def class_auc(labels: Array, probabilities: Array) -> Floats:
    """[C]: the AUROC of each class against the rest."""
    return np.array([auc(labels == c, probabilities[:, c]) for c in range(probabilities.shape[1])])


def class_average_precision(labels: Array, probabilities: Array) -> Floats:
    """[C]: the average precision of each class against the rest."""
    return np.array([average_precision(labels == c, probabilities[:, c]) for c in range(probabilities.shape[1])])


def class_sensitivity_at_specificity(labels: Array, probabilities: Array, specificity: float) -> Floats:
    """[C]: the sensitivity of each class against the rest at this specificity."""
    classes = range(probabilities.shape[1])
    return np.array([sensitivity_at_specificity(labels == c, probabilities[:, c], specificity) for c in classes])


def macro_auc(labels: Array, probabilities: Array) -> float:
    """The mean AUROC of the classes, each against the rest."""
    return float(mean_of_available(class_auc(labels, probabilities)))


def macro_average_precision(labels: Array, probabilities: Array) -> float:
    """The mean average precision of the classes, each against the rest."""
    return float(mean_of_available(class_average_precision(labels, probabilities)))


# ---- all of them, by name ---------------------------------------------------------------------------------

TOP_K = (2, 3)
SPECIFICITIES = {"sensitivity_at_90_specificity": 0.90, "sensitivity_at_95_specificity": 0.95}


def of_confusion(confusion: Array) -> dict[str, Floats]:
    """The figures that follow from a confusion matrix [..., C, C], by name: [...] or, a class, [..., C]."""
    class_sensitivity, class_f1 = sensitivity(confusion), f1(confusion)
    return {
        "accuracy": accuracy_of(confusion),
        "balanced_accuracy": mean_of_available(class_sensitivity),
        "macro_f1": mean_of_available(class_f1),
        "weighted_f1": weighted_f1_of(confusion),
        "cohen_kappa": cohen_kappa_of(confusion),
        "sensitivity": class_sensitivity,
        "specificity": specificity(confusion),
        "ppv": positive_predictive_value(confusion),
        "npv": negative_predictive_value(confusion),
        "f1": class_f1,
    }


def additive_figures(labels: Array, probabilities: Array) -> dict[str, Floats]:
    """The figures that are sums over images, by name: [] for the set, [C] for its classes."""
    return {
        **of_confusion(_confusion(labels, probabilities)),
        "log_loss": np.asarray(log_loss(labels, probabilities)),
        "brier_score": np.asarray(brier_score(labels, probabilities)),
        "expected_calibration_error": np.asarray(expected_calibration_error(labels, probabilities)),
        **{f"top_{k}_accuracy": np.asarray(top_k_accuracy(labels, probabilities, k)) for k in TOP_K},
    }


def ranking_figures(labels: Array, probabilities: Array) -> dict[str, Floats]:
    """The figures that rank images, by name: [] for the set, [C] for its classes."""
    class_aucs, class_aps = class_auc(labels, probabilities), class_average_precision(labels, probabilities)
    return {
        "macro_auc": mean_of_available(class_aucs),
        "macro_average_precision": mean_of_available(class_aps),
        "auc": class_aucs,
        "average_precision": class_aps,
        **{n: class_sensitivity_at_specificity(labels, probabilities, s) for n, s in SPECIFICITIES.items()},
    }
