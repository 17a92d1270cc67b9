"""Calibration: probabilities that are right, prediction sets, and a flag for images unlike the training set.

All three are fitted once, on the validation split at the end of training, and kept in the checkpoint:

- One temperature divides the logits, so that "80 %" is right four times in five (Guo et al. 2017). A network that was
  trained under class weights leans towards rare classes, which one temperature cannot undo. So a bias per class is
  added if that lowers the log loss of unseen validation images ("bias-corrected temperature", Alexandari et al.
  2020).
- The decision rule is "most probable": the label is the class of the largest probability, so label, ranking and
  prediction set never contradict each other. The rule "balanced" (see `balanced`) is for comparison in the report.
- A prediction set holds every class whose probability reaches the threshold of that class. It holds the true class
  for 90 % (95 %) of the images *of each class*: split conformal prediction, one quantile per class. A class with too
  few validation images for its own quantile takes that of all images (Ding et al. 2023), and is named in `shared`.
- An image is unlike the training set if its features lie further from every class than those of 98 % of unseen
  validation images (a Mahalanobis distance on features of unit length).

Applying a calibration needs numpy alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from skin.utils.errors import UserError

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

COVERAGES = {"90": 0.90, "95": 0.95}
DIRECTIONS = 32  # directions of the features' spread with a variance of their own; the rest share one
LIKE_SHARE = 0.98  # share of unseen validation images that are not flagged
FOLDS = 5
DECISION = "most probable"
MOST_IMAGES = 5000  # taken evenly from a larger set; enough to show where the features lie


class SetThresholds(TypedDict):
    """The prediction sets of one coverage."""

    thresholds: list[float]  # one per class
    shared: list[int]  # classes that have the threshold of all images


class Gaussians(TypedDict):
    """One Gaussian per class over features of unit length, all with the same covariance."""

    means: Tensor  # float32 [K, D], K the classes in the validation split
    directions: Tensor  # float32 [R, D], principal directions of the covariance
    variances: list[float]  # along each of them
    rest: float  # the variance in every other direction


class Unlike(Gaussians):
    """The place of the images' features, and the distance beyond which an image is unlike them."""

    threshold: float


class Answers(TypedDict):
    """The network's answers for the validation images, which evaluate.py chooses thresholds on."""

    logits: Tensor  # float32 [N, C]
    labels: Tensor  # int64 [N]
    groups: Tensor  # int64 [N], the number of each image's lesion or patient


class CrossValidation(TypedDict):
    """The mean log loss of validation images, each by a fit to the other folds; without biases, and with them."""

    temperature: float
    biases: float


class Calibration(TypedDict, total=False):
    """A calibration as `best.pt` holds it; empty if the run has no validation images, or is not at its end.

    Files from before there were biases have only `images`, `temperature`, `sets` and `unlike`.
    """

    images: int  # number of images it was fitted on
    temperature: float
    biases: list[float]  # one per class, added to logits / temperature; all 0 if the temperature alone was chosen
    cross_validation: CrossValidation  # by which that was chosen; missing if there were too few images
    decision: str  # `DECISION`
    mean_probabilities: list[float]  # one per class: the mean over the validation images
    answers: Answers
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


def softmax(logits: npt.ArrayLike, temperature: float = 1.0, biases: npt.ArrayLike = 0.0) -> Doubles:
    """Return the probabilities [N, C], in float64, of logits [N, C] / temperature + biases [C]."""
    scaled = np.asarray(logits, np.float64) / temperature + np.asarray(biases, np.float64)
    exponentials: Doubles = np.exp(scaled - scaled.max(1, keepdims=True, initial=-np.inf))
    return exponentials / exponentials.sum(1, keepdims=True)


