"""95 % intervals of metrics, from a bootstrap that resamples lesions or patients.

Two pictures of one lesion say less than pictures of two lesions, so a round of the bootstrap draws whole
groups with replacement. A round does not copy rows. It is the number of times that each group was drawn,
and every metric is a function of those weights:

- Sums over images (a class's hits, log loss, Brier score, top-k hits, the gap of each confidence bin)
  are added up over each group beforehand. One sparse matrix product then gives a batch of rounds.
- Metrics that rank images (AUROC, average precision, sensitivity at a specificity) sort each class's scores once.
  A round is a running sum, along the class's own images, of the number of others drawn between them.

The rounds of a class of three lesions draw from these three, so they say too little about other lesions. A mean
over a class's groups therefore takes Wilson's interval, with the variance of the rounds and some of a share's
(`_worth`). A mean over classes takes the intervals of the classes (`Estimates._mean_over_classes`).

So 1,000 rounds over 400,000 images take seconds, and memory for a few rounds at a time. Drawing is a good part
of the work. So a `Resampler` draws once for all that it was asked before the first answer is read.

`skin.evaluation.metrics.METRICS` says which metric takes which interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from skin.evaluation import metrics
from skin.evaluation.metrics import (
    BY_NAME,
    METRICS,
    NOT_RANKED,
    OF_SUMS,
    Array,
    BiasedUpwards,
    Floats,
    Interval,
    LikeShare,
    MeanOverClasses,
    Metric,
    OfConfusion,
    OfRanking,
    OfSums,
    Percentiles,
    Share,
    ShareOfClass,
)  # fmt: skip
from skin.utils.hardware import usable_cores

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.special import ndtr, ndtri, stdtrit

Key = TypeVar("Key", bound=Hashable)

ROUNDS = 1000
LEVEL = 0.95
BATCH_ELEMENTS = 2**19  # rounds x images in one batch: these stay in a core's cache
NOISE = 4000  # draws of the noise of a mean of gaps
FEW = 10  # mistakes, or hits: a share of fewer is far from normal
LEAST_BATCH = 8  # rounds; the weights of a group lie side by side, and as many come in one cache line
Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Estimate:
    """A metric and its 95 % interval; nan if the set cannot give them."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 3) -> str:
        """Return it for people, such as `0.873 (0.851–0.894)` or `0.011 (−0.053 to 0.075)`."""
        if not math.isfinite(self.value):
            return "not available"
        value, low, high = (f"{number:z.{digits}f}" for number in (self.value, self.low, self.high))  # no −0.000
        between = " to " if low.startswith("-") else "–"
        interval = f" ({low}{between}{high})" if math.isfinite(self.low) else ""
        return f"{value}{interval}".replace("-", "\N{MINUS SIGN}")

    def widened(self, by: float) -> Estimate:
        """Return it with ends `by` times as far from the value."""
        down, up = self.value - self.low, self.high - self.value
        return Estimate(self.value, self.value - by * down, self.value + by * up)

    def __str__(self) -> str:
        return self.text()


class Size(NamedTuple):
    """The images and groups that a metric rests on."""

    images: int
    groups: int


@dataclass
class Asked:
    """A question to the rounds of a bootstrap and, once they are drawn, the answers."""

    figures: Callable[[Array], dict[str, Floats]]  # of the weights [G, B] of a batch; each value is [B, ...]
    rounds: dict[str, Floats] = field(default_factory=dict)  # each [rounds, ...]


