"""How fast evaluate.py asks a model, beside a plain float32 loop, and how far their answers are apart.

    python tests/bench/evaluate_throughput.py --data HAM10000                        # B3 at 300 px, random weights
    python tests/bench/evaluate_throughput.py --data HAM10000 --checkpoint best.pt   # a trained model of any size

The plain loop reads the same pixels through the same loader, makes them float32 in the usual order of
dimensions, and runs the network in float32, 32 images at a time. The two take turns, so that a machine that
gets slower is unkind to both.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import evaluate
from skin import calibration, cli, precision
from skin.checkpoint import load_best
from skin.cli import option
from skin.dataset import Batch, PlainBatches, SkinDiseaseDataset, make_loader
from skin.layouts import read_index
from skin.model import Classifier, fuse
from skin.parallel import Topology
from tests import tiny


@dataclass(frozen=True)
class Settings:
    data: Path = option(Path("data"), "any data folder")
    checkpoint: Path | None = option(None, "a trained model (default: B3 at 300 px with random weights)")
    images: int = option(256, "how many images to time")
    rounds: int = option(3, "how often each loop runs")
    compare: int = option(0, "compare the answers on this many images, too")


@torch.inference_mode()
def plain_loop(network: nn.Module, loader: DataLoader[Batch], mean: torch.Tensor, std: torch.Tensor) -> np.ndarray:
    """The loop that most scripts have: float32 logits [N, C]."""
    logits = []
    for batch in loader:
        images = batch.images.permute(0, 3, 1, 2).contiguous().float() / 255
        logits.append(network((images - mean) / std))
    return torch.cat(logits).numpy()


def main() -> None:
    settings = cli.parse(Settings, __doc__)
    with tempfile.TemporaryDirectory() as folder:
        path = settings.checkpoint or tiny.write_checkpoint(
            Path(folder) / "best.pt", image_size=300, name="efficientnet_b3"
        )
        fast, plain = load_best(path), load_best(path)
    rows = read_index(settings.data).rows
    rows = rows.sample(min(len(rows), max(settings.images, settings.compare)), random_state=0)
    preprocess = fast.preprocess
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    topology = Topology(torch.device("cpu"))
    network = fuse(fast.network)
    print(f"{fast.model_name}, {preprocess.image_size} px, {topology.describe()}, torch {torch.__version__}")

    def loader(count: int, batch: int | None) -> DataLoader[Batch]:
        paths = rows["path"].tolist()[:count]
        dataset = SkinDiseaseDataset(paths, np.zeros(len(paths)), preprocess)
        if batch:
            return make_loader(dataset, PlainBatches(len(dataset), batch), workers=1)
        fitting = evaluate.fitting_batch_size(preprocess.image_size, topology)
        return evaluate.make_test_loader(dataset, fitting, None, topology)

    def ours(amp: str, count: int) -> np.ndarray:
        mode = precision.choose(amp, topology.device)
        classifier = Classifier(network, preprocess, mode).eval()
        return evaluate.ask(classifier, loader(count, None), topology, fast.calibration, 1, lambda n: None)[0]

    def plainly(count: int) -> np.ndarray:
        return plain_loop(plain.network, loader(count, 32), mean, std)

    speeds: dict[str, list[float]] = {"plain float32": [], "evaluate.py": []}
    for _ in range(settings.rounds):
        for name, run in (("plain float32", plainly), ("evaluate.py", lambda count: ours("auto", count))):
            start = time.perf_counter()
            run(settings.images)
            speeds[name].append(settings.images / (time.perf_counter() - start))
    for name, values in speeds.items():
        print(f"{name:14} {np.median(values):6.1f} images/s  (each: {', '.join(f'{v:.1f}' for v in values)})")
    print(f"evaluate.py is {np.median(speeds['evaluate.py']) / np.median(speeds['plain float32']):.2f} times as fast")
    if settings.compare:
        expected = calibration.softmax(plainly(settings.compare))
        for amp in ("auto", "off"):
            found = calibration.softmax(ours(amp, settings.compare))
            apart, same = np.abs(found - expected).max(), (found.argmax(1) == expected.argmax(1)).mean()
            print(f"--amp {amp}: probabilities {apart:.2g} apart at most, one class on {same:.2%} of {len(found)}")


if __name__ == "__main__":
    main()
