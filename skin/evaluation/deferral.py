"""Risk and coverage: the error that remains if the model may defer its least sure answers to a person.

The answers are ranked by confidence, the probability of the label. Coverage is the share that is kept, risk the
share of wrong answers among these. The area under risk against coverage (AURC, Geifman and El-Yaniv 2017) is the
mean risk over all coverages; a confidence that knows nothing has the error rate as its AURC.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from skin.evaluation.intervals import Estimate, Ranking, Resampler, Size, interval
from skin.evaluation.metrics import Array, Floats, Percentiles, Ranks, Share, first_above, ratio
from skin.evaluation.report_types import AtCoverage, DeferralReport

import numpy as np

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def deferral(
    labels: Array, probabilities: Array, resampler: Resampler, called: Array | None = None
) -> Callable[[], DeferralReport]:
    """Ask for risk and coverage; return a function that gives them once the rounds are drawn.

    Args:
        labels: int [N]. probabilities: float [N, C].
        called: int [N], the classes that are called; None are the most probable ones.
    """
    if len(labels) == 0:
        nothing = Estimate(np.nan, np.nan, np.nan)
        return lambda: DeferralReport(nothing, [AtCoverage(coverage, nothing) for coverage in COVERAGES])
    called = probabilities.argmax(1) if called is None else called
    confidence = np.take_along_axis(probabilities, called[:, None], 1)[:, 0]
    ranking = Ranking(called != labels, confidence, resampler)

    def figures(weights: Array) -> dict[str, Floats]:
        places = places_of(ranking.ranks(weights))
        return {"aurc": aurc(places), "risk": np.stack([risk(places, c) for c in COVERAGES], 1)}

    rounds = resampler.ask(figures)
    surest = np.argsort(-confidence, kind="stable")

    def size(coverage: float) -> Size:
        kept = np.zeros(len(labels), bool)
        kept[surest[: _kept(coverage, np.array(len(labels)))]] = True
        return resampler.size(kept)

    def risk_at(k: int, value: float) -> Estimate:
        drawn = rounds()["risk"][:, k]
        # Where none is wrong, a round may keep other answers and find one: its variance is no share's of 0.
        return interval(Share(), value, drawn if 0 < value < 1 else np.full_like(drawn, value), size(COVERAGES[k]))

    def report() -> DeferralReport:
        values = figures(np.ones((resampler.num_groups, 1), np.int32))
        return DeferralReport(
            aurc=interval(Percentiles(), float(values["aurc"][0]), rounds()["aurc"], size(1.0)),
            risk=[AtCoverage(c, risk_at(k, float(values["risk"][0, k]))) for k, c in enumerate(COVERAGES)],
        )

    return report


def curve(wrong: Array, confidence: Array) -> Floats:
    """Return the risk of the 1, 2, .. N surest answers, [N]; equal confidences share their places evenly.

    Args:
        wrong: bool [N], which answers are wrong. confidence: float [N].
    """
    level = np.unique(-confidence, return_inverse=True)[1]
    share = np.bincount(level, wrong) / np.bincount(level)
    found: Floats = np.cumsum(share[np.sort(level)]) / np.arange(1, len(level) + 1)
    return found


class Places(NamedTuple):
    """The wrong answers among all, by falling confidence, in B weighted draws, on K levels of confidence.

    Attributes:
        wrong: [B, K], those on a level. until: int [B, K], those on it or before.
        first, last: int [B, K], all answers before a level; those up to its end.
        total: int [B], all answers.
    """

    wrong: Floats
    until: Array
    first: Array
    last: Array
    total: Array


def places_of(ranks: Ranks) -> Places:
    """Return the places of the wrong answers, which are the positives of `ranks`."""
    last = ranks.hits + ranks.passed
    first = ranks.hits + ranks.above - ranks.own.astype(np.int32)
    return Places(ranks.own, ranks.hits, first, last, ranks.positives.astype(np.int64) + ranks.negatives)


def aurc(places: Places) -> Floats:
    """Return the mean over k = 1 .. N of the risk of the k surest answers, [B].

    A wrong answer at place r adds 1/k to each k from r on. Equal confidences share their places evenly. One draw at a
    time stays in a core's cache.
    """
    harmonic, before = _harmonic(int(places.total.max(initial=0)).bit_length())
    sums = np.zeros(len(places.total))
    for b, (wrong, first, last) in enumerate(zip(places.wrong, places.first, places.last, strict=True)):
        on_level = last - first
        later = before[last]
        later -= before[first]
        later /= np.maximum(on_level, 1, out=on_level)
        sums[b] = wrong.sum() * harmonic[places.total[b]] - np.einsum("k,k->", wrong, later)
    return ratio(sums, places.total)


@lru_cache(maxsize=2)  # the totals of the rounds differ a little, and may lie about a power of 2
def _harmonic(bits: int) -> tuple[Floats, Floats]:
    """Return H(k) = 1 + 1/2 + .. + 1/k for k = 0 .. 2**bits - 1, and the sum of H(r - 1) over r = 1 .. k."""
    places = np.arange(2**bits)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / places[1:])])
    return harmonic, places * (harmonic - 1)


def risk(places: Places, coverage: float) -> Floats:
    """Return the share of wrong answers among the surest `coverage` of all, rounded up to a whole answer, [B]."""
    kept = _kept(coverage, places.total)
    wrong = np.zeros(len(kept))
    for b, most in enumerate(kept):
        first, last = places.first[b], places.last[b]
        whole = first_above(last, most)  # levels that are kept as a whole
        wrong[b] = places.until[b, whole - 1] if whole else 0
        if whole < len(last) and first[whole] < most:
            wrong[b] += places.wrong[b, whole] * (most - first[whole]) / (last[whole] - first[whole])
    return ratio(wrong, kept)


def _kept(coverage: float, total: Array) -> Array:
    """Return the number of answers that are kept of `total`."""
    return np.ceil(coverage * total - 1e-9).astype(np.int64)