class Resampler:
    """The groups of the images, and the number of times that each round draws each group."""

    def __init__(self, groups: Array, rounds: int = ROUNDS, seed: int = 0, stream: int = 0) -> None:
        """Prepare the draws.

        Args:
            groups: [N] of any type that sorts: a lesion, a patient, or the image itself.
            seed: 0 .. 2**64 - 1.
            stream: 0 .. 2**32 - 1; rounds of two streams of one seed are drawn independently.
        """
        names, group_of_row = np.unique(groups, return_inverse=True)
        self.group_of_row = group_of_row.astype(np.int32)
        self.num_groups, self.num_rows = len(names), len(group_of_row)
        self.everything = Size(self.num_rows, self.num_groups)
        self.rounds, self.seed, self.first_key = rounds, seed, stream << 32
        self._by_group = np.argsort(self.group_of_row, kind="stable")
        self._waiting: list[Asked] = []
        self._sizes: dict[bytes, Size] = {}

    def weights(self, first: int, last: int) -> npt.NDArray[np.int32]:
        """Return the number of times that rounds first .. last - 1 draw each group, int32 [G, last - first].

        Each column adds up to G.
        """
        out = np.empty((self.num_groups, last - first), np.int32)
        for column, number in enumerate(range(first, last)):
            key = np.array([self.seed, self.first_key + number], np.uint64)
            draw = np.random.Generator(np.random.Philox(key=key))
            picked = draw.integers(0, self.num_groups, self.num_groups, dtype=np.int32)
            out[:, column] = np.bincount(picked, minlength=self.num_groups)
        return out

    def ask(self, figures: Callable[[Array], dict[str, Floats]]) -> Callable[[], dict[str, Floats]]:
        """Ask for `figures` of every round; return a function that gives them, each [rounds, ...].

        Nothing is drawn before the first such function is called. Then one drawing serves all questions so far.

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
        """Return the number of images and of groups in `rows`, a mask [N]."""
        key = np.packbits(rows).tobytes()  # many metrics rest on the same images, such as those of a class
        if key not in self._sizes:
            there = np.zeros(self.num_groups, bool)
            there[self.group_of_row[rows]] = True
            self._sizes[key] = Size(int(rows.sum()), int(there.sum()))
        return self._sizes[key]

    def sums(self, columns: list[tuple[Array | int, Array | float]], size: int) -> sparse.csc_array:
        """Return the sums of the values over each group by place, [size, G].

        By columns, a product with weights [G, B] reads each group's once, and adds to places that stay in the cache.
        By rows, it would fetch them anew for each place: that takes three times as long.

        Args:
            columns: (place, value) pairs; both are [N], or one number for all images.
        """
        shape = self.num_rows, len(columns)
        whole = all(np.asarray(value).dtype.kind in "bi" for _, value in columns)  # counts stay whole numbers
        places, values = np.empty(shape, np.int32), np.empty(shape, np.int32 if whole else np.float64)
        for k, (place, value) in enumerate(columns):
            places[:, k] = np.broadcast_to(place, self.num_rows)[self._by_group]
            values[:, k] = np.broadcast_to(value, self.num_rows)[self._by_group]
        ends = np.r_[0, np.cumsum(np.bincount(self.group_of_row, minlength=self.num_groups))] * len(columns)
        sums = sparse.csc_array((values.ravel(), places.ravel(), ends), shape=(size, self.num_groups))
        sums.sum_duplicates()
        sums.eliminate_zeros()
        return sums


class Ranking:
    """One class's images in the order of its score, sorted once, for AUROC and the other metrics that rank images.

    Images of equal score are on one level. Of L levels only the K that hold positives matter. A negative stands on
    one of these (`level`), or above, between or below them (`between`). The numbers of either that are drawn are a
    sparse matrix product with the weights of the groups.
    """

    def __init__(self, positives: Array, scores: Array, resampler: Resampler) -> None:
        order = np.argsort(-scores)  # the order within a level does not matter
        positive, ranked, group = positives[order], scores[order], resampler.group_of_row[order]
        starts = np.ones(len(order), bool)
        starts[1:] = ranked[1:] != ranked[:-1]
        level = np.cumsum(starts) - 1
        holds = np.bincount(level[positive], minlength=int(starts.sum())) > 0
        count, place = int(holds.sum()), np.cumsum(holds)[level]  # [N]: of the K levels, those down to this one
        tied = ~positive & holds[level]
        between = ~positive & ~tied

        def drawn(which: Array, places: Array, size: int) -> sparse.csc_array:
            ends = np.cumsum(np.bincount(places[which], minlength=size))
            entries = np.ones(int(which.sum()), np.int32), group[which], np.r_[0, ends].astype(np.int32)
            return sparse.csr_array(entries, shape=(size, resampler.num_groups)).tocsc()  # as in `Resampler.sums`

        self.positives = drawn(positive, place - 1, count)  # [K, G]
        self.level = drawn(tied, place - 1, count)  # [K, G]
        self.between = drawn(between, place, count + 1)  # [K + 1, G], the last below all
        # The group of each positive, [K], if no two are on one level: then the product need only look it up.
        self.alone = group[positive].astype(np.intp) if count == int(positive.sum()) else None

    def ranks(self, weights: Array) -> metrics.Ranks:
        """Return the class's images in order, drawn by the group weights [G, B]."""
        own = (self.positives @ weights if self.alone is None else weights.take(self.alone, axis=0)).T
        hits, reached = _running(own), _running((self.between @ weights).T)
        positives, negatives = (running[:, -1:].sum(1) for running in (hits, reached))
        above = passed = reached[:, :-1]  # [B, K]: the negatives with a higher score, and with one as high
        if self.level.nnz:
            tied = np.ascontiguousarray((self.level @ weights).T)
            up_to = _running(tied)
            passed = above + up_to
            above, negatives = passed - tied, negatives + up_to[:, -1]
        return metrics.Ranks(np.ascontiguousarray(own, np.float64), hits, above, passed, positives, negatives)

    def metrics(self, weights: Array) -> dict[str, Floats]:
        """Return the metrics that rank images, each [B], for group weights [G, B]."""
        ranks = self.ranks(weights)
        return {m.name: m.source.of_ranks(ranks) for m in METRICS if isinstance(m.source, OfRanking)}


