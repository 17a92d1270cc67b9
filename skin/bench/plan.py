"""Measure for a minute what a run would need here, and say how long it would take: `benchmark.py --plan`.

The loader alone is timed with the images decoded and with them in a cache, then the steps alone, then both together
in train.py's own loop. A few steps of every other model follow. `skin.bench.forecast` does the sums.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from skin.bench import tables
from skin.bench.columns import three_digits
from skin.bench.forecast import Cache, Trace, forecast, scaled, sentences, together, verdict
from skin.bench.machine import StolenTime, busy_cores
from skin.bench.measurement import Step, TrainingLoop, limited_host_memory, time_steps
from skin.bench.options import BenchmarkOptions
from skin.bench.report import Heading, new_heading
from skin.bench.work import KeptForBackward, Work, work_of
from skin.data.cache import PixelCache
from skin.data.dataset import EpochBatches, make_loader
from skin.data.images import Preprocess, read_image
from skin.data.npz import is_npz_image
from skin.model.choices import MODELS
from skin.model.network import preprocess_for
from skin.model.precision import choose
from skin.training.options import Options
from skin.training.pace import duration
from skin.training.splits import Splits, cache_folder
from skin.training.trainer import Trainer
from skin.utils import memory, parallel
from skin.utils.files import spare_bytes
from skin.utils.hardware import usable_cores
from skin.utils.known_errors import as_user_errors, is_out_of_memory
from skin.utils.memory import MIB
from skin.utils.parallel import Topology

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

IMAGES = 10_000  # of the set that a plan without --data is for, as large as HAM10000
GENERATED = 400  # images to measure on then
LOADER_SECONDS, STEP_SECONDS, FED_SECONDS, OTHER_SECONDS = 3.0, 6.0, 15.0, 1.0
OTHERS_SECONDS = 25.0  # for all other models together: on a slow machine the largest are worked out
SMALL_BATCH = 8  # up to which a step of four times the images is tried
PIXELS = 8 * 300**2  # of another model's step on a CPU, where a whole batch may take a minute
SAMPLE = 64  # images that are looked for in the cache
LOADER_BATCH = 8  # images; a slow loader would give too few larger batches
BASE_MIB = 700  # of a process that has imported torch and holds no tensor
STATES = 4  # numbers per weight: itself, its gradient, and Adam's two means


CAPTION = (
    "images/s: of the steps alone · epochs include validation · GiB: of a step · planned: measured with its loader · "
    "measured: from a few steps · estimated: by GMACs, from the largest model measured"
)


class PlanLoop(TrainingLoop, Protocol):
    """A loop whose trainer can be looked into."""

    trainer: Trainer

    def ready_step(self, copies: int = 1) -> Step:
        """Take a step on a batch that is on the device already, each of its images taken so many times."""

    def ready_forward(self) -> Step:
        """Answer that batch as validation does."""


MakeLoop = Callable[[Options, Topology, Splits], PlanLoop]
Status = Literal["measured", "estimated", "does not fit"]


@dataclass(frozen=True)
class Row:
    """The forecast for a model; times in seconds."""

    model: str
    image_size: int
    status: Status
    gmacs: float  # of a forward pass of an image
    parameters: int
    step_images_per_second: float
    first_epoch_seconds: float
    epoch_seconds: float
    run_seconds: float
    cost: float | None  # of the run, by --price-per-hour
    memory_mib: float  # of a step


def benchmark(options: BenchmarkOptions, splits: Splits, console: Console, make_loop: MakeLoop) -> int:
    """Measure, show and write the plan; return the exit code."""
    heading = new_heading("plan", options)
    settings = _settings(options, splits)
    trace, complete, rows = None, False, list[Row]()
    with limited_host_memory(), parallel.setup(settings.gpus) as topology, as_user_errors(settings.batch_size):
        if busy := busy_cores():
            console.print(busy, markup=False, soft_wrap=True)
        console.print(f"measuring {options.model} on {topology.describe()}, about a minute", markup=False)
        try:
            trace = measure(settings, topology, splits, make_loop, IMAGES if options.generated else None)
            rows.append(_row(trace, options, options.model, "measured", trace.peak_mib))
            for line in _lines(trace, options):
                console.print(line, markup=False, soft_wrap=True)
            for row in _others(settings, topology, splits, make_loop, trace, options):
                rows.append(row)  # one by one, so that Ctrl-C keeps those before it
            complete = True
        finally:  # also after Ctrl-C: what is known so far is shown and kept
            if trace is not None:
                rows.sort(key=lambda row: row.model)
                console.print(table(rows, options))
                console.print(CAPTION)
                _write(options, heading, trace, rows, complete)
    return 0


def images_needed(options: BenchmarkOptions) -> int:
    """Return how many images to generate: 70 % of them, the training split, fill a step as those of a run do."""
    step = (options.batch_size or Options().batch_size) * max(1, *options.gpu_counts(parallel.usable_gpus()))
    return min(IMAGES, max(GENERATED, 3 * step // 2))


def _settings(options: BenchmarkOptions, splits: Splits) -> Options:
    """Return the options of the run that is planned; they are train.py's defaults where nothing else is asked for.

    A step has no more images than there are to train on.
    """
    gpus = max(options.gpu_counts(parallel.usable_gpus()))
    batch_size = min(options.batch_size or Options().batch_size, -(-len(splits.of("train")) // max(1, gpus)))
    return Options(
        data=options.data, labels=options.labels, allow_missing=True, keep_duplicates=True, model=options.model,
        weights="none", image_size=options.image_size, batch_size=max(1, batch_size),
        amp="auto" if "on" in options.amp else "off", gpus=gpus, workers=options.workers,
        cache=options.cache, epochs=options.epochs,
    )  # fmt: skip


# ---- measuring --------------------------------------------------------------------------------------------------


def measure(
    settings: Options, topology: Topology, splits: Splits, make_loop: MakeLoop, images: int | None = None
) -> Trace:
    """Return the trace of the run that `settings` describe.

    Args:
        images: of the set that the run would have, if it is not `splits` itself.
    """
    preprocess = preprocess_for(settings.model, settings.image_size)
    images = images or len(splits.rows)
    kept, stolen = _cache_of(settings, splits, preprocess, images), StolenTime()
    with tempfile.TemporaryDirectory(prefix="skin-plan-") as folder:
        cache = folder if kept.state == "on" and kept.later >= 0.5 else "off"  # train as most epochs of the run do
        loop = make_loop(replace(settings, cache=cache), topology, splits)
        step, forward = (_seconds(loop, take, STEP_SECONDS) for take in (loop.ready_step, loop.ready_forward))
        peak_mib = memory.read_all(topology).peak_mib
        larger = _larger_step(loop) if settings.batch_size <= SMALL_BATCH else None
        empty = str(Path(folder) / "loader")  # the loop has put its first batch into its own
        decode, cached = _loading(loop.trainer, splits, replace(settings, cache=empty))
        fed = _fed(loop, step, decode)
        workers = loop.trainer.loader.num_workers
    counts = splits.rows["split"].value_counts()
    scale = images / len(splits.rows)
    trace = Trace(
        on_gpu=topology.device.type == "cuda", cores=usable_cores(), threads=torch.get_num_threads(),
        workers=workers, image_size=preprocess.image_size, batch_size=settings.batch_size,
        train_images=round(scale * counts.get("train", 0)), val_images=round(scale * counts.get("val", 0)),
        decode=decode, cached=cached, cache=kept.state, kept_now=kept.now, kept_later=kept.later,
        cache_gib=kept.all_bytes / 2**30, step=step, forward=forward,
        larger_step=larger, slowdown=1.0, could_use_amp=_could_use_amp(settings, topology.device),
        peak_mib=peak_mib, memory_mib=_memory_mib(topology.device), stolen_cores=stolen.cores(),
    )  # fmt: skip
    return fed_by_its_loader(trace, fed, 0.0 if cache == "off" else 1.0)


def fed_by_its_loader(trace: Trace, fed: float, kept: float) -> Trace:
    """Return the trace with its slowdown, from the seconds per image of training with its loader.

    No loader makes a step faster: if training took less than bare steps, these were held up while they were timed.

    Args:
        kept: share of the images in the cache.
    """
    if fed < trace.step:
        trace = replace(trace.with_step(fed), larger_step=trace.larger_step)  # measured for itself
    return replace(trace, slowdown=max(1.0, fed / together(trace.step, trace.load(kept), trace)))


def _seconds(loop: PlanLoop, take: Callable[[], Step], seconds: float) -> float:
    """Return the seconds per image of steps on a batch that is ready, after a warm-up."""
    steps = iter(take, None)
    once = time_steps(steps, 1, loop.topology)
    if once.seconds < seconds:  # otherwise the warm-up is next to nothing of it
        once = time_steps(steps, 1, loop.topology)
    if once.seconds < seconds / 2:
        once = time_steps(steps, math.ceil(seconds / once.seconds), loop.topology)
    return once.seconds / once.images


def _larger_step(loop: PlanLoop) -> float | None:
    """Return the seconds per image of steps with four times the images; None if those do not fit."""
    try:
        return _seconds(loop, lambda: loop.ready_step(4), STEP_SECONDS)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _fed(loop: PlanLoop, step: float, decode: float) -> float:
    """Return the seconds per image of train.py's loop with its loader.

    Args:
        step, decode: seconds per image, of which each limits the number of steps.
    """
    images = min(FED_SECONDS / step, FED_SECONDS / decode)
    count = max(4, math.ceil(images / loop.trainer.batches.batch_size))
    loop.prepare(count + 2)
    steps = itertools.chain.from_iterable(map(loop.epoch_steps, itertools.count()))
    time_steps(steps, 2, loop.topology)  # the loader's processes start
    window = time_steps(steps, count, loop.topology)
    return window.seconds / window.images


def _loading(trainer: Trainer, splits: Splits, settings: Options) -> tuple[float, float]:
    """Return the seconds per image of the loader alone: of images that it decodes and keeps, and of kept ones."""
    preprocess = trainer.classifier.preprocess
    dataset = splits.dataset("train", preprocess, cache=splits.open_cache(preprocess, settings))
    batches = EpochBatches(dataset.labels, LOADER_BATCH, settings.seed)

    def passing(most: int | None) -> tuple[float, int]:
        loader = make_loader(dataset, batches, trainer.data.workers, trainer.loader.pin_memory)
        return _loader_seconds(map(trainer.refuse_unread, loader), max(1, loader.num_workers), most)

    decode, count = passing(None)
    if dataset.cache is None:
        return decode, decode
    return decode, passing(count)[0]


def _loader_seconds(stream: Iterator[object], workers: int, most: int | None) -> tuple[float, int]:
    """Take `most` of a loader's batches, or for `LOADER_SECONDS`; return the seconds per image and their number.

    The clock starts once each process has given its first batch.
    """
    begin = start = time.perf_counter()
    count, began, seconds = 0, 0, 0.0
    for _ in stream:
        count += 1
        if count <= workers:
            began, start = count, time.perf_counter()
            continue
        seconds = time.perf_counter() - start
        if count == most or (most is None and seconds >= LOADER_SECONDS and count >= 3 * workers):
            break
    if count == began:  # all images together are no more than the first batches
        return (start - begin) / count / LOADER_BATCH, count
    return seconds / (count - began) / LOADER_BATCH, count


@dataclass(frozen=True)
class _Kept:
    """The state of the run's cache; shares are of all images."""

    state: Cache
    now: float
    later: float
    all_bytes: float  # that all images take there


