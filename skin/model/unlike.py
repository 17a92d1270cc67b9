"""A flag for images unlike those that the network was trained on.

A network that has learned to tell lesions apart has learned to look past all else: behind its last stage a page of
text may lie where a melanoma lies. Its early stages still know what a picture is made of. So an image is described by
its traits, the means of the feature maps behind every stage (`Classifier.answers`), and each stage has its own
distance from the training images:

- of all but the last, the Mahalanobis distance of standardised traits, with their correlations halved. The shrinkage
  makes small differences of many traits at once, such as a camera's noise, count less.
- of the last, the Mahalanobis distance to the nearest class, on pooled features of unit length.

The logarithm of each is compared with its mean and standard deviation over validation images; the largest counts
(Lee et al. 2018 sum them up). An image is flagged beyond the distance that 98 % of validation images stay within.

On HAM10000 (B0, 128 px, one epoch) it flags 2.2 % of the test split; all noise, text and negatives; 0.95 of flat
colours, 0.80 of flat greys; 0.96 of 24 everyday photographs and of 144 parts of them, and two scanned pages. The
distance of the pooled features alone, fitted on the validation split, had flagged 0.50 of the photographs. Of test
images as by another camera it flags 2 to 3 % if they are blurred, warmer, darker, vignetted or encoded at quality 40,
but 13 % of those 15 % brighter and 79 % under strong noise (a standard deviation of 8). It cannot tell a flat patch
of skin's own colour (0.08).

Applying it needs numpy alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict, final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DIRECTIONS = 32  # directions of the pooled features' spread with a variance of their own; the rest share one
SHRINKAGE = 0.5  # of the correlations of traits towards none
LIKE_SHARE = 0.98  # share of unseen validation images that are not flagged
FOLDS = 5
MOST_IMAGES = 1500  # taken evenly from a larger set; enough to show where the features lie
WEAK = 0.5  # a kind of which a smaller share is flagged passes for the most part
_LEAST_SPREAD = 0.01
_ROUNDING = 2**-8  # of bfloat16, as a share of a number
_DULL = 1e30  # the spread of a stage that tells nothing: no distance is large beside it


class Gaussians(TypedDict):
    """One Gaussian per class over features of unit length, all with the same covariance."""

    means: Tensor  # float32 [K, D], K the classes among the images
    directions: Tensor  # float32 [R, D], principal directions of the covariance
    variances: list[float]  # along each of them
    rest: float  # the variance in every other direction


class Stage(TypedDict):
    """One Gaussian over the traits of a stage: their distance is the mean square of (traits - mean) @ whitening."""

    mean: Tensor  # float32 [W]
    whitening: Tensor  # float32 [W, W]


class Caught(TypedDict):
    """The pictures of a kind that show no skin, and the share of them that is flagged."""

    images: int
    flagged: float


@final
class Unlike(Gaussians):
    """The place of the images' traits, and the distance beyond which an image is unlike them.

    Checkpoints of earlier versions have neither `stages` nor `scales`.
    """

    threshold: float
    stages: NotRequired[list[Stage]]
    scales: NotRequired[list[list[float]]]  # mean and standard deviation of log distances, by stage, the last's last
    caught: NotRequired[dict[str, Caught]]  # by kind of picture


@final
class OfMembers(TypedDict):
    """The flag of an ensemble, whose one trait is the mean of the logarithms of its members' distances.

    Each has its own measure, of which 1 is the limit. Any of the members alone would flag more: of two that agree on
    nothing, 4 % of the validation images. The mean flags less, if its limit is that of the members.
    """

    threshold: float  # as distances are: 1 is the mean of the members' own limits
    caught: NotRequired[dict[str, Caught]]


class Training(NamedTuple):
    """Images that the network was trained on: traits float32 [N, T], labels int [N], maps of each stage but the last.

    The pooled features, the traits of the last stage, are the other columns.
    """

    traits: Floats
    labels: Ints
    widths: Sequence[int]


def fit(traits: Floats, labels: Ints, training: Training | None = None) -> Unlike:
    """Fit the Gaussians on training images, and the distance on others.

    Args:
        traits, labels: of N > 0 validation images.
        training: without it, the Gaussians are those of the validation images themselves, all columns are pooled
            features, and the distances behind the threshold are those of a fold by a fit to the other folds.
    """
    if training is None:
        step = -(-len(labels) // MOST_IMAGES)
        traits, labels = traits[::step], labels[::step]
        fold = np.arange(len(labels)) % FOLDS
        unseen = [
            _log_distances(_fit_place(traits[fold != f], labels[fold != f], ()), traits[fold == f])
            for f in range(FOLDS)
            if (fold != f).any() and (fold == f).any()
        ]
        place, logs = _fit_place(traits, labels, ()), np.concatenate([*unseen, np.zeros((0, 1))])
    else:
        place = _fit_place(training.traits, training.labels, training.widths)
        logs = _log_distances(place, traits)
    centre = logs.mean(0) if len(logs) else np.zeros(logs.shape[1])
    spread = np.maximum(logs.std(0), _LEAST_SPREAD) if len(logs) else np.ones(logs.shape[1])
    known = (traits, ()) if training is None else (training.traits, training.widths)
    spread[_are_dull(*known)] = _DULL
    place["scales"] = np.stack([centre, spread], 1).tolist()
    place["threshold"] = _limit(((logs - centre) / spread).max(1))
    return place


def fit_of_members(log_distances: Floats | None) -> OfMembers:
    """Fit the flag of an ensemble on images that none of its members has seen.

    Args:
        log_distances: [N], their trait; None if it is not known: the threshold is then the members' own.
    """
    known = log_distances is not None and len(log_distances) > 0 and bool(np.isfinite(log_distances).all())
    return {"threshold": _limit(np.asarray(log_distances, np.float64)) if known else 1.0}


def _limit(scores: Doubles) -> float:
    """Return the distance that `LIKE_SHARE` of images with these logarithms of it, [N], stay within."""
    rank = min(math.ceil((len(scores) + 1) * LIKE_SHARE), len(scores))  # of fewer than 49, the largest
    return math.exp(np.sort(scores)[rank - 1]) if rank else math.inf


def distance(unlike: Unlike | OfMembers, traits: Floats) -> Doubles:
    """Return the distance from the training images of images with these traits [N, T], float64 [N]; 1 is the limit.

    Traits may begin with those of stages that a checkpoint of an earlier version does not know.

    Raises:
        KeyError, TypeError, ValueError: the traits are of another network.
    """
    if "means" in unlike:
        scales = np.asarray(unlike.get("scales", [[0.0, 1.0]]), np.float64)
        scores = ((_log_distances(unlike, traits) - scales[:, 0]) / scales[:, 1]).max(1)
    else:
        scores = traits[:, -1].astype(np.float64)
    with np.errstate(over="ignore"):
        distances: Doubles = np.exp(scores - np.log(unlike["threshold"]))
    return distances


def catch(unlike: Unlike, stand_ins: Mapping[str, Floats]) -> dict[str, Caught]:
    """Return the share that is flagged of pictures that show no skin, from their traits [N, T], by kind."""
    return {
        kind: {"images": len(traits), "flagged": float((~(distance(unlike, traits) <= 1)).mean())}
        for kind, traits in stand_ins.items()
    }


def passing(unlike: Unlike | OfMembers) -> list[str]:
    """Return the kinds of pictures without skin that pass for the most part; empty if that was not measured."""
    return [kind for kind, caught in unlike.get("caught", {}).items() if caught["flagged"] < WEAK]


# ---- where the images lie -------------------------------------------------------------------------------


def _fit_place(traits: Floats, labels: Ints, widths: Sequence[int]) -> Unlike:
    """Fit a Gaussian to each stage; the threshold is still to come."""
    ends = np.cumsum([0, *widths])
    stages = [_fit_stage(traits[:, a:b]) for a, b in itertools.pairwise(ends)]
    return {**_fit_gaussians(traits[:, ends[-1] :], labels), "stages": stages, "threshold": math.inf}


def _log_distances(unlike: Unlike, traits: Floats) -> Doubles:
    """Return the logarithms of the distances by stage, [N, S], the last stage's last."""
    stages = unlike.get("stages", [])
    sizes = [len(stage["mean"]) for stage in stages]
    features = traits[:, traits.shape[1] - unlike["means"].shape[1] :]
    first = traits.shape[1] - features.shape[1] - sum(sizes)
    if first < 0:
        raise ValueError("too few traits")
    distances = []
    for stage, size in zip(stages, sizes, strict=True):
        apart = traits[:, first : first + size] - np.asarray(stage["mean"], np.float64)
        distances.append(np.square(apart @ np.asarray(stage["whitening"], np.float64)).mean(1))
        first += size
    logs: Doubles = np.log(np.maximum(np.stack([*distances, _distance(unlike, features)], 1), 1e-12))
    return logs


