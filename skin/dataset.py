"""From rows of an index to batches of bytes: the data set, the order of an epoch, the loader.

The sampler sends workers keys, not bare indices: (epoch, index). A worker therefore holds no state that an
epoch changes, and persistent workers, killed workers and no workers at all give the same batches.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from skin.augment import augment
from skin.cache import PixelCache
from skin.cpu_step import keep_freed_memory
from skin.errors import UserError
from skin.hardware import usable_cores
from skin.images import ImageError, Preprocess, centre_crop, read_image
from skin.interrupts import ignore_in_worker
from skin.npz import is_npz_image, read_npz_image

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

PLAIN = -1
"""The epoch of a key that asks for the evaluation view: the centre of the stored image."""


class Batch(NamedTuple):
    """What a loader yields. `error` is one line where an image could not be read, and then nothing else counts."""

    images: Tensor  # uint8 [B, size, size, 3]
    labels: Tensor  # int64 [B]
    indices: Tensor  # int64 [B], rows of the data set
    error: str = ""


class SkinDiseaseDataset(Dataset[Batch]):
    """Images of skin and their labels, read a batch at a time.

    Args:
        paths: where each image is.
        labels: int [N], the class of each.
        preprocess: the size and interpolation of the stored image and of the view.
        seed: of the augmentation.
        cache: keeps stored images once decoded; its rows are those of the whole data folder.
        cache_rows: int [N], the row in the cache of each image.
        size_of: the side of the views of an epoch; the network's throughout where None.

    A key is (epoch, index): the augmented view of that epoch, or the plain centre view for epoch `PLAIN`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: np.ndarray,
        preprocess: Preprocess,
        seed: int = 0,
        cache: PixelCache | None = None,
        cache_rows: np.ndarray | None = None,
        size_of: Callable[[int], int] | None = None,
    ) -> None:
        # One array of bytes, not a list of str: a million objects would be copied into every forked
        # worker, page by page, as their reference counts are touched.
        self.paths = np.array([os.fsencode(path) for path in paths])
        self.labels = np.asarray(labels, dtype=np.int64)
        self.preprocess = preprocess
        self.seed = seed
        self.cache = cache
        self.cache_rows = np.arange(len(paths)) if cache_rows is None else cache_rows
        self.size_of = size_of

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        return Path(os.fsdecode(self.paths[index]))

    def stored(self, index: int) -> np.ndarray:
        """The stored image of a row, uint8 [H, W, 3]. Raises `ImageError`."""
        if self.cache is not None:
            return self.cache.read(int(self.cache_rows[index]))
        return read_image(os.fsdecode(self.paths[index]), self.preprocess)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """A whole batch of one epoch at once, each view written straight into its place in it."""
        span = self.preprocess.image_size
        size = span if self.size_of is None or keys[0][0] == PLAIN else self.size_of(keys[0][0])
        images = np.empty((len(keys), size, size, 3), np.uint8)
        indices = np.array([index for _, index in keys], dtype=np.int64)
        error = ""
        try:
            for view, (epoch, index) in zip(images, keys, strict=True):
                stored = self.stored(index)
                if epoch == PLAIN:
                    view[:] = centre_crop(stored, size)
                else:
                    augment(stored, size, (self.seed, epoch, index), view, span=span)
        except ImageError as problem:
            # As text: an exception of a worker reaches the loop as a traceback, and other processes wait.
            error = str(problem)
        return Batch(
            torch.from_numpy(images), torch.from_numpy(self.labels[indices]), torch.from_numpy(indices), error
        )


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The batches of a training epoch: a permutation that is a function of (seed, epoch) alone.

    It is random within each class and spreads every class evenly over the epoch. A rare class weighs as much as
    a common one; where chance puts three of its images in one batch and none in the next nine, as a plain
    permutation does, the gradient follows it to and fro. After the first epoch of a B0 on HAM10000 (rate 1e-3) the
    even spread stood at a balanced accuracy of 0.567, a plain permutation at 0.488; at the end the two met.

    A last batch that would leave a replica a single image joins the one before it, since BatchNorm
    needs more than one value. Set `epoch` and `first_step` before iterating.

    Args:
        labels: int [N], the class of each image of the training part.
        batch_size: images a step, over all replicas.
        replicas: pieces a batch is cut into (GPUs or processes).
        rank, world: this process takes its share of each batch, one of `world`; of a process that is alone,
            DataParallel cuts the pieces.
    """

    def __init__(
        self, labels: np.ndarray, batch_size: int, seed: int, replicas: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        self.labels, self.batch_size, self.seed = labels, batch_size, seed
        self.size = size = len(labels)
        self.rank, self.world = rank, world
        self.epoch = 0
        self.first_step = 0
        self.bounds = [*range(0, size, batch_size), size]
        if len(self.bounds) > 2 and _least_piece(size - self.bounds[-2], replicas, world) < 2:
            del self.bounds[-2]

        lengths = [b - a for a, b in zip(self.bounds, self.bounds[1:], strict=False)]
        self.most_images = min(batch_size, size)  # of a batch, over all replicas
        # What the least of all replicas ever gets.
        self.least_images = min(_least_piece(length, replicas, world) for length in lengths)

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.bounds) - 1

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of an epoch, over all processes, int64."""
        # Counted from the top, since augmentation's keys count from the bottom: no stream is used twice.
        key = np.array([self.seed, 2**64 - 1 - epoch], dtype=np.uint64)
        draw = np.random.Generator(np.random.Philox(key=key))
        order = draw.permutation(self.size)
        order = order[np.argsort(self.labels[order], kind="stable")]  # class by class, at random within each
        labels, counts = self.labels[order], np.bincount(self.labels)
        number = np.arange(self.size) - (np.cumsum(counts) - counts)[labels]  # within its class
        order = order[np.argsort((number + draw.random(self.size)) / counts[labels], kind="stable")]
        return [order[a:b] for a, b in zip(self.bounds, self.bounds[1:], strict=False)]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for rows in self.plan(self.epoch)[self.first_step :]:
            yield [(self.epoch, int(i)) for i in np.array_split(rows, self.world)[self.rank]]


