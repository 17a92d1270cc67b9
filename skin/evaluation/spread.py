"""The spread over folds: the metrics of each fold's model on its own fold, their mean and standard deviation.

It tells how much a result depends on the training set and the chance of one training. It is no interval: folds share
most of their training images, so their variance says too little (Bengio and Grandvalet 2004).
"""

from __future__ import annotations

from collections.abc import Sequence

from skin.evaluation import metrics
from skin.evaluation.metrics import Array, Floats, Ints
from skin.evaluation.report_types import FoldReport, FoldsReport

import numpy as np

METRICS = metrics.OF_A_COMPARISON


def spread(
    labels: Ints, probabilities: Floats, groups: Array, folds: Ints, temperatures: Sequence[float],
    called: Ints | None = None,
) -> FoldsReport:  # fmt: skip
    """Return the metrics of each fold, and their spread.

    Args:
        labels, groups, folds: [N]; folds are from 1. probabilities: float [N, C], each of the model of the fold.
        temperatures: of the folds' models, in their order.
        called: int [N], the classes that are called; None are the most probable ones.
    """
    found = []
    for number, temperature in enumerate(temperatures, start=1):
        rows = folds == number
        every = metrics.values(
            labels[rows], probabilities[rows], called=None if called is None else called[rows]
        )
        found.append(FoldReport(
            fold=number, images=int(rows.sum()), groups=len(np.unique(groups[rows])), temperature=temperature,
            metrics={metric.name: float(every[metric.name]) for metric in METRICS},
        ))  # fmt: skip
    columns = {metric.name: np.array([fold.metrics[metric.name] for fold in found]) for metric in METRICS}
    return FoldsReport(
        folds=found,
        mean={name: float(column.mean()) for name, column in columns.items()},
        standard_deviation={name: float(column.std(ddof=1)) for name, column in columns.items()},
    )
