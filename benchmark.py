"""Measure training: epoch time, throughput, memory; by number of GPUs, AMP on and off, ours and plain.

    python benchmark.py                          # what this machine has
    python benchmark.py --gpus 1,2,4 --json bench.json --plot bench.png
    python benchmark.py --data HAM10000 --recipes ours --amp on --rounds 5
    python benchmark.py --compare bench.json     # what got slower?
    python benchmark.py --find-batch             # how large a batch fits
    python benchmark.py --input                  # decoding and augmentation alone
    python benchmark.py --plan --data HAM10000   # how long a run would take, and what it waits for
    python benchmark.py --infer --checkpoint FILE --data HAM10000    # latency of answers, accuracy

Each case of the matrix runs train.py's own functions in a process of its own, the cases
in turns over --rounds. "plain" is the loop that a notebook would have (skin/bench/plain.py).
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from skin.bench.options import BenchmarkOptions, read_options
from skin.utils import cli

if __name__ == "__main__" and sys.argv[1:2] != ["--case"]:  # before torch, which takes seconds to import
    cli.answer_early(BenchmarkOptions, __doc__)

import train
from skin.bench import cases, images, infer, input_path, plan, plot, process, report
from skin.bench.compare import compare
from skin.bench.matrix import Matrix
from skin.bench.measurement import Step
from skin.bench.plain import PlainLoop
from skin.data.cache import default_folder
from skin.data.dataset import Batch, on_device
from skin.training.options import Options
from skin.training.splits import Splits, read_splits
from skin.utils.driver import unusable_gpus
from skin.utils.errors import UserError
from skin.utils.parallel import Topology, usable_gpus
from skin.utils.signals import patience

import numpy as np
import torch
from rich.console import Console
from torch.nn import functional as F


class OurLoop:
    """train.py's own loop and step, as they are: a `TrainingLoop`."""

    def __init__(self, settings: Options, topology: Topology, splits: Splits) -> None:
        self.topology = topology
        self.trainer = train.build_trainer(settings, topology, splits)
        self.precision = self.trainer.classifier.precision
        self.train_images = self.trainer.batches.size
        self.steps_per_epoch = len(self.trainer.batches)
        self.workers = self.trainer.loader.num_workers
        self.model, self.optimizer = self.trainer.model, self.trainer.optimizer
        self._ready: tuple[Batch, float] | None = None

    @property
    def cached(self) -> bool:
        cache = self.trainer.dataset.cache
        return cache is not None and cache.note is None

    def prepare(self, steps: int) -> None:
        """Decode the images of the first `steps`, so that they find them as in every epoch except a run's first."""
        trainer, topology = self.trainer, self.topology
        if trainer.dataset.cache is None:
            return
        batches = list(itertools.islice(itertools.chain.from_iterable(map(trainer.batches.plan, range(2))), steps))
        rows = np.unique(np.concatenate(batches))[topology.rank :: topology.world]
        with ThreadPoolExecutor() as pool:
            deque(pool.map(trainer.dataset.stored, rows.tolist()), maxlen=0)
        topology.barrier()

    def ready_step(self, copies: int = 1) -> Step:
        """Take `train.train_step` on a batch that is on the device already, each image taken so many times."""
        batch, weight = self._ready_batch()
        if copies > 1:
            more = batch.images.repeat(copies, 1, 1, 1), batch.labels.repeat(copies)
            batch, weight = batch._replace(images=more[0], labels=more[1]), copies * weight
        return Step(len(batch.images), 0.0, train.train_step(self.trainer, batch, weight).loss)

    @torch.no_grad()
    def ready_forward(self) -> Step:
        """Answer that batch as validation does."""
        batch, _ = self._ready_batch()
        logits = self.trainer.classifier.eval()(batch.images)
        self.trainer.classifier.train()
        return Step(len(batch.images), 0.0, F.cross_entropy(logits, batch.labels))

    def _ready_batch(self) -> tuple[Batch, float]:
        if self._ready is None:
            self._ready = self._on_device(0)
            self.trainer.classifier.train()
        return self._ready

    def last_step(self) -> None:
        """Take `train.train_step` on the last batch of an epoch."""
        train.train_step(self.trainer, *self._on_device(-1))

    def _on_device(self, step: int) -> tuple[Batch, float]:
        """Return a batch of the first epoch, and the weight of its images over all processes."""
        trainer, device = self.trainer, self.topology.device
        weight = float(trainer.class_weights.cpu()[trainer.dataset.labels[trainer.batches.plan(0)[step]]].sum())
        batch = trainer.dataset.__getitems__(list(trainer.batches)[step])
        return on_device(batch, device), weight

    def epoch_steps(self, epoch: int) -> Iterator[Step]:
        """Take `train.train_steps`; a small set has more epochs in a window than a run has in total."""
        for done in train.train_steps(self.trainer, epoch % self.trainer.options.epochs):
            yield Step(len(done.rows), done.wait_seconds, done.record.loss)


