"""Class weights against imbalance, and the weighted cross entropy as a sum that adds up.

The weighted mean of a batch divides by the sum of that batch's weights, so the mean of two halves is
not the loss of the whole. Everything here therefore deals in numerators: the loop divides once, by the
weight of the whole batch (over all GPUs and processes), and an epoch's loss is all numerators over all
weights.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def class_weights(labels: np.ndarray, num_classes: int, kind: str = "balanced") -> Tensor:
    """float32 [C]: the weight of each class in the loss.

    "balanced" is N / (C * count), as in scikit-learn's `compute_class_weight`: every class counts as
    much as any other, and the mean weight over the samples is 1. "none" is all ones. A class with no
    samples gets weight 0.

    Args:
        labels: int [N], the training part's labels in 0..C-1.
    """
    if kind == "none":
        return torch.ones(num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    weights = np.divide(len(labels), num_classes * counts, where=counts > 0, out=np.zeros(num_classes))
    return torch.from_numpy(weights.astype(np.float32))


def cross_entropy_sum(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The numerator of the weighted cross entropy, a float32 scalar: sum over i of w[y_i] * -log p_i[y_i].

    Args:
        logits: float32 [B, C].
        labels: int64 [B].
        weights: float32 [C].
    """
    return F.cross_entropy(logits, labels, weights, reduction="sum")
