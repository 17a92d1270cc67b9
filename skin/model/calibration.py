"""What a probability is worth: temperature, prediction sets, and a flag for images unlike the training set.

All three are fitted once, on the validation part at the end of training, and kept in the checkpoint:

- one temperature divides the logits, so that "80 %" is right four times in five (Guo et al. 2017);
- a prediction set holds every class whose probability reaches that class's own threshold, so that the set
  holds the truth for 90 % (95 %) of the images *of each class*: split conformal prediction, one quantile a
  class. A class with too few validation images for a quantile of its own takes that of all images (Ding et
  al. 2023) and is named in `shared`;
- an image is called unlike the training set when its features lie further from every class than those of
  98 % of unseen validation images (a Mahalanobis distance on features of unit length).

To apply a calibration needs numpy alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from skin.utils.errors import UserError

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

COVERAGES = {"90": 0.90, "95": 0.95}
DIRECTIONS = 32  # of the features' spread that get a variance of their own; the rest share one
LIKE_SHARE = 0.98  # of unseen validation images are not flagged
FOLDS = 5
MOST_IMAGES = 5000  # as many, evenly taken, tell where the features lie


@dataclass(frozen=True)
class Calibrated:
    """What a calibrated model says of N images and C classes."""

    probabilities: Doubles  # [N, C], rows add up to one
    sets: Bools  # [N, C]: the classes in the 90 % prediction set, never empty
    sets_95: Bools  # [N, C]
    unlike: Bools  # [N]: unlike the training set; the probabilities mean little
    distance: Doubles  # [N]: how unlike; above 1 is `unlike`


def softmax(logits: npt.ArrayLike, temperature: float = 1.0) -> Doubles:
    """Logits [N, C] to probabilities [N, C], in float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(1, keepdims=True, initial=-np.inf))
    return exponentials / exponentials.sum(1, keepdims=True)


def fit(logits: npt.ArrayLike, labels: npt.ArrayLike, features: npt.ArrayLike) -> dict[str, Any]:
    """Fit all three on images the network was not trained on.

    Args:
        logits: float [N, C]. labels: int [N]. features: float [N, D], pooled, before the head.

    Returns:
        What `apply` takes: numbers, lists and tensors, safe for `torch.load(weights_only=True)`; empty when
        N is 0.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    features = np.asarray(features, np.float32)
    if len(labels) == 0:
        return {}
    temperature = _fit_temperature(logits, labels)
    probabilities = softmax(logits, temperature)
    return {
        "images": len(labels),
        "temperature": temperature,
        "sets": {name: _fit_sets(probabilities, labels, coverage) for name, coverage in COVERAGES.items()},
        "unlike": _fit_unlike(features, labels),
    }


def apply(calibration: dict[str, Any], logits: npt.ArrayLike, features: npt.ArrayLike) -> Calibrated:
    """Calibrated probabilities, prediction sets and flags; `calibration` is what `fit` returned.

    An empty calibration (there was no validation part) leaves the probabilities as they are, puts every
    class into every set and flags nothing.

    Raises:
        UserError: the calibration is damaged or of another model.
    """
    return calibrated(calibration, logits, distance(calibration, features))


def distance(calibration: dict[str, Any], features: npt.ArrayLike) -> Doubles:
    """How unlike the training images each of `features` [N, D] is, float64 [N]; above 1 is flagged."""
    features = np.asarray(features, np.float32)
    if not calibration:
        return np.zeros(len(features))
    try:
        return _distance(calibration["unlike"], features) / calibration["unlike"]["threshold"]
    except (KeyError, TypeError, ValueError) as error:
        raise _misfit() from error


def calibrated(calibration: dict[str, Any], logits: npt.ArrayLike, distance: Doubles) -> Calibrated:
    """As `apply`, with the distances at hand: a large set's features need not be kept."""
    logits = np.asarray(logits, np.float64)
    if not calibration:
        everything = np.ones(logits.shape, bool)
        return Calibrated(softmax(logits), everything, everything, ~(distance <= 1), distance)
    try:
        probabilities = softmax(logits, float(calibration["temperature"]))
        sets = {name: _sets(probabilities, calibration["sets"][name]["thresholds"]) for name in COVERAGES}
    except (KeyError, TypeError, ValueError) as error:
        raise _misfit() from error
    return Calibrated(probabilities, sets["90"], sets["95"], ~(distance <= 1), distance)


def _misfit() -> UserError:
    return UserError("the checkpoint's calibration does not fit its model; train it again")


# ---- temperature ----------------------------------------------------------------------------------------


