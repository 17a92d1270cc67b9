"""A model over a whole set: logits and features of every row, over any number of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from skin.data.dataset import Batch, ahead, checked
from skin.utils.parallel import Topology
from skin.utils.signals import Stopped

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader


class Outputs(NamedTuple):
    """What the model says of a set, rows in the set's order, the same in every process."""

    logits: np.ndarray  # float32 [N, C]
    features: np.ndarray  # float32 [N, D], or [N, 0] where they were not asked for


@torch.no_grad()
def collect(
    model: nn.Module,
    loader: DataLoader[Batch],
    topology: Topology,
    with_features: bool = False,
    on_batch: Callable[[int], Any] = lambda images: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Outputs:
    """Run a model, in eval mode, over this process's share of a set and gather all shares.

    Args:
        model: a `Classifier`, or one that `nn.DataParallel` spreads over its GPUs (for logits alone).
        loader: over `PlainBatches` of a data set; its rows over all processes are the set's, each once.
        on_batch: called with the number of images after each batch.
        stopping: asked before each batch whether this process is to stop.

    Raises:
        UserError: an image cannot be read.
        Stopped: `stopping` said so in one of the processes.
    """
    size = len(loader.dataset)  # type: ignore[arg-type]
    model.eval()
    classifier: Any = model.module if isinstance(model, nn.DataParallel) else model
    head: Any = classifier.network.classifier[1]
    logits = np.zeros((size, head.out_features), np.float32)
    features = np.zeros((size, head.in_features if with_features else 0), np.float32)
    stopped = False
    for batch in ahead(loader, topology.device):
        if stopped := stopping():
            break
        checked(batch)
        images = batch.images
        rows = batch.indices.numpy()
        if with_features:
            pooled = classifier.features(images)
            features[rows] = pooled.cpu().numpy()
            logits[rows] = classifier.head(pooled).cpu().numpy()
        else:
            logits[rows] = model(images).cpu().numpy()
        on_batch(len(rows))
    if topology.any([stopped])[0]:
        raise Stopped
    # Every row is zero but in the process that computed it, so the sum is the gathering.
    gathered = topology.sum(logits).astype(np.float32)
    return Outputs(gathered, topology.sum(features).astype(np.float32) if with_features else features)