def _running(drawn: Array) -> npt.NDArray[np.int32]:
    """Return the sums of the first 1, 2, .. n columns of [B, n], as [B, n]."""
    return np.cumsum(drawn, axis=1, dtype=np.int32, out=np.empty(drawn.shape, np.int32))


class Estimates:
    """Every metric of one set, with the bootstrap's rounds of each.

    Attributes:
        values: name -> [] or [C], as `metrics.values` gives them.
        rounds: name -> [rounds] or [rounds, C]; they are drawn when first asked for.
        confusion: int [C, C].
    """

    def __init__(
        self, labels: Array, probabilities: Array, resampler: Resampler, ranked: Sequence[int] | None = None,
        summed: Sequence[Metric] = OF_SUMS, called: Array | None = None,
    ) -> None:  # fmt: skip
        """Compute the values, and ask for the rounds.

        Args:
            labels: int [N]. probabilities: float [N, C].
            resampler: of the same N rows.
            ranked: the classes whose images are ranked (all if None), which is most of the work; the metrics that
                rank images are nan for the others, and left out if there is no such class.
            summed: the metrics of `OF_SUMS` that are wanted; the others are left out.
            called: int [N], the classes that are called; None are the most probable ones.
        """
        self.num_classes = probabilities.shape[1]
        self.predicted = probabilities.argmax(1) if called is None else called
        self.labels, self.resampler = labels, resampler
        self._known_sides: dict[int, tuple[Size, Size]] = {}
        self.confusion = metrics.confusion_matrix(labels, self.predicted, self.num_classes)
        self._additive = additive = _Additive(labels, probabilities, self.predicted, resampler, summed)
        classes = range(self.num_classes) if ranked is None else ranked
        rankings = {c: Ranking(labels == c, probabilities[:, c], resampler) for c in classes}

        def of_rankings(weights: Array) -> dict[str, Floats]:
            found: dict[str, Floats] = {}
            for c, ranking in rankings.items():
                for name, of_class in ranking.metrics(weights).items():
                    found.setdefault(name, np.full((len(of_class), self.num_classes), np.nan))[:, c] = of_class
            return found

        once = np.ones((resampler.num_groups, 1), np.int32)
        whole = {name: of_set[0] for name, of_set in of_rankings(once).items()}
        chosen = [m for m in NOT_RANKED if m not in OF_SUMS or m in summed]
        self.values = metrics.with_means({**metrics.values(labels, probabilities, chosen, self.predicted), **whole})
        self._rounds = resampler.ask(
            lambda weights: metrics.with_means({**additive.metrics(weights), **of_rankings(weights)})
        )

    @property
    def rounds(self) -> dict[str, Floats]:
        return self._rounds()

    def sums(self, name: str) -> Floats:
        """Return the sum over the images of each group, [G], of what a metric is the mean of."""
        _, place = self._additive.places[name]
        found: Floats = self._additive.sums[place].toarray().sum(0)
        return found

    def estimate(self, name: str, of_class: int | None = None) -> Estimate:
        """Return a metric of the set, or of one of its classes, with its interval."""
        metric = BY_NAME[name]
        if isinstance(metric.source, MeanOverClasses):
            return self._mean_over_classes(metric.name, metric.source.of)
        if of_class is None:
            if isinstance(metric.interval, BiasedUpwards):
                return self._additive.mean_gap(name, float(self.values[name]))
            return interval(
                metric.interval, float(self.values[name]), self.rounds[name], self.resampler.everything
            )
        estimate = self._of_class(metric, of_class)
        if isinstance(metric.interval, LikeShare):
            own, others = self._sides(of_class)
            if metric.interval.needed(own.groups, others.groups) < 2:
                return Estimate(estimate.value, np.nan, np.nan)
        return estimate

    def _of_class(self, metric: Metric, c: int) -> Estimate:
        """Return a metric of a class with its interval, even of very few groups: the means over classes need it."""
        value, rounds = float(self.values[metric.name][c]), self.rounds[metric.name][:, c]
        if not isinstance(metric.interval, LikeShare):
            return interval(metric.interval, value, rounds, self._basis(metric, c))
        rounds = rounds[~np.isnan(rounds)]
        if np.isnan(value) or len(rounds) == 0:
            return Estimate(value, np.nan, np.nan)
        return _like_share(metric.interval, value, rounds, *self._sides(c))

    def _basis(self, metric: Metric, c: int) -> Size:
        """Return the number of images and groups that a class's metric rests on."""
        if isinstance(metric.interval, ShareOfClass):
            return self.resampler.size(metric.interval.basis(self.labels == c, self.predicted == c))
        return self.resampler.everything

    def _sides(self, c: int) -> tuple[Size, Size]:
        """Return the size of a class, and of all others together."""
        if c not in self._known_sides:
            self._known_sides[c] = self.resampler.size(self.labels == c), self.resampler.size(self.labels != c)
        return self._known_sides[c]

    def _mean_over_classes(self, name: str, of: str) -> Estimate:
        """Return a mean over the classes, as uncertain as they are: even the scarcest counts with its interval.

        The ends lie as far from the value as the classes' own do together (Zou and Donner 2008, "MOVER"). The
        classes' distances are combined by the correlation of their rounds. Percentiles of the rounds' means would
        know no more of a class of three images than these three.
        """
        value = float(self.values[name])
        there = np.flatnonzero(~np.isnan(self.values[of]))
        classes = [self._of_class(BY_NAME[of], int(c)) for c in there]
        if self.resampler.num_groups < 2 or np.isnan([value, *(e.low for e in classes)]).any():
            return Estimate(value, np.nan, np.nan)
        together = _correlations(self.rounds[of][:, there])
        below = np.array([e.value - e.low for e in classes])
        above = np.array([e.high - e.value for e in classes])
        down, up = (math.sqrt(max(float(d @ together @ d), 0.0)) / len(classes) for d in (below, above))
        return Estimate(value, max(value - down, 0.0), min(value + up, 1.0))


