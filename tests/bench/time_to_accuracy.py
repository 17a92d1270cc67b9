"""How soon training reaches a validation balanced accuracy: `--recipe fast` beside the plain recipe.

    python tests/bench/time_to_accuracy.py --data HAM10000 --weights W --seeds 0,1,2

Both start from the same weights, on the same split of each seed, in turns. Plain is skin/bench/plain.py in float32 at
a constant learning rate; ours is train.py itself. What counts are the seconds of training up to the end of the
first epoch that validates at --target or better; validating and starting are left out.
Each recipe is validated on the pictures that it evaluates on. The test part is not touched.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from skin.bench.plain import PlainImages, PlainLoop  # noqa: E402
from skin.evaluation import metrics  # noqa: E402
from skin.model import calibration  # noqa: E402
from skin.training.options import Options as TrainSettings  # noqa: E402
from skin.training.splits import Splits, read_splits  # noqa: E402
from skin.utils import cli  # noqa: E402
from skin.utils.cli import option  # noqa: E402
from skin.utils.parallel import Topology  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

Curve = list[tuple[float, float]]  # seconds of training so far, validation balanced accuracy; an epoch each


@dataclass(frozen=True)
class Settings:
    data: Path = option(Path("data"), "any data folder")
    weights: str = option("imagenet", "that both start from")
    model: str = option("efficientnet_b0", "efficientnet_b0 to _b7")
    image_size: int = option(128, "side in pixels")
    target: float = option(0.65, "validation balanced accuracy to reach")
    seeds: str = option("0,1,2", "a run of each recipe with each")
    recipes: str = option("fast,plain", "fast, plain")
    plain_lr: float = option(1e-3, "constant learning rate of the plain recipe")
    plain_epochs: int = option(8, "it is given up after as many")
    options: str = option("", "further options for train.py, in one word: --options='--epochs 3'")


def plain(settings: Settings, seed: int) -> Curve:
    """Train the plain recipe until it reaches the target."""
    recipe_settings = TrainSettings(
        data=settings.data, weights=settings.weights, model=settings.model, image_size=settings.image_size,
        lr=settings.plain_lr, amp="off", gpus=0, seed=seed,
    )  # fmt: skip
    parts = read_splits(recipe_settings)
    recipe = PlainLoop(recipe_settings, Topology(torch.device("cpu")), parts)
    curve: Curve = []
    seconds = 0.0
    for epoch in range(settings.plain_epochs):
        recipe.model.train()
        start = time.perf_counter()
        for _ in recipe.epoch_steps(epoch):
            pass
        seconds += time.perf_counter() - start
        curve.append((seconds, validate(recipe, parts, settings.image_size)))
        tell(curve)
        if curve[-1][1] >= settings.target:
            break
    return curve


@torch.inference_mode()
def validate(recipe: PlainLoop, parts: Splits, size: int) -> float:
    """Balanced accuracy on the validation part, on whole pictures made square, as the recipe was trained."""
    images = PlainImages(parts.of("val")["path"].tolist(), parts.labels("val"), size, augmented=False)
    recipe.model.eval()
    logits = [recipe.model(batch) for batch, _ in DataLoader(images, 64, num_workers=1)]
    return metrics.balanced_accuracy(parts.labels("val"), calibration.softmax(torch.cat(logits).numpy()))


def fast(settings: Settings, seed: int) -> Curve:
    """Run train.py and read its metrics.csv."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [
            sys.executable, ROOT / "train.py", "--recipe", "fast", "--data", settings.data, "--out", out,
            "--weights", settings.weights, "--model", settings.model, "--image-size", settings.image_size,
            "--seed", seed, "--gpus", 0, *settings.options.split(),
        ]  # fmt: skip
        subprocess.run(list(map(str, command)), check=True)
        with open(out / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        with open(out / "split.csv", newline="") as file:
            images = sum(row["split"] == "train" for row in csv.DictReader(file))
    curve: Curve = []
    seconds = 0.0
    for row in rows:
        seconds += images / float(row["images_per_second"])
        curve.append((seconds, float(row["val_balanced_accuracy"])))
        tell(curve)
    return curve


def tell(curve: Curve) -> None:
    seconds, value = curve[-1]
    print(f"  epoch {len(curve)}: {seconds:6.1f} s of training, balanced accuracy {value:.4f}", flush=True)


def reached(curve: Curve, target: float) -> float:
    """Seconds until the target; not a number where it was not reached."""
    return next((seconds for seconds, value in curve if value >= target), float("nan"))


def main() -> None:
    settings = cli.parse(Settings, __doc__)
    seconds: dict[str, list[float]] = {name: [] for name in settings.recipes.split(",")}
    for seed in map(int, settings.seeds.split(",")):
        for name, times in seconds.items():
            print(f"{name}, seed {seed}", flush=True)
            curve = {"fast": fast, "plain": plain}[name](settings, seed)
            times.append(reached(curve, settings.target))
    for name, times in seconds.items():
        each = ", ".join(f"{t:.0f}" for t in times)
        print(f"{name:6} {np.median(times):6.0f} s to {settings.target} (each seed: {each})")
    if {"fast", "plain"} <= seconds.keys():
        ratios = np.array(seconds["plain"]) / np.array(seconds["fast"])
        each = ", ".join(f"{r:.2f}" for r in ratios)
        print(f"fast is there {np.median(ratios):.2f} times as soon (each seed: {each})")


if __name__ == "__main__":
    cli.run(main)
