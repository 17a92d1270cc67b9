"""How fast `predict.py` goes through a folder, beside the bare model on ready batches.

    python tests/bench/predict_throughput.py --checkpoint runs/latest/best.pt --folder DIR [--images 2000]

The bare model is the same network in the same precision and memory format, on batches that lie decoded in
memory; it is timed with all threads on one batch after another, and with the threads side by side, each on
a batch of its own, as the stream works. The folder is gone through in turns of 500 images, each of the three
ways taking its turn; what is compared is the median over the turns of the ratio within a turn, so that
what else runs on the machine weighs on all alike.
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

from skin import load_classifier  # noqa: E402
from skin.data.image_files import image_paths  # noqa: E402
from skin.model.classifier import SkinClassifier  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

TURN = 500  # images


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


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
    options = parser.parse_args()
    model = load_classifier(options.checkpoint)
    names = list(itertools.islice(image_paths([options.folder], lambda name, reason: None), options.images))
    size = model._batch_size()
    ready = [np.stack([model.pixels(name) for name in names[i : i + size]]) for i in range(0, TURN, size)]
    count = sum(map(len, ready))
    forward(model, ready[0])
    speeds: list[tuple[float, float, float]] = []
    memory: list[float] = []
    for start in range(0, len(names) - TURN + 1, TURN):
        turn = names[start : start + TURN]
        speeds.append(
            (
                count / seconds(lambda: one_after_another(model, ready)),
                count / seconds(lambda: side_by_side(model, ready)),
                TURN / seconds(lambda turn=turn: list(model.stream(turn))),  # type: ignore[misc]
            )
        )
        memory.append(rss_mib())
    ways = ("bare model, all threads on a batch", "bare model, a batch to each thread", "stream from files")
    for name, column in zip(ways, zip(*speeds, strict=True), strict=True):
        print(f"{name:36} {statistics.median(column):6.1f} images/s, {min(column):.1f} to {max(column):.1f}")
    for way, name in enumerate(ways[:2]):
        ratios = [row[2] / row[way] for row in speeds]
        print(f"stream / {name}: {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")
    print(f"{len(speeds)} turns of {TURN} images, batches of {size}, {torch.get_num_threads()} threads")
    print(f"memory after each turn, in MiB: {', '.join(f'{value:.0f}' for value in memory)}")


if __name__ == "__main__":
    main()
