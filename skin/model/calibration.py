"""Calibration: probabilities that are right, prediction sets, and a flag for images unlike the training set.

All three are fitted once, on the validation split at the end of training, and kept in the checkpoint:

- One temperature divides the logits, so that "80 %" is right four times in five (Guo et al. 2017). A network that was
  trained under class weights, or by `--class-weights logits`, leans towards rare classes, which one temperature
  cannot undo. So a bias per class is added if that lowers the log loss of unseen validation images ("bias-corrected
  temperature", Alexandari et al. 2020).
- The decision rule says which class is the label. By "most probable" it is the class of the largest probability; no
  rule has a higher accuracy if the probabilities are right. By "balanced" it is the class whose probability is
  largest beside its mean over the validation images, and none has a higher mean sensitivity of the classes. Training
  chooses the rule that fits what `--monitor` picks the model by. The ranking of classes follows it.
- A prediction set holds the label, the most probable class, and every class whose probability reaches the threshold
  of that class. It holds the true class for 90 % (95 %) of the lesions *of each class*: split conformal prediction,
  one quantile per class. Classes with too few validation lesions for their own quantile form a group with a quantile
  of its own (Ding et al. 2023), and are named in `shared`. If these are too few even together, their thresholds are
  0: they are in every set.
- An image is unlike the training set if its traits lie further from the training images' than those of 98 % of
  validation images (skin/model/unlike.py).

Applying a calibration needs numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from skin.model.unlike import OfMembers, Training, Unlike, catch
from skin.model.unlike import distance as unlike_distance
from skin.model.unlike import fit as fit_unlike
from skin.utils.errors import UserError

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

COVERAGES = {"90": 0.90, "95": 0.95}
FOLDS = 5
RULES = MOST_PROBABLE, BALANCED = "most probable", "balanced"


class SetThresholds(TypedDict):
    """The prediction sets of one coverage."""

    thresholds: list[float]  # one per class; 0 is in every set
    shared: list[int]  # classes without a threshold of their own: they share a quantile, or their thresholds are 0


class Answers(TypedDict):
    """The network's answers for the validation images: evaluate.py chooses thresholds on them, folds pool them."""

    logits: Tensor  # float32 [N, C]
    labels: Tensor  # int64 [N]
    groups: Tensor  # int64 [N], the number of each image's lesion or patient
    distance: NotRequired[Tensor]  # float64 [N], from the training images; older files and ensembles lack it


class CrossValidation(TypedDict):
    """The mean log loss of validation images, each by a fit to the other folds; without biases, and with them."""

    temperature: float
    biases: float


class MetadataAlone(TypedDict):
    """The balanced accuracy in validation of metadata without pixels (see skin/evaluation/metadata_alone.py)."""

    balanced_accuracy: float
    low: float  # of its 95 % interval
    high: float
    model: float  # of the model, with both
    chance: float


class Calibration(TypedDict, total=False):
    """A calibration as `best.pt` holds it; empty if the run has no validation images, or is not at its end.

    Files from before there were biases have only `images`, `temperature`, `sets` and `unlike`.
    """

    images: int  # number of images it was fitted on
    temperature: float
    biases: list[float]  # one per class, added to logits / temperature; all 0 if the temperature alone was chosen
    cross_validation: CrossValidation  # by which that was chosen; missing if there were too few images
    decision: str  # one of `RULES`; missing is `MOST_PROBABLE`
    mean_probabilities: list[float]  # one per class: the mean over the validation images
    answers: Answers
    sets: dict[str, SetThresholds]  # by coverage: "90" and "95"
    unlike: Unlike | OfMembers
    metadata_alone: MetadataAlone  # of a model with metadata; an ensemble has none


@dataclass(frozen=True)
class Calibrated:
    """The calibrated answers of a model for N images and C classes."""

    probabilities: Doubles  # [N, C], rows add up to one
    sets: Bools  # [N, C]: the classes in the 90 % prediction set, never empty
    sets_95: Bools  # [N, C]
    unlike: Bools  # [N]: unlike the training set; the probabilities mean little
    distance: Doubles  # [N], from the training set; `unlike` is above 1
    scores: Doubles  # [N, C], of `scores`
    rule: str  # one of `RULES`

    @property
    def called(self) -> npt.NDArray[np.int64]:
        """The label of each image, int64 [N]."""
        classes: npt.NDArray[np.int64] = self.scores.argmax(1)
        return classes


