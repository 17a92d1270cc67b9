"""Counts of the images that are called at each of several thresholds, for the rounds of a bootstrap."""

from __future__ import annotations

from skin.evaluation.intervals import Resampler
from skin.evaluation.metrics import Array, Bools, Floats

import numpy as np


class CalledAt:
    """The images that are called where their score is a threshold or more, for T thresholds that do not fall."""

    def __init__(self, thresholds: Array, positives: Bools, scores: Floats, resampler: Resampler) -> None:
        """Count them over each group.

        Args:
            thresholds: float [T]. positives: bool [N]. scores: float [N].
        """
        self.size = len(thresholds) + 1
        reached = np.searchsorted(thresholds, scores, "right")  # the number of thresholds that each score reaches
        self.counts = resampler.sums([(self.size * positives + reached, 1)], 2 * self.size)

    def tables(self, weights: Array) -> Array:
        """Return the 2 x 2 table at each threshold, [B, T, truth, called], for group weights [G, B]."""
        counts = (self.counts @ weights).T.reshape(-1, 2, self.size)
        reaching = np.cumsum(counts[..., ::-1], -1)[..., ::-1]  # those that reach 0, 1, .. T thresholds or more
        called = reaching[..., 1:]
        return np.stack([reaching[..., :1] - called, called], -1).swapaxes(1, 2)