def _least_piece(images: int, replicas: int, world: int) -> int:
    """The fewest images that a replica gets of a batch; 0 where there are more replicas than images.

    Processes share a batch evenly. DataParallel cuts it as `torch.chunk` does, in equal pieces and what is left:
    13 images on four GPUs are 4, 4, 4, 1, and nine are 3, 3, 3, with which the fourth GPU has nothing to do.
    """
    if world > 1 or images < replicas:
        return images // replicas
    piece = -(-images // replicas)
    return images % piece or piece


class PlainBatches(Sampler[list[tuple[int, int]]]):
    """Every row once, in order, as evaluation views; process `rank` of `world` takes every `world`-th row.

    No row is padded or dropped, so figures over all processes are those of the set itself.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.rows = range(rank, size, world)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for first in range(0, len(self.rows), self.batch_size):
            yield [(PLAIN, i) for i in self.rows[first : first + self.batch_size]]


def default_workers(on_gpu: bool) -> int:
    """How many worker processes feed one training process on this machine, shared with others by torchrun or not.

    A CPU that trains has no core to spare: one worker keeps decoding out of the step's way and its
    threads busy. A GPU is fed by the cores that there are, up to eight.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, usable_cores() // processes)) if on_gpu else 1


def make_loader(
    dataset: SkinDiseaseDataset,
    batches: Sampler[list[tuple[int, int]]],
    workers: int,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """The loader of a data set: batches come ready-made, in the sampler's order, ahead of their use."""
    if workers and len(dataset) and is_npz_image(dataset.path(0)):
        read_npz_image(dataset.path(0))  # an array that is unpacked here is shared by the loader's processes
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker,
    )


def ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches, on `device`: copied to a GPU in a stream of its own, each while the step before it runs."""
    for batch, _ in timed_ahead(batches, device):
        yield batch


def timed_ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[tuple[Batch, float]]:
    """As `ahead`, each batch with the seconds for which the device has waited for the loader.

    What a GPU still has to do is not waited for: then the loader's time counts as none.
    """
    if device.type == "cpu":
        yield from _timed(batches, lambda: True)
        return
    stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)

    def arrived(batch: Batch, copied: torch.cuda.Event) -> Batch:
        current.wait_event(copied)
        for tensor in (batch.images, batch.labels):
            tensor.record_stream(current)  # its memory belongs to the other stream, which must not take it back yet
        return batch

    coming: tuple[Batch, torch.cuda.Event] | None = None
    waited = 0.0
    for batch, seconds in _timed(batches, current.query):
        with torch.cuda.stream(stream):
            images, labels = (tensor.to(device, non_blocking=True) for tensor in (batch.images, batch.labels))
            copied = torch.cuda.Event()
            copied.record(stream)
        waited += seconds
        if coming is not None:
            yield arrived(*coming), waited
            waited = 0.0
        coming = batch._replace(images=images, labels=labels), copied
    if coming is not None:
        yield arrived(*coming), waited


def _timed(batches: Iterable[Batch], idle: Callable[[], bool]) -> Iterator[tuple[Batch, float]]:
    """Each batch and the seconds until it was there; 0 for a device that was not `idle` by then."""
    source = iter(batches)
    while True:
        mark = time.perf_counter()
        batch = next(source, None)
        if batch is None:
            return
        yield batch, (time.perf_counter() - mark) * idle()


def checked(batch: Batch) -> Batch:
    """The batch, or the error of the image in it that could not be read.

    Raises:
        UserError: naming the image.
    """
    if batch.error:
        raise UserError(batch.error)
    return batch


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(worker_id: int) -> None:
    ignore_in_worker()
    keep_freed_memory()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
