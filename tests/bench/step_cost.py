"""What the parts of the strong recipe cost: the time of a training step with each over that of one without, in turns.

    python tests/bench/step_cost.py                       # B0 at 128 px, 32 images a step, 12 rounds
    python tests/bench/step_cost.py --model efficientnet_b3 --image-size 300 --batch-size 16
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train
from skin.data import demo
from skin.data.dataset import on_device
from skin.training.options import Options
from skin.training.splits import read_splits
from skin.utils import cli, parallel
from skin.utils.cli import option

import torch

PARTS: dict[str, dict[str, Any]] = {
    "--ema 0.998": {"ema": 0.998},
    "--mixup 0.2": {"mixup": 0.2},
    "--cutmix 1": {"cutmix": 1.0},
    "--label-smoothing 0.05": {"label_smoothing": 0.05},
}


@dataclass(frozen=True)
class Settings:
    model: str = option("efficientnet_b0", "the network")
    image_size: int = option(128, "side of its images, in pixels")
    batch_size: int = option(32, "images a step")
    rounds: int = option(12, "rounds, in each of which every part takes its steps")
    steps: int = option(3, "steps of a part in a round")


def main() -> None:
    settings = cli.parse(Settings, __doc__)
    with tempfile.TemporaryDirectory() as folder, parallel.setup(None) as topology:
        data = demo.write(Path(folder) / "HAM10000", images=max(160, 3 * settings.batch_size))
        plain = Options(
            data=data, model=settings.model, weights="none", image_size=settings.image_size, cache="off", workers=0,
            batch_size=settings.batch_size,
        )  # fmt: skip
        splits = read_splits(plain)
        steps = {
            name: _steps(train.build_trainer(replace(plain, **part), topology, splits), settings.steps)
            for name, part in {"none": {}, **PARTS}.items()
        }
        for take in steps.values():  # the first allocates
            take()
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(settings.rounds):
            for name, take in steps.items():
                seconds[name].append(take())
    print(f"a step without: {statistics.median(seconds['none']):.3f} s; {topology.describe()}")
    for name in PARTS:
        ratios = [one / other for one, other in zip(seconds[name], seconds["none"], strict=True)]
        print(f"{name:24} {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def _steps(trainer: train.Trainer, steps: int) -> Callable[[], float]:
    """Return a function that takes the same step several times, and returns the seconds of one."""
    batch = on_device(next(iter(trainer.loader)), trainer.topology.device)
    weight = float(trainer.class_weights[batch.labels].sum())
    wait = torch.cuda.synchronize if trainer.topology.device.type == "cuda" else lambda: None
    trainer.classifier.train()

    def take() -> float:
        wait()
        start = time.perf_counter()
        for number in range(steps):
            trainer.seed_step(number)
            train.train_step(trainer, batch, weight)
        wait()
        return (time.perf_counter() - start) / steps

    return take


if __name__ == "__main__":
    main()
