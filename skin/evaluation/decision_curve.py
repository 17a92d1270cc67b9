"""The decision curve of malignant against benign: what acting on the model is worth (Vickers and Elkin 2006).

Whoever would rather treat 1 / p - 1 benign lesions than miss a malignant one acts on a risk of p or more. The net
benefit at the threshold p is then TP / N - FP / N * p / (1 - p): the malignant lesions that are found, less the
benign ones that are treated, in the worth of a malignant one. To treat nobody has the net benefit 0.

The images of a cell, such as those of FP, may be few or none, and then percentiles of the rounds are far too short.
So each interval is combined from Wilson's of its two shares, TP / N and FP / N (of what treating all has more, FN / N
and TN / N), by the correlation of their rounds.
"""

from __future__ import annotations

from collections.abc import Callable

from skin.evaluation.called import CalledAt
from skin.evaluation.intervals import Estimate, Resampler, interval
from skin.evaluation.metrics import Array, Floats, Share, ratio
from skin.evaluation.paired import correlation, from_ends
from skin.evaluation.report_types import NetBenefit

import numpy as np

# From 1 to 50 %: beyond, a treatment would be worse than a missed malignant lesion.
THRESHOLDS = tuple(round(0.01 * step, 2) for step in range(1, 51))


def decision_curve(positives: Array, risk: Array, resampler: Resampler) -> Callable[[], list[NetBenefit]]:
    """Ask for the net benefit at each of `THRESHOLDS`; return a function that gives them once the rounds are drawn.

    Args:
        positives: bool [N], malignant. risk: float [N], its probability.
    """
    treated = CalledAt(np.array(THRESHOLDS), positives, risk, resampler)

    def figures(weights: Array) -> dict[str, Floats]:
        return cells(treated.tables(weights))

    rounds = resampler.ask(figures)

    def curve() -> list[NetBenefit]:
        values, drawn = figures(np.ones((resampler.num_groups, 1))), rounds()

        def less(name: str, other: str, k: int, cost: float, worth: float = 1.0) -> Estimate:
            """Return worth * share of cell `name` - cost * share of cell `other`, at threshold k."""
            shares = [
                _times(interval(Share(), float(values[cell][0, k]), drawn[cell][:, k], resampler.everything), factor)
                for cell, factor in ((name, worth), (other, cost))
            ]
            return from_ends(shares[0], shares[1], correlation(drawn[name][:, k], drawn[other][:, k]))

        points = []
        for k, threshold in enumerate(THRESHOLDS):
            odds = threshold / (1 - threshold)
            everybody = less("all_positives", "all_negatives", k, odds)
            points.append(NetBenefit(threshold, less("tp", "fp", k, odds), everybody, less("tn", "fn", k, 1.0, odds)))
        return points

    return curve


def cells(tables: Array) -> dict[str, Floats]:
    """Return the share of each cell of the 2 x 2 tables [B, T, 2, 2] in all images, [B, T]."""
    total = tables.sum((2, 3))
    (true_negatives, false_positives), (false_negatives, true_positives) = np.moveaxis(tables, (2, 3), (0, 1))
    found = {
        "tp": true_positives, "fp": false_positives, "fn": false_negatives, "tn": true_negatives,
        "all_positives": true_positives + false_negatives, "all_negatives": true_negatives + false_positives,
    }  # fmt: skip
    return {name: ratio(cell, total) for name, cell in found.items()}


def _times(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(factor * estimate.value, factor * estimate.low, factor * estimate.high)
