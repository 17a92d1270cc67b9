"""The data set, the order of an epoch and the loader: from the rows of an index to batches of bytes.

The sampler sends workers keys, not bare indices: (epoch, index). A worker therefore holds no state that an
epoch changes, and persistent workers, killed workers and no workers at all give the same batches.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from skin.data.augment import STANDARD, Augmentation, augment, generator
from skin.data.cache import PixelCache
from skin.data.containers import is_member, member_bytes
from skin.data.images import ImageError, Preprocess, centre_crop, read_image
from skin.data.metadata import Encoder
from skin.data.npz import is_npz_image, read_npz_image
from skin.utils.errors import UserError
from skin.utils.hardware import usable_cores
from skin.utils.known_errors import advice_on
from skin.utils.memory import keep_freed_memory
from skin.utils.processes import prepare_children
from skin.utils.signals import LOADER, ignore_in_worker, waiting

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

AHEAD = 4  # batches that a loader's process makes before they are needed, if there is room
SHARED_MEMORY = "/dev/shm"
PAGE = 4096
PLAIN = -1
"""The epoch of a key that asks for the evaluation view: the centre of the stored image."""


class Batch(NamedTuple):
    """A batch of a loader. `error` is one line if an image could not be read; then nothing else counts."""

    images: Tensor  # uint8 [B, size, size, 3]
    labels: Tensor  # int64 [B]
    indices: Tensor  # int64 [B], rows of the data set
    error: str = ""
    metadata: Tensor | None = None  # float32 [B, M] or [B, A, M], if the images have some


@dataclass(frozen=True)
class RandomViews:
    """The augmented views of a run. Each is a function of the seed, the epoch and the image alone."""

    seed: int = 0
    ranges: Augmentation = STANDARD
    size_of: Callable[[int], int] | None = None  # returns the side of the views of an epoch; None is the network's


@dataclass(frozen=True, eq=False)
class Metadata:
    """The metadata of each image of a data set, as an encoder gives them."""

    encoder: Encoder
    rows: np.ndarray  # float32 [N, M], or [N, A, M] if a model is to be asked A times

    @property
    def ways(self) -> tuple[int, ...]:
        """The dimensions (A,), or () if a model is asked once."""
        return self.rows.shape[1:-1]

    def and_without(self) -> Metadata:
        """Return the same for a model that is asked twice: with what is known, and as if nothing were."""
        nothing = np.broadcast_to(self.encoder.missing, self.rows.shape)
        return Metadata(self.encoder, np.stack([self.rows, nothing], 1))


class SkinDiseaseDataset(Dataset[Batch]):
    """Images of skin and their labels, read a batch at a time.

    Args:
        paths: of the images.
        labels: int [N], the class of each.
        preprocess: the size and interpolation of the stored image and of the view.
        views: the augmented ones of training.
        cache: keeps stored images once decoded; its rows are those of the whole data folder.
        cache_rows: int [N], the row in the cache of each image.
        metadata: beside the pixels. In augmented views some of it is hidden.

    A key is (epoch, index): the augmented view of that epoch, or the plain centre view for epoch `PLAIN`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: np.ndarray,
        preprocess: Preprocess,
        views: RandomViews = RandomViews(),
        cache: PixelCache | None = None,
        cache_rows: np.ndarray | None = None,
        metadata: Metadata | None = None,
    ) -> None:
        # One array of bytes, not a list of str: a million objects would be copied into every forked
        # worker, page by page, since their reference counts change.
        self.paths = np.array([os.fsencode(path) for path in paths])
        self.labels = np.asarray(labels, dtype=np.int64)
        self.preprocess = preprocess
        self.views = views
        self.cache = cache
        self.cache_rows = np.arange(len(paths)) if cache_rows is None else cache_rows
        self.metadata = metadata

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        return Path(os.fsdecode(self.paths[index]))

    def stored(self, index: int) -> np.ndarray:
        """Return the stored image of a row, uint8 [H, W, 3]; raises `ImageError`."""
        if self.cache is not None:
            return self.cache.read(int(self.cache_rows[index]))
        return read_image(os.fsdecode(self.paths[index]), self.preprocess)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """Return a whole batch of one epoch. Each view is written straight into its place in it."""
        span, views = self.preprocess.image_size, self.views
        size = span if views.size_of is None or keys[0][0] == PLAIN else views.size_of(keys[0][0])
        # Errors are sent as text: a worker's exception would reach the loop as a traceback, and its peers would wait.
        try:
            images = _to_be_sent((len(keys), size, size, 3), torch.uint8)
            numbers = _to_be_sent((2, len(keys)), torch.int64)
            metadata = self._metadata(keys)
        except RuntimeError as problem:  # another process has taken the room in shared memory meanwhile
            none = torch.empty(0)
            return Batch(none, none, none, advice_on(problem) or str(problem))
        indices = [index for _, index in keys]
        numbers.numpy()[:] = self.labels[indices], indices
        error = ""
        try:
            for view, (epoch, index) in zip(images.numpy(), keys, strict=True):
                stored = self.stored(index)
                if epoch == PLAIN:
                    view[:] = centre_crop(stored, size)
                else:
                    augment(stored, size, (views.seed, epoch, index), view, views.ranges, span)
        except ImageError as problem:
            error = problem.with_options
        return Batch(images, numbers[0], numbers[1], error, metadata)

    def _metadata(self, keys: Sequence[tuple[int, int]]) -> Tensor | None:
        """Return the metadata of a batch: in training [B, 2, M], where what is hidden depends on the key."""
        if self.metadata is None:
            return None
        encoder, rows = self.metadata.encoder, self.metadata.rows[[index for _, index in keys]]
        if keys[0][0] != PLAIN:
            draws = [generator(self.views.seed, *key, stream=1).random(len(encoder.columns)) for key in keys]
            rows = encoder.partly(rows, np.array(draws))
        found = _to_be_sent(rows.shape, torch.float32)
        found.numpy()[:] = rows
        return found

    def batch_bytes(self, images: int) -> int:
        """Return the most bytes of shared memory that a batch takes, in whole pages.

        They are those of the images, two numbers each, and the metadata.
        """
        known = 0 if self.metadata is None else 2 * 4 * self.metadata.encoder.width  # with and without, in training
        each = (self.preprocess.image_size**2 * 3, 16, known)
        return sum(-(-images * size // PAGE) * PAGE for size in each)


def _to_be_sent(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return an empty tensor; in a loader's process in memory that is shared with the main process.

    Otherwise torch copies it there in the thread of its queue. If there is no room then, that thread prints a
    traceback, the batch is lost, and the main process waits for it for ever. Here it is an exception.

    Raises:
        RuntimeError: there is no room in the file system for shared memory.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The batches of a training epoch: a permutation that is a function of (seed, epoch) alone.

    It is random within each class and spreads every class evenly over the epoch. A rare class weighs as much as a
    common one. A plain permutation may put three of its images in one batch and none in the next nine, and the
    gradient follows this to and fro. After the first epoch of a B0 on HAM10000 (rate 1e-3) the balanced accuracy was
    0.567 with the even spread and 0.488 with a plain permutation; at the end the two were equal.

    A last batch that would leave a replica a single image in a pass joins the one before it, since BatchNorm
    needs more than one value. `set_epoch` says which epoch comes next.

    Args:
        labels: int [N], the class of each image of the training split.
        batch_size: images per step, over all replicas.
        replicas: pieces that a batch is cut into (GPUs or processes).
        rank, world: this process takes its share of each batch, one of `world`. If it is alone, DataParallel cuts
            the pieces.
        passes: forward and backward passes per step; each process cuts its share of a batch into so many.
    """

    def __init__(
        self, labels: np.ndarray, batch_size: int, seed: int, replicas: int = 1, rank: int = 0, world: int = 1,
        passes: int = 1,
    ) -> None:  # fmt: skip
        self.labels, self.batch_size, self.seed = labels, batch_size, seed
        self.size = size = len(labels)
        self.rank, self.world = rank, world
        self.set_epoch(0)
        self.bounds = [*range(0, size, batch_size), size]
        if len(self.bounds) > 2 and least_piece(size - self.bounds[-2], replicas, world, passes) < 2:
            del self.bounds[-2]

        lengths = [b - a for a, b in zip(self.bounds, self.bounds[1:], strict=False)]
        # The fewest images that a replica ever gets in a pass.
        self.least_images = min(least_piece(length, replicas, world, passes) for length in lengths)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Iterate over this epoch next, from this step on."""
        self._epoch, self._first_step = epoch, first_step

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""
        return len(self.bounds) - 1

    @property
    def largest(self) -> int:
        """Return the most images that this process gets in a batch."""
        most: int = max(b - a for a, b in zip(self.bounds, self.bounds[1:], strict=False))
        return -(-most // self.world)

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Return the rows of each batch of an epoch, over all processes, int64."""
        # Counted from the top, since the keys of the augmentation count from the bottom: no stream is used twice.
        key = np.array([self.seed, 2**64 - 1 - epoch], dtype=np.uint64)
        draw = np.random.Generator(np.random.Philox(key=key))
        order = draw.permutation(self.size)
        order = order[np.argsort(self.labels[order], kind="stable")]  # class by class, at random within each
        labels, counts = self.labels[order], np.bincount(self.labels)
        number = np.arange(self.size) - (np.cumsum(counts) - counts)[labels]  # within its class
        order = order[np.argsort((number + draw.random(self.size)) / counts[labels], kind="stable")]
        return [order[a:b] for a, b in zip(self.bounds, self.bounds[1:], strict=False)]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for rows in self.plan(self._epoch)[self._first_step :]:
            yield [(self._epoch, int(i)) for i in np.array_split(rows, self.world)[self.rank]]


def least_piece(images: int, replicas: int, world: int, passes: int) -> int:
    """Return the fewest images that a replica gets of a batch in a pass; 0 if there are more replicas than images.

    Processes share a batch evenly. DataParallel cuts it as `torch.chunk` does, into equal pieces and a rest: 13
    images on four GPUs are 4, 4, 4, 1. Nine images are 3, 3, 3, and the fourth GPU has nothing to do.
    """
    if passes > 1:
        return min(least_piece(each, replicas, world, 1) for each in (images // passes, -(-images // passes)))
    if world > 1 or images < replicas:
        return images // replicas
    piece = -(-images // replicas)
    return images % piece or piece


class PlainBatches(Sampler[list[tuple[int, int]]]):
    """Every row once, in order, as evaluation views; process `rank` of `world` takes every `world`-th row.

    No row is padded or dropped, so metrics over all processes are those of the set itself.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.rows = range(rank, size, world)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    @property
    def largest(self) -> int:
        """Return the most images of a batch."""
        return min(self.batch_size, len(self.rows))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for first in range(0, len(self.rows), self.batch_size):
            yield [(PLAIN, i) for i in self.rows[first : first + self.batch_size]]


def default_workers(on_gpu: bool) -> int:
    """Return how many worker processes feed one training process on this machine, which torchrun may share.

    A CPU that trains has no core to spare: one worker keeps decoding out of the way of the step and keeps the
    threads busy. A GPU has one worker per core, up to eight.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, usable_cores() // processes)) if on_gpu else 1


class Feeding(NamedTuple):
    """The processes of a loader and their lead; `note` is one line if there are fewer than were asked for."""

    workers: int
    ahead: int  # batches that each makes before they are needed
    note: str = ""


def feeding(workers: int, batch_bytes: int, room: int | None, pin_memory: bool = False) -> Feeding:
    """Return how many processes may make how many batches ahead, so that all of them find room in shared memory.

    By default a container gives 64 MB to shared memory: seven batches of 32 images at 300 pixels.

    Args:
        workers: number of processes that are wanted.
        batch_bytes: of the largest batch.
        room: bytes of shared memory for this process's loaders; None if there is no limit.
        pin_memory: as for the loader.
    """
    if not workers or room is None:
        return Feeding(workers, AHEAD)
    # Two more batches are in use: that of the last step, until this step's is there, and one on its way to a GPU.
    batches = int(0.9 * room) // batch_bytes - (3 if pin_memory else 2)
    fitting = min(workers, batches)
    if fitting < 1:
        return Feeding(0, AHEAD, (
            f"shared memory ({SHARED_MEMORY}) has room for {room / 2**20:,.0f} MiB and a batch takes "
            f"{batch_bytes / 2**20:,.0f}: the main process prepares the images itself (--workers 0); enlarge it "
            "(docker run --shm-size 1g), or use a smaller --batch-size"
        ))  # fmt: skip
    note = f"shared memory ({SHARED_MEMORY}) has room for {room / 2**20:,.0f} MiB: {fitting} of {workers} workers"
    return Feeding(fitting, min(AHEAD, batches // fitting), note if fitting < workers else "")


def shared_memory_room() -> int | None:
    """Return the bytes of shared memory for one training process of this machine; None if nothing limits it."""
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # not on macOS and Windows
        return None
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def make_loader(
    dataset: SkinDiseaseDataset,
    batches: EpochBatches | PlainBatches,
    workers: int,
    pin_memory: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> DataLoader[Batch]:
    """Return the loader of a data set: it makes batches ahead of their use, in the sampler's order.

    Args:
        workers: loader processes. There are fewer if shared memory has no room for them; `say` gets a line on it.
    """
    workers, ahead, note = feeding(workers, dataset.batch_bytes(batches.largest), shared_memory_room(), pin_memory)
    if note:
        say(note)
    if workers:
        prepare_children()
    if workers and len(dataset):
        if is_npz_image(dataset.path(0)):
            read_npz_image(dataset.path(0))  # an array that is unpacked here is shared by the loader's processes
        elif is_member(dataset.path(0)):
            member_bytes(str(dataset.path(0)))  # and so is the list of what a container holds
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        prefetch_factor=ahead if workers else None,
        worker_init_fn=_start_worker,
    )


def ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the batches on `device`. A GPU copies each in a stream of its own, while the step before it runs."""
    for batch, _ in timed_ahead(batches, device):
        yield batch


def timed_ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[tuple[Batch, float]]:
    """Yield as `ahead` does, each batch with the seconds for which the device has waited for the loader.

    If a GPU still has work to do, it does not wait, and the time of the loader counts as none.
    """
    if device.type == "cpu":
        yield from _timed(batches, lambda: True)
        return
    stream, current = _copying_stream(device), torch.cuda.current_stream(device)

    def arrived(batch: Batch, copied: torch.cuda.Event) -> Batch:
        current.wait_event(copied)
        for tensor in (batch.images, batch.labels, batch.metadata):
            if tensor is not None:
                tensor.record_stream(current)  # the other stream owns its memory, and must not take it back yet
        return batch

    coming: tuple[Batch, torch.cuda.Event] | None = None
    waited = 0.0
    for batch, seconds in _timed(batches, current.query):
        with torch.cuda.stream(stream):
            moved = on_device(batch, device)
            copied = torch.cuda.Event()
            copied.record(stream)
        waited += seconds
        if coming is not None:
            yield arrived(*coming), waited
            waited = 0.0
        coming = moved, copied
    if coming is not None:
        yield arrived(*coming), waited


@functools.cache
def _copying_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream of a GPU's copies: memory that a stream had is not given to another."""
    return torch.cuda.Stream(device)


def _timed(batches: Iterable[Batch], idle: Callable[[], bool]) -> Iterator[tuple[Batch, float]]:
    """Yield each batch and the seconds until it was there; 0 for a device that was not `idle` by then."""
    source = iter(batches)
    while True:
        mark = time.perf_counter()
        with waiting(LOADER):
            batch = next(source, None)
        if batch is None:
            return
        yield batch, (time.perf_counter() - mark) * idle()


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch with all that the network needs on a device; its rows stay where they are."""
    images, labels = (tensor.to(device, non_blocking=True) for tensor in (batch.images, batch.labels))
    metadata = None if batch.metadata is None else batch.metadata.to(device, non_blocking=True)
    return batch._replace(images=images, labels=labels, metadata=metadata)


def checked(batch: Batch) -> Batch:
    """Return the batch, or raise the error of the image in it that could not be read.

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
