"""The images of a run on their way to the steps: data sets, batches, loaders."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from skin.data.augment import STANDARD
from skin.data.dataset import (
    Batch,
    EpochBatches,
    PlainBatches,
    RandomViews,
    SkinDiseaseDataset,
    default_workers,
    make_loader,
)  # fmt: skip
from skin.data.images import Preprocess
from skin.training.options import Options
from skin.training.recipes import RECIPES
from skin.training.splits import Splits
from skin.utils.console import Log
from skin.utils.errors import UserError
from skin.utils.parallel import Topology

from torch.utils.data import DataLoader


@dataclass(frozen=True)
class TrainingData:
    """The training split, cut into the batches of an epoch and loaded."""

    dataset: SkinDiseaseDataset
    batches: EpochBatches
    loader: DataLoader[Batch]
    workers: int  # loader processes that are wanted; `loader` has fewer if shared memory is short
    notes: tuple[str, ...]  # lines that the user should see


def training_data(
    options: Options,
    topology: Topology,
    splits: Splits,
    preprocess: Preprocess,
    images_per_step: int | None,
    checkpoint_bytes: int,
) -> TrainingData:
    """Prepare the training split.

    Args:
        images_per_step: over all replicas and passes; those of the options if None.
        checkpoint_bytes: that the pixel cache leaves free for the run folder on the same disk.

    Raises:
        UserError: a replica would get too little for BatchNorm.
    """
    cache = splits.open_cache(preprocess, options, checkpoint_bytes)
    size_of = functools.partial(
        RECIPES[options.recipe].image_size, epochs=options.epochs, full=preprocess.image_size
    )
    ranges = replace(STANDARD, cutout=options.cutout).scaled(options.augment)
    views = RandomViews(options.seed, ranges, size_of)
    dataset = splits.dataset("train", preprocess, views, cache)
    batches = EpochBatches(
        dataset.labels, images_per_step or options.step_images(topology.replicas), options.seed,
        topology.replicas, topology.rank, topology.world, options.accumulate,
    )  # fmt: skip
    # Later epochs have larger views, if others.
    _refuse_small_pieces(batches, topology, options.accumulate, least_side=size_of(0))
    on_gpu = topology.device.type == "cuda"
    workers = options.workers if options.workers is not None else default_workers(on_gpu)
    notes: list[str] = []
    loader = make_loader(dataset, batches, workers, pin_memory=on_gpu, say=notes.append)
    return TrainingData(dataset, batches, loader, workers, tuple(notes))


def validation_loader(
    options: Options, topology: Topology, splits: Splits, training: TrainingData, log: Log
) -> DataLoader[Batch]:
    """Return the loader of the validation split: plain views, each image once, each process its share."""
    return _plain_loader("val", options, topology, splits, training, log, training.workers)


def some_of_training(
    options: Options, topology: Topology, splits: Splits, training: TrainingData, log: Log, most: int
) -> DataLoader[Batch]:
    """Return a loader of at most `most` training images, taken evenly, as plain views; each process has its share.

    They are read in the process itself. After the epochs it may hold ten gigabytes, and a process forked from it
    would keep a copy of each page that it writes to from then on.
    """
    return _plain_loader("train", options, topology, splits, training, log, workers=0, most=most)


def _plain_loader(
    split: str, options: Options, topology: Topology, splits: Splits, training: TrainingData, log: Log, workers: int,
    most: int | None = None,
) -> DataLoader[Batch]:  # fmt: skip
    dataset = splits.dataset(split, training.dataset.preprocess, cache=training.dataset.cache, most=most)
    size = 2 * options.batch_size * max(1, len(topology.cuda_devices))
    batches = PlainBatches(len(dataset), size, topology.rank, topology.world)
    return make_loader(dataset, batches, workers, training.loader.pin_memory, log.say_once)


def _refuse_small_pieces(batches: EpochBatches, topology: Topology, passes: int, least_side: int) -> None:
    """Raise `UserError` if a replica would get no image of a batch, or too few pixels for BatchNorm."""
    if batches.least_images < 1:
        who = f"{topology.replicas} {'processes' if topology.distributed else 'GPUs'}"
        where = f"{who}; use fewer of them"
        if passes > 1:
            where = f"{passes} passes{f' on {who}' * (topology.replicas > 1)}; use a smaller --accumulate"
        raise UserError(f"{min(batches.batch_size, batches.size)} images a step are too few for {where}")
    if batches.least_images < 2 and least_side <= 32:
        remedy = "a larger --batch-size"
        if batches.batch_size >= batches.size:  # each step takes all images there are
            remedy = "a smaller --accumulate" if passes > 1 else "a larger --image-size"
        raise UserError(f"a batch of one 32-pixel image gives BatchNorm a single value; use {remedy}")
