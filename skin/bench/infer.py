"""Measure answers: how fast is each way of asking a model, and does it still say the same? `benchmark.py --infer`.

The ways are torch as predict.py runs it, torch as a notebook would, and the exported ONNX file. Each answers squares
of bytes that are in memory, so decoding is not counted. Its probabilities for the same images are compared with those
of the plain network in float32 and, if there are labels, with the truth.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from skin.bench import images, infer_plot, tables
from skin.bench.columns import three_digits
from skin.bench.infer_quality import Quality, Reference
from skin.bench.machine import device_name
from skin.bench.measurement import arithmetic, limited_host_memory
from skin.bench.options import AMP, BenchmarkOptions
from skin.bench.report import Heading, new_heading
from skin.bench.tables import Column
from skin.evaluation import test_set
from skin.model import checkpoint as checkpoints
from skin.model import export
from skin.model.averaging import as_one
from skin.model.calibration import divisors, probabilities_of
from skin.model.checkpoint import Checkpoint, SingleCheckpoint, load_best
from skin.model.classifier import SkinClassifier
from skin.model.metadata import with_metadata
from skin.model.network import build, preprocess_for
from skin.model.precision import Precision, choose
from skin.utils.errors import UserError
from skin.utils.hardware import usable_cores
from skin.utils.known_errors import advice_on, is_out_of_memory
from skin.utils.parallel import usable_gpus

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

BATCHES = (1, 8, 32)
LARGEST, LARGEST_ON_CPU = 1024, 128  # images that the search for the largest batch ends at
FASTER = 1.05  # a batch of twice the images must answer so much faster to be worth its memory
SECONDS, CALLS, MOST_CALLS = 2.0, 5, 1000  # timed per round and batch size: at least the first two
IMAGES = 500  # at most, whose answers are compared
DRAWN = 64  # generated ones, without --data
CLASSES = 7  # of a model with random weights
LEAST_CALLS = {50: 1, 95: 20, 99: 100}  # for a percentile of their times

Ask = Callable[[np.ndarray], np.ndarray]
"""From squares, uint8 [B, S, S, 3], to probabilities, float [B, C]."""


class Way(NamedTuple):
    """A way of asking the model."""

    name: str  # "predict.py", "plain" or "onnx"
    amp: str  # "on" or "off"
    precision: str
    device: str  # "cpu" or "cuda"
    threads: int  # of the CPU
    ask: Ask

    @property
    def title(self) -> str:
        """The way in a line of text: "predict.py amp on", "onnx 1 CPU thread"."""
        if self.name == "onnx":
            return f"onnx {self.threads} CPU thread{'s' * (self.threads != 1)}"
        return f"{self.name} amp {self.amp}"


@dataclass
class Row:
    """A way and a batch size: the milliseconds of each call, by round."""

    way: Way
    batch_size: int
    quality: Quality | None
    rounds: list[list[float]] = field(default_factory=list)

    @property
    def calls(self) -> list[float]:
        return [ms for calls in self.rounds for ms in calls]

    def percentile(self, percent: int) -> float | None:
        """Return a percentile of the times; None of too few calls to tell it."""
        calls = self.calls
        return float(np.percentile(calls, percent)) if len(calls) >= LEAST_CALLS[percent] else None

    @property
    def speeds(self) -> list[float]:
        """The images per second of each round."""
        return [1000 * self.batch_size * len(calls) / sum(calls) for calls in self.rounds if calls]


def _of_quality(name: str) -> Callable[[Row], Any]:
    return lambda row: getattr(row.quality, name, None)


def _percentile(percent: int) -> Callable[[Row], float | None]:
    return lambda row: row.percentile(percent)


COLUMNS: tuple[Column[Row], ...] = (
    Column("way", lambda row: row.way.name),
    Column("title", lambda row: row.way.title, "way"),
    Column("amp", lambda row: row.way.amp),
    Column("precision", lambda row: row.way.precision),
    Column("device", lambda row: row.way.device),
    Column("threads", lambda row: row.way.threads),
    Column("batch_size", lambda row: row.batch_size, "batch"),
    Column("calls", lambda row: len(row.calls)),
    Column("p50_ms", _percentile(50), "p50 ms", three_digits),
    Column("p95_ms", _percentile(95), "p95", three_digits),
    Column("p99_ms", _percentile(99), "p99", three_digits),
    Column("images_per_second", lambda row: statistics.fmean(row.speeds) if row.speeds else None, "images/s",
           three_digits),
    Column("images_per_second_low", lambda row: min(row.speeds, default=None)),
    Column("images_per_second_high", lambda row: max(row.speeds, default=None)),
    Column("agreement", _of_quality("agreement"), "agree", "{:.1%}".format),
    Column("largest_change", _of_quality("largest_change"), "Δp", "{:.0e}".format),
    Column("balanced_accuracy", _of_quality("balanced_accuracy"), "bal.acc", "{:.3f}".format),
    Column("balanced_accuracy_low", _of_quality("low")),
    Column("balanced_accuracy_high", _of_quality("high")),
    Column("difference", _of_quality("difference"), "Δ", "{:+.3f}".format),
    Column("difference_low", _of_quality("difference_low"), "low", "{:+.3f}".format),
    Column("difference_high", _of_quality("difference_high"), "high", "{:+.3f}".format),
)  # fmt: skip


def benchmark(options: BenchmarkOptions, console: Console) -> int:
    """Measure, show and write; return the exit code."""
    if options.gpus is not None and max(options.gpu_counts(usable_gpus())) > min(1, usable_gpus()):
        there = "1 is a GPU" if usable_gpus() else "this machine has no GPU that torch can use"
        raise UserError(f"--gpus {options.gpus}: answers are measured on one device; 0 is the CPU, {there}")
    heading, say = new_heading("infer", options), _sayer(console)
    rows: list[Row] = []
    complete = False
    with limited_host_memory(), tempfile.TemporaryDirectory(prefix="skin-infer-") as name:
        folder = Path(name)
        path = options.checkpoint or _random_checkpoint(folder / "best.pt", options)
        model = load_best(path)
        reference, squares = _reference(options, model, say)
        try:
            timed: list[tuple[Way, list[Row]]] = []
            for way in _ways(path, options, folder, say):
                say(f"{way.title}: {len(squares)} images answered, largest batch looked for")
                quality = reference.of(_answers(way.ask, squares))
                mine = [Row(way, size, quality) for size in _sizes(way, squares, options, say)]
                rows += mine
                timed.append((way, mine))
            for turn in range(options.rounds):
                for way, mine in timed:
                    for row in mine:
                        row.rounds.append(_time(way.ask, _batch(squares, row.batch_size), options.steps))
                say(f"round {turn + 1} of {options.rounds} is done")
            complete = True
        finally:  # also after Ctrl-C: what is known so far is shown and kept
            rows = [row for row in rows if row.calls]
            if rows:
                console.print(tables.table(COLUMNS, rows))
                console.print(caption(reference, model))
                _write(options, heading, model, reference, rows, complete)
    return 0


def _sayer(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, markup=False, soft_wrap=True)


# ---- the ways ---------------------------------------------------------------------------------------------------


def _ways(path: Path, options: BenchmarkOptions, folder: Path, say: Callable[[str], None]) -> Iterator[Way]:
    """Yield each way of asking that works here; say why another does not."""
    on_gpu = usable_gpus() > 0 and max(options.gpu_counts(usable_gpus())) > 0
    device = torch.device("cuda" if on_gpu else "cpu")
    threads = torch.get_num_threads()
    for amp in options.chosen("amp", AMP):
        precision = choose("auto" if amp == "on" else "off", device)
        if amp == "on" and precision.dtype is None:
            say("amp on: not measured, this CPU has no bfloat16 units")
            continue
        model = SkinClassifier(load_best(path), device, precision.amp)
        yield Way("predict.py", amp, arithmetic(precision), device.type, threads, _as_predict(model))
        yield Way("plain", amp, arithmetic(precision), device.type, threads, plain(load_best(path), precision))
    try:
        import onnxruntime
    except ImportError:
        say("onnx: not measured, onnxruntime is missing; pip install -r requirements.txt")
        return
    try:
        export.export(path, folder / "model.onnx")
    except UserError as error:
        say(f"onnx: not measured, {error}")
        return
    for threads in sorted({1, usable_cores()}):
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(folder / "model.onnx", settings, providers=["CPUExecutionProvider"])
        yield Way("onnx", "off", "float32", "cpu", threads, _as_onnx(session))


def _as_predict(model: SkinClassifier) -> Ask:
    """Return predict.py's way: fused layers, calibration, prediction sets."""
    return lambda squares: np.stack([answer.probabilities for answer in model.predict_pixels(squares)])


