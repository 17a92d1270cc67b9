"""Calibration: temperature, prediction sets, and a flag for images unlike the training set.

All three are fitted once, on the validation split at the end of training, and kept in the checkpoint:

- One temperature divides the logits, so that "80 %" is right four times in five (Guo et al. 2017).
- A prediction set holds every class whose probability reaches the threshold of that class. It holds the true class
  for 90 % (95 %) of the images *of each class*: split conformal prediction, one quantile per class. A class with too
  few validation images for its own quantile takes that of all images (Ding et al. 2023), and is named in `shared`.
- An image is unlike the training set if its traits lie further from the training images' than those of 98 % of
  validation images (skin/model/unlike.py).

Applying a calibration needs numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from skin.model.unlike import Training, Unlike, catch
from skin.model.unlike import distance as unlike_distance
from skin.model.unlike import fit as fit_unlike
from skin.utils.errors import UserError

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

COVERAGES = {"90": 0.90, "95": 0.95}


class SetThresholds(TypedDict):
    """The prediction sets of one coverage."""

    thresholds: list[float]  # one per class
    shared: list[int]  # classes that have the threshold of all images


class Calibration(TypedDict, total=False):
    """A calibration as `best.pt` holds it; empty if the run has no validation images, or is not at its end."""

    images: int  # number of images it was fitted on
    temperature: float
    sets: dict[str, SetThresholds]  # by coverage: "90" and "95"
    unlike: Unlike


@dataclass(frozen=True)
class Calibrated:
    """The calibrated answers of a model for N images and C classes."""

    probabilities: Doubles  # [N, C], rows add up to one
    sets: Bools  # [N, C]: the classes in the 90 % prediction set, never empty
    sets_95: Bools  # [N, C]
    unlike: Bools  # [N]: unlike the training set; the probabilities mean little
    distance: Doubles  # [N], from the training set; `unlike` is above 1


def softmax(logits: npt.ArrayLike, temperature: float = 1.0) -> Doubles:
    """Return the probabilities [N, C], in float64, of logits [N, C]."""
    scaled = np.asarray(logits, np.float64) / temperature
    exponentials: Doubles = np.exp(scaled - scaled.max(1, keepdims=True, initial=-np.inf))
    return exponentials / exponentials.sum(1, keepdims=True)


def fit(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    features: npt.ArrayLike,
    training: Training | None = None,
    stand_ins: Mapping[str, Floats] | None = None,
) -> Calibration:
    """Fit all three on images that the network was not trained on.

    Args:
        logits: float [N, C]. labels: int [N]. features: float [N, D], pooled, before the head; with `training`,
            the traits of all stages.
        training: images that the network was trained on: where they lie decides what is unlike them.
        stand_ins: traits of pictures that show no skin, by kind; how many are flagged is kept.

    Returns:
        The calibration for `apply`: numbers, lists and tensors, safe for `torch.load(weights_only=True)`. Empty if
        N is 0.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    features = np.asarray(features, np.float32)
    if len(labels) == 0:
        return {}
    temperature = _fit_temperature(logits, labels)
    probabilities = softmax(logits, temperature)
    unlike = fit_unlike(features, labels, training)
    return {
        "images": len(labels),
        "temperature": temperature,
        "sets": {name: _fit_sets(probabilities, labels, coverage) for name, coverage in COVERAGES.items()},
        "unlike": {**unlike, "caught": catch(unlike, stand_ins)} if stand_ins else unlike,
    }


def apply(calibration: Calibration, logits: npt.ArrayLike, features: npt.ArrayLike) -> Calibrated:
    """Return calibrated probabilities, prediction sets and flags.

    An empty calibration leaves the probabilities as they are, puts every class into every set and flags nothing.

    Raises:
        UserError: the calibration is damaged or belongs to another model.
    """
    return calibrated(calibration, logits, distance(calibration, features))


def distance(calibration: Calibration, features: npt.ArrayLike) -> Doubles:
    """Return the distance of each of `features` [N, D] from the training images, float64 [N]; above 1 is flagged."""
    features = np.asarray(features, np.float32)
    if not calibration:
        return np.zeros(len(features))
    try:
        return unlike_distance(calibration["unlike"], features)
    except (KeyError, TypeError, ValueError) as error:
        raise _misfit() from error


def calibrated(calibration: Calibration, logits: npt.ArrayLike, distance: Doubles) -> Calibrated:
    """Return the result of `apply` from known distances: the features of a large set need not be kept."""
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
    """Return the temperature with the least log loss, by golden-section search over log T in [-3, 3].

    A weak prior, log T ~ N(0, 1), counts as much as one image. Without it, a handful of images that are all
    predicted correctly would give a temperature of 0.
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
    """Return the probability that at least `coverage` of new images like these reach; None if these are too few.

    It is the k-th smallest of n images, k = floor((n + 1)(1 - coverage)). If images are exchangeable, the mean
    coverage over calibration sets is at least `coverage` (Vovk; Angelopoulos & Bates 2023).
    """
    k = math.floor((len(own) + 1) * (1 - coverage) + 1e-9)
    return float(np.partition(own, k - 1)[k - 1]) if k >= 1 else None


def _fit_sets(probabilities: Floats, labels: npt.NDArray[np.int64], coverage: float) -> SetThresholds:
    own = np.take_along_axis(probabilities, labels[:, None], 1)[:, 0]
    of_all = _conformal_threshold(own, coverage)
    of_class = [_conformal_threshold(own[labels == c], coverage) for c in range(probabilities.shape[1])]
    return {
        "thresholds": [t if t is not None else (of_all or 0.0) for t in of_class],
        "shared": [c for c, t in enumerate(of_class) if t is None],
    }


def _sets(probabilities: Floats, thresholds: list[float]) -> Bools:
    """Return the sets, bool [N, C]. The most probable class is always a member, which can only raise the coverage."""
    if len(thresholds) != probabilities.shape[1]:
        raise ValueError("not one threshold per class")
    sets: Bools = probabilities >= np.asarray(thresholds, np.float64)
    sets[np.arange(len(sets)), probabilities.argmax(1)] = True
    return sets
