"""Time a training step alone and beside another program that computes on the same cores.

    python tests/bench/shared_machine.py                # the scripts' way, the package's setting, libgomp's own
    python tests/bench/shared_machine.py --counts watched,0,1000,10000 --rounds 3

Each setting of GOMP_SPINCOUNT is a process of its own, in turns: first alone, then beside a second one of the same
kind, which computes until the first is done. The figure is the median of its steps: B0, 128 px, 32 images. "watched"
is what the scripts do (skin/utils/core_watch.py).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from skin.utils import cli, hardware  # noqa: E402
from skin.utils.cli import option  # noqa: E402
from skin.utils.core_watch import CoreWatch  # noqa: E402

STEPS, SECONDS = 12, 40.0  # at most, in one process


@dataclass(frozen=True)
class Settings:
    counts: str = option(f"watched,{hardware.SPIN_COUNT},default", "settings to compare, by commas", metavar="LIST")
    rounds: int = option(3, "turns", metavar="N")


def compute(steps: int, seconds: float) -> list[float]:
    """Return the seconds of up to `steps` training steps on random images; the first two do not count."""
    from skin.model import network as networks
    from skin.model import precision
    from skin.model.cpu_kernels import accelerate

    import torch
    from torch.nn import functional as F

    device = torch.device("cpu")
    network = accelerate(networks.build("efficientnet_b0", 7), device)
    preprocess = networks.preprocess_for("efficientnet_b0", 128)
    classifier = networks.Classifier(network, preprocess, precision.choose("auto", device)).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    images, labels = torch.randint(0, 256, (32, 128, 128, 3), dtype=torch.uint8), torch.randint(0, 7, (32,))
    found: list[float] = []
    begin = time.perf_counter()
    while len(found) < steps + 2 and (time.perf_counter() - begin < seconds or len(found) < 3):
        start = time.perf_counter()
        F.cross_entropy(classifier(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found.append(time.perf_counter() - start)
    return found[2:]


def start(count: str, role: str) -> subprocess.Popen[str]:
    """Start a process with that spin count; one in the role "beside" computes until it is killed."""
    # libgomp's own number is given by hand, since the package sets one where there is none.
    count = {"default": "300000", "watched": hardware.LONG_SPIN_COUNT}.get(count, count)
    environment = {**os.environ, "GOMP_SPINCOUNT": count}
    return subprocess.Popen([sys.executable, __file__, role], env=environment, stdout=subprocess.PIPE, text=True)


def measure(count: str, beside: bool) -> float:
    """Return the median seconds of a step."""
    other = start(count, "beside") if beside else None
    if other is not None and other.stdout is not None:
        other.stdout.readline()  # it is computing now
    try:
        said, _ = start(count, "timed").communicate()
        return statistics.median(map(float, said.split()))
    finally:
        if other is not None:
            other.kill()
            other.communicate()


def main() -> int:
    settings = cli.parse(Settings, __doc__)
    found: dict[tuple[str, bool], list[float]] = {}
    for _ in range(settings.rounds):
        for count in settings.counts.split(","):
            for beside in (False, True):
                found.setdefault((count, beside), []).append(measure(count, beside))
    for (count, beside), seconds in found.items():
        where = "beside another" if beside else "alone"
        spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
        print(f"GOMP_SPINCOUNT {count:>7}  {where:15} {statistics.median(seconds):7.3f} s a step ({spread})")
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["timed"]:
        with CoreWatch():
            print(*compute(STEPS, SECONDS))
    elif sys.argv[1:] == ["beside"]:
        with CoreWatch():
            compute(1, 1)
            print("computing", flush=True)
            compute(10**9, 10**9)
    else:
        cli.run(main)