def of_called(labels: Array, called: Array, classes: int, resampler: Resampler) -> Estimates:
    """Return the metrics of labels, int [N], answered by `called`, int [N], without probabilities."""
    return Estimates(labels, np.eye(classes)[called], resampler, ranked=(), summed=())


class _Additive:
    """The sums over each group of the terms of images: first the margins of the confusion matrix, then `OfSums`."""

    def __init__(
        self, labels: Array, probabilities: Array, predicted: Array, resampler: Resampler, summed: Sequence[Metric]
    ) -> None:
        self.classes = probabilities.shape[1]
        terms: list[tuple[Array | int, Array | float]] = [
            (labels, labels == predicted), (self.classes + labels, 1), (2 * self.classes + predicted, 1),
        ]  # fmt: skip
        self.places: dict[str, tuple[OfSums, slice]] = {}
        end = len(terms) * self.classes
        for metric in summed:
            if isinstance(metric.source, OfSums):
                place, numbers = metric.source.terms(labels, probabilities)
                terms.append((end + place, numbers))
                self.places[metric.name] = metric.source, slice(end, end + metric.source.size)
                end += metric.source.size
        # Of a mean of gaps, each image's variance by chance alone: behind the sums, which the rounds need.
        self.size, self.chance, self.shares = end, {}, {}
        for metric in summed:
            if isinstance(metric.interval, BiasedUpwards):
                source, _ = self.places[metric.name]
                place = source.terms(labels, probabilities)[0]
                chance = metric.interval.chance(labels, probabilities)
                self.chance[metric.name] = np.bincount(place, weights=chance, minlength=source.size)
                self.shares[metric.name] = share_of(
                    metric.interval.hits(labels, probabilities), np.arange(len(labels)), resampler
                )
        self.sums = resampler.sums(terms, end)
        self.images = np.bincount(resampler.group_of_row, minlength=resampler.num_groups)

    def metrics(self, weights: Array) -> dict[str, Floats]:
        """Return the metrics of sums, each [B] or [B, C], for group weights [G, B]."""
        sums = (self.sums @ weights).T
        counts = sums[:, : 3 * self.classes].astype(float)  # products of int32 counts would overflow
        margins = metrics.Margins(*np.split(counts, 3, axis=1))
        images = margins.true.sum(1)
        return {
            **{m.name: m.source.compute(margins) for m in METRICS if isinstance(m.source, OfConfusion)},
            **{name: source.of_sums(sums[:, place], images) for name, (source, place) in self.places.items()},
        }

    def mean_gap(self, name: str, value: float) -> Estimate:
        """Return a mean of absolute gaps with its interval; see `mean_gap_interval`.

        Where (nearly) all answers are right, or wrong, the noise of the gaps is too short: none of it proves that
        others are. But the metric is no less than the gap of all images together, so its high end is then no less
        than the largest such gap within Wilson's interval of the share of hits.
        """
        _, place = self.places[name]
        if len(self.images) < 2:
            return Estimate(value, np.nan, np.nan)
        sums, share = self.sums[place], self.shares[name]
        low, high = mean_gap_interval(sums, self.images, self.chance[name])
        images = float(self.images.sum())
        if round(min(share.value, 1 - share.value) * images) < FEW:
            confidence = share.value - float(sums.sum()) / images
            high = max(high, confidence - share.low, share.high - confidence)
        return Estimate(value, low, high)


