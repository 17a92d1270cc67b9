"""How far a figure can be trusted: 95 % intervals from a bootstrap that resamples lesions or patients.

Two pictures of one lesion say less than pictures of two lesions, so a round of the bootstrap draws whole
groups with replacement. A round is then no copy of the rows but a whole number of times that each group
was drawn, and every figure is a function of those weights:

- what adds up over images (the confusion matrix, log loss, Brier score, top-k hits, the gap of each
  confidence bin) was added up over each group beforehand: one sparse matrix product gives a batch of rounds;
- what ranks images (AUROC, average precision, sensitivity at a specificity) sorts each class's scores once;
  a round is a running sum, along the class's own images, of how many others were drawn between them.

A class of three lesions is drawn from these three, so its rounds alone say too little of what others would be. What
is a mean over a class's groups takes Wilson's interval, with the variance of the rounds and some of a share's
(`_worth`); what is a mean over classes, the intervals of the classes (`Figures._macro`).

So 1,000 rounds over 400,000 images take seconds, and memory for a few rounds at a time. Drawing is a good part
of the work, so a `Resampler` draws once for everything that it was asked before the first answer is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from skin.evaluation import metrics
from skin.evaluation.metrics import Array, Floats
from skin.utils.hardware import usable_cores

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.special import ndtr, ndtri, stdtrit

ROUNDS = 1000
LEVEL = 0.95
BATCH_ELEMENTS = 2**19  # rounds x images in one batch: what stays in a core's cache
LEAST_BATCH = 8  # rounds; the weights of a group lie side by side, and as many come in one cache line
Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution

# Shares of images or of groups of images. Near 0 or 1, or of a handful of images, percentiles of the rounds
# make too short an interval (of 3 of 3 they make none), so these take Wilson's.
PROPORTIONS = {
    "accuracy", "top_2_accuracy", "top_3_accuracy", "sensitivity", "specificity", "ppv", "npv", "rate",
}  # fmt: skip
# What ranks images, and F1, of one class: a mean over its groups of numbers between 0 and 1, whose few values say
# little of their variance. The most that such numbers vary is as a share does, one image a group. An AUROC's vary
# half as much: its variance over the positives is A (1 - A) times A / (1 + A) (Hanley and McNeil 1982).
GROUPS_WORTH = {"auc": 2.0, "average_precision": 1.0, "f1": 1.0, **dict.fromkeys(metrics.SPECIFICITIES, 1.0)}
# Means over the classes that the set has, and of what.
MACRO = {
    "balanced_accuracy": "sensitivity", "macro_f1": "f1", "macro_auc": "auc",
    "macro_average_precision": "average_precision",
}  # fmt: skip
# A mean of absolute gaps is too large on a sample, and larger again on a resample. Its interval reaches down
# as far as the rounds reach up (the basic bootstrap), and up as far as they do without what resampling added.
BIASED_UPWARDS = {"expected_calibration_error"}


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; nan where the set cannot give it."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "not available"
        if np.isnan(self.low) or np.isnan(self.high):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f})"


class Size(NamedTuple):
    """What a share rests on."""

    images: int
    groups: int


@dataclass
class Asked:
    """What the rounds of a bootstrap are asked for, and, once they were drawn, what they said."""

    figures: Callable[[Array], dict[str, Floats]]  # of the weights [G, B] of a batch; each value is [B, ...]
    rounds: dict[str, Floats] = field(default_factory=dict)  # each [rounds, ...]


class Resampler:
    """Which group each image belongs to, and how often each round draws each group."""

    def __init__(self, groups: Array, rounds: int = ROUNDS, seed: int = 0, stream: int = 0) -> None:
        """Rounds of two streams (0 .. 2**32 - 1) of one seed are drawn independently.

        Args:
            groups: [N] of any type that sorts: a lesion, a patient, or the image itself.
            seed: 0 .. 2**64 - 1.
        """
        names, group_of_row = np.unique(groups, return_inverse=True)
        self.group_of_row = group_of_row.astype(np.int32)
        self.num_groups, self.num_rows = len(names), len(group_of_row)
        self.rounds, self.seed, self.first_key = rounds, seed, stream << 32
        self._by_group = np.argsort(self.group_of_row, kind="stable")
        self._waiting: list[Asked] = []

    def weights(self, first: int, last: int) -> npt.NDArray[np.int32]:
        """[G, last - first]: times that rounds first .. last - 1 draw each group; each column adds up to G."""
        out = np.empty((self.num_groups, last - first), np.int32)
        for column, number in enumerate(range(first, last)):
            key = np.array([self.seed, self.first_key + number], np.uint64)
            draw = np.random.Generator(np.random.Philox(key=key))
            picked = draw.integers(0, self.num_groups, self.num_groups, dtype=np.int32)
            out[:, column] = np.bincount(picked, minlength=self.num_groups)
        return out

    def ask(self, figures: Callable[[Array], dict[str, Floats]]) -> Callable[[], dict[str, Floats]]:
        """Have `figures` of every round: a function that gives them, each [rounds, ...].

        Nothing is drawn before the first such function is called, and then for all that was asked by then.

        Args:
            figures: from the weights int32 [G, B] of a batch of rounds to named arrays [B, ...].
        """
        asked = Asked(figures)
        self._waiting.append(asked)

        def answer() -> dict[str, Floats]:
            if not asked.rounds:
                self._run()
            return asked.rounds

        return answer

    def _run(self) -> None:
        waiting, self._waiting = self._waiting, []
        size = max(LEAST_BATCH, BATCH_ELEMENTS // max(self.num_rows, 1))

        def batch(first: int) -> list[dict[str, Floats]]:
            weights = self.weights(first, min(first + size, self.rounds))
            return [asked.figures(weights) for asked in waiting]

        with ThreadPoolExecutor(min(4, usable_cores())) as pool:  # numpy lets go of the interpreter
            batches = list(pool.map(batch, range(0, self.rounds, size)))
        for asked, of_batches in zip(waiting, zip(*batches, strict=True), strict=True):
            asked.rounds = {name: np.concatenate([b[name] for b in of_batches]) for name in of_batches[0]}

    def size(self, rows: Array) -> Size:
        """How many images and groups stand behind `rows`, a mask [N]."""
        there = np.zeros(self.num_groups, bool)
        there[self.group_of_row[rows]] = True
        return Size(int(rows.sum()), int(there.sum()))

    def sums(self, columns: list[tuple[Array | int, Array | float]], size: int) -> sparse.csr_array:
        """[size, G]: for each (place, value), both [N] or one for all, the value added up over each group."""
        shape, order = (self.num_rows,), self._by_group  # in which the rows of the matrix need no sorting
        places = [np.broadcast_to(np.asarray(place, np.int32), shape)[order] for place, _ in columns]
        values = [np.broadcast_to(np.asarray(value, np.float64), shape)[order] for _, value in columns]
        where = (np.concatenate(places), np.tile(self.group_of_row[order], len(columns)))
        sums = sparse.coo_array((np.concatenate(values), where), shape=(size, self.num_groups)).tocsr()
        sums.eliminate_zeros()
        return sums


class _Ranking:
    """One class's images in the order of its score, sorted once: what AUROC and its like are made of.

    Images of equal score are on one level. Of L levels only the K that hold positives matter: a negative
    stands on one of these (`level`), or above, between or below them (`between`), and how many of either are
    drawn is a sparse matrix product with the weights of the groups.
    """

    def __init__(self, positives: Array, scores: Array, resampler: Resampler) -> None:
        order = np.argsort(-scores, kind="stable")
        positive, ranked, group = positives[order], scores[order], resampler.group_of_row[order]
        starts = np.ones(len(order), bool)
        starts[1:] = ranked[1:] != ranked[:-1]
        level = np.cumsum(starts) - 1
        holds = np.bincount(level[positive], minlength=int(starts.sum())) > 0
        count, place = int(holds.sum()), np.cumsum(holds)[level]  # [N]: of the K levels, those down to this one
        tied = ~positive & holds[level]
        between = ~positive & ~tied

        def drawn(which: Array, places: Array, size: int) -> sparse.csr_array:
            ends = np.cumsum(np.bincount(places[which], minlength=size))
            entries = np.ones(int(which.sum()), np.int32), group[which], np.r_[0, ends].astype(np.int32)
            return sparse.csr_array(entries, shape=(size, resampler.num_groups))

        self.positives = drawn(positive, place - 1, count)  # [K, G]
        self.level = drawn(tied, place - 1, count)  # [K, G]
        self.between = drawn(between, place, count + 1)  # [K + 1, G], the last below all

    def figures(self, weights: Array) -> dict[str, Floats]:
        """AUROC, average precision and sensitivities, each [B], for group weights [G, B]."""
        own, tied = (self.positives @ weights).T, (self.level @ weights).T
        hits, reached = _running(own), _running((self.between @ weights).T)
        positives, negatives = own.sum(1), reached[:, -1] + tied.sum(1)
        above = reached[:, :-1]
        passed = above  # [B, K]: the negatives with a score as high
        if self.level.nnz:
            passed = above + _running(tied)
            above = passed - tied
        own = np.ascontiguousarray(own, np.float64)
        outranked = positives * negatives - (own * (above + passed)).sum(1) / 2
        precision = (own * (hits / np.maximum(hits + passed, 1))).sum(1)
        figures = {
            "auc": metrics.ratio(outranked, positives * negatives),
            "average_precision": metrics.ratio(precision, positives),
        }
        for name, specificity in metrics.SPECIFICITIES.items():
            # False positives only grow along the order, so the thresholds that are allowed come first.
            most = (1 - specificity + 1e-12) * negatives
            allowed = [int(np.searchsorted(row, limit, "right")) for row, limit in zip(passed, most, strict=True)]
            found = [row[last - 1] if last else 0 for row, last in zip(hits, allowed, strict=True)]
            figures[name] = np.where(negatives > 0, metrics.ratio(found, positives), np.nan)
        return figures


def _running(drawn: Array) -> npt.NDArray[np.int32]:
    """[B, n] to [B, n]: the sum of the first 1, 2, .. n columns."""
    return np.cumsum(drawn, axis=1, dtype=np.int32, out=np.empty(drawn.shape, np.int32))


class Figures:
    """Every figure of one set, with the bootstrap's rounds of each.

    Attributes:
        values: name -> [] or [C], as `metrics.additive_figures` and `metrics.ranking_figures` give them.
        rounds: name -> [rounds] or [rounds, C]; they are drawn when first asked for.
        confusion: int [C, C].
    """

    def __init__(self, labels: Array, probabilities: Array, resampler: Resampler, ranked: bool = True) -> None:
        """`labels` int [N], `probabilities` float [N, C]; the resampler's groups are of the same N rows.

        What ranks images is most of the work; `ranked=False` leaves it out.
        """
        self.num_classes = probabilities.shape[1]
        self.predicted = probabilities.argmax(1) if len(labels) else np.zeros(0, np.int64)
        self.labels, self.resampler = labels, resampler
        self._known_sides: dict[int, tuple[Size, Size]] = {}
        self.confusion = metrics.confusion_matrix(labels, self.predicted, self.num_classes)
        self.values = metrics.additive_figures(labels, probabilities)
        additive = _Additive(labels, probabilities, resampler)
        rankings: list[_Ranking] = []
        if ranked:
            self.values |= metrics.ranking_figures(labels, probabilities)
            columns = enumerate(probabilities.T)
            rankings = [_Ranking(labels == c, scores, resampler) for c, scores in columns]

        def figures(weights: Array) -> dict[str, Floats]:
            return {**additive.figures(weights), **_of_classes([r.figures(weights) for r in rankings])}

        self._rounds = resampler.ask(figures)

    @property
    def rounds(self) -> dict[str, Floats]:
        return self._rounds()

    def estimate(self, name: str, of_class: int | None = None) -> Estimate:
        """A figure of the set, or of one of its classes, with its interval."""
        if of_class is None:
            if name in MACRO:
                return self._macro(name)
            return interval(name, float(self.values[name]), self.rounds[name], self._size(name))
        estimate = self._of_class(name, of_class)
        if name in GROUPS_WORTH and self._least(name, of_class) < 2:
            return Estimate(estimate.value, np.nan, np.nan)
        return estimate

    def _of_class(self, name: str, c: int) -> Estimate:
        """A figure of a class with an interval of however few groups, as the macro figures need it."""
        value, rounds = float(self.values[name][c]), self.rounds[name][:, c]
        if name not in GROUPS_WORTH:
            return interval(name, value, rounds, self._size(name, c))
        rounds = rounds[~np.isnan(rounds)]
        if np.isnan(value) or len(rounds) == 0:
            return Estimate(value, np.nan, np.nan)
        own, others = self._sides(c)
        low, high = _score(value, _worth(name, value, float(rounds.var()), own, others), _reach(name, own, others))
        if name == "average_precision":  # of a few positives it is too large, and of a resample larger again
            low = max(low - max(float(rounds.mean()) - value, 0.0), 0.0)
        return Estimate(value, low, high)

    def _least(self, name: str, c: int) -> int:
        """The groups that an interval of one class must not have fewer than two of."""
        own, others = self._sides(c)
        if name in metrics.SPECIFICITIES:  # a share of the positives, of which one says something
            return others.groups
        return own.groups if name == "f1" else min(own.groups, others.groups)

    def _sides(self, c: int) -> tuple[Size, Size]:
        """What stands behind a class, and behind all others."""
        if c not in self._known_sides:
            self._known_sides[c] = self.resampler.size(self.labels == c), self.resampler.size(self.labels != c)
        return self._known_sides[c]

    def _macro(self, name: str) -> Estimate:
        """The mean over the classes, which is as uncertain as they are: the scarcest class counts with its interval.

        The ends lie as far from the value as the classes' own do together (Zou and Donner 2008, "MOVER"), each
        class's distances weighted with how the rounds of any two classes go together. Percentiles of the
        rounds' means would know no more of a class of three images than these three.
        """
        value, of_class = float(self.values[name]), MACRO[name]
        there = np.flatnonzero(~np.isnan(self.values[of_class]))
        classes = [self._of_class(of_class, int(c)) for c in there]
        if self.resampler.num_groups < 2 or np.isnan([value, *(e.low for e in classes)]).any():
            return Estimate(value, np.nan, np.nan)
        together = _correlations(self.rounds[of_class][:, there])
        below = np.array([e.value - e.low for e in classes])
        above = np.array([e.high - e.value for e in classes])
        down, up = (math.sqrt(max(float(d @ together @ d), 0.0)) / len(classes) for d in (below, above))
        return Estimate(value, max(value - down, 0.0), min(value + up, 1.0))

    def _size(self, name: str, of_class: int | None = None) -> Size:
        return self.resampler.size(self._basis(name, of_class))

    def _basis(self, name: str, of_class: int | None) -> Array:
        """The images that a figure rests on, a mask [N]."""
        masks: dict[str, Callable[[], Any]] = {
            "sensitivity": lambda: self.labels == of_class,
            "specificity": lambda: self.labels != of_class,
            "ppv": lambda: self.predicted == of_class,
            "npv": lambda: self.predicted != of_class,
        }
        return masks.get(name, lambda: np.ones(len(self.labels), bool))()


def _of_classes(ranked: list[dict[str, Floats]]) -> dict[str, Floats]:
    """The ranking figures of each class [B], side by side [B, C], and their means over the classes [B]."""
    if not ranked:
        return {}
    figures = {name: np.stack([of_class[name] for of_class in ranked], axis=-1) for name in ranked[0]}
    figures["macro_auc"] = metrics.mean_of_available(figures["auc"])
    figures["macro_average_precision"] = metrics.mean_of_available(figures["average_precision"])
    return figures


class _Additive:
    """What adds up over images, summed over each group: the confusion matrix first, then the rest."""

    def __init__(self, labels: Array, probabilities: Array, resampler: Resampler) -> None:
        self.classes = probabilities.shape[1]
        confidence, predicted = probabilities.max(1, initial=0), probabilities.argmax(1)
        cells, bins = self.classes**2, metrics.CALIBRATION_BINS
        hits = [metrics.top_k_hits(labels, probabilities, k) for k in metrics.TOP_K]
        self.sums = resampler.sums(
            [
                (labels * self.classes + predicted, 1.0),
                (cells, metrics.negative_log_likelihood(labels, probabilities)),
                (cells + 1, metrics.squared_error(labels, probabilities)),
                *((cells + 2 + i, hit) for i, hit in enumerate(hits)),
                (cells + 2 + len(hits) + metrics.confidence_bin(confidence), (predicted == labels) - confidence),
            ],
            cells + 2 + len(hits) + bins,
        )

    def figures(self, weights: Array) -> dict[str, Floats]:
        sums = (self.sums @ weights).T
        cells = self.classes**2
        confusion = sums[:, :cells].reshape(-1, self.classes, self.classes)
        images = confusion.sum((1, 2))
        loss, error, *hits = sums[:, cells : cells + 2 + len(metrics.TOP_K)].T
        gaps = sums[:, cells + 2 + len(metrics.TOP_K) :]
        return {
            **metrics.of_confusion(confusion),
            "log_loss": metrics.ratio(loss, images),
            "brier_score": metrics.ratio(error, images),
            "expected_calibration_error": metrics.ratio(np.abs(gaps).sum(1), images),
            **{f"top_{k}_accuracy": metrics.ratio(hit, images) for k, hit in zip(metrics.TOP_K, hits, strict=True)},
        }


def interval(name: str, value: float, rounds: Floats, size: Size) -> Estimate:
    """The 95 % interval of a figure from its rounds [R]; rounds that could not give it do not count.

    `size` is what the figure rests on.
    """
    rounds = rounds[~np.isnan(rounds)]
    if np.isnan(value) or len(rounds) == 0:
        return Estimate(value, np.nan, np.nan)
    if name in PROPORTIONS:
        return Estimate(value, *_wilson(value, float(rounds.var()), size))
    if size.groups < 2:
        return Estimate(value, np.nan, np.nan)
    if name in BIASED_UPWARDS:
        high = float(np.quantile(rounds, 0.975))
        return Estimate(value, min(max(2 * value - high, 0.0), value), high - float(rounds.mean()) + value)
    return Estimate(value, *_percentiles(value, rounds, size.groups))


def _percentiles(value: float, rounds: Floats, groups: int) -> tuple[float, float]:
    """Percentiles of the rounds, corrected for bias (Efron 1987) and expanded for small samples (Hesterberg 2015).

    The first moves both ends where the rounds do not lie evenly about the value; the second widens them by
    what a t interval has over a normal one, and by G / (G - 1) of the variance.
    """
    share_below = ((rounds < value).mean() + (rounds <= value).mean()) / 2
    edge = 1 / (len(rounds) + 1)
    bias = ndtri(np.clip(share_below, edge, 1 - edge))
    reach = stdtrit(groups - 1, 0.975) * math.sqrt(groups / (groups - 1))
    low, high = np.quantile(rounds, ndtr([2 * bias - reach, 2 * bias + reach]), method="weibull")
    return float(min(low, value)), float(max(high, value))


def _wilson(share: float, variance: float, size: Size) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share, of as many images as the bootstrap's variance says it is worth.

    share (1 - share) / variance is the size of a simple random sample with the same variance (Kish's
    effective sample size), where the variance of G groups is enlarged by G / (G - 1), as a sample's is. It is
    never more than the images; where all rounds agree, or there is one group, it is the number of groups.
    """
    worth = float(size.groups)
    if variance > 1e-15 and size.groups > 1:
        worth = min(share * (1 - share) / variance * (1 - 1 / size.groups), float(size.images))
    return _score(share, worth, Z)