def softmax(logits: npt.ArrayLike, temperature: float = 1.0, biases: npt.ArrayLike = 0.0) -> Doubles:
    """Return the probabilities [N, C], in float64, of logits [N, C] / temperature + biases [C]."""
    scaled = np.asarray(logits, np.float64) / temperature + np.asarray(biases, np.float64)
    exponentials: Doubles = np.exp(scaled - scaled.max(1, keepdims=True, initial=-np.inf))
    sums: Doubles = exponentials.sum(1, keepdims=True)
    return exponentials / sums


def fit(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    features: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    training: Training | None = None,
    stand_ins: Mapping[str, Floats] | None = None,
    rule: str = MOST_PROBABLE,
) -> Calibration:
    """Fit all three on images that the network was not trained on.

    Args:
        logits: float [N, C]. labels: int [N]. features: float [N, D], pooled, before the head; with `training`,
            the traits of all stages.
        groups: [N] of any type that sorts: the lesion or patient of each image; None if each is its own.
        training: images that the network was trained on: where they lie decides what is unlike them.
        stand_ins: traits of pictures that show no skin, by kind; how many are flagged is kept.
        rule: by which a label is chosen.

    Returns:
        The calibration for `apply`: numbers, lists and tensors, safe for `torch.load(weights_only=True)`. Empty if
        N is 0.
    """
    labels = np.asarray(labels, np.int64)
    if len(labels) == 0:
        return {}
    import torch  # a checkpoint holds tensors, not arrays

    features = np.asarray(features, np.float32)
    unlike = fit_unlike(features, labels, training)
    if stand_ins:
        unlike["caught"] = catch(unlike, stand_ins)
    fitted = fit_probabilities(logits, labels, groups, unlike, rule)
    fitted["answers"]["distance"] = torch.from_numpy(unlike_distance(unlike, features))
    return fitted