def interval(kind: Interval, value: float, rounds: Floats, size: Size) -> Estimate:
    """Return `value` with the 95 % interval that its rounds [R] give; rounds that are nan do not count.

    Args:
        kind: of the interval; `LikeShare` asks for a class, and `BiasedUpwards` for sums, so they are not made here.
        size: the images and groups that the metric rests on.
    """
    rounds = rounds[~np.isnan(rounds)]
    if np.isnan(value) or len(rounds) == 0:
        return Estimate(value, np.nan, np.nan)
    if isinstance(kind, Share | ShareOfClass):
        return Estimate(value, *_wilson(value, float(rounds.var()), size))
    if size.groups < 2 or np.ptp(rounds) < 1e-12:
        return Estimate(value, np.nan, np.nan)
    return Estimate(value, *_percentiles(value, rounds, size.groups))


def _percentiles(value: float, rounds: Floats, groups: int) -> tuple[float, float]:
    """Return percentiles of the rounds, corrected for bias (Efron 1987) and for small samples (Hesterberg 2015).

    The first moves both ends if the rounds do not lie evenly about the value. The second widens them as a t interval
    is wider than a normal one, and by G / (G - 1) of the variance.
    """
    share_below = ((rounds < value).mean() + (rounds <= value).mean()) / 2
    edge = 1 / (len(rounds) + 1)
    bias = ndtri(np.clip(share_below, edge, 1 - edge))
    reach = stdtrit(groups - 1, 0.975) * math.sqrt(groups / (groups - 1))
    low, high = np.quantile(rounds, ndtr([2 * bias - reach, 2 * bias + reach]), method="weibull")
    return float(min(low, value)), float(max(high, value))


