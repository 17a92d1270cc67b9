"""Risk and coverage: the error that remains if the model may defer its least sure answers to a person.

The answers are ranked by confidence, the probability of the label. Coverage is the share that is kept, risk the
share of wrong answers among these. The area under risk against coverage (AURC, Geifman and El-Yaniv 2017) is the
mean risk over all coverages; a confidence that knows nothing has the error rate as its AURC.
"""

from __future__ import annotations

from collections.abc import Callable

from skin.evaluation.intervals import Estimate, Ranking, Resampler, Size, interval
from skin.evaluation.metrics import Array, Floats, Percentiles, Ranks, Share, ratio
from skin.evaluation.report_types import AtCoverage, DeferralReport

import numpy as np

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def deferral(labels: Array, probabilities: Array, resampler: Resampler) -> Callable[[], DeferralReport]:
    """Ask for risk and coverage; return a function that gives them once the rounds are drawn.

    Args:
        labels: int [N]. probabilities: float [N, C].
    """
    if len(labels) == 0:
        nothing = Estimate(np.nan, np.nan, np.nan)
        return lambda: DeferralReport(nothing, [AtCoverage(coverage, nothing) for coverage in COVERAGES])
    confidence = probabilities.max(1)
    ranking = Ranking(probabilities.argmax(1) != labels, confidence, resampler)

    def figures(weights: Array) -> dict[str, Floats]:
        ranks = ranking.ranks(weights)
        return {"aurc": aurc(ranks), "risk": np.stack([risk(ranks, c) for c in COVERAGES], 1)}

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


def aurc(ranks: Ranks) -> Floats:
    """Return the mean over k = 1 .. N of the risk of the k surest answers, [B]. The positives of `ranks` are wrong.

    A wrong answer at place r adds 1/k to each k from r on. Equal confidences share their places evenly.
    """
    first, last, total = _places(ranks)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, total.max() + 1))])
    before = last * (harmonic[last] - 1) - first * (harmonic[first] - 1)  # sum of H(r - 1) over the level's places
    of_one = harmonic[total][:, None] - ratio(before, last - first)
    return ratio(np.where(ranks.own > 0, ranks.own * of_one, 0.0).sum(1), total)


def risk(ranks: Ranks, coverage: float) -> Floats:
    """Return the share of wrong answers among the surest `coverage` of all, rounded up to a whole answer, [B]."""
    first, last, total = _places(ranks)
    kept = _kept(coverage, total)
    wrong = np.zeros(len(total))
    for b, most in enumerate(kept):
        whole = int(np.searchsorted(last[b], most, "right"))  # levels that are kept as a whole
        wrong[b] = ranks.hits[b, whole - 1] if whole else 0
        if whole < last.shape[1] and first[b, whole] < most:
            wrong[b] += ranks.own[b, whole] * (most - first[b, whole]) / (last[b, whole] - first[b, whole])
    return ratio(wrong, kept)


def _kept(coverage: float, total: Array) -> Array:
    """Return the number of answers that are kept of `total`."""
    return np.ceil(coverage * total - 1e-9).astype(np.int64)


def _places(ranks: Ranks) -> tuple[Array, Array, Array]:
    """Return the answers before each level of confidence and those up to its end, int [B, K]; and all, int [B]."""
    first = (ranks.hits - ranks.own + ranks.above).astype(np.int64)
    last = (ranks.hits + ranks.passed).astype(np.int64)
    return first, last, (ranks.positives + ranks.negatives).astype(np.int64)
