"""Sets of answers whose truth is known, and whether an interval holds it."""

from __future__ import annotations

from skin.evaluation.intervals import Estimate
from skin.model import calibration

import numpy as np

TRUTH = 100_000  # lesions of the set that stands for the truth
ROUNDS = 200
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # labels [N], probabilities [N, C], lesions [N]


def drawn(
    seed: int, lesions: int, shares: np.ndarray, strength: float = 1.5, sharpened: float = 1.0, most: int = 3,
    tail: bool = False,
) -> Arrays:  # fmt: skip
    """Draw one to `most` images a lesion, which go right or wrong together.

    The numbers of images are equally frequent; with `tail` half of the lesions have one, and few have many (Pareto).
    The probabilities are those of the Gaussian mixture that the images come from, so they are right; to the power of
    `sharpened` they are too sure (above 1) or too unsure (below 1).
    """
    generator = np.random.Generator(np.random.Philox(seed))
    long = np.minimum(np.ceil(generator.pareto(1.0, lesions)), most).astype(int) if tail else None
    lesion = np.repeat(np.arange(lesions), generator.integers(1, most + 1, lesions) if long is None else long)
    labels = generator.choice(len(shares), lesions, p=shares)[lesion]
    points = generator.standard_normal((lesions, len(shares)))[lesion]
    points = np.sqrt(0.5) * (points + generator.standard_normal(points.shape))
    points[np.arange(len(lesion)), labels] += strength
    return labels, calibration.softmax(sharpened * (strength * points + np.log(shares))), lesion


def holds(estimate: Estimate, truth: float) -> float:
    """Return 1 if the interval holds the truth, 0 if not, nan if there is none."""
    if np.isnan([estimate.low, truth]).any():
        return np.nan
    return float(estimate.low <= truth <= estimate.high)