def _worth(name: str, value: float, variance: float, own: Size, others: Size) -> float:
    """Of how many images a share with the uncertainty of a class's figure would be.

    The rounds draw from few groups what few groups have shown, and where two agree, nothing varies. So to the
    variance of G groups comes what one group in G adds to it at most (`GROUPS_WORTH`): at two groups this is
    most of it, at fifty it is nothing. G counts the rarer of positives and negatives; of F1, the positives.
    """
    positives, negatives = max(own.groups, 1), max(others.groups, 1)
    fewest = positives if name == "f1" else min(positives, negatives)
    groups = 1 / (1 / positives + 1 / negatives) if name == "auc" else fewest
    least = GROUPS_WORTH[name] * groups
    spread = value * (1 - value)
    if spread < 1e-12:
        return least
    worth = spread / (variance + spread / (least * fewest))
    return min(worth, float(own.images)) if name in metrics.SPECIFICITIES else worth


def _reach(name: str, own: Size, others: Size) -> float:
    """In standard deviations: more where few groups say where a threshold lies, or how precise a class's top is."""
    if name in metrics.SPECIFICITIES:
        return float(stdtrit(max(others.groups, 1), 0.975))
    return float(stdtrit(max(min(own.groups, others.groups), 1), 0.975)) if name == "average_precision" else Z


