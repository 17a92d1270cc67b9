"""Class weights or logit offsets against imbalance, and the smoothing of labels that goes with them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def class_weights(labels: np.ndarray, num_classes: int, kind: str = "balanced") -> Tensor:
    """Return the weight of each class in the loss, float32 [C].

    "balanced" is N / (C * count), as in scikit-learn's `compute_class_weight`. Every class then counts as
    much as any other, and the mean weight over the samples is 1. A class with no samples gets weight 0. The
    other kinds are all ones.

    Args:
        labels: int [N], labels of the training split in 0..C-1.
        kind: of `--class-weights`: "balanced", "logits" or "none".
    """
    if kind != "balanced":
        return torch.ones(num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    weights = np.divide(len(labels), num_classes * counts, where=counts > 0, out=np.zeros(num_classes))
    return torch.from_numpy(weights.astype(np.float32))


def logit_offsets(labels: np.ndarray, num_classes: int, kind: str) -> Tensor:
    """Return what is added to the logits of each class in the loss, and nowhere else, float32 [C].

    With "logits" it is the log of the class's share of the samples (Menon et al. 2021, "Long-tail learning via logit
    adjustment", equation 10; Ren et al. 2020, "balanced softmax"). The sums learn the shares in the samples, so that
    the logits are those of equally common classes. Class weights aim at the same logits, but an image then pulls the
    harder the scarcer its class is. A class with no samples counts as if it had one. The other kinds add nothing.

    Args:
        labels: int [N], labels of the training split in 0..C-1.
        kind: of `--class-weights`: "balanced", "logits" or "none".
    """
    if kind != "logits":
        return torch.zeros(num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    return torch.from_numpy(np.log(np.maximum(counts, 1) / len(labels)).astype(np.float32))


def soft_cross_entropy(
    logits: Tensor, labels: Tensor, class_weights: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return what `weighted_cross_entropy` in train.py does, for labels that are mixed or smoothed.

    In a mixed image the cross entropy of each class counts by its share and its weight. The weight of the image is
    the mean of its classes' weights, by their shares. With this weight the smoothed share of the label goes to all
    classes alike. In torch's `label_smoothing` each class gets it by that class's own weight. So the rare classes get
    nearly all of it, and their probabilities rise everywhere.

    Args:
        logits: float32 [B, C].
        labels: int64 [B], or float32 [B, C]: the share of each class.
        class_weights: float32 [C].
        smoothing: that share of a label, 0 to 1.

    Returns:
        The weighted mean, and the sum of the weights of the images.
    """
    weights = class_weights[labels] if labels.dim() == 1 else labels @ class_weights
    of_labels = F.cross_entropy(logits, labels, class_weights, reduction="sum")
    of_all = -weights @ F.log_softmax(logits, 1).mean(1)
    return torch.lerp(of_labels, of_all, smoothing) / weights.sum(), weights.sum()