def fit(
    logits: npt.ArrayLike, labels: npt.ArrayLike, features: npt.ArrayLike, groups: npt.ArrayLike | None = None
) -> Calibration:
    """Fit all three on images that the network was not trained on.

    Args:
        logits: float [N, C]. labels: int [N]. features: float [N, D], pooled, before the head.
        groups: [N] of any type that sorts: the lesion or patient of each image; None if each is its own.

    Returns:
        The calibration for `apply`: numbers, lists and tensors, safe for `torch.load(weights_only=True)`. Empty if
        N is 0.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    features = np.asarray(features, np.float32)
    if len(labels) == 0:
        return {}
    group = np.unique(np.arange(len(labels)) if groups is None else np.asarray(groups), return_inverse=True)[1]
    of_probabilities = _fit_probabilities(logits, labels, group)
    probabilities = probabilities_of(of_probabilities, logits)
    # One image of each class more, so that none is 0.
    mean = (probabilities.sum(0) + 1) / (len(labels) + logits.shape[1])
    return {
        "images": len(labels),
        **of_probabilities,
        "decision": DECISION,
        "mean_probabilities": mean.tolist(),
        "answers": _answers(logits, labels, group),
        "sets": {name: _fit_sets(probabilities, labels, coverage) for name, coverage in COVERAGES.items()},
        "unlike": _fit_unlike(features, labels),
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
        unlike = calibration["unlike"]
        distances: Doubles = _distance(unlike, features) / unlike["threshold"]
        return distances
    except (KeyError, TypeError, ValueError) as error:
        raise _misfit() from error


def calibrated(calibration: Calibration, logits: npt.ArrayLike, distance: Doubles) -> Calibrated:
    """Return the result of `apply` from known distances: the features of a large set need not be kept."""
    logits = np.asarray(logits, np.float64)
    if not calibration:
        everything = np.ones(logits.shape, bool)
        return Calibrated(softmax(logits), everything, everything, ~(distance <= 1), distance)
    try:
        probabilities = probabilities_of(calibration, logits)
        sets = {name: _sets(probabilities, calibration["sets"][name]["thresholds"]) for name in COVERAGES}
    except (KeyError, TypeError, ValueError) as error:
        raise _misfit() from error
    return Calibrated(probabilities, sets["90"], sets["95"], ~(distance <= 1), distance)


def probabilities_of(calibration: Calibration, logits: npt.ArrayLike) -> Doubles:
    """Return the calibrated probabilities, float64 [N, C], of logits [N, C]; those of the network without one."""
    if not calibration:
        return softmax(logits)
    return softmax(logits, float(calibration["temperature"]), calibration.get("biases", 0.0))


def balanced(calibration: Calibration, probabilities: Doubles) -> npt.NDArray[np.int64] | None:
    """Return the class of each image, int64 [N], by the rule "balanced".

    It is the class whose probability [N, C] is largest beside its mean over the validation images. If these
    are right, no rule has a higher mean sensitivity of the classes, and `DECISION` none a higher accuracy.

    Returns:
        None if the calibration does not hold the means.
    """
    if "mean_probabilities" not in calibration:
        return None
    return (probabilities / np.asarray(calibration["mean_probabilities"])).argmax(1)


def _answers(logits: Floats, labels: npt.NDArray[np.int64], group: npt.NDArray[np.int64]) -> Answers:
    import torch  # a checkpoint holds tensors, not arrays

    return {
        "logits": torch.from_numpy(logits.astype(np.float32)),
        "labels": torch.from_numpy(labels),
        "groups": torch.from_numpy(group.astype(np.int64)),
    }


def _misfit() -> UserError:
    return UserError("the checkpoint's calibration does not fit its model; train it again")


# ---- temperature and biases -----------------------------------------------------------------------------


def _fit_probabilities(
    logits: Floats, labels: npt.NDArray[np.int64], group: npt.NDArray[np.int64]
) -> Calibration:
    """Choose between temperature alone and temperature with biases, by cross-validation over groups.

    Biases are taken if they lower the log loss of unseen images by more than two standard errors, so that chance
    alone does not choose C more numbers, and the result is no worse than the temperature's.
    """
    number_of_groups = int(group.max()) + 1
    none = [0.0] * logits.shape[1]
    temperature = _fit_temperature(logits, labels)
    if number_of_groups < 2 * FOLDS:
        return {"temperature": temperature, "biases": none}
    fold = np.random.Generator(np.random.Philox(0)).permutation(number_of_groups)[group] % FOLDS
    losses = np.empty((2, len(labels)))
    for f in range(FOLDS):
        rest, held_out = fold != f, fold == f
        fits = (_fit_temperature(logits[rest], labels[rest]), 0.0), _fit_biases(logits[rest], labels[rest])
        losses[:, held_out] = [_log_losses(softmax(logits[held_out], *fit), labels[held_out]) for fit in fits]
    gain = np.bincount(group, losses[0] - losses[1])
    found: Calibration = {
        "temperature": temperature,
        "biases": none,
        "cross_validation": {"temperature": float(losses[0].mean()), "biases": float(losses[1].mean())},
    }
    if gain.mean() > 2 * gain.std() / math.sqrt(number_of_groups):
        found["temperature"], biases = _fit_biases(logits, labels)
        found["biases"] = biases.tolist()
    return found


def _log_losses(probabilities: Doubles, labels: npt.NDArray[np.int64]) -> Doubles:
    """Return -log of the probability of each image's class, [N]."""
    losses: Doubles = -np.log(np.maximum(np.take_along_axis(probabilities, labels[:, None], 1)[:, 0], 1e-300))
    return losses