def _score(share: float, worth: float, reach: float) -> tuple[float, float]:
    """Wilson's interval of a share of `worth` images, `reach` standard deviations to either side."""
    centre = (share + reach**2 / (2 * worth)) / (1 + reach**2 / worth)
    half = reach / (1 + reach**2 / worth) * math.sqrt(share * (1 - share) / worth + reach**2 / (4 * worth**2))
    # At 0 and 1 the interval ends there; rounding must not put the share outside its interval.
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


def difference(one: Estimate, other: Estimate) -> Estimate:
    """one - other of two sets, each as uncertain as its own interval says (Zou and Donner 2008)."""
    value = one.value - other.value
    down = math.hypot(one.value - one.low, other.high - other.value)
    up = math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(value, value - down, value + up)


def _correlations(rounds: Floats) -> Floats:
    """[K, K]: of the columns of [rounds, K], without the rounds that have none; 0 with a column that never varies."""
    apart = np.nan_to_num(rounds - np.nanmean(rounds, axis=0))
    length = np.sqrt((apart**2).sum(0))
    apart /= np.where(length > 1e-12, length, 1.0)
    correlations = apart.T @ apart
    np.fill_diagonal(correlations, 1.0)
    return correlations


def rates(hits: Array, resampler: Resampler, names: Sequence[str] | None = None) -> Iterator[Estimate]:
    """The mean of each column of `hits`, float [N, K], nan for a row that does not count.

    Where `names` has "rate" (or is None) a column is of hits that are 0 or 1, a share; "mean" is of any numbers.
    The rounds are drawn with the first estimate that is taken.
    """
    counted = ~np.isnan(hits)
    columns = range(hits.shape[1])
    # Many columns count the same rows (all of them, or those of a class), which are then summed up once.
    masks: dict[bytes, int] = {}
    mask_of = [masks.setdefault(counted[:, k].tobytes(), len(masks)) for k in columns]
    totals = resampler.sums(
        [(k, np.where(counted[:, k], hits[:, k], 0.0)) for k in columns]
        + [(len(columns) + m, counted[:, mask_of.index(m)].astype(float)) for m in range(len(masks))],
        len(columns) + len(masks),
    )

    def figures(weights: Array) -> dict[str, Floats]:
        sums = (totals @ weights).T
        numbers = sums[:, len(columns) :]
        return {"means": metrics.ratio(sums[:, : len(columns)], numbers[:, mask_of])}

    answer = resampler.ask(figures)

    def estimate(k: int) -> Estimate:
        value = float(metrics.ratio(hits[counted[:, k], k].sum(), counted[:, k].sum()))
        size = resampler.size(counted[:, k])
        return interval(names[k] if names else "rate", value, answer()["means"][:, k], size)

    return map(estimate, columns)
