"""Compare a way's answers with the plain network's in float32, and with the truth if that is known."""

from __future__ import annotations

from dataclasses import dataclass

from skin.evaluation import metrics, paired
from skin.evaluation.intervals import Estimates, Resampler

import numpy as np

METRIC = metrics.BY_NAME["balanced_accuracy"]


@dataclass(frozen=True)
class Quality:
    """The answers of a way beside those of float32.

    Attributes:
        agreement: share of the images that get the same class. largest_change: of any probability.
        balanced_accuracy, low, high: with its 95 % interval; None without labels.
        difference, difference_low, difference_high: from that of float32, on the same images, paired.
    """

    agreement: float
    largest_change: float
    balanced_accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None


class Reference:
    """The answers of the plain network in float32.

    Args:
        probabilities: float [N, C]; None if there is nothing to compare, as with random weights.
        labels: int [N], if they are known. groups: [N], the lesion or patient of each image.
        divisors: [C], of the model's decision rule (`skin.model.calibration`).
    """

    def __init__(
        self, probabilities: np.ndarray | None, labels: np.ndarray | None = None, groups: np.ndarray | None = None,
        divisors: np.ndarray | float = 1.0,
    ) -> None:  # fmt: skip
        self.probabilities, self.labels, self.divisors = probabilities, labels, divisors
        self.estimates: Estimates | None = None
        if probabilities is not None and labels is not None and groups is not None:
            called = (probabilities / divisors).argmax(1)
            self.estimates = Estimates(labels, probabilities, Resampler(groups), ranked=(), called=called)

    def of(self, answers: np.ndarray) -> Quality | None:
        """Return the quality of a way's answers to the same images, float [N, C]."""
        if self.probabilities is None:
            return None
        called = (answers / self.divisors).argmax(1)
        agreement = float((called == (self.probabilities / self.divisors).argmax(1)).mean())
        change = float(np.abs(answers - self.probabilities).max())
        if self.estimates is None or self.labels is None:
            return Quality(agreement, change)
        mine = Estimates(self.labels, answers, self.estimates.resampler, ranked=(), called=called)
        value, less = mine.estimate(METRIC.name), paired.difference(METRIC, mine, self.estimates)
        return Quality(agreement, change, value.value, value.low, value.high, less.value, less.low, less.high)
