"""How fast evaluate.py asks a model, beside a plain float32 loop, and how far their answers are apart.

    python tests/bench/evaluate_throughput.py --data HAM10000                        # B3 at 300 px, random weights
    python tests/bench/evaluate_throughput.py --data HAM10000 --checkpoint best.pt   # a trained model of any size

The plain loop reads the same pixels through the same loader, makes them float32 in the usual order of
dimensions, and runs the network in float32, 32 images at a time. The two take turns, so that a machine that
gets slower is unkind to both, each turn in a process of its own, since evaluate.py changes how memory is kept.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from skin.data.dataset import Batch, PlainBatches, SkinDiseaseDataset, make_loader
from skin.data.layouts import read_index
from skin.model import calibration, inference, precision
from skin.model.checkpoint import Checkpoint, load_best
from skin.model.fold_batchnorm import for_inference
from skin.utils import cli
from skin.utils.cli import option
from skin.utils.memory import keep_freed_memory
from skin.utils.parallel import Topology
from tests import tiny


@dataclass(frozen=True)
class Settings:
    data: Path = option(Path("data"), "any data folder")
    checkpoint: Path | None = option(None, "a trained model (default: B3 at 300 px with random weights)")
    images: int = option(256, "how many images each loop reads; its first batch is not timed")
    rounds: int = option(3, "how often each loop runs")
    compare: int = option(0, "compare the answers on this many images, too")


@torch.inference_mode()
def plain_loop(checkpoint: Checkpoint, loader: DataLoader[Batch], on_batch: Callable[[int], None]) -> np.ndarray:
    """The loop that most scripts have: float32 logits [N, C]."""
    preprocess = checkpoint.preprocess
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    logits = []
    for batch in loader:
        images = batch.images.permute(0, 3, 1, 2).contiguous().float() / 255
        logits.append(checkpoint.network((images - mean) / std))
        on_batch(len(images))
    return torch.cat(logits).numpy()


def turn(name: str, path: Path, images: list[str]) -> tuple[np.ndarray, float]:
    """Logits [N, C] and images per second of one loop: "plain", or evaluate.py's with `name` for `--amp`.

    The first batch is not timed: it makes the kernels and takes the memory.
    """
    checkpoint, topology = load_best(path), Topology(torch.device("cpu"))
    dataset = SkinDiseaseDataset(images, np.zeros(len(images)), checkpoint.preprocess)
    done: list[tuple[int, float]] = []

    def on_batch(count: int) -> None:
        done.append((count, time.perf_counter()))

    if name == "plain":
        batches = make_loader(dataset, PlainBatches(len(dataset), 32), workers=1)
        logits = plain_loop(checkpoint, batches, on_batch)
    else:
        classifier = for_inference(checkpoint, precision.choose(name, topology.device))
        keep_freed_memory()
        fitting = inference.fitting_batch_size(checkpoint.preprocess.image_size, topology)
        batches = inference.loader_of(dataset, fitting, None, topology, print)
        distance_of = partial(calibration.distance, checkpoint.calibration)
        logits = inference.collect(classifier, batches, topology, distance_of, on_batch).logits
    timed = sum(count for count, _ in done[1:])
    return logits, timed / (done[-1][1] - done[0][1]) if timed else float("nan")  # one batch alone is not timed


def alone(*arguments: Any) -> tuple[np.ndarray, float]:
    """`turn` in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(turn, *arguments).result()


def measure(settings: Settings, path: Path) -> None:
    rows = read_index(settings.data).rows
    images = rows["path"].sample(min(len(rows), max(settings.images, settings.compare)), random_state=0).tolist()
    checkpoint = load_best(path)
    device = Topology(torch.device("cpu")).describe()
    print(f"{checkpoint.model_name}, {checkpoint.preprocess.image_size} px, {device}, torch {torch.__version__}")
    timed = images[: settings.images]
    speeds: dict[str, list[float]] = {"plain": [], "auto": []}
    for _ in range(settings.rounds):
        for name, values in speeds.items():
            values.append(alone(name, path, timed)[1])
    for name, values in speeds.items():
        title = "plain float32" if name == "plain" else "evaluate.py"
        print(f"{title:14} {np.median(values):6.1f} images/s  (each: {', '.join(f'{v:.1f}' for v in values)})")
    ratios = np.array(speeds["auto"]) / np.array(speeds["plain"])
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"evaluate.py is {np.median(ratios):.2f} times as fast (each round: {each})")
    if settings.compare:
        compared = images[: settings.compare]
        expected = calibration.softmax(alone("plain", path, compared)[0])
        for amp in ("auto", "off"):
            found = calibration.softmax(alone(amp, path, compared)[0])
            apart, same = np.abs(found - expected).max(), (found.argmax(1) == expected.argmax(1)).mean()
            print(f"--amp {amp}: probabilities {apart:.2g} apart at most, one class on {same:.2%} of {len(found)}")


def main() -> None:
    settings = cli.parse(Settings, __doc__)
    with tempfile.TemporaryDirectory() as folder:
        random = Path(folder) / "best.pt"
        if settings.checkpoint is None:
            tiny.write_checkpoint(random, image_size=300, name="efficientnet_b3")
        measure(settings, settings.checkpoint or random)


if __name__ == "__main__":
    cli.run(main)