def _wilson(share: float, variance: float, size: Size) -> tuple[float, float]:
    """Return Wilson's score interval (1927) of a share, for the effective sample size by the bootstrap's variance.

    share (1 - share) / variance is the size of a simple random sample with the same variance (Kish's effective
    sample size). The variance of G groups is enlarged by G / (G - 1) before, as a sample's is. The size is at most
    the number of images. If all rounds agree, or there is one group, it is the number of groups.
    """
    worth = float(size.groups)
    if variance > 1e-15 and size.groups > 1:
        worth = min(share * (1 - share) / variance * (1 - 1 / size.groups), float(size.images))
    return _score(share, worth, Z)


def share_of(hits: Array, rows: Array, resampler: Resampler) -> Estimate:
    """Return the share of hits, bool [N], among `rows`, bool [N] or their numbers, with Wilson's interval.

    The variance is that of a ratio over groups by linearisation, which is what the rounds of a bootstrap come to. So
    the many shares of a reliability diagram need no rounds.
    """
    of_group, found = resampler.group_of_row[rows], hits[rows]
    if len(found) == 0:
        return Estimate(np.nan, np.nan, np.nan)
    size = Size(len(found), int(np.count_nonzero(np.bincount(of_group))))
    value = float(found.mean())
    apart = np.bincount(of_group, weights=found - value)
    return Estimate(value, *_wilson(value, float((apart**2).sum()) / size.images**2, size))


def _like_share(kind: LikeShare, value: float, rounds: Floats, own: Size, others: Size) -> Estimate:
    """Return a class's metric with the interval of a share; `own` and `others` are the class and the rest."""
    if kind.largest != 1:
        share = _like_share(replace(kind, largest=1.0), value / kind.largest, rounds / kind.largest, own, others)
        return Estimate(value, kind.largest * share.low, kind.largest * share.high)
    positives, negatives = max(own.groups, 1), max(others.groups, 1)
    reach = Z if kind.unsure is None else float(stdtrit(kind.unsure(positives, negatives), 0.975))
    low, high = _score(value, _worth(kind, value, float(rounds.var()), own, others), reach)
    if kind.biased:
        low = max(low - max(float(rounds.mean()) - value, 0.0), 0.0)
    return Estimate(value, low, high)


def _worth(kind: LikeShare, value: float, variance: float, own: Size, others: Size) -> float:
    """Return the effective sample size of a class's metric: the images of a share that is as uncertain.

    The rounds know only the few groups that there are, and if two agree, nothing varies. So the variance of G groups
    is enlarged by the most that one group in G could add (`LikeShare.worth`). At two groups this is most of it, at
    fifty it is nothing.
    """
    positives, negatives = max(own.groups, 1), max(others.groups, 1)
    least = kind.worth * kind.counted(positives, negatives)
    spread = value * (1 - value)
    if spread < 1e-12:
        return least
    worth = spread / (variance + spread / (least * kind.fewest(positives, negatives)))
    return min(worth, float(own.images)) if kind.of_positives else worth


def _score(share: float, worth: float, reach: float) -> tuple[float, float]:
    """Return Wilson's interval of a share of `worth` images, `reach` standard deviations to either side."""
    centre = (share + reach**2 / (2 * worth)) / (1 + reach**2 / worth)
    half = reach / (1 + reach**2 / worth) * math.sqrt(share * (1 - share) / worth + reach**2 / (4 * worth**2))
    # At 0 and 1 the interval ends there; rounding must not put the share outside its interval.
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


def difference(one: Estimate, other: Estimate) -> Estimate:
    """Return one - other of two sets, each as uncertain as its own interval says (Zou and Donner 2008)."""
    value = one.value - other.value
    down = math.hypot(one.value - one.low, other.high - other.value)
    up = math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(value, value - down, value + up)


