"""The input path alone: from JPEG files to augmented, normalised float batches on the device.

Four ways to the same batch size: the plain transforms, ours without a cache, ours while the cache is being
filled (a first epoch), and ours from the cache (every later one). On one core, with the loader in the
training process, and with two loader processes. The plain path and ours run in processes of their own.
"""

from __future__ import annotations

import csv
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from skin.bench.plain import PlainImages
from skin.data.cache import PixelCache
from skin.data.dataset import EpochBatches, make_loader
from skin.data.images import Preprocess
from skin.model.model import Classifier, build
from skin.model.precision import choose
from skin.training.parts import Parts
from skin.training.settings import Settings
from skin.utils.errors import UserError
from skin.utils.files import write_atomically
from skin.utils.memory import keep_freed_memory

import cv2
import torch
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

PATHS = ("plain", "ours", "ours, filling the cache", "ours, cached")
WORKERS = (0, 2)
BATCHES = 24  # timed in a round: many more than the loader's processes have ready when the clock starts
SECONDS = 3.0  # timed in a round, at least
WARMUP = 4  # batches for each process before the clock starts: a forked one copies its parent's pages first

Stream = Iterator[Tensor]  # of float32 [B, 3, size, size] on the device


def measure(
    parts: Parts, preprocess: Preprocess, batch_size: int, batches: int | None, rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    """Images per second of each path and number of workers, in turns over the rounds, and how many times the plain
    path's in the same round: of both the median, the lowest and the highest.

    Args:
        batches: how many are timed in a round; None is `BATCHES` and as many more as fill `SECONDS` where images
            may come again. The training part should hold as many images and those to warm up with
            (`images_needed`): a cache that is being filled meets each of them once.

    Raises:
        UserError: the training part does not fill a batch, or its images are arrays, which nobody decodes.
    """
    if len(parts.of("train")) < batch_size:
        raise UserError(f"{parts.index.root}: {len(parts.of('train')):,} images in the training part do not fill a "
                        f"batch of {batch_size}; use a smaller --batch-size")  # fmt: skip
    least_seconds = SECONDS if batches is None else 0.0
    samples: dict[tuple[str, int], list[float]] = {(p, w): [] for p in PATHS for w in WORKERS}
    spawn = get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="skin-input-") as name,
        ProcessPoolExecutor(1, spawn, _start, (False,)) as plain,
        ProcessPoolExecutor(1, spawn, _start, (device.type == "cpu",)) as ours,
    ):
        filled = _cache(parts, preprocess, Path(name) / "filled")
        filled.build()
        for number, (path, workers) in itertools.product(range(rounds), samples):
            cache, seconds = filled if path == "ours, cached" else None, least_seconds
            if path == "ours, filling the cache":
                cache, seconds = _cache(parts, preprocess, Path(name) / f"{number}-{workers}"), 0.0
            sample = _Sample(parts, preprocess, path, cache, batch_size, batches or BATCHES, seconds, workers, device)
            samples[path, workers].append((plain if path == "plain" else ours).submit(_speed, sample).result())
    return [_row(path, workers, values, samples["plain", workers]) for (path, workers), values in samples.items()]


@dataclass(frozen=True)
class _Sample:
    """One thing to measure once."""

    parts: Parts
    preprocess: Preprocess
    path: str
    cache: PixelCache | None
    batch_size: int
    batches: int  # timed, at least
    seconds: float  # timed, at least
    workers: int
    device: torch.device

    def stream(self) -> Stream:
        """The batches, without end."""
        if self.path == "plain":
            return _plain(self.parts, self.preprocess.image_size, self.batch_size, self.workers, self.device)
        model = build("efficientnet_b0", 2)  # for its normalisation alone
        classifier = Classifier(model, self.preprocess, choose("off", self.device)).to(self.device)
        return _ours(self.parts, self.cache, classifier, self.batch_size, self.workers, self.device)


def _start(keep: bool) -> None:
    """In a process of measurements: one core computes. Ours keep freed memory, as training does; notebooks do not."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if keep:
        keep_freed_memory()


def _row(path: str, workers: int, speeds: list[float], plain: list[float]) -> dict[str, Any]:
    """A path's figures over the rounds. Neighbours in time are compared: slow minutes are unkind to both."""
    gains = [speed / yardstick for speed, yardstick in zip(speeds, plain, strict=True)]
    return {
        "path": path, "workers": workers,
        "images_per_second": statistics.median(speeds), "low": min(speeds), "high": max(speeds),
        "speedup_over_plain": statistics.median(gains), "speedup_low": min(gains), "speedup_high": max(gains),
        "samples": speeds,
    }  # fmt: skip


def images_needed(batch_size: int, batches: int) -> int:
    """How many images to generate so that their training part, 70 %, fills each batch with images not met before."""
    return 3 * batch_size * (batches + WARMUP * max(WORKERS)) // 2


def _cache(parts: Parts, preprocess: Preprocess, folder: Path) -> PixelCache:
    cache = parts.open_cache(preprocess, Settings(cache=str(folder)))
    if cache is None:
        raise UserError(f"{parts.index.root} holds arrays of pixels, so --input has no JPEG to decode; "
                        "name a folder of images")  # fmt: skip
    return cache


def _plain(parts: Parts, size: int, batch_size: int, workers: int, device: torch.device) -> Stream:
    images = PlainImages(parts.of("train")["path"].tolist(), parts.labels("train"), size)
    loader = DataLoader(
        images, batch_size, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
    )
    for batch, _ in itertools.chain.from_iterable(itertools.repeat(loader)):
        yield batch.to(device)


def _ours(
    parts: Parts, cache: PixelCache | None, classifier: Classifier, batch_size: int, workers: int,
    device: torch.device,
) -> Stream:  # fmt: skip
    dataset = parts.dataset("train", classifier.preprocess, cache=cache)
    order = EpochBatches(dataset.labels, batch_size, seed=0)
    loader = make_loader(dataset, order, workers, pin_memory=device.type == "cuda")
    for epoch in itertools.count():
        order.set_epoch(epoch)
        for batch in loader:
            yield classifier.normalise(batch.images.to(device, non_blocking=True))


def _speed(sample: _Sample) -> float:
    """Images per second of a sample, after a warm-up."""
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


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for a terminal."""
    view = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    view.add_column("input path")
    for name in ("workers", "images/s", "lowest", "highest", "×plain", "lowest", "highest"):
        view.add_column(name, justify="right")
    for row in rows:
        speeds = [f"{row[name]:,.0f}" for name in ("images_per_second", "low", "high")]
        gains = [f"{row[name]:.2f}" for name in ("speedup_over_plain", "speedup_low", "speedup_high")]
        view.add_row(row["path"], "none" if row["workers"] == 0 else str(row["workers"]), *speeds, *gains)
    return view


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """The rows as a table for a spreadsheet, without the single rounds."""
    text = io.StringIO()
    columns = [name for name in rows[0] if name != "samples"]
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_atomically(text.getvalue().encode(), path)
