"""Measure the input path alone: from JPEG files to augmented, normalised float batches on the device.

There are four ways: the plain transforms, ours without a cache, ours while the cache is being filled (a first epoch),
and ours from the cache (every later one). Each is measured on one core with the loader in the training process, and
with two loader processes. The plain path and ours run in processes of their own.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from skin.bench import tables
from skin.bench.options import BenchmarkOptions
from skin.bench.plain import PlainImages
from skin.bench.report import new_heading
from skin.bench.tables import Column
from skin.data.cache import PixelCache
from skin.data.dataset import EpochBatches, make_loader
from skin.data.images import Preprocess
from skin.model.network import Classifier, build, preprocess_for
from skin.model.precision import choose
from skin.training.options import Options
from skin.training.splits import Splits
from skin.utils.errors import UserError
from skin.utils.memory import keep_freed_memory
from skin.utils.parallel import usable_gpus
from skin.utils.processes import spawned

import cv2
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

PATHS = ("plain", "ours", "ours, filling the cache", "ours, cached")
WORKERS = (0, 2)
BATCH_SIZE = 32
BATCHES = 24  # timed in a round: many more than the loader's processes have ready when the clock starts
SECONDS = 3.0  # timed in a round, at least
WARMUP = 4  # batches per process before the clock starts: a forked one copies its parent's pages first

Samples = dict[tuple[str, int], list[float]]  # images per second of a path and number of workers, by round
Stream = Iterator[Tensor]  # of float32 [B, 3, size, size] on the device


@dataclass(frozen=True)
class Row:
    """The speed of a path, in each round; the fields and properties in `COLUMNS` are what is written.

    A path is compared with the plain one of the same round, since slow minutes of the machine slow down both.
    """

    path: str
    workers: int
    samples: list[float]  # images per second
    plain: list[float]

    @property
    def gains(self) -> list[float]:
        return [speed / plain for speed, plain in zip(self.samples, self.plain, strict=True)]

    def to_json(self) -> dict[str, str | int | float | list[float]]:
        """Return the row as an entry of the JSON's `cells`."""
        return {**tables.cell(COLUMNS, self), "samples": self.samples}


COLUMNS: tuple[Column[Row], ...] = (
    Column("path", lambda row: row.path, "input path"),
    Column("workers", lambda row: row.workers, "workers", lambda workers: str(workers or "none")),
    Column("images_per_second", lambda row: statistics.median(row.samples), "images/s", "{:,.0f}".format),
    Column("low", lambda row: min(row.samples), "lowest", "{:,.0f}".format),
    Column("high", lambda row: max(row.samples), "highest", "{:,.0f}".format),
    Column("speedup_over_plain", lambda row: statistics.median(row.gains), "×plain", "{:.2f}".format),
    Column("speedup_low", lambda row: min(row.gains), "lowest", "{:.2f}".format),
    Column("speedup_high", lambda row: max(row.gains), "highest", "{:.2f}".format),
)


def benchmark(options: BenchmarkOptions, splits: Splits, console: Console) -> int:
    """Measure the input path, show and write it; return the exit code."""
    heading = new_heading("input", options)
    preprocess = preprocess_for(options.model, options.image_size)
    device = torch.device("cuda" if usable_gpus() else "cpu")
    batch_size, samples, complete = options.batch_size or BATCH_SIZE, Samples(), False
    try:
        for key, speed in measure(splits, preprocess, batch_size, options.steps, options.rounds, device):
            samples.setdefault(key, []).append(speed)
        complete = True
    finally:  # also after Ctrl-C: what is known so far is shown and kept
        rows = rows_of(samples)
        if rows:
            console.print(tables.table(COLUMNS, rows, gap=2))
            content = {**heading.to_json(complete), "cells": [row.to_json() for row in rows]}
            tables.write(options, content, [column.name for column in COLUMNS], six_digits=True)
    return 0


def rows_of(samples: Samples) -> list[Row]:
    """Return a row for each path and number of workers, of those rounds in which the plain path was measured, too."""
    rows = []
    for (path, workers), speeds in samples.items():
        pairs = list(zip(speeds, samples.get(("plain", workers), []), strict=False))
        if pairs:
            rows.append(Row(path, workers, [speed for speed, _ in pairs], [plain for _, plain in pairs]))
    return rows