def fit_probabilities(
    logits: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike | None, unlike: Unlike | OfMembers,
    rule: str = MOST_PROBABLE,
) -> Calibration:  # fmt: skip
    """Fit the probabilities and the sets to go with a flag that is fitted already; see `fit`, N must be above 0."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    group = np.unique(np.arange(len(labels)) if groups is None else np.asarray(groups), return_inverse=True)[1]
    of_probabilities = _fit_probabilities(logits, labels, group)
    probabilities = probabilities_of(of_probabilities, logits)
    # One image of each class more, so that none is 0.
    mean = (probabilities.sum(0) + 1) / (len(labels) + logits.shape[1])
    fitted: Calibration = {
        "images": len(labels), **of_probabilities, "decision": rule, "mean_probabilities": mean.tolist(),
        "answers": _answers(logits, labels, group), "unlike": unlike,
    }  # fmt: skip
    called = scores(fitted, probabilities).argmax(1)
    sets = {name: _fit_sets(probabilities, labels, coverage, group, called) for name, coverage in COVERAGES.items()}
    # More classes share a threshold at 95 %, which may be above one's own at 90 %; the larger sets hold the smaller.
    sets["95"]["thresholds"] = list(map(min, sets["90"]["thresholds"], sets["95"]["thresholds"]))
    fitted["sets"] = sets
    return fitted


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
    logits, rule = np.asarray(logits, np.float64), rule_of(calibration)
    if not calibration:
        everything, probabilities = np.ones(logits.shape, bool), softmax(logits)
        return Calibrated(probabilities, everything, everything, ~(distance <= 1), distance, probabilities, rule)
    try:
        probabilities = probabilities_of(calibration, logits)
        ranks = scores(calibration, probabilities)
        called = ranks.argmax(1)
        sets = {name: _sets(probabilities, calibration["sets"][name]["thresholds"], called) for name in COVERAGES}
    except (KeyError, TypeError, ValueError) as error:
        raise _misfit() from error
    return Calibrated(probabilities, sets["90"], sets["95"], ~(distance <= 1), distance, ranks, rule)


def probabilities_of(calibration: Calibration, logits: npt.ArrayLike) -> Doubles:
    """Return the calibrated probabilities, float64 [N, C], of logits [N, C]; those of the network without one."""
    if not calibration:
        return softmax(logits)
    return softmax(logits, float(calibration["temperature"]), calibration.get("biases", 0.0))


def rule_of(calibration: Calibration) -> str:
    """Return the rule by which labels are chosen, one of `RULES`."""
    return calibration.get("decision", MOST_PROBABLE)


def divisors(calibration: Calibration, classes: int) -> Doubles:
    """Return what probabilities are divided by before the largest is the label, float64 [C]: 1, or their means."""
    if rule_of(calibration) == BALANCED:
        return np.asarray(calibration["mean_probabilities"], np.float64)
    return np.ones(classes)


def scores(calibration: Calibration, probabilities: Doubles) -> Doubles:
    """Return what ranks the classes, float64 [N, C]: the probabilities over `divisors`. The largest is the label."""
    return probabilities / divisors(calibration, probabilities.shape[1])


def balanced(calibration: Calibration, probabilities: Doubles) -> npt.NDArray[np.int64] | None:
    """Return the class of each image, int64 [N], by the rule "balanced"; None if the calibration lacks the means."""
    if "mean_probabilities" not in calibration:
        return None
    classes: npt.NDArray[np.int64] = (probabilities / np.asarray(calibration["mean_probabilities"])).argmax(1)
    return classes


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
    """Return the temperature with the least log loss; log T is in [-3, 3].

    A weak prior, log T ~ N(0, 1), counts as much as one image. Without it, a handful of images that are all
    predicted correctly would give a temperature of 0.
    """
    from scipy.optimize import minimize_scalar  # not needed to apply a calibration

    def cost(log_t: float) -> float:
        return float(_log_losses(softmax(logits, math.exp(log_t)), labels).sum() + log_t**2 / 2)

    found = minimize_scalar(cost, bounds=(-3.0, 3.0), method="bounded", options={"xatol": 1e-5})
    return math.exp(found.x)


# ---- prediction sets ------------------------------------------------------------------------------------


def groups_below(own: Floats, groups: npt.NDArray[Any], coverage: float) -> tuple[Floats, Floats, float]:
    """Return the scores in rising order, [N], how many groups are below each, [N], and how many may be.

    Each of the K groups counts as one, whatever its images: an image is 1/(images of its group). If groups are
    exchangeable, a new one reaches the highest score with no more than (K + 1)(1 - coverage) - 1 below it in a share
    of `coverage` or more, in the mean over calibration sets (Lee, Barber & Willett 2023; with one image per group,
    Vovk's). If fewer than 0 may be below, there are too few groups for any threshold.

    Args:
        own: [N], the score of the true class. groups: [N].
    """
    _, group_of_row, images = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(own, kind="stable")
    share = (1 / images)[group_of_row[order]]
    return own[order], np.cumsum(share) - share, round((len(images) + 1) * (1 - coverage) - 1, 9)


def _conformal_threshold(own: Floats, groups: npt.NDArray[Any], coverage: float) -> float | None:
    """Return the score that a share of `coverage` of new images like these reaches; None if the groups are too few.

    The number of groups that may be below is seldom whole, and rounding down is what makes the sets of few lesions
    too large. So the score is interpolated between the two next to it.
    """
    rising, below, allowed = groups_below(own, groups, coverage)
    return float(np.interp(allowed, below, rising)) if allowed >= 0 else None


def _fit_sets(
    probabilities: Floats, labels: npt.NDArray[np.int64], coverage: float, groups: npt.ArrayLike | None = None,
    called: npt.NDArray[np.int64] | None = None,
) -> SetThresholds:  # fmt: skip
    """Return a threshold for each class, or for the group of scarce classes.

    The label and the most probable class are in the set whatever the threshold, so an image of one of them reaches
    every threshold. No other class has more than a half, so no threshold is above that.

    Args:
        called: int [N], the labels; None are the most probable classes.
    """
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    right = probabilities.argmax(1) == labels
    if called is not None:
        right |= called == labels
    own = np.take_along_axis(probabilities, labels[:, None], 1)[:, 0]

    def threshold(rows: Bools, unit: Floats) -> float | None:
        scores = np.where(right, 0.5 / unit.min(), own / unit[labels])
        return _conformal_threshold(scores[rows], groups[rows], coverage)

    classes = range(probabilities.shape[1])
    of_class = [threshold(labels == c, np.ones(len(classes))) for c in classes]
    shared = [c for c in classes if of_class[c] is None]
    # Scarce classes differ in how probable they are at all; in units of their mean they are alike.
    unit = np.maximum(probabilities.mean(0), 1e-12)
    unit = np.where(np.isin(classes, shared), unit, 1.0)
    together = threshold(np.isin(labels, shared), unit) or 0.0
    return {
        "thresholds": [min(together * float(unit[c]) if t is None else t, 0.5) for c, t in enumerate(of_class)],
        "shared": shared,
    }


def _sets(probabilities: Floats, thresholds: list[float], called: npt.NDArray[np.int64]) -> Bools:
    """Return the sets, bool [N, C]. The label, int [N], and the most probable class are members: more is covered."""
    if len(thresholds) != probabilities.shape[1]:
        raise ValueError("not one threshold per class")
    sets: Bools = probabilities >= np.asarray(thresholds, np.float64)
    for always in (called, probabilities.argmax(1)):
        sets[np.arange(len(sets)), always] = True
    return sets