LOOPS: dict[str, process.MakeLoop] = {  # by the names of --recipes
    "ours": OurLoop,
    "ours-compiled": OurLoop,  # with train.py's --compile
    "plain": PlainLoop,
    "plain-channels-last": functools.partial(PlainLoop, channels_last=True),
}


def benchmark_training(options: BenchmarkOptions, train_images: int, console: Console) -> int:
    """Measure the matrix, show and write it; return 1 if no case could be measured that should have been."""
    old = report.read(options.compare) if options.compare else None
    present, heading = usable_gpus(), report.new_heading("training", options)
    planned = cases.plan(options, present, train_images)
    if not any(skipped is None for _, skipped in planned):
        raise UserError(f"nothing can be measured: {planned[0][1]}")
    say = functools.partial(console.print, markup=False, soft_wrap=True)
    if not present:
        say(unusable_gpus() or "no GPU is visible: the CPU is measured")
    for line in heading.environment["gpus_in_use_by_others"]:
        say(line)
    run = functools.partial(process.run, script=Path(__file__).resolve())
    matrix = Matrix(options, planned, heading, train_images, run, say)
    try:
        matrix.measure()
    finally:  # also after Ctrl-C: the results so far are shown and kept
        found = matrix.report
        console.print(report.table(found.rows))
        if any(row.status == "ok" for row in found.rows):
            console.print(report.second_table(found.rows))
        for line in report.notes(found.rows):
            say(line)
        found.write(options)
    if isinstance(old, report.Report):
        say(f"compared with {options.compare}, {old.heading.time}:")
        for line in compare(found, old):
            say("  " + line)
    elif old is not None:
        say(old)
    if options.plot:
        plot.draw(found.rows, options.plot)
    return int(matrix.failed)


def with_images(options: BenchmarkOptions) -> BenchmarkOptions:
    """Return the options with a folder of generated images if they name none."""
    if options.data is not None:
        return options
    if options.input:
        needed = input_path.images_needed(options)
    elif options.plan:
        needed = plan.images_needed(options)
    else:
        needed = cases.images_needed(cases.plan(options, usable_gpus()), options.find_batch)
    folder = default_folder()
    if folder is None:
        raise UserError("no home folder is known (HOME is not set) to keep generated images in: name some by --data")
    return replace(options, data=images.write(folder / "benchmark-images", needed), generated=True)


def main(argv: Sequence[str] | None = None) -> int:
    options = read_options(__doc__, argv)
    console = Console(highlight=False, emoji=False, width=100)
    if options.infer:
        return infer.benchmark(options, console)
    options = with_images(options)
    splits = read_splits(Options(
        data=options.data, labels=options.labels, allow_missing=True, keep_duplicates=True,
        skip_bad_images=options.skip_bad_images,
    ))  # fmt: skip
    for note in splits.index.notes:
        console.print(note, markup=False, soft_wrap=True)
    if options.input:
        return input_path.benchmark(options, splits, console)
    if options.plan:
        return plan.benchmark(options, splits, console, OurLoop)
    return benchmark_training(options, len(splits.of("train")), console)


def start() -> NoReturn:
    """Run the script: the benchmark, or one of its cases, which reports its errors by a file."""
    if sys.argv[1:2] == ["--case"]:
        cli.run(lambda: process.run_case(Path(sys.argv[2]), LOOPS))
    with patience():  # after Ctrl-C, until the case under way has ended
        cli.run(main)


if __name__ == "__main__":
    start()
