"""Class weights against imbalance, and the weighted cross entropy with what makes it add up.

The weighted mean of a batch divides by the sum of that batch's weights, so the mean of two halves is
not the loss of the whole. A mean therefore never comes without its weight: the loop weighs each process's
mean by its share of the whole batch's weight, and an epoch's loss is the sum of mean * weight over all
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


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean of -log p_i[y_i], as `nn.CrossEntropyLoss(weights)` has it, and the weight it stands for.

    Args:
        logits: float32 [B, C].
        labels: int64 [B].
        weights: float32 [C].

    Returns:
        Two float32 scalars: the mean, and the sum over i of weights[y_i].
    """
    return F.cross_entropy(logits, labels, weights), weights[labels].sum()
