"""Measure training: epoch time, throughput and memory over GPUs, AMP on and off, ours and plain.

    python benchmark.py                          # what this machine has
    python benchmark.py --gpus 1,2,4 --json bench.json --plot bench.png
    python benchmark.py --data HAM10000 --recipes ours --amp on --rounds 5
    python benchmark.py --compare bench.json     # what got slower?
    python benchmark.py --find-batch             # how large a batch fits
    python benchmark.py --input                  # decoding and augmentation alone

Each cell of the matrix runs train.py's own functions in a process of its own, the cells
in turns over --rounds. "plain" is the loop that a notebook would have (skin/bench/plain.py).
"""

from __future__ import annotations

import functools
import itertools
import json
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import train
from skin.bench import cases as cells
from skin.bench import images as bench_images
from skin.bench import input_path
from skin.bench import measurement as measure
from skin.bench import plot as bench_plot
from skin.bench import report as bench_report
from skin.bench.measurement import Cell, Recipe, Step
from skin.bench.options import BenchSettings, read_bench_settings
from skin.bench.plain import PlainRecipe
from skin.data.cache import default_folder
from skin.model.model import preprocess_for
from skin.training.parts import Parts, read_parts
from skin.training.settings import Settings
from skin.training.trainer import build_trainer
from skin.utils import cli, files, parallel
from skin.utils.driver import unusable_gpus
from skin.utils.errors import UserError
from skin.utils.faults import is_out_of_memory
from skin.utils.parallel import Topology
from skin.utils.processes import patience

import numpy as np
import torch
from rich.console import Console

INPUT_BATCH = 32


