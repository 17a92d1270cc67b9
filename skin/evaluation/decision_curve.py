"""The decision curve of malignant against benign: what acting on the model is worth (Vickers and Elkin 2006).

Whoever would rather treat 1 / p - 1 benign lesions than miss a malignant one acts on a risk of p or more. The net
benefit at the threshold p is then TP / N - FP / N * p / (1 - p): the malignant lesions that are found, less the
benign ones that are treated, in the worth of a malignant one. To treat nobody has the net benefit 0.
"""

from __future__ import annotations

from collections.abc import Callable

from skin.evaluation.intervals import Resampler, interval
from skin.evaluation.metrics import Array, Floats, Percentiles, ratio
from skin.evaluation.report_types import NetBenefit

import numpy as np

# From 1 to 50 %: beyond, a treatment would be worse than a missed malignant lesion.
THRESHOLDS = tuple(round(0.01 * step, 2) for step in range(1, 51))


def decision_curve(positives: Array, risk: Array, resampler: Resampler) -> Callable[[], list[NetBenefit]]:
    """Ask for the net benefit at each of `THRESHOLDS`; return a function that gives them once the rounds are drawn.

    Args:
        positives: bool [N], malignant. risk: float [N], its probability.
    """
    number = len(THRESHOLDS)
    reached = np.searchsorted(THRESHOLDS, risk, "right")  # how many of the thresholds each risk reaches
    counts = resampler.sums([(np.where(positives, reached, reached + number + 1), 1.0)], 2 * (number + 1))

    def figures(weights: Array) -> dict[str, Floats]:
        return net_benefit((counts @ weights).T.reshape(-1, 2, number + 1))

    rounds = resampler.ask(figures)

    def curve() -> list[NetBenefit]:
        values, drawn = figures(np.ones((resampler.num_groups, 1))), rounds()
        everything = resampler.size(np.ones(len(risk), bool))
        return [
            NetBenefit(
                threshold,
                *(
                    interval(Percentiles(), float(values[name][0, k]), drawn[name][:, k], everything)
                    for name in ("model", "treat_all", "gain")
                ),
            )
            for k, threshold in enumerate(THRESHOLDS)
        ]

    return curve


def net_benefit(counts: Array) -> dict[str, Floats]:
    """Return the net benefit [B, T] of the model, of treating all, and the difference of the two.

    Args:
        counts: [B, 2, T + 1], the malignant and the benign images by the number of thresholds that the risk reaches.
    """
    reaching = np.cumsum(counts[..., ::-1], -1)[..., ::-1]  # [B, 2, T + 1]: those that reach k thresholds or more
    everybody = reaching[..., :1]
    odds = np.array([threshold / (1 - threshold) for threshold in THRESHOLDS])
    total = everybody.sum(1)
    model = ratio(reaching[:, 0, 1:] - odds * reaching[:, 1, 1:], total)
    treat_all = ratio(everybody[:, 0] - odds * everybody[:, 1], total)
    return {"model": model, "treat_all": treat_all, "gain": model - treat_all}
