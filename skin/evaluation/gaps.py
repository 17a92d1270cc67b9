"""Comparison of subgroups: the largest gap between two, and a test that all are served alike.

Two groups are compared over the classes that both have: a group of one easy class is not better than a group of all.
The largest gap of many groups is large by chance alone, so its interval is that of Tukey and Kramer (1956), which
holds for all pairs at once. The test of heterogeneity compares images only with others of their class.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from skin.evaluation.intervals import LEVEL, Z, difference
from skin.evaluation.metrics import Array, Bools, Ints
from skin.evaluation.report_types import ByMetric, Gap, Heterogeneity
from skin.evaluation.subgroups import SubgroupMetric

import numpy as np
from scipy.special import chdtrc
from scipy.stats import studentized_range

ENOUGH_LESIONS = 5  # of a class, in both groups: fewer say little of the class there


@dataclass(frozen=True)
class Group:
    """A subgroup that may be compared.

    Attributes:
        rows: bool [N], its images.
        metrics_of: from some of these, bool [N], to their metrics by `SubgroupMetric.name`.
    """

    name: str
    rows: Bools
    metrics_of: Callable[[Bools], ByMetric]


class Comparison:
    """The subgroups of one attribute in pairs, each over the classes that both have."""

    def __init__(self, groups: list[Group], labels: Ints, lesions: Array, classes: tuple[str, ...]) -> None:
        """Find the classes of which each group has enough lesions.

        Args:
            labels: int [N]. lesions: [N], or patients. classes: the names of the labels.
        """
        self.groups, self.labels, self.classes = groups, labels, classes

        def lesions_of(group: Group, c: int) -> int:
            return len(np.unique(lesions[group.rows & (labels == c)]))

        every = range(len(classes))
        self._enough = [frozenset(c for c in every if lesions_of(g, c) >= ENOUGH_LESIONS) for g in groups]
        self._known: dict[tuple[int, frozenset[int]], ByMetric] = {}

    def _over(self, number: int, classes: frozenset[int]) -> ByMetric:
        """Return the metrics of a group over some classes."""
        if (number, classes) not in self._known:
            group = self.groups[number]
            self._known[number, classes] = group.metrics_of(group.rows & np.isin(self.labels, list(classes)))
        return self._known[number, classes]

    def largest_gap(self, entry: SubgroupMetric, counting: Bools) -> Gap | None:
        """Return the largest gap of all pairs; None if no pair can be compared.

        Args:
            counting: bool [C], the classes whose images count in the metric.
        """
        sign = 1 if entry.metric.larger_is_better else -1
        found: list[Gap] = []
        compared: set[str] = set()
        for one, other in itertools.combinations(range(len(self.groups)), 2):
            both = self._enough[one] & self._enough[other]
            if not any(counting[c] for c in both):
                continue
            names = self.groups[one].name, self.groups[other].name
            pair = [self._over(number, both)[entry.name] for number in (one, other)]
            if any(math.isnan(estimate.low) for estimate in pair):
                continue
            gap = difference(*sorted(pair, key=lambda estimate: -estimate.value))
            best, worst = names if sign * (pair[0].value - pair[1].value) >= 0 else names[::-1]
            found.append(Gap(best, worst, gap, [self.classes[c] for c in sorted(both) if counting[c]], 0))
            compared |= {*names}
        if not found:
            return None
        largest = max(found, key=lambda gap: gap.difference.value)
        widened = largest.difference.widened(widening(len(compared)))
        return Gap(largest.best, largest.worst, widened, largest.classes, len(compared))


@cache
def widening(groups: int) -> float:
    """Return how much wider the interval of the largest of all differences of `groups` means is than that of one.

    It is the studentized range's quantile over the square root of 2, in units of the normal quantile: 1 for 2 groups.
    """
    return float(studentized_range.ppf(LEVEL, groups, np.inf)) / math.sqrt(2) / Z


def heterogeneity(hits: Bools, labels: Ints, lesions: Array, group: Ints) -> Heterogeneity | None:
    """Return a test if hits are as frequent in each group, given the class; None if there is nothing to compare.

    It is the generalised Cochran-Mantel-Haenszel test of mean scores (Landis, Heyman and Koch 1978): a class is a
    stratum, a lesion of a group is a unit, and its score is the share of its images that are hits. The variance is
    that of dealing a class's lesions to the groups at random, so it holds for small groups, too.

    Args:
        hits: bool [N]. labels: int [N]. lesions: [N], or patients.
        group: int [N], the number of the group; -1 does not count.
    """
    there = np.flatnonzero(group >= 0)
    if len(there) == 0:
        return None
    groups = int(group.max()) + 1
    strata = labels[there].astype(np.int64) * groups + group[there]
    numbers, of_lesion = np.unique(lesions[there], return_inverse=True)
    units, of_unit, images = np.unique(strata * len(numbers) + of_lesion, return_inverse=True, return_counts=True)
    scores = np.bincount(of_unit, weights=hits[there]) / images
    of_class, of_group = np.divmod(units // len(numbers), groups)
    apart, covariance = np.zeros(groups), np.zeros((groups, groups))
    for c in np.unique(of_class):
        mine, own = of_group[of_class == c], scores[of_class == c]
        sizes = np.bincount(mine, minlength=groups).astype(float)
        if len(own) < 2:
            continue
        apart += np.bincount(mine, weights=own - own.mean(), minlength=groups)
        covariance += own.var(ddof=1) * (np.diag(sizes) - np.outer(sizes, sizes) / len(own))
    degrees = int(np.linalg.matrix_rank(covariance, tol=1e-9 * max(1.0, float(covariance.max()))))
    if degrees == 0:
        return None
    statistic = float(apart @ np.linalg.pinv(covariance, rcond=1e-9, hermitian=True) @ apart)
    return Heterogeneity(statistic, degrees, float(chdtrc(degrees, statistic)))