class OurRecipe:
    """train.py's own loop and step, as they are."""

    def __init__(self, settings: Settings, topology: Topology, parts: Parts) -> None:
        self.topology = topology
        self.trainer = build_trainer(settings, topology, parts)
        self.precision = self.trainer.classifier.precision
        self.train_images = self.trainer.batches.size
        self.steps_per_epoch = len(self.trainer.batches)
        self._ready: tuple[torch.Tensor, torch.Tensor, float] | None = None

    @property
    def feeding(self) -> dict[str, Any]:
        cache = self.trainer.dataset.cache
        return {"workers": self.trainer.loader.num_workers, "cached": cache is not None and cache.note is None}

    def fill_cache(self, steps: int) -> None:
        """Decode what the first `steps` will read, so that they are fed as in all epochs but a run's first."""
        trainer, topology = self.trainer, self.topology
        if trainer.dataset.cache is None:
            return
        batches = list(itertools.islice(itertools.chain.from_iterable(map(trainer.batches.plan, range(2))), steps))
        rows = np.unique(np.concatenate(batches))[topology.rank :: topology.world]
        with ThreadPoolExecutor() as pool:
            deque(pool.map(trainer.dataset.stored, rows.tolist()), maxlen=0)
        topology.barrier()

    def ready_step(self) -> Step:
        """`train.train_step` on a batch that is on the device already."""
        if self._ready is None:
            self._ready = self._on_device(0)
            self.trainer.classifier.train()
        record = train.train_step(self.trainer, *self._ready)
        return Step(len(self._ready[0]), 0.0, record[0] / record[1])

    def last_step(self) -> None:
        train.train_step(self.trainer, *self._on_device(-1))

    def _on_device(self, step: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        """A batch of the first epoch: images, labels, and the weight of its images over all processes."""
        trainer, device = self.trainer, self.topology.device
        weight = float(trainer.class_weights.cpu()[trainer.dataset.labels[trainer.batches.plan(0)[step]]].sum())
        batch = trainer.dataset.__getitems__(list(trainer.batches)[step])
        return batch.images.to(device), batch.labels.to(device), weight

    def epoch_steps(self, epoch: int) -> Iterator[Step]:
        """`train.train_steps`; a small set has more epochs in a window than a run has in all."""
        for done in train.train_steps(self.trainer, epoch % self.trainer.settings.epochs):
            yield Step(len(done.rows), done.wait_seconds, done.record[0] / done.record[1])


RECIPES: dict[str, Callable[[Settings, Topology, Parts], Recipe]] = {
    "ours": OurRecipe,
    "ours-compiled": OurRecipe,  # with train.py's --compile
    "plain": PlainRecipe,
    "plain-channels-last": functools.partial(PlainRecipe, channels_last=True),
}


def run_cell(task: Path) -> int:
    """The child: measure the cell that the JSON file `task` describes and write `task`.result."""
    cell = Cell(**json.loads(task.read_text(encoding="utf-8")))
    settings = Settings(
        data=Path(cell.data), labels=None if cell.labels is None else Path(cell.labels), allow_missing=True,
        model=cell.model, weights="none", image_size=cell.image_size, batch_size=cell.batch_size,
        amp="auto" if cell.amp else "off", gpus=cell.gpus, workers=cell.workers, cache=cell.cache,
        keep_duplicates=True, compile=cell.recipe == "ours-compiled",
    )  # fmt: skip
    parts = read_parts(settings)
    with parallel.setup(None if cell.parallel == "ddp" else cell.gpus) as topology:
        found: dict[str, Any] = {"devices": measure.devices(topology)}
        if cell.probe:
            measure.limit_host_memory()
        try:
            recipe = RECIPES[cell.recipe](settings, topology, parts)
            if isinstance(recipe, OurRecipe) and not cell.probe:
                recipe.fill_cache(2 * recipe.steps_per_epoch if cell.whole_epoch else cell.warmup + cell.steps + 8)
            found |= {"status": "ok", **measure.measure(cell, recipe)}
            found["precision"] = measure.arithmetic(recipe.precision)
        except (MemoryError, RuntimeError) as error:
            # A process of several must not go quietly: the others would wait for it.
            if topology.distributed or not is_out_of_memory(error):
                raise
            found |= {"status": "oom", "reason": f"out of memory at {cell.batch_size} images a replica"}
        if topology.is_main:
            task.with_suffix(".result").write_text(json.dumps(found), encoding="utf-8")
    return 0


@dataclass
class Matrix:
    """The cells as they are being measured, and the report that the files and the table are made from."""

    settings: BenchSettings
    planned: list[tuple[Cell, str | None]]
    report: dict[str, Any]
    samples: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    failures: dict[int, list[str]] = field(default_factory=dict)
    largest: dict[int, int] = field(default_factory=dict)

    def take(self, number: int, found: dict[str, Any]) -> None:
        """Take in one round of cell `number`, and write the files anew: an interrupted run leaves what it has."""
        rows, environment = self.report["cells"], self.report["environment"]
        devices = found.get("devices", [])
        environment["gpu_devices"] += [d for d in devices if d not in environment["gpu_devices"]]
        key = cells.key_of(self.planned[number][0], cells.device_label(devices) or rows[number]["device"])
        if found["status"] == "ok":
            self.samples.setdefault(number, []).append(found)
            rows[number] = bench_report.row_of(key, self.samples[number])
        else:
            self.failures.setdefault(number, []).append(found["reason"])
            if number not in self.samples:
                rows[number] = bench_report.empty_row(key, found["status"], found["reason"])
        if number in self.samples and number in self.failures:
            failed = self.failures[number]
            rows[number]["reason"] = f"failed rounds: {len(failed)} ({failed[-1]})"
        rows[number]["largest_batch_size"] = self.largest.get(number)
        bench_report.derive(rows)
        self.write()

    def write(self) -> None:
        if self.settings.json:
            files.write_json(self.settings.json, self.report)
        if self.settings.csv:
            bench_report.write_csv(self.report["cells"], self.settings.csv)

    def measure(self, say: Callable[[str], None]) -> None:
        """Every cell in turns, as often as `--rounds` says."""
        script, here = Path(__file__).resolve(), [i for i, (_, reason) in enumerate(self.planned) if reason is None]
        if self.settings.find_batch:
            here = [i for i in here if self.find_batch(i, script, say)]
        for turn in range(self.settings.rounds):
            for i in here:
                cell = self.planned[i][0]
                found = cells.run(cell, script)
                self.take(i, found)
                speed = f"{found['images_per_second']:.1f} images/s" if found["status"] == "ok" else found["reason"]
                say(f"round {turn + 1} of {self.settings.rounds}: {cell.title}: {speed}")

    def find_batch(self, number: int, script: Path, say: Callable[[str], None]) -> bool:
        """Give cell `number` the largest batch that fits; whether it could be found."""
        cell = self.planned[number][0]
        say(f"{cell.title}: looking for the largest batch")
        images = self.report["train_images"] // max(1, cell.gpus)
        try:
            size = cells.largest_batch(cell, lambda c: cells.run(c, script), images)
        except UserError as error:
            self.take(number, {"status": "failed", "reason": str(error)})
            say(str(error))
            return False
        say(f"{cell.title}: {size} images a step" + (", all that there are" if size == images else ""))
        self.largest[number] = size
        self.planned[number] = replace(cell, batch_size=max(1, size)), None
        self.report["cells"][number] |= {"batch_size": max(1, size), "largest_batch_size": size}
        self.write()
        return True


def new_report(kind: str, settings: BenchSettings) -> dict[str, Any]:
    """A report with everything but what is to be measured."""
    command = shlex.join(["python", "benchmark.py", *sys.argv[1:]])
    return {
        "schema": bench_report.SCHEMA, "kind": kind, "complete": False,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": command,
        "settings": cli.plain(settings), "environment": cells.environment(), "cells": [],
    }  # fmt: skip


def benchmark_training(settings: BenchSettings, parts: Parts, console: Console) -> int:
    """Measure the matrix, show and write it; 0, or 1 where no cell could be measured that should have been."""
    old = bench_report.read(settings.compare) if settings.compare else None
    present = parallel.usable_gpus()
    report = new_report("training", settings) | {"train_images": len(parts.of("train"))}
    matrix = Matrix(settings, cells.plan(settings, present, report["train_images"]), report)
    environment = report["environment"]
    for cell, reason in matrix.planned:
        name = cells.device_label(environment["gpu_devices"][: cell.gpus]) or "GPU"
        key = cells.key_of(cell, environment["cpu"] if cell.gpus == 0 else name)
        report["cells"].append(bench_report.empty_row(key, "skipped", reason or "not reached: interrupted"))
    say = lambda line: console.print(line, markup=False, soft_wrap=True)  # noqa: E731
    if not present:
        say(unusable_gpus() or "no GPU is visible: the CPU is measured")
    for line in environment["gpus_in_use_by_others"]:
        say(line)
    try:
        matrix.measure(say)
        report["complete"] = True
    finally:  # Ctrl-C, too: what has been measured is shown and kept
        console.print(bench_report.table(report["cells"]))
        for line in bench_report.notes(report["cells"]):
            say(line)
        matrix.write()
    if old is not None:
        say(f"compared with {settings.compare}, {old.get('time')}:")
        for line in bench_report.compare(report, old):
            say("  " + line)
    if settings.plot:
        bench_plot.draw(report["cells"], settings.plot)
    wanted = [row for row, (_, reason) in zip(report["cells"], matrix.planned, strict=True) if reason is None]
    return int(bool(wanted) and not any(row["status"] in ("ok", "oom") for row in wanted))


def benchmark_input(settings: BenchSettings, parts: Parts, console: Console) -> int:
    """Measure the input path alone, show and write it."""
    report = new_report("input", settings)
    preprocess = preprocess_for(settings.model, settings.image_size)
    device = torch.device("cuda" if parallel.usable_gpus() else "cpu")
    report["cells"] = input_path.measure(
        parts, preprocess, settings.batch_size or INPUT_BATCH, settings.steps, settings.rounds, device
    )
    report["complete"] = True
    console.print(input_path.table(report["cells"]))
    if settings.json:
        files.write_json(settings.json, report)
    if settings.csv:
        input_path.write_csv(report["cells"], settings.csv)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    settings = read_bench_settings(__doc__, argv)
    console = Console(highlight=False, emoji=False, width=100)
    if settings.data is None:
        if settings.input:
            batch_size, batches = settings.batch_size or INPUT_BATCH, settings.steps or input_path.BATCHES
            needed = input_path.images_needed(batch_size, batches)
        else:
            needed = cells.images_needed(cells.plan(settings, parallel.usable_gpus()), settings.find_batch)
        folder = default_folder()
        if folder is None:
            raise UserError("no home folder is known (HOME is not set) to keep drawn images in: name some by --data")
        settings = replace(settings, data=bench_images.write(folder / "benchmark-images", needed))
    parts = read_parts(Settings(data=settings.data, labels=settings.labels, allow_missing=True, keep_duplicates=True))
    return (benchmark_input if settings.input else benchmark_training)(settings, parts, console)


def start() -> NoReturn:
    """As a script: the benchmark, or one of its cells, whose faults are tracebacks for the benchmark to read."""
    if sys.argv[1:2] == ["--cell"]:
        cli.run(lambda: run_cell(Path(sys.argv[2])), explaining=False)
    with patience():  # after Ctrl-C, until the cell under way has ended
        cli.run(main)


if __name__ == "__main__":
    start()