def _are_dull(traits: Floats, widths: Sequence[int]) -> Bools:
    """Return which stages, [S], have much the same traits for all images: the network has not learned to see there.

    What is left between two images is the arithmetic's rounding, which differs from one way of computing to another.
    """
    apart = traits.std(0, dtype=np.float64) < _ROUNDING * np.abs(traits.mean(0, dtype=np.float64))
    ends = [*np.cumsum([0, *widths]), traits.shape[1]]
    return np.array([apart[a:b].mean() > 0.5 for a, b in itertools.pairwise(ends)])


def _fit_stage(traits: Floats) -> Stage:
    """Fit a Gaussian whose covariance has the traits' variances and a share of their correlations."""
    import torch  # a checkpoint holds tensors, not arrays

    mean, deviation = traits.mean(0, dtype=np.float64), traits.std(0, dtype=np.float64)
    deviation = np.maximum(deviation, 1e-3 * deviation.max() + 1e-12)  # a map that is always empty tells something
    deviation = np.maximum(deviation, _ROUNDING * np.abs(mean))  # and one that is always the same, nothing
    units = (traits - mean) / deviation
    covariance = (1 - SHRINKAGE) * units.T @ units / len(units) + SHRINKAGE * np.eye(len(mean))
    values, vectors = np.linalg.eigh(covariance)
    whitening = vectors / np.sqrt(values) / deviation[:, None]
    return {
        "mean": torch.from_numpy(mean.astype(np.float32)),
        "whitening": torch.from_numpy(whitening.astype(np.float32)),
    }


def _unit(features: Floats) -> Floats:
    """Scale features to length one: the norm follows contrast, and hides the direction (Mueller & Hein 2025)."""
    units: Floats = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return units


def _fit_gaussians(features: Floats, labels: Ints) -> Gaussians:
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
