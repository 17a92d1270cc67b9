"""How fast `predict.py` goes through a folder, beside the bare model on ready batches.

    python tests/bench/predict_throughput.py --checkpoint runs/latest/best.pt --folder DIR [--images 2000]

The bare model is the same network in the same precision and memory format, on batches that lie decoded in
memory; it is timed with all threads on one batch after another, and with the threads side by side, each on
a batch of its own, as the stream does it. The faster of the two is what the stream is held against. All
take turns, and the medians are compared. The growth of memory is that of the process from the end of the first
quarter of the last round's stream to its end.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from skin import load_classifier  # noqa: E402
from skin.classifier import SkinClassifier  # noqa: E402
from skin.sources import image_paths  # noqa: E402


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def forward(model: SkinClassifier, batch: np.ndarray) -> None:
    model._forward(torch.from_numpy(batch))


def one_after_another(model: SkinClassifier, batches: list[np.ndarray]) -> None:
    for batch in batches:
        forward(model, batch)


def side_by_side(model: SkinClassifier, batches: list[np.ndarray]) -> None:
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(lambda batch: forward(model, batch), batches))
    torch.set_num_threads(threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/latest/best.pt"))
    parser.add_argument("--folder", required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = load_classifier(options.checkpoint)
    names = list(itertools.islice(image_paths([options.folder], lambda name, reason: None), options.images))
    size = model._batch_size()
    few = names[: min(len(names), 512)]
    ready = [np.stack([model.pixels(name) for name in few[i : i + size]]) for i in range(0, len(few), size)]
    memory: list[float] = []

    def stream() -> None:
        memory.clear()
        for count, _ in enumerate(model.stream(names)):
            if count % 100 == 0:
                memory.append(rss_mib())

    ways: dict[str, tuple[Callable[[], None], int]] = {
        "bare model, all threads on a batch": (lambda: one_after_another(model, ready), len(few)),
        "bare model, a batch to each thread": (lambda: side_by_side(model, ready), len(few)),
        "stream from files": (stream, len(names)),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    forward(model, ready[0])
    for _ in range(options.rounds):
        for name, (run, count) in ways.items():
            start = time.perf_counter()
            run()
            speeds[name].append(count / (time.perf_counter() - start))
    medians = [statistics.median(values) for values in speeds.values()]
    for name, values in speeds.items():
        print(f"{name:36} {statistics.median(values):7.1f} images/s, {min(values):.1f} to {max(values):.1f}")
    print(f"{len(names)} images, batches of {size}, n = {options.rounds}, {torch.get_num_threads()} threads")
    print(f"stream / bare: {medians[2] / medians[0]:.2f} (all threads), {medians[2] / medians[1]:.2f} (side by side)")
    print(f"memory: {memory[len(memory) // 4]:.0f} MiB after a quarter, {memory[-1]:.0f} MiB at the end")


if __name__ == "__main__":
    main()
