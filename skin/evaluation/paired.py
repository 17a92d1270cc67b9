"""Compare two answers to the same images: the difference of a metric, paired, with its 95 % interval.

Both have the same resampler, so a round of the bootstrap draws the same lesions or patients for both, and what makes
these hard for either drops out of the difference.
"""

from __future__ import annotations

import math

from skin.evaluation.intervals import Estimate, Estimates, interval
from skin.evaluation.metrics import Array, BiasedUpwards, Floats, Metric, OfConfusion, OfSums, Percentiles
from skin.evaluation.report_types import Comparison

import numpy as np
from scipy.special import stdtrit


def difference(metric: Metric, one: Estimates, other: Estimates, of_class: int | None = None) -> Estimate:
    """Return `metric` (of a class) of `one` less that of `other`; nan if one of them lacks it.

    The very same answers differ by 0, without an interval's width. If all rounds agree otherwise, there is none.

    - Log loss and Brier score are means over images: `mean_of_groups`.
    - Any other metric of percentiles takes those of the differences of the rounds.
    - The rest combine the ends of their two intervals by the correlation of their rounds (Zou and Donner 2008; for
      shares it is Newcombe 1998, method 10), and so keep what these allow for: scarce classes, shares near 0 or 1.
      The interval of a difference of calibration errors is conservative.

    Raises:
        ValueError: the two have not the same resampler.
    """
    if one.resampler is not other.resampler:
        raise ValueError("only answers to the same images, in the same draws, can be compared in pairs")
    ends = one.estimate(metric.name, of_class), other.estimate(metric.name, of_class)
    rounds = one.rounds[metric.name], other.rounds[metric.name]
    if of_class is not None:
        rounds = rounds[0][:, of_class], rounds[1][:, of_class]
    value, apart = ends[0].value - ends[1].value, rounds[0] - rounds[1]
    if np.isnan(value):
        return Estimate(value, math.nan, math.nan)
    if value == 0 and not np.nan_to_num(apart).any():  # the very same answers
        return Estimate(0.0, 0.0, 0.0)
    if isinstance(metric.interval, Percentiles) and isinstance(metric.source, OfSums):
        images = np.bincount(one.resampler.group_of_row)
        return mean_of_groups(one.sums(metric.name) - other.sums(metric.name), images)
    if isinstance(metric.interval, Percentiles) and isinstance(metric.source, OfConfusion):
        return interval(Percentiles(), value, apart, one.resampler.everything)
    if np.isnan([ends[0].low, ends[1].low]).any():
        return Estimate(value, math.nan, math.nan)
    # What a calibration error is too large by is no noise that two of them share, so their distances are added up.
    return from_ends(*ends, -1.0 if isinstance(metric.interval, BiasedUpwards) else correlation(*rounds))


def comparison(
    chosen: tuple[Metric, ...], before: Estimates, after: Estimates, of_class: int | None = None
) -> Comparison:
    """Return some metrics (of a class) of two answers to the same images, and after less before."""
    return Comparison(
        before={metric.name: before.estimate(metric.name, of_class) for metric in chosen},
        after={metric.name: after.estimate(metric.name, of_class) for metric in chosen},
        difference={metric.name: difference(metric, after, before, of_class) for metric in chosen},
    )


def mean_of_groups(sums: Floats, images: Array) -> Estimate:
    """Return the mean over images with its interval, from the sums [G] of G groups and their numbers of images [G].

    The losses of two models differ most on few images, so their mean is skewed, and percentiles are too short. Hall
    (1992) takes the skewness out of the t statistic: an interval that needs no rounds.
    """
    groups, total = len(sums), float(images.sum())
    value = float(sums.sum()) / total
    apart = sums - value * images
    spread = float((apart**2).mean())
    if groups < 2 or spread < 1e-30:
        return Estimate(value, math.nan, math.nan)
    error = math.sqrt(groups * groups / (groups - 1) * spread) / total
    skewness = float((apart**3).mean()) / spread**1.5 / math.sqrt(groups)
    reach = float(stdtrit(groups - 1, 0.975))
    low, high = (value - error * _unskewed(t, skewness) for t in (reach, -reach))
    return Estimate(value, min(low, value), max(high, value))


def _unskewed(t: float, skewness: float) -> float:
    """Return the inverse of Hall's t + a t² / 3 + a² t³ / 27 + a / 6, for the skewness a of a mean."""
    if abs(skewness) < 1e-6:
        return t
    return 3 / skewness * (float(np.cbrt(1 + skewness * (t - skewness / 6))) - 1)


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