def plain(model: Checkpoint, precision: Precision) -> Ask:
    """Return a notebook's way: torchvision's network as it is, float batches, the default memory layout."""
    device = torch.device(precision.device_type)
    network = as_one(model, lambda single: _Plain(single, precision)).to(device).eval()

    @torch.inference_mode()
    def ask(squares: np.ndarray) -> np.ndarray:
        logits = network(torch.from_numpy(squares).to(device))
        return probabilities_of(model.calibration, logits.cpu().numpy())

    return ask


class _Plain(nn.Module):
    """A network as a notebook would ask it, from uint8 [B, S, S, 3] to logits, float32 [B, C]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: SingleCheckpoint, precision: Precision) -> None:
        super().__init__()
        self.network, self.precision = model.network, precision
        self.register_buffer("mean", 255 * torch.tensor(model.preprocess.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(model.preprocess.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor, metadata: Tensor | None = None) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).float().contiguous()
        with self.precision.autocast():
            maps = self.network.features((pixels - self.mean) / self.std)
            features = with_metadata(self.network, self.network.avgpool(maps).flatten(1), metadata)
            logits: Tensor = self.network.classifier(features)
        return logits.float()


def _as_onnx(session: Any) -> Ask:
    return lambda squares: export.ask(session, ["probabilities"], squares)[0]


def _random_checkpoint(path: Path, options: BenchmarkOptions) -> Path:
    """Write a model with random weights to `path`, and return that: speed does not depend on the weights."""
    torch.manual_seed(0)
    checkpoints.save(
        {
            "model": build(options.model, CLASSES).state_dict(),
            "classes": [f"class_{number}" for number in range(CLASSES)],
            "preprocess": preprocess_for(options.model, options.image_size).to_dict(),
            "config": {"model": options.model},
            "metrics": {},
            "calibration": {},
            "format_version": checkpoints.FORMAT_VERSION,
        },
        path,
    )
    return path


# ---- the images -------------------------------------------------------------------------------------------------


def _reference(
    options: BenchmarkOptions, model: Checkpoint, say: Callable[[str], None]
) -> tuple[Reference, np.ndarray]:
    """Return what all ways are compared with, and the squares, uint8 [N, S, S, 3], that they answer for it."""
    reader = SkinClassifier(load_best(model.path), torch.device("cpu"), "off")
    apart = divisors(model.calibration, len(model.classes))
    if options.data is None:
        squares = np.stack([reader.pixels(images.picture(number)) for number in range(DRAWN)])
        trained = options.checkpoint is not None
        if not trained:
            say(f"{options.model} with random weights: agreement and accuracy need --checkpoint FILE")
        return Reference(_float32(model, squares) if trained else None, divisors=apart), squares
    found = test_set.read(model, options.data, options.labels, "test", allow_missing=True)
    for line in found.warnings:
        say(f"WARNING: {line}")
    known = np.flatnonzero(found.labels != test_set.UNKNOWN)
    rows = known[:: -(-len(known) // IMAGES)]
    squares = np.stack([reader.pixels(path) for path in found.rows["path"].iloc[rows]])
    groups = found.rows["group"].iloc[rows].to_numpy()
    return Reference(_float32(model, squares), found.labels[rows], groups, apart), squares


def _float32(model: Checkpoint, squares: np.ndarray) -> np.ndarray:
    """Return the answers of the plain network in float32, on the CPU: a GPU rounds convolutions to TF32."""
    return _answers(plain(load_best(model.path), Precision("cpu", None)), squares)


def _answers(ask: Ask, squares: np.ndarray) -> np.ndarray:
    return np.concatenate([ask(squares[first : first + 16]) for first in range(0, len(squares), 16)])


def _batch(squares: np.ndarray, size: int) -> np.ndarray:
    """Return a batch of `size`, in which images come again if there are too few."""
    return squares[np.arange(size) % len(squares)]


# ---- timing -----------------------------------------------------------------------------------------------------


def _sizes(way: Way, squares: np.ndarray, options: BenchmarkOptions, say: Callable[[str], None]) -> list[int]:
    """Return the batch sizes to time: `BATCHES`, and --batch-size or the largest that is worth its memory."""
    most = LARGEST_ON_CPU if way.device == "cpu" else LARGEST

    def speed(size: int) -> float | None:
        try:
            return size / min(_time(way.ask, _batch(squares, size), 2))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) and advice_on(error) is None:
                raise
            return None

    if options.batch_size is not None:
        wanted = sorted({*(size for size in BATCHES if size < options.batch_size), options.batch_size})
        fitting = [size for size in wanted if speed(size) is not None]
        if fitting != wanted:
            say(f"{way.title}: a batch of {wanted[len(fitting)]:,} does not fit in memory")
        return fitting
    speeds = {size: found for size in BATCHES if (found := speed(size)) is not None}
    size = max(speeds, default=0)
    if size == BATCHES[-1]:
        while 2 * size <= most and (found := speed(2 * size)) is not None and found > FASTER * speeds[size]:
            size *= 2
            speeds[size] = found
        speeds = {each: speeds[each] for each in (*BATCHES, size)}
    return sorted(speeds)


def _time(ask: Ask, batch: np.ndarray, calls: int | None) -> list[float]:
    """Return the milliseconds of `calls`, or of those that fill `SECONDS`, after one that is not counted."""
    taken: list[float] = []
    ask(batch)  # kernels are chosen and memory is taken
    start = time.perf_counter()
    while len(taken) < (calls or MOST_CALLS):
        begin = time.perf_counter()
        ask(batch)
        taken.append(1000 * (time.perf_counter() - begin))
        if calls is None and len(taken) >= CALLS and time.perf_counter() - start >= SECONDS:
            break
    return taken


# ---- shown and written ------------------------------------------------------------------------------------------


def _title(model: Checkpoint) -> str:
    return f"{model.model_name}, {model.preprocess.image_size} px"


def caption(reference: Reference, model: Checkpoint) -> str:
    """Return what the columns of the table mean."""
    parts = [
        _title(model),
        "squares in memory are answered, decoding is not counted"
        + (", with all metadata missing" if model.encoder is not None else ""),
        f"p95 of {LEAST_CALLS[95]} calls, p99 of {LEAST_CALLS[99]} and more",
    ]
    if reference.probabilities is not None:
        number = len(reference.probabilities)
        parts.append(f"agree: same class as the plain network in float32, of {number} images")
        parts.append("Δp: largest change of a probability")
    if reference.labels is not None:
        parts.append("Δ: balanced accuracy less that of float32, paired; low, high: of its 95 % interval")
    return " · ".join(parts)


def _write(
    options: BenchmarkOptions, heading: Heading, model: Checkpoint, reference: Reference, rows: Sequence[Row],
    complete: bool,
) -> None:  # fmt: skip
    """Write the files that are asked for."""
    compared = 0 if reference.probabilities is None else len(reference.probabilities)
    cells = [{**tables.cell(COLUMNS, row), "samples_ms": row.rounds} for row in rows]
    content = {**heading.to_json(complete), "images_compared": compared, "cells": cells}
    tables.write(options, content, [column.name for column in COLUMNS])
    if options.plot:
        devices = dict.fromkeys(device_name(heading.environment, int(row.way.device == "cuda")) for row in rows)
        infer_plot.draw(cells, f"{_title(model)}; {', '.join(devices)}", options.plot)
