"""Class weights against imbalance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def class_weights(labels: np.ndarray, num_classes: int, kind: str = "balanced") -> Tensor:
    """Return the weight of each class in the loss, float32 [C].

    "balanced" is N / (C * count), as in scikit-learn's `compute_class_weight`. Every class then counts as
    much as any other, and the mean weight over the samples is 1. "none" is all ones. A class with no
    samples gets weight 0.

    Args:
        labels: int [N], labels of the training split in 0..C-1.
    """
    if kind == "none":
        return torch.ones(num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    weights = np.divide(len(labels), num_classes * counts, where=counts > 0, out=np.zeros(num_classes))
    return torch.from_numpy(weights.astype(np.float32))
