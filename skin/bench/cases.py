"""The cases of the benchmark, and the reasons why this machine skips one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from skin.bench.options import AMP, PARALLEL, RECIPES, BenchmarkOptions
from skin.model import precision
from skin.model.network import preprocess_for
from skin.training.options import Options

import torch

LARGEST_BATCH = 4096  # that --find-batch tries


@dataclass(frozen=True)
class Key:
    """The identity of a case: two reports are compared by it."""

    gpus: int  # 0 is the CPU
    parallel: str  # "single", "dp" or "ddp"
    amp: str  # "on" or "off"
    recipe: str  # of options.RECIPES
    model: str
    image_size: int
    batch_size: int  # per replica

    @property
    def replicas(self) -> int:
        return max(1, self.gpus)

    @property
    def place(self) -> str:
        """The devices it runs on: "CPU", "2 GPUs ddp"."""
        if self.gpus == 0:
            return "CPU"
        return f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}" + (
            f" {self.parallel}" if self.parallel != "single" else ""
        )

    @property
    def title(self) -> str:
        """The case in a line of text: "2 GPUs ddp ours amp on"."""
        return f"{self.place} {self.recipe} amp {self.amp}"


@dataclass(frozen=True)
class Case:
    """A case to measure, and how to measure it."""

    key: Key
    data: str
    labels: str | None
    workers: int | None
    cache: str  # of decoded images: "auto", "off" or a folder
    steps: int  # in a timed window
    warmup: int
    whole_epoch: bool = False  # time the loader's window over an epoch from its first step to its last
    probe: bool = False  # only see if a batch of this size fits
    price_per_hour: float | None = None  # of the machine
    skip_bad_images: bool = False

    def with_batch(self, size: int, **different: Any) -> Case:
        """Return the case with another batch size, and other differences."""
        return replace(self, key=replace(self.key, batch_size=size), **different)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Case:
        return cls(**{**content, "key": Key(**content["key"])})

    def training_settings(self) -> Options:
        """Return the options of train.py that train in this way."""
        key = self.key
        return Options(
            data=Path(self.data), labels=None if self.labels is None else Path(self.labels), allow_missing=True,
            model=key.model, weights="none", image_size=key.image_size, batch_size=key.batch_size,
            amp="auto" if key.amp == "on" else "off", gpus=key.gpus, workers=self.workers, cache=self.cache,
            keep_duplicates=True, skip_bad_images=self.skip_bad_images, compile=key.recipe == "ours-compiled",
        )  # fmt: skip


class Planned(NamedTuple):
    """A case of the matrix."""

    case: Case
    skipped: str | None  # why this machine does not run it


def plan(options: BenchmarkOptions, present: int, images: int | None = None) -> list[Planned]:
    """Return every case of the matrix.

    Args:
        present: usable GPUs.
        images: to train on, if that is known.
    """
    planned = []
    for gpus in options.gpu_counts(present):
        modes = options.chosen("parallel", PARALLEL) if gpus > 1 else ["single"]
        for mode in modes:
            for recipe in options.chosen("recipes", RECIPES):
                for amp in options.chosen("amp", AMP):
                    case = _case(options, gpus, mode, amp, recipe)
                    planned.append(Planned(case, _why_not(case.key, present) or _too_few(options, case.key, images)))
    return planned


def _case(options: BenchmarkOptions, gpus: int, mode: str, amp: str, recipe: str) -> Case:
    steps, warmup, batch_size = (50, 10, 32) if gpus else (4, 1, 16)
    image_size = preprocess_for(options.model, options.image_size).image_size
    return Case(
        Key(gpus, mode, amp, recipe, options.model, image_size, options.batch_size or batch_size),
        data=str(options.data or ""), labels=None if options.labels is None else str(options.labels),
        workers=options.workers, cache=options.cache, steps=options.steps or steps,
        warmup=warmup if options.warmup is None else options.warmup, whole_epoch=options.whole_epoch,
        price_per_hour=options.price_per_hour, skip_bad_images=options.skip_bad_images,
    )  # fmt: skip


def _why_not(key: Key, present: int) -> str | None:
    """Return why a machine with `present` GPUs cannot run a case; None if it can."""
    if key.gpus > present:
        return f"this machine has {present or 'no'} visible GPU{'s' if present != 1 else ''}"
    if key.parallel == "ddp" and key.recipe.startswith("plain"):
        return "the plain recipe knows DataParallel only"
    if key.recipe == "ours-compiled" and key.parallel == "dp":
        return "torch.compile does not work with DataParallel's replicas"
    if key.recipe == "ours-compiled" and key.gpus == 0:
        return "only on a GPU is the step compiled: the CPU has layers of its own"
    if key.gpus == 0 and key.amp == "on" and precision.choose("auto", torch.device("cpu")).dtype is None:
        return "this CPU has no bfloat16 units, so AMP is off on it"
    return None


def _too_few(options: BenchmarkOptions, key: Key, images: int | None) -> str | None:
    step = key.batch_size * key.replicas
    if images is None or options.find_batch or images >= step:
        return None
    return f"{images:,} images to train on are fewer than the {step:,} of a step: use a smaller --batch-size"


def images_needed(planned: list[Planned], find_batch: bool) -> int:
    """Return how many images to generate, so that no window runs through the set many times."""
    if find_batch:
        return LARGEST_BATCH
    counts = [(c.steps + c.warmup) * c.key.batch_size * c.key.replicas for c, skipped in planned if skipped is None]
    return max(300, min(4000, 2 * max(counts, default=0)))