def mean_gap_interval(sums: sparse.csc_array, images: Array, chance: Array) -> tuple[float, float]:
    """Return the 95 % interval of a mean of absolute gaps, such as the calibration error.

    The sums of the bins are taken as normal, with the covariance of G groups. No variance is less than chance alone
    gives: a bin in which every answer happens to be right does not vary over the groups, and proves nothing. If the
    truth is that all gaps are 0, the mean is that of |noise|; the low end is 0 unless the observed mean is among its
    largest 2.5 %. Otherwise it reaches down as far as |gaps + noise| reaches up (the basic bootstrap). The high end
    reaches up as far as that does, less the bias that the noise added.

    Args:
        sums: [bins, G], of each bin and group. images: int [G], of each group; G is 2 or more.
        chance: [bins], the variance of each bin's sum by chance alone, if images are independent.
    """
    total, groups = float(images.sum()), len(images)
    gaps = np.asarray(sums.sum(axis=1)).ravel() / total
    across, sizes = sums @ images, float((images.astype(float) ** 2).sum())
    # The sum over groups of the products of (sums - gaps * images): how far a group is from its share.
    crossed = np.outer(gaps, across)
    spread = (sums @ sums.T).toarray() - crossed - crossed.T + sizes * np.outer(gaps, gaps)
    covariance = spread / total**2 * groups / (groups - 1)
    covariance += np.diag(np.maximum(chance / total**2 - covariance.diagonal(), 0.0))
    draw = np.random.Generator(np.random.Philox(0))
    noise = draw.multivariate_normal(np.zeros(len(gaps)), covariance, NOISE, method="eigh")
    observed, around = np.abs(gaps).sum(), np.abs(gaps + noise).sum(1)
    high = float(np.quantile(around, 0.975))
    by_chance = (np.abs(noise).sum(1) >= observed - 1e-12).mean() >= 0.025
    low = 0.0 if by_chance else max(2 * observed - high, 0.0)
    return min(low, observed), max(high - float(around.mean()) + observed, observed)


def _correlations(rounds: Floats) -> Floats:
    """Return the correlations [K, K] of the columns of [rounds, K]; 0 with a column that never varies.

    Rounds without a value do not count.
    """
    apart = np.nan_to_num(rounds - np.nanmean(rounds, axis=0))
    length = np.sqrt((apart**2).sum(0))
    apart /= np.where(length > 1e-12, length, 1.0)
    correlations: Floats = apart.T @ apart
    np.fill_diagonal(correlations, 1.0)
    return correlations


@dataclass(frozen=True)
class Column:
    """One number per image: 0 or 1 for a share, or any number for a mean; nan for an image that does not count."""

    values: Array  # [N]
    interval: Percentiles | Share = field(default_factory=Share)


def means_of(columns: Mapping[Key, Column], resampler: Resampler) -> Callable[[], dict[Key, Estimate]]:
    """Ask for the mean of each column; return a function that gives them under the columns' keys.

    Its call draws the rounds, once for all that was asked of the resampler before.
    """
    values = [column.values for column in columns.values()]
    counted = [~np.isnan(of_images) for of_images in values]

    def by_group(numbers: Iterable[Array]) -> sparse.csc_array:
        """Return the sum of each column over each group, [K, G]."""
        sums = (np.bincount(resampler.group_of_row, column, resampler.num_groups) for column in numbers)
        return sparse.vstack([sparse.csr_array(row[None]) for row in sums]).tocsc()  # as in `Resampler.sums`

    sums, counts = by_group(map(np.nan_to_num, values)), by_group(counted)
    rounds = resampler.ask(lambda weights: {"means": metrics.ratio((sums @ weights).T, (counts @ weights).T)})

    def estimate(k: int, kind: Percentiles | Share) -> Estimate:
        there = counted[k]
        value = float(metrics.ratio(values[k][there].sum(), there.sum()))
        return interval(kind, value, rounds()["means"][:, k], resampler.size(there))

    return lambda: {key: estimate(k, column.interval) for k, (key, column) in enumerate(columns.items())}