def measure(
    splits: Splits, preprocess: Preprocess, batch_size: int, batches: int | None, rounds: int, device: torch.device
) -> Iterator[tuple[tuple[str, int], float]]:
    """Yield path, number of workers and images per second of each measurement, in turns over the rounds.

    Args:
        batches: how many are timed in a round. None is `BATCHES`, and as many more as fill `SECONDS` if images may
            come again. The training split should hold as many images, and those of the warm-up (`images_needed`): a
            cache that is being filled meets each image once.

    Raises:
        UserError: the training split does not fill a batch, or its images are arrays, which nobody decodes.
    """
    if len(splits.of("train")) < batch_size:
        raise UserError(
            f"{splits.index.root}: {len(splits.of('train')):,} images in the training split do not fill a batch of "
            f"{batch_size}; use a smaller --batch-size"
        )
    least_seconds = SECONDS if batches is None else 0.0
    usual = multiprocessing.get_start_method()
    with (
        tempfile.TemporaryDirectory(prefix="skin-input-") as name,
        spawned(1, _start, usual, False) as plain,
        spawned(1, _start, usual, device.type == "cpu") as ours,
    ):
        filled = _cache(splits, preprocess, Path(name) / "filled")
        filled.build()
        for number, path, workers in itertools.product(range(rounds), PATHS, WORKERS):
            cache, seconds = filled if path == "ours, cached" else None, least_seconds
            if path == "ours, filling the cache":
                cache, seconds = _cache(splits, preprocess, Path(name) / f"{number}-{workers}"), 0.0
            count = batches or BATCHES
            sample = _Sample(splits, preprocess, path, cache, batch_size, count, seconds, workers, device)
            yield (path, workers), (plain if path == "plain" else ours).submit(_speed, sample).result()


@dataclass(frozen=True)
class _Sample:
    """One thing to measure once."""

    splits: Splits
    preprocess: Preprocess
    path: str
    cache: PixelCache | None
    batch_size: int
    batches: int  # timed, at least
    seconds: float  # timed, at least
    workers: int
    device: torch.device

    def stream(self) -> Stream:
        """Yield batches without end."""
        if self.path == "plain":
            return _plain(self.splits, self.preprocess.image_size, self.batch_size, self.workers, self.device)
        model = build("efficientnet_b0", 2)  # for its normalisation alone
        classifier = Classifier(model, self.preprocess, choose("off", self.device)).to(self.device)
        return _ours(self.splits, self.cache, classifier, self.batch_size, self.workers, self.device)


def _start(usual: str, keep: bool) -> None:
    """Let one core compute in a process of measurements; `keep` freed memory there, as our training does.

    Its loaders start in the `usual` way, as in training: a process that was spawned would spawn them.
    """
    multiprocessing.set_start_method(usual, force=True)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if keep:
        keep_freed_memory()


def images_needed(options: BenchmarkOptions) -> int:
    """Return how many images to generate: 70 % of them, the training split, fill each batch with new images."""
    batch_size, batches = options.batch_size or BATCH_SIZE, options.steps or BATCHES
    return 3 * batch_size * (batches + WARMUP * max(WORKERS)) // 2


def _cache(splits: Splits, preprocess: Preprocess, folder: Path) -> PixelCache:
    cache = splits.open_cache(preprocess, Options(cache=str(folder)))
    if cache is None:
        raise UserError(f"{splits.index.root} holds arrays of pixels, so --input has no JPEG to decode; "
                        "name a folder of images")  # fmt: skip
    return cache


def _plain(splits: Splits, size: int, batch_size: int, workers: int, device: torch.device) -> Stream:
    images = PlainImages(splits.of("train")["path"].tolist(), splits.labels("train"), size)
    loader = DataLoader(
        images, batch_size, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
    )
    for batch, _ in itertools.chain.from_iterable(itertools.repeat(loader)):
        yield batch.to(device)


def _ours(
    splits: Splits, cache: PixelCache | None, classifier: Classifier, batch_size: int, workers: int,
    device: torch.device,
) -> Stream:  # fmt: skip
    dataset = splits.dataset("train", classifier.preprocess, cache=cache)
    order = EpochBatches(dataset.labels, batch_size, seed=0)
    loader = make_loader(dataset, order, workers, pin_memory=device.type == "cuda")
    for epoch in itertools.count():
        order.set_epoch(epoch)
        for batch in loader:
            yield classifier.normalise(batch.images.to(device, non_blocking=True))


def _speed(sample: _Sample) -> float:
    """Return the images per second of a sample, after a warm-up."""
    wait: Callable[[], None] = torch.cuda.synchronize if sample.device.type == "cuda" else lambda: None
    stream = sample.stream()
    for _ in itertools.islice(stream, WARMUP * max(1, sample.workers)):
        pass
    wait()
    start, images = time.perf_counter(), 0
    for number, batch in enumerate(stream, start=1):
        images += len(batch)
        if number >= sample.batches and time.perf_counter() - start >= sample.seconds:
            break
    wait()
    return images / (time.perf_counter() - start)
