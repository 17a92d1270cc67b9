"""Run a model over a whole set, on one device or shared by any number of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from skin.data.dataset import (
    Batch,
    PlainBatches,
    SkinDiseaseDataset,
    ahead,
    checked,
    default_workers,
    make_loader,
)  # fmt: skip
from skin.model import tta
from skin.model.network import Classifier
from skin.utils.memory import return_freed_memory
from skin.utils.parallel import Topology
from skin.utils.signals import Stopped

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

BATCH_PIXELS = 64 * 224 * 224  # on a CPU larger batches are no faster; a GPU takes eight times as many


def fitting_batch_size(image_size: int, topology: Topology) -> int:
    """Return how many images of `image_size` pixels a side fill a device; a larger batch is no faster."""
    pixels = BATCH_PIXELS * (8 if topology.device.type == "cuda" else 1)
    return max(1, pixels // image_size**2)


def loader_of(
    dataset: SkinDiseaseDataset, batch_size: int, workers: int | None, topology: Topology, say: Callable[[str], Any]
) -> DataLoader[Batch]:
    """Return the loader of this process's share of a set: every image once, in order.

    Args:
        workers: loader processes; None chooses.
        say: takes a line for the user if there are fewer.
    """
    on_gpu = topology.device.type == "cuda"
    batches = PlainBatches(len(dataset), batch_size, topology.rank, topology.world)
    return make_loader(dataset, batches, default_workers(on_gpu) if workers is None else workers, on_gpu, say)


class Outputs(NamedTuple):
    """A model's answers for a set, rows in the set's order, the same in every process.

    Attributes:
        logits: float32 [N, C], averaged over the views; [N, A, C] for metadata that ask A times.
        features: the results [N, ...] of `of_features`; [N, 0] if none was given.
        one_view: float32, shaped alike, the logits of the images as they are; `logits` themselves if views is 1.
    """

    logits: np.ndarray
    features: np.ndarray
    one_view: np.ndarray


@torch.no_grad()
def collect(
    model: nn.Module,
    loader: DataLoader[Batch],
    topology: Topology,
    of_features: Callable[[np.ndarray], np.ndarray] | None = None,
    on_batch: Callable[[int], Any] = lambda images: None,
    stopping: Callable[[], bool] = lambda: False,
    views: int = 1,
) -> Outputs:
    """Run a model, in eval mode, over this process's share of a set and gather all shares.

    Args:
        model: a `Classifier` or an `Ensemble`; or, for logits alone, a `Classifier` that `nn.DataParallel` spreads
            over its GPUs.
        loader: over `PlainBatches` of a data set; the shares of all processes hold each row of the set once.
        of_features: called with the traits of each batch (`Classifier.answers`), float32 [B, T], averaged over the
            views; the last are the pooled features. Its answers, [B, ...], are what memory must hold. It must take a
            batch of no rows. None asks for logits alone.
        on_batch: called with the number of images after each batch.
        stopping: asked before each batch if this process is to stop.
        views: number of views of an image to average over, the first of the eight (`tta.dihedral`).

    Raises:
        UserError: an image cannot be read.
        Stopped: `stopping` returned True in one of the processes.
    """
    size = len(loader.dataset)  # type: ignore[arg-type]
    model.eval()
    classifier: Any = model.module if isinstance(model, nn.DataParallel) else model
    ask = classifier.answers if of_features else lambda view, known: (model(view, known),)
    known = loader.dataset.metadata  # type: ignore[attr-defined]
    ways = () if known is None else known.ways
    logits, one_view = (np.zeros((size, *ways, classifier.num_classes), np.float32) for _ in range(2))
    kept = np.zeros((size, 0), np.float32)
    if of_features is not None:
        kept = _rows_like(of_features(np.zeros((0, sum(classifier.widths())), np.float32)), size)
    stopped = False
    if isinstance(loader, DataLoader) and loader.num_workers and loader._iterator is None:
        # Its processes are forked from here, and hold a copy of each page that is used again from then on.
        return_freed_memory()
    for batch in ahead(loader, topology.device):
        if stopped := stopping():
            break
        images, rows = checked(batch).images, batch.indices.numpy()
        first, (answers, *traits) = tta.averaged(ask, images, views, batch.metadata)
        if of_features is not None:
            kept[rows] = of_features(traits[0].cpu().numpy())
        logits[rows], one_view[rows] = answers.cpu().numpy(), first.cpu().numpy()
        on_batch(len(rows))
    if topology.any([stopped])[0]:
        raise Stopped
    # A row is zero in all processes except the one that had its image, so the sum over processes gathers all rows.
    gathered = topology.sum(logits).astype(np.float32)
    return Outputs(
        gathered,
        kept if of_features is None else topology.sum(kept).astype(kept.dtype),
        topology.sum(one_view).astype(np.float32) if views > 1 else gathered,
    )


def _rows_like(sample: np.ndarray, size: int) -> np.ndarray:
    """Return `size` rows of zeros, each of the shape and type of those of `sample` [0, ...]."""
    return np.zeros((size, *sample.shape[1:]), sample.dtype)


@torch.no_grad()
def traits_of(classifier: Classifier, squares: np.ndarray, device: torch.device, batch_size: int = 64) -> np.ndarray:
    """Return the traits, float32 [N, T], of squares uint8 [N, S, S, 3] by a model in eval mode."""
    batches = (torch.from_numpy(squares[a : a + batch_size]) for a in range(0, len(squares), batch_size))
    return np.concatenate([classifier.answers(batch.to(device))[1].cpu().numpy() for batch in batches])
