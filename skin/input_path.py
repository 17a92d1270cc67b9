"""The input path alone: from JPEG files to augmented, normalised float batches on the device.

Four ways to the same batch size: the plain transforms, ours without a cache, ours while the cache is being
filled (a first epoch), and ours from the cache (every later one). On one core, with the loader in the
training process, and with two loader processes.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import torch
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from skin.cache import PixelCache
from skin.cpu_step import keep_freed_memory
from skin.dataset import EpochBatches, make_loader
from skin.images import Preprocess
from skin.model import Classifier, build
from skin.parts import Parts
from skin.plain import PlainImages
from skin.precision import choose
from skin.settings import Settings

PATHS = ("plain", "ours", "ours, filling the cache", "ours, cached")
WORKERS = (0, 2)
BATCHES = 24  # timed in a round: many more than the loader's processes have ready when the clock starts

Stream = Iterator[Tensor]  # of float32 [B, 3, size, size] on the device


def measure(
    parts: Parts, preprocess: Preprocess, batch_size: int, batches: int, rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    """Images per second of each path and number of workers, in turns over the rounds.

    Args:
        batches: how many are timed in a round, after one for each worker to start with. The training part
            should hold as many images: a cache that is being filled meets each of them once.
    """
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if device.type == "cpu":
        keep_freed_memory()  # as training does; the plain path gains by it too
    classifier = Classifier(build("efficientnet_b0", 2), preprocess, choose("off", device)).to(device)
    samples: dict[tuple[str, int], list[float]] = {(p, w): [] for p in PATHS for w in WORKERS}
    try:
        with tempfile.TemporaryDirectory(prefix="skin-input-") as name:
            filled = _cache(parts, preprocess, Path(name) / "filled")
            filled.build()
            for number, (path, workers) in itertools.product(range(rounds), samples):
                if path == "plain":
                    stream = _plain(parts, preprocess.image_size, batch_size, workers, device)
                else:
                    cache = filled if path == "ours, cached" else None
                    if path == "ours, filling the cache":
                        cache = _cache(parts, preprocess, Path(name) / f"{number}-{workers}")
                    stream = _ours(parts, cache, classifier, batch_size, workers, device)
                samples[path, workers].append(_speed(stream, max(1, workers), batches, device))
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    means = {key: statistics.fmean(values) for key, values in samples.items()}
    return [
        {
            "path": path, "workers": workers, "images_per_second": means[path, workers],
            "speedup_over_plain": means[path, workers] / means["plain", workers],
            "low": min(values), "high": max(values), "samples": values,
        }
        for (path, workers), values in samples.items()
    ]  # fmt: skip


def images_needed(batch_size: int, batches: int) -> int:
    """How many images to generate so that their training part, 70 %, fills each batch with images not met before."""
    return 3 * batch_size * (batches + max(WORKERS)) // 2


def _cache(parts: Parts, preprocess: Preprocess, folder: Path) -> PixelCache:
    cache = parts.open_cache(preprocess, Settings(cache=str(folder)))
    assert cache is not None
    return cache


def _plain(parts: Parts, size: int, batch_size: int, workers: int, device: torch.device) -> Stream:
    images = PlainImages(parts.of("train")["path"].tolist(), parts.labels("train"), size)
    loader = DataLoader(images, batch_size, shuffle=True, num_workers=workers, drop_last=True)
    for batch, _ in itertools.chain.from_iterable(itertools.repeat(loader)):
        yield batch.to(device)


def _ours(
    parts: Parts, cache: PixelCache | None, classifier: Classifier, batch_size: int, workers: int,
    device: torch.device,
) -> Stream:  # fmt: skip
    dataset = parts.dataset("train", classifier.preprocess, cache=cache)
    order = EpochBatches(len(dataset), batch_size, seed=0)
    loader = make_loader(dataset, order, workers, pin_memory=device.type == "cuda")
    for order.epoch in itertools.count():
        for batch in loader:
            if len(batch.images) == batch_size:
                yield classifier.normalise(batch.images.to(device, non_blocking=True))


def _speed(stream: Stream, warmup: int, batches: int, device: torch.device) -> float:
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    images = [len(batch) for batch in itertools.islice(stream, warmup)]
    wait()
    start = time.perf_counter()
    images = [len(batch) for batch in itertools.islice(stream, batches)]
    wait()
    return sum(images) / (time.perf_counter() - start)


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for a terminal."""
    view = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    view.add_column("input path")
    for name in ("workers", "images/s", "lowest", "highest", "×plain"):
        view.add_column(name, justify="right")
    for row in rows:
        speeds = [f"{row[name]:,.0f}" for name in ("images_per_second", "low", "high")]
        workers = "none" if row["workers"] == 0 else str(row["workers"])
        view.add_row(row["path"], workers, *speeds, f"{row['speedup_over_plain']:.2f}")
    return view
