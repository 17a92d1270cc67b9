"""Work out how long a run would take, what it would wait for and what would help: pure functions of a `Trace`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from skin.bench.machine import stolen
from skin.training.pace import duration

NEARLY_FULL = 0.9  # of the memory
WAITS = 0.2  # of a step's time: more of it spent on images is the limit
GAIN = 0.1  # of an epoch: a smaller gain is not worth a word
KEPT = 0.9  # of the images: a cache that holds more is not short of room
MOST_WORKERS = 8

Cache = Literal["on", "off", "none"]  # "none": arrays of pixels, which need no decoding
Limit = Literal["data", "compute", "memory", "threads"]


@dataclass(frozen=True)
class Trace:
    """Measurements on which a plan rests. Those without a unit are seconds per image, over all GPUs in use.

    Attributes:
        cores, threads: that this process may use, and that compute its steps.
        workers: loader processes. batch_size: images per step. train_images, val_images: of an epoch.
        decode, cached: of the loader alone, with the images decoded and from the cache.
        cache: whether decoded images are kept. kept_now, kept_later: share of the images in the cache, now and after
            the first epoch. cache_gib: that all images take there.
        step, forward: of the bare training step, and of a validation batch, on images that are ready.
        larger_step: of a step with four times the images; None if it was not measured.
        slowdown: time of training with its loader, over what `together` expects of step and loader; 1 or more.
        could_use_amp: mixed precision is off, and this device has units for it.
        peak_mib, memory_mib: that the steps took, and that there is.
        stolen_cores: that the host of a virtual machine kept from it meanwhile; None if nobody says it.
    """

    on_gpu: bool
    cores: int
    threads: int
    workers: int
    image_size: int
    batch_size: int
    train_images: int
    val_images: int
    decode: float
    cached: float
    cache: Cache
    kept_now: float
    kept_later: float
    cache_gib: float
    step: float
    forward: float
    larger_step: float | None
    slowdown: float
    could_use_amp: bool
    peak_mib: float
    memory_mib: float
    stolen_cores: float | None = None

    def load(self, kept: float) -> float:
        """Return the seconds per image of the loader alone if so large a share of the images is kept."""
        return kept * self.cached + (1 - kept) * self.decode

    def with_step(self, step: float) -> Trace:
        """Return the trace with another time of a step; a forward pass keeps its share of it."""
        return replace(self, step=step, forward=self.forward * step / self.step, larger_step=None)


class Forecast(NamedTuple):
    """Times in seconds. The first epoch may decode images that later ones find in the cache."""

    first_epoch: float
    epoch: float
    run: float


class Remedy(NamedTuple):
    """Something to change, and the seconds that an epoch would take then; None if nobody can tell."""

    what: str
    epoch: float | None


class Verdict(NamedTuple):
    """The limit of training speed, why it is this one, and what would help most, best first."""

    limit: Limit
    why: str
    remedies: tuple[Remedy, ...]


def together(step: float, load: float, trace: Trace) -> float:
    """Return the seconds per image of steps and loader at work together, from those of each alone.

    A GPU computes while the loader's processes use the cores, so the slower of both counts. A CPU's steps and its
    loader share the cores: what the loader needs beyond the cores that the steps leave idle is added to them.
    """
    if trace.workers == 0:
        return step + load
    if trace.on_gpu:
        return max(step, load)
    needed = load * min(trace.workers, trace.cores)  # seconds of one core
    idle = max(0, trace.cores - trace.threads) * step
    return max(load, step + max(0.0, needed - idle) / trace.cores)


def forecast(trace: Trace, epochs: int) -> Forecast:
    """Return the times of a run."""

    def epoch(kept: float) -> float:
        load = trace.load(kept)
        train, val = (together(work, load, trace) for work in (trace.step, trace.forward))
        return trace.slowdown * (trace.train_images * train + trace.val_images * val)

    first, later = epoch(trace.kept_now), epoch(trace.kept_later)
    calibration = trace.val_images * trace.forward  # the best model answers the validation images once more
    return Forecast(first, later, first + (epochs - 1) * later + calibration)


def scaled(trace: Trace, image_size: int, step: float) -> Trace:
    """Return the trace of another model or size, of which the step alone is known.

    A stored image of more pixels takes longer to read and augment; decoding stays what it is.
    """
    cached = trace.cached * (image_size / trace.image_size) ** 2
    return replace(
        trace.with_step(step), image_size=image_size, cached=cached, decode=trace.decode + cached - trace.cached
    )


def verdict(trace: Trace) -> Verdict:
    """Say what limits the epochs after the first, and what would help."""
    load = trace.load(trace.kept_later)
    both = together(trace.step, load, trace)
    speeds = f"the loader alone gives {1 / load:,.0f} images/s, the steps alone take {1 / trace.step:,.1f}"
    if trace.peak_mib > NEARLY_FULL * trace.memory_mib:
        memory = f"{trace.peak_mib / 1024:.1f} of {trace.memory_mib / 1024:.1f} GiB are in use"
        smaller = Remedy(f"--batch-size {max(1, trace.batch_size // 2)}, or a smaller --image-size or --model", None)
        return Verdict("memory", f"{memory}: more images a step, or larger ones, do not fit", (smaller,))
    if 1 - trace.step / both > WAITS:
        return Verdict("data", speeds, _remedies(trace))
    if not trace.on_gpu and trace.threads < trace.cores:
        why = f"the steps use {trace.threads} of {trace.cores} cores"
        return Verdict("threads", why, _remedies(trace))
    return Verdict("compute", speeds, _remedies(trace))


def _remedies(trace: Trace) -> tuple[Remedy, ...]:
    """Return the changes that gain more than `GAIN` of an epoch, the best first; then AMP, whose gain is unknown."""
    now = forecast(trace, 1).epoch
    tried = [(forecast(different, 1).epoch, what) for what, different in _changes(trace)]
    found = [Remedy(what, epoch) for epoch, what in sorted(tried) if epoch < (1 - GAIN) * now]
    if trace.could_use_amp:
        found.append(Remedy("--amp auto: mixed precision, for which this device has units", None))
    return tuple(found)


def _changes(trace: Trace) -> list[tuple[str, Trace]]:
    """Return each thing that a user can change here, in words, and the trace that it would lead to."""
    changes: list[tuple[str, Trace]] = []
    if trace.cache == "off":
        words = "--cache auto: decoded images are kept after the first epoch"
        changes.append((words, replace(trace, kept_later=1.0)))
    elif trace.cache == "on" and trace.kept_later < KEPT:
        gib = trace.cache_gib
        needed = f"{gib:,.1f} GiB" if gib >= 1 else f"{1024 * gib:,.0f} MiB"
        room = f"--cache DIR on a disk with {needed} to spare: this one has too little room"
        changes.append((room, replace(trace, kept_later=1.0)))
    workers = min(MOST_WORKERS, trace.cores)
    if trace.workers < workers:
        share = max(1, trace.workers) / workers
        more = replace(trace, workers=workers, decode=trace.decode * share, cached=trace.cached * share)
        changes.append((f"--workers {workers}: more processes prepare images", more))
    if not trace.on_gpu and trace.threads < trace.cores:
        faster = trace.step * trace.threads / trace.cores
        words = f"OMP_NUM_THREADS={trace.cores}, or unset: all cores compute; at best"
        changes.append((words, replace(trace.with_step(faster), threads=trace.cores)))
    if trace.larger_step is not None:
        words = f"--batch-size {4 * trace.batch_size}: a step's fixed costs are shared by more images"
        changes.append((words, trace.with_step(trace.larger_step)))
    size = max(32, round(0.75 * trace.image_size / 32) * 32)
    if size < trace.image_size:
        smaller = scaled(trace, size, trace.step * (size / trace.image_size) ** 2)
        changes.append((f"--image-size {size}: fewer pixels, and some accuracy less", smaller))
    return changes


def sentences(trace: Trace, epochs: int) -> list[str]:
    """Return the forecast and the verdict for people, a line each."""
    times, found = forecast(trace, epochs), verdict(trace)
    lines = [f"{duration(times.run)} for {epochs} epochs, {duration(times.epoch)} an epoch"]
    if times.first_epoch > (1 + GAIN) * times.epoch:
        lines[0] += f"; {duration(times.first_epoch)} for the first, which decodes the images"
    lines.append(f"limited by {found.limit}: {found.why}")
    for remedy in found.remedies:
        gain = f" (about {duration(remedy.epoch)} an epoch)" if remedy.epoch is not None else ""
        lines.append(f"would help: {remedy.what}{gain}")
    return [*lines, *filter(None, [stolen(trace.stolen_cores)])]