def _fit_biases(logits: Floats, labels: npt.NDArray[np.int64]) -> tuple[float, Doubles]:
    """Return the temperature and the biases [C] with the least log loss.

    Weak priors, log T ~ N(0, 1) and each bias ~ N(0, 1), count as much as one image each. Without them a class
    that no image has would get a bias of minus infinity.
    """
    from scipy.optimize import minimize  # not needed to apply a calibration

    centred = logits - logits.mean(1, keepdims=True)
    own = np.zeros(logits.shape)
    own[np.arange(len(labels)), labels] = 1

    def cost(parameters: Doubles) -> tuple[float, Doubles]:
        log_t, biases = parameters[0], parameters[1:]
        probabilities = softmax(centred, math.exp(log_t), biases)
        excess = probabilities - own
        slope = np.append(log_t - (excess * centred).sum() / math.exp(log_t), biases + excess.sum(0))
        return float(_log_losses(probabilities, labels).sum() + (parameters**2).sum() / 2), slope

    bounds = [(-3.0, 3.0), *[(None, None)] * logits.shape[1]]
    found = minimize(cost, np.zeros(1 + logits.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds)
    return math.exp(found.x[0]), found.x[1:]


def _fit_temperature(logits: Floats, labels: npt.NDArray[np.int64]) -> float:
    """Return the temperature with the least log loss, by golden-section search over log T in [-3, 3].

    A weak prior, log T ~ N(0, 1), counts as much as one image. Without it, a handful of images that are all
    predicted correctly would give a temperature of 0.
    """

    def cost(log_t: float) -> float:
        return float(_log_losses(softmax(logits, math.exp(log_t)), labels).sum() + log_t**2 / 2)

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


# ---- images unlike the training set ---------------------------------------------------------------------


def _fit_unlike(features: Floats, labels: npt.NDArray[np.int64]) -> Unlike:
    """Fit one Gaussian per class, with one covariance for all, and the distance that 98 % of images stay within.

    The distances behind the threshold are measured out of sample: those of a fold by a fit to the other folds.
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
    """Scale features to length one: the norm follows contrast, and hides the direction (Mueller & Hein 2025)."""
    units: Floats = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return units


def _fit_gaussians(features: Floats, labels: npt.NDArray[np.int64]) -> Gaussians:
    """Fit class means and a covariance with `DIRECTIONS` variances and one for the rest (probabilistic PCA)."""
    import torch  # a checkpoint holds tensors, not arrays

    units = _unit(features)
    centre = units.mean(0)
    means, residual = [], units.copy()
    for c in np.unique(labels):
        members = labels == c
        # One pseudo-image at the centre of all: otherwise the mean of a class of one image would be that image.
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
    """Return the `count` leading principal directions [count, D] and their variances, by subspace iteration."""
    if count == 0:
        return np.zeros((0, rows.shape[1]), np.float32), np.zeros(0)
    basis = np.random.Generator(np.random.Philox(0)).standard_normal((rows.shape[1], count + 8), np.float32)
    for _ in range(6):
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0]
    _, singular, turned = np.linalg.svd(rows @ basis, full_matrices=False)
    return (turned @ basis.T)[:count], (singular**2 / len(rows))[:count]


def _distance(gaussians: Gaussians, features: Floats) -> Doubles:
    """Return the squared Mahalanobis distance to the nearest class, per dimension, [N]."""
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
    per_dimension: Doubles = nearest / units.shape[1]
    return per_dimension
