"""Estimate how long a run would take on this machine, from a few of its own steps: for `--check`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from skin.data.dataset import Batch, default_workers, on_device
from skin.model.network import preprocess_for
from skin.training.options import Options
from skin.training.pace import Work, duration
from skin.training.recipes import RECIPES
from skin.training.splits import Splits
from skin.training.trainer import Trainer
from skin.utils import parallel
from skin.utils.errors import UserError
from skin.utils.hardware import usable_cores
from skin.utils.known_errors import advice_on
from skin.utils.parallel import Topology

SECONDS = 2.0  # for the steps, after the model is built; a step that has begun is finished
_INPUT_SECONDS = 0.5
_PIXELS = 4 * 300**2  # of a step on a CPU: a whole batch might take a minute there

BuildTrainer = Callable[[Options, Topology, Splits], Trainer]
TrainStep = Callable[[Trainer, Batch, float], Any]


def estimate(
    options: Options, processes: Topology, splits: Splits, build_trainer: BuildTrainer, train_step: TrainStep
) -> list[str]:
    """Return sentences that say how long the run would take and from what this is worked out, or why it is not known.

    Some ten seconds at most on a usual machine. Nothing is downloaded or written, and no process is started.

    Args:
        build_trainer, train_step: train.py's own.
    """
    if processes.distributed:
        return ["Not measured under torchrun: start --check without it."]
    if splits.of("train").empty:
        return ["Not measured: the data are not split, so there are no training images yet."]
    try:
        topology = parallel.on_devices(processes, options.gpus)
        trainer = build_trainer(_trial(options, topology), topology, splits)
        input_seconds, _ = _seconds_per_image(_loading(trainer), _INPUT_SECONDS)
        step_seconds, steps = _seconds_per_image(_stepping(trainer, train_step), SECONDS)
    except (UserError, RuntimeError, MemoryError, OSError) as error:
        return [f"Not measured: {advice_on(error) or error}"]
    seconds = _run_seconds(options, topology, splits, step_seconds, input_seconds)
    size = _first_size(options)
    batch = min(trainer.batches.batch_size, trainer.batches.size)
    return [
        f"About {duration(seconds)} for {options.epochs} epochs of {options.model} on {topology.describe()}, "
        f"{trainer.classifier.precision}: {duration(seconds / options.epochs)} an epoch.",
        f"This is an estimate, worked out from {steps} training step{'s' * (steps > 1)} of {batch} images at {size} "
        f"pixels ({1 / step_seconds:,.1f} images/s) and from decoding and augmentation "
        f"({1 / input_seconds:,.0f} images/s in one process). Other programs on the machine, larger batches and the "
        "cache of decoded images change it; expect it within a factor of two.",
    ]


def _trial(options: Options, topology: Topology) -> Options:
    """Return the options of a run that needs no download, no cache and no other process, and has short steps."""
    batch = options.batch_size
    if topology.device.type == "cpu":
        batch = max(2, min(batch, _PIXELS // _full_size(options) ** 2))
    return replace(
        options, batch_size=batch, workers=0, cache="off", weights="none", compile=False, freeze_epochs=0
    )


def _loading(trainer: Trainer) -> Callable[[], int]:
    """Return a function that decodes and augments the next images and returns their number."""
    rows = [int(row) for batch in trainer.batches.plan(0) for row in batch]
    at = 0

    def load() -> int:
        nonlocal at
        keys = [(0, row) for row in rows[at : at + 8]]
        at = (at + len(keys)) % len(rows)
        trainer.dataset.__getitems__(keys)
        return len(keys)

    return load


def _stepping(trainer: Trainer, train_step: TrainStep) -> Callable[[], int]:
    """Return a function that takes a training step, always on the same batch, and returns its number of images."""
    batch = trainer.dataset.__getitems__([(0, int(row)) for row in trainer.batches.plan(0)[0]])
    batch = on_device(batch, trainer.topology.device)
    trainer.classifier.train()

    def step() -> int:
        float(train_step(trainer, batch, 1.0).loss_sum)  # waits for the GPU
        return len(batch.labels)

    return step


def _seconds_per_image(work: Callable[[], int], seconds: float) -> tuple[float, int]:
    """Call `work` until `seconds` have passed; return the seconds per image, and the number of calls timed.

    The first call warms up, and counts only if it takes all the time.
    """
    begin = time.perf_counter()
    images = work()
    first = time.perf_counter()
    if first - begin >= seconds:
        return (first - begin) / images, 1
    images = calls = 0
    while not calls or time.perf_counter() - begin < seconds:
        images += work()
        calls += 1
    return (time.perf_counter() - first) / images, calls


def _run_seconds(
    options: Options, topology: Topology, splits: Splits, step_seconds: float, input_seconds: float
) -> float:
    """Return the seconds of a run. Its loader works beside the steps, on a CPU on the same cores."""
    on_gpu = topology.device.type == "cuda"
    workers = default_workers(on_gpu) if options.workers is None else options.workers
    full = _full_size(options)
    step_seconds *= (full / _first_size(options)) ** 2  # of an image in full

    def one(seconds: float) -> float:
        if not workers:
            return seconds + input_seconds
        return max(seconds, input_seconds / workers) if on_gpu else seconds + input_seconds / usable_cores()

    counts = splits.rows["split"].value_counts()
    images = int(counts.get("train", 0)), int(counts.get("val", 0))
    work = Work.of(options, full, *images)
    passes = [(images[0], epoch) for epoch in work.training] + options.epochs * [(images[1], work.validation)]
    return sum(number * one(step_seconds * steps / number) for number, steps in passes if number)


def _first_size(options: Options) -> int:
    """Return the size of the views in the first epoch, which the steps that are timed have."""
    return RECIPES[options.recipe].image_size(0, options.epochs, _full_size(options))


def _full_size(options: Options) -> int:
    return preprocess_for(options.model, options.image_size).image_size