def _fit_temperature(logits: Floats, labels: npt.NDArray[np.int64]) -> float:
    """The temperature with the least log loss, by golden section over log T in [-3, 3].

    A weak prior, log T ~ N(0, 1), counts as much as one image: a handful of images that are all right
    would else ask for a temperature of 0.
    """

    def cost(log_t: float) -> float:
        own = np.take_along_axis(softmax(logits, math.exp(log_t)), labels[:, None], 1)
        return float(-np.log(np.maximum(own, 1e-300)).sum() + log_t**2 / 2)

    low, high, golden = -3.0, 3.0, (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    cost_left, cost_right = cost(left), cost(right)
    while high - low > 1e-5:
        if cost_left < cost_right:
            high, right, cost_right = right, left, cost_left
            left = high - golden * (high - low)
            cost_left = cost(left)
        else:
            low, left, cost_left = left, right, cost_right
            right = low + golden * (high - low)
            cost_right = cost(right)
    return math.exp((low + high) / 2)


# ---- prediction sets ------------------------------------------------------------------------------------


def _conformal_threshold(own: Floats, coverage: float) -> float | None:
    """The probability that at least `coverage` of new images of this kind reach; None if too few to say.

    Of n calibration images the k-th smallest, k = floor((n + 1)(1 - coverage)): exchangeability makes the
    coverage at least what is asked for, in the mean over calibration sets (Vovk; Angelopoulos & Bates 2023).
    """
    k = math.floor((len(own) + 1) * (1 - coverage) + 1e-9)
    return float(np.partition(own, k - 1)[k - 1]) if k >= 1 else None


def _fit_sets(probabilities: Floats, labels: npt.NDArray[np.int64], coverage: float) -> dict[str, Any]:
    own = np.take_along_axis(probabilities, labels[:, None], 1)[:, 0]
    of_all = _conformal_threshold(own, coverage)
    of_class = [_conformal_threshold(own[labels == c], coverage) for c in range(probabilities.shape[1])]
    return {
        "thresholds": [t if t is not None else (of_all or 0.0) for t in of_class],
        "shared": [c for c, t in enumerate(of_class) if t is None],
    }


def _sets(probabilities: Floats, thresholds: list[float]) -> Bools:
    """bool [N, C]; the most probable class is always a member, which can only raise the coverage."""
    if len(thresholds) != probabilities.shape[1]:
        raise ValueError("one threshold a class")
    sets: Bools = probabilities >= np.asarray(thresholds, np.float64)
    sets[np.arange(len(sets)), probabilities.argmax(1)] = True
    return sets


# ---- images unlike the training set ---------------------------------------------------------------------


def _fit_unlike(features: Floats, labels: npt.NDArray[np.int64]) -> dict[str, Any]:
    """A Gaussian a class around its mean, one covariance for all, and the distance that 98 % stay within.

    The distances that set the threshold are measured out of sample: each fold's by a fit to the others.
    """
    step = -(-len(labels) // MOST_IMAGES)
    features, labels = features[::step], labels[::step]
    fold = np.arange(len(labels)) % FOLDS
    unseen = [
        _distance(_fit_gaussians(features[fold != f], labels[fold != f]), features[fold == f])
        for f in range(FOLDS)
        if (fold != f).any()
    ]
    distances = np.sort(np.concatenate([*unseen, np.zeros(0)]))
    rank = min(math.ceil((len(distances) + 1) * LIKE_SHARE), len(distances))  # of fewer than 49, the largest
    threshold = float(distances[rank - 1]) if rank else math.inf
    return {**_fit_gaussians(features, labels), "threshold": max(threshold, 1e-12)}


def _unit(features: Floats) -> Floats:
    """Features at length one: the norm follows contrast, and hides what the direction shows (Mueller & Hein 2025)."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _fit_gaussians(features: Floats, labels: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Class means [K, D] and a covariance of `DIRECTIONS` own variances and one for the rest (probabilistic PCA)."""
    import torch  # a checkpoint holds tensors, not arrays

    units = _unit(features)
    centre = units.mean(0)
    means, residual = [], units.copy()
    for c in np.unique(labels):
        members = labels == c
        # One pseudo-image at the centre of all: a class of one image would lie upon itself.
        means.append((units[members].sum(0) + centre) / (members.sum() + 1))
        residual[members] -= means[-1]
    directions, variances = _principal(residual, min(DIRECTIONS, len(units) // 3, units.shape[1] // 2))
    spread = float(np.square(residual, dtype=np.float64).sum() / len(units))
    rest = max((spread - float(variances.sum())) / (units.shape[1] - len(variances)), 1e-12)
    return {
        "means": torch.from_numpy(np.stack(means).astype(np.float32)),
        "directions": torch.from_numpy(directions.astype(np.float32)),
        "variances": np.maximum(variances, rest).tolist(),
        "rest": rest,
    }


def _principal(rows: Floats, count: int) -> tuple[Floats, Floats]:
    """The `count` leading principal directions [count, D] and their variances, by subspace iteration."""
    if count == 0:
        return np.zeros((0, rows.shape[1]), np.float32), np.zeros(0)
    basis = np.random.Generator(np.random.Philox(0)).standard_normal((rows.shape[1], count + 8), np.float32)
    for _ in range(6):
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0]
    _, singular, turned = np.linalg.svd(rows @ basis, full_matrices=False)
    return (turned @ basis.T)[:count], (singular**2 / len(rows))[:count]


def _distance(gaussians: dict[str, Any], features: Floats) -> Doubles:
    """[N]: the squared Mahalanobis distance to the nearest class, a dimension."""
    means = np.asarray(gaussians["means"], np.float64)
    directions = np.asarray(gaussians["directions"], np.float64)
    precision = 1 / np.asarray(gaussians["variances"], np.float64)
    units = _unit(features.astype(np.float64))
    along = units @ directions.T
    nearest = np.full(len(units), np.inf)
    for mean in means:
        own = np.square(along - directions @ mean)
        rest = np.square(units - mean).sum(1) - own.sum(1)
        nearest = np.minimum(nearest, own @ precision + np.maximum(rest, 0) / gaussians["rest"])
    return nearest / units.shape[1]