def _cache_of(settings: Options, splits: Splits, preprocess: Preprocess, images: int) -> _Kept:
    """Return what the cache of a run on so many images keeps now, and what it has room for."""
    paths = splits.rows["path"].iloc[:: max(1, len(splits.rows) // SAMPLE)].tolist()
    if is_npz_image(paths[0]):
        return _Kept("none", 1.0, 1.0, 0.0)
    all_bytes = images * float(np.mean([read_image(path, preprocess).nbytes for path in paths[:8]]))
    folder = cache_folder(settings)
    if folder is None:
        return _Kept("off", 0.0, 0.0, all_bytes)
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    now = PixelCache.open(paths, preprocess, folder).kept() / len(paths) if there == folder else 0.0
    room = max(0, spare_bytes(there)) / all_bytes
    return _Kept("on", now, min(1.0, now + room), all_bytes)


def _could_use_amp(settings: Options, device: torch.device) -> bool:
    return settings.amp == "off" and choose("auto", device).dtype is not None


def _memory_mib(device: torch.device) -> float:
    """Return the memory that a run can have: all of a GPU, or what this process has and could get."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1] / MIB
    return memory.peak_rss_mib() + (memory.free_mib() or math.inf)


# ---- the other models -------------------------------------------------------------------------------------------


class _Cost(NamedTuple):
    """Seconds per image of a step, and the MiB that a step of a whole batch takes."""

    step: float
    mib: float


def _others(
    settings: Options, topology: Topology, splits: Splits, make_loop: MakeLoop, trace: Trace,
    options: BenchmarkOptions,
) -> Iterator[Row]:  # fmt: skip
    """Yield the rows of the other models at their own sizes, the smallest first.

    As long as there is time, a few steps of each are taken. The others are worked out from the last that was.
    """
    end = time.perf_counter() + OTHERS_SECONDS
    known, known_work = _Cost(trace.step, trace.peak_mib), work_of(settings.model, trace.image_size)
    for name in MODELS:
        if name == settings.model:
            continue
        status: Status = "estimated"
        size = preprocess_for(name).image_size
        work = work_of(name, size)
        cost = worked_out(known, known_work, work, 0 if trace.on_gpu else BASE_MIB)
        if time.perf_counter() < end:
            try:
                cost = _cost_of(replace(settings, model=name, image_size=None), topology, splits, make_loop)
                known, known_work, status = cost, work, "measured"
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                status, end = "does not fit", 0.0  # nor do larger ones
        if cost.mib > trace.memory_mib:
            status = "does not fit"
        yield _row(scaled(trace, size, cost.step), options, name, status, cost.mib)


def worked_out(known: _Cost, known_work: Work, work: Work, base_mib: float) -> _Cost:
    """Return the cost of a model from that of another: its time by multiplications, its memory by what it keeps.

    Args:
        base_mib: of a process without a model.
    """
    fixed, known_fixed = (base_mib + STATES * 4 * each.parameters / MIB for each in (work, known_work))
    kept = max(0.0, known.mib - known_fixed) * work.kept_mib / known_work.kept_mib
    return _Cost(known.step * work.gmacs / known_work.gmacs, fixed + kept)


def _cost_of(settings: Options, topology: Topology, splits: Splits, make_loop: MakeLoop) -> _Cost:
    """Measure a model's cost by some steps. A GPU takes whole batches, and says how much memory they take.

    On a CPU a few images do, and the memory of a batch is worked out from what the forward pass keeps of them.

    Raises:
        RuntimeError, MemoryError: there is too little memory.
    """
    batch, on_gpu = settings.batch_size, topology.device.type == "cuda"
    if not on_gpu:
        size = preprocess_for(settings.model).image_size
        batch = max(2, min(batch, PIXELS // size**2))
    memory.reset_peaks(topology.cuda_devices)
    loop = make_loop(replace(settings, batch_size=batch, workers=0, cache="off"), topology, splits)
    network = loop.trainer.classifier.network
    with KeptForBackward(network) as kept:
        loop.ready_step()
    step = _seconds(loop, loop.ready_step, OTHER_SECONDS)
    if on_gpu:
        return _Cost(step, memory.read_all(topology).peak_mib)
    weights = sum(p.nbytes for p in network.parameters()) / MIB
    return _Cost(step, BASE_MIB + STATES * weights + kept.mib * settings.batch_size / batch)


# ---- shown and written ------------------------------------------------------------------------------------------


def _row(trace: Trace, options: BenchmarkOptions, model: str, status: Status, mib: float) -> Row:
    times = forecast(trace, options.epochs)
    cost = None if options.price_per_hour is None else options.price_per_hour * times.run / 3600
    gmacs, parameters, _ = work_of(model, trace.image_size)
    return Row(model, trace.image_size, status, gmacs, parameters, 1 / trace.step, *times, cost, mib)


def _lines(trace: Trace, options: BenchmarkOptions) -> list[str]:
    """Return the forecast of the chosen model, and what it is worked out from."""
    whose = f"a set of {IMAGES:,} images like the generated ones" if options.generated else str(options.data)
    return [
        f"{options.model}, {trace.image_size} px, {trace.batch_size} images a step and replica, {whose}: "
        f"{trace.train_images:,} images to train on, {trace.val_images:,} to validate",
        *sentences(trace, options.epochs),
    ]


def table(rows: list[Row], options: BenchmarkOptions) -> Table:
    """Return the rows for a terminal."""
    view = tables.blank(gap=2)
    priced = options.price_per_hour is not None
    for name in ("model", "px", "GMACs", "M weights", "images/s", "epoch", f"{options.epochs} epochs"):
        view.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for name in [*["cost"] * priced, "GiB"]:
        view.add_column(name, justify="right", no_wrap=True)
    view.add_column("")
    for row in rows:
        chosen = row.model == options.model
        words = "planned" if chosen and row.status == "measured" else row.status
        view.add_row(
            row.model, str(row.image_size), f"{row.gmacs:.2f}", f"{row.parameters / 1e6:.1f}",
            three_digits(row.step_images_per_second), duration(row.epoch_seconds), duration(row.run_seconds),
            *([] if row.cost is None else [f"{row.cost:,.2f}"]), f"{row.memory_mib / 1024:.1f}",
            Text(words, style="yellow" if row.status == "does not fit" else ""), style="bold" if chosen else "",
        )  # fmt: skip
    return view


def _write(
    options: BenchmarkOptions, heading: Heading, trace: Trace, rows: list[Row], complete: bool
) -> None:
    """Write the files that are asked for."""
    judged = verdict(trace)
    content = {
        **heading.to_json(complete),
        "trace": asdict(trace), "forecast": forecast(trace, options.epochs)._asdict(),
        "verdict": {**judged._asdict(), "remedies": [r._asdict() for r in judged.remedies]},
        "cells": [asdict(row) for row in rows],
    }  # fmt: skip
    tables.write(options, content, [field.name for field in fields(Row)])
