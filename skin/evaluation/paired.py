"""Compare two answers to the same images: the difference of a metric, paired, with its 95 % interval.

Both have the same resampler, so a round of the bootstrap draws the same lesions or patients for both, and what makes
these hard for either drops out of the difference.
"""

from __future__ import annotations

import math

from skin.evaluation.intervals import Estimate, Estimates, interval
from skin.evaluation.metrics import Floats, MeanOverClasses, Metric, Percentiles

import numpy as np


def difference(metric: Metric, one: Estimates, other: Estimates) -> Estimate:
    """Return `metric` of `one` less that of `other`; nan if one of them lacks it.

    A metric of percentiles takes those of the differences of the rounds. Any other combines the ends of its two
    intervals by the correlation of their rounds (Zou and Donner 2008; for shares it is Newcombe 1998, method 10), and
    so keeps what these allow for: scarce classes, shares near 0 or 1, a biased calibration error.

    Raises:
        ValueError: the two have not the same resampler.
    """
    if one.resampler is not other.resampler:
        raise ValueError("only answers to the same images, in the same draws, can be compared in pairs")
    ends = one.estimate(metric.name), other.estimate(metric.name)
    rounds = one.rounds[metric.name], other.rounds[metric.name]
    value, apart = ends[0].value - ends[1].value, rounds[0] - rounds[1]
    if np.isnan([value, ends[0].low, ends[1].low]).any():
        return Estimate(value, math.nan, math.nan)
    if value == 0 and not np.nan_to_num(apart).any():  # the very same answers
        return Estimate(0.0, 0.0, 0.0)
    if isinstance(metric.interval, Percentiles) and not isinstance(metric.source, MeanOverClasses):
        everything = one.resampler.size(np.ones(len(one.labels), bool))
        return interval(Percentiles(), value, apart, everything)
    return from_ends(*ends, correlation(*rounds))


def from_ends(one: Estimate, other: Estimate, correlation: float) -> Estimate:
    """Return one - other from the ends of both intervals and the correlation of the two (Zou and Donner 2008)."""

    def reach(first: float, second: float) -> float:
        return math.sqrt(max(first**2 + second**2 - 2 * correlation * first * second, 0.0))

    value = one.value - other.value
    down = reach(one.value - one.low, other.high - other.value)
    up = reach(one.high - one.value, other.value - other.low)
    return Estimate(value, value - down, value + up)


def correlation(one: Floats, other: Floats) -> float:
    """Return the correlation of two [rounds]; 0 if one never varies."""
    there = ~np.isnan(one) & ~np.isnan(other)
    if there.sum() < 2 or min(one[there].std(), other[there].std()) < 1e-12:
        return 0.0
    return float(np.corrcoef(one[there], other[there])[0, 1])
